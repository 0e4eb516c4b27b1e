"""Holds a package's bill of materials against the schema of CycloneDX and reads it with implementations that are not ours: FILE.

Prints what was read: how many components of each type, the package URLs, and what the dependencies of the package are.
"""

import json
import sys
from collections import Counter

from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

with open(sys.argv[1]) as file:
    text = file.read()
validator = JsonStrictValidator(SchemaVersion.V1_6)
fault = validator.validate_str(text)
assert fault is None, fault
# It does find faults.
broken = json.loads(text)
broken["components"][0]["hashes"][0]["content"] = "none"
assert validator.validate_str(json.dumps(broken)) is not None

bill = Bom.from_json(json.loads(text))
bill.validate()
packages = [one.purl.to_string() for one in bill.components if one.purl]
assert all(PackageURL.from_string(purl).name for purl in packages)
model = bill.metadata.component
[of_model] = [one for one in bill.dependencies if one.ref == model.bom_ref]
print(json.dumps({
    "types": dict(Counter(one.type.value for one in bill.components)),
    "packages": sorted(packages),
    "model": {"type": model.type.value, "oci": model.purl.type, "version": model.purl.version},
    "needs": len(of_model.dependencies),
}))
