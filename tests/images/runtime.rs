//! Images without Docker: unpacked to a bundle of the OCI runtime specification, and run by an OCI runtime with nothing that it does not need.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::docker::run;
use crate::support::{World, until};
use crate::{ask, packaged, path_of, port};

/// A container, deleted when the test is over.
struct Container<'a> {
    state: &'a Path,
    child: Child,
}

impl Container<'_> {
    fn runc(&self, arguments: &[&str]) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(self.state).args(arguments);
        runc
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let _ = self.runc(&["delete", "--force", "wine"]).output();
        let _ = self.child.wait();
    }
}

/// The bundle, with what an operator would set: its root cannot be written to, no capability is left, and the address is one of this machine.
fn harden(bundle: &Path, address: &str) -> Value {
    let path = bundle.join("config.json");
    let given: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let mut config = given.clone();
    config["root"]["readonly"] = json!(true);
    config["process"]["terminal"] = json!(false);
    config["process"]["noNewPrivileges"] = json!(true);
    config["process"]["capabilities"] = json!({});
    config["process"]["env"].as_array_mut().unwrap().push(json!(format!("MODELYARD_HTTP={address}")));
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
    std::fs::write(path, config.to_string()).unwrap();
    given
}

#[test]
#[ignore = "needs umoci, runc and root"]
fn an_oci_runtime_runs_the_image_without_docker() {
    let (world, address) = (World::default(), format!("127.0.0.1:{}", port()));
    let archive = path_of(&packaged(&world, &[]));
    let (layout, bundle, state) = (world.scratch("layout"), world.scratch("bundle"), world.scratch("state"));
    std::fs::create_dir_all(&layout).unwrap();
    run(Command::new("tar").arg("-C").arg(&layout).arg("-xf").arg(&archive));
    run(Command::new("umoci").args(["unpack", "--image", &format!("{}:1.0.0", layout.display())]).arg(&bundle));
    let given = harden(&bundle, &address);
    assert_eq!(
        (&given["process"]["user"]["uid"], &given["process"]["args"]),
        (&json!(65532), &json!(["/modelyard", "serve"]))
    );
    assert_eq!(given["annotations"]["org.opencontainers.image.stopSignal"], "SIGTERM");

    let mut runc = Command::new("runc");
    runc.arg("--root").arg(&state).args(["run", "--bundle"]).arg(&bundle).arg("wine");
    let child = runc.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut container = Container { state: &state, child };
    let (label, answer) = ask(&address);
    assert_eq!(answer, label);
    let told: Value = serde_json::from_str(&run(&mut container.runc(&["state", "wine"]))).unwrap();
    assert_eq!(told["status"], "running", "{told}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", told["pid"])).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap().split_whitespace().collect::<Vec<_>>()
    };
    assert_eq!(
        (field("Uid:")[0], field("CapEff:"), field("NoNewPrivs:")),
        ("65532", vec!["0000000000000000"], vec!["1"])
    );

    run(&mut container.runc(&["kill", "wine", "TERM"]));
    let ended = until("it has drained", 30, || container.child.try_wait().ok().flatten().ok_or("it runs"));
    assert!(ended.success(), "{ended}");
    assert!(TcpStream::connect(&address).is_err());
}
