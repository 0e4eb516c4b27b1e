"""Schemathesis against the control plane's own OpenAPI document: whatever is asked, nothing fails with 500, and every answer is one that the document tells.

It has a control plane of its own, for it tags, yanks and forgets whatever it finds. Examples are bounded and always the same.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from support import BINARY, EXAMPLES, expect, library, ok

# What ends the control plane, starts another gateway, or shuts out whoever has no token.
LEFT_OUT = ["/api/down", "/api/gateway/upgrade", "/api/tokens"]
EXAMPLES_EACH = 5


def main():
    with tempfile.TemporaryDirectory() as home:
        environment = {"MODELYARD_ONNXRUNTIME": library(), **os.environ, "MODELYARD_HOME": home}
        environment.pop("MODELYARD_CONTROL", None)

        def modelyard(*arguments):
            done = subprocess.run([BINARY, *map(str, arguments)], env=environment, capture_output=True, text=True)
            expect(done.returncode == 0, f"modelyard {arguments[0]}", done.stderr)
            return done.stdout

        up = json.loads(modelyard("up", "--detach", "--gateway", "127.0.0.1:0", "--control", "127.0.0.1:0", "--output", "json"))
        try:
            modelyard("deploy", EXAMPLES / "wine/v1", "--wait", "--timeout", "3m")
            command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"http://{up['control']}/api/openapi.json"]
            # What is there, so that most calls get further than 404.
            known = {"service": "wine", "model": "wine", "version": "1.0.0", "rollout": "wine-1"}
            config = Path(home) / "schemathesis.toml"
            config.write_text("[parameters]\n" + "".join(f'"path.{name}" = "{value}"\n' for name, value in known.items()), encoding="utf-8")
            command.insert(1, f"--config-file={config}")
            command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES_EACH), "--generation-deterministic"]
            command += ["--request-timeout", "30", "--no-color", "--suppress-health-check", "all"]
            command += ["--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"]
            command += [word for path in LEFT_OUT for word in ("--exclude-path", path)]
            done = subprocess.run(command, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
            told = done.stdout + done.stderr
            expect(done.returncode == 0, "every answer is one that the document tells", told[:9000])
            tested = re.search(r"Tested: (\d+)", told)
            expect(tested and int(tested[1]) >= 25, "every operation was asked", told[-3000:])
            ok(f"{tested[1]} operations")
        finally:
            subprocess.run([BINARY, "down"], env=environment, capture_output=True)


main()
