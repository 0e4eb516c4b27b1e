//! Disks of machines: read by other software, booted by QEMU with the firmware and the kernel that Debian has, asked, and switched off.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use support::base_image::python;
use support::docker::run;
use support::registry::Registry;
use support::{Ran, World, examples, until};

/// A home with a program that is no larger than it must be: a machine's memory holds all of it.
struct Yard {
    world: World,
    program: PathBuf,
}

impl Yard {
    fn new() -> Self {
        let world = World::default();
        let program = world.scratch("bin").join("modelyard");
        run(Command::new("strip").arg("-o").arg(&program).arg(env!("CARGO_BIN_EXE_modelyard")));
        Self { world, program }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let told = self.world.command(&[]);
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        command.envs(told.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.env_remove("MODELYARD_CONTROL");
        command
    }

    /// Packages a folder as a disk, with what Debian's packages boot with.
    fn packaged(&self, folder: &Path, more: &[&str]) -> Ran {
        let out = self.world.scratch("out");
        let mut all = vec!["package", folder.to_str().unwrap(), "--format", "vm", "--output", "json", "--out"];
        all.push(out.to_str().unwrap());
        all.extend(more);
        let mut command = self.command(&all);
        for deb in debs() {
            command.arg("--boot").arg(deb);
        }
        Ran::of(&mut command)
    }
}

/// A kernel and a boot loader.
fn debs() -> Vec<PathBuf> {
    let folder = std::env::var("MODELYARD_TEST_BOOT").expect("a folder with packages to boot with");
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn path_of(built: &Value) -> PathBuf {
    built["formats"][0]["path"].as_str().unwrap().into()
}

/// A machine, switched off the hard way if the test fails.
struct Machine {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Machine {
    /// Switches it on; `devices` are its disk and its network card.
    fn on(devices: &dyn Fn(&str) -> Vec<String>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let mut qemu = Command::new("qemu-system-x86_64");
        // Emulated: slow, and there on every machine.
        qemu.args(["-accel", "tcg", "-smp", "2", "-m", "768", "-bios", "/usr/share/ovmf/OVMF.fd"]);
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
        qemu.arg("-serial").arg(format!("file:{}", folder.path().join("console").display()));
        qemu.arg("-monitor").arg(format!("unix:{},server,nowait", folder.path().join("monitor").display()));
        qemu.arg("-netdev").arg(format!("user,id=net,restrict=on,hostfwd=tcp:{address}-:8080"));
        qemu.args(devices("net"));
        let child = qemu.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, address, folder }
    }

    /// What it said so far.
    fn console(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    /// What is answered to a request, once it is.
    fn asked<T>(&self, path: &str, ask: impl Fn(&ureq::Agent, &str) -> Result<T, ureq::Error>) -> T {
        let second = std::time::Duration::from_secs(10);
        let agent = ureq::Agent::config_builder().timeout_global(Some(second)).build().new_agent();
        let url = format!("http://{}{path}", self.address);
        until("the machine answers", 300, || ask(&agent, &url).map_err(|error| format!("{error}: {}", self.console())))
    }

    /// Presses its button, and waits until it is off; what it said.
    fn switched_off(mut self) -> String {
        let mut monitor = UnixStream::connect(self.folder.path().join("monitor")).unwrap();
        monitor.write_all(b"system_powerdown\n").unwrap();
        let status = until("the machine is off", 60, || self.child.try_wait().unwrap().ok_or_else(|| self.console()));
        assert!(status.success(), "{status}");
        self.console()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs QEMU and what a machine boots with"]
fn a_machine_boots_the_disk_answers_and_is_switched_off() {
    let yard = Yard::new();
    let built = yard.packaged(&examples().join("wine/v1"), &[]).ended(0).json();
    let format = &built["formats"][0];
    assert_eq!((&format["format"], &format["container"]), (&"vm".into(), &"qcow2".into()), "{built}");
    let path = path_of(&built);
    assert_eq!(path.metadata().unwrap().len(), format["size_bytes"].as_u64().unwrap());
    let machine = Machine::on(&|net| {
        let drive = format!("file={},format=qcow2,if=virtio,readonly=on", path.display());
        let card = format!("virtio-net-pci,netdev={net}");
        ["-machine", "q35", "-drive", &drive, "-device", &card].map(str::to_owned).into()
    });
    let traffic: Value = serde_json::from_slice(&std::fs::read(examples().join("wine/traffic.json")).unwrap()).unwrap();
    let answer: Value = machine.asked("/v2/models/wine/infer", |agent, url| {
        agent.post(url).send_json(&traffic[0]["request"])?.body_mut().read_json()
    });
    assert_eq!(answer["outputs"][0]["data"][0], traffic[0]["label"]);
    let console = machine.switched_off();
    for told in [built["digest"].as_str().unwrap(), "SIGTERM: draining", "the program ended with code 0", "Power down"]
    {
        assert!(console.contains(told), "{told}: {console}");
    }
}

/// Listens where it is told to.
const PROGRAM: &str = "
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'{os.uname().nodename} as {os.getuid()}'.encode())
http.server.HTTPServer(('0.0.0.0', int(os.environ['PORT'])), Handler).serve_forever()
";

#[test]
#[ignore = "needs QEMU and what a machine boots with"]
fn an_appliance_of_a_program_on_a_base_runs_on_the_hardware_that_it_describes() {
    let theirs = World::default();
    let minor = python(&theirs);
    let registry = Registry::of(&theirs);
    let yard = Yard::new();
    let folder = yard.world.scratch("hello");
    let text = format!(
        "[model]\nname = \"hello\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\ncommand = [\"python3.{minor}\", \"main.py\"]\n\
         health = \"/\"\n[image]\nbase = \"{}/debian:13\"\n",
        registry.address
    );
    std::fs::write(folder.join("modelyard.toml"), text).unwrap();
    std::fs::write(folder.join("main.py"), PROGRAM).unwrap();
    let built = yard.packaged(&folder, &["--disk", "ova"]).ended(0).json();
    let scratch = yard.world.scratch("appliance");
    run(Command::new("tar").arg("-xf").arg(path_of(&built)).arg("-C").arg(&scratch));
    let of = |extension: &str| {
        let mut files = std::fs::read_dir(&scratch).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
    };
    let described = std::fs::read_to_string(of("ovf")).unwrap();
    assert!(described.contains("IDE controller") && described.contains("VmxNet3"), "{described}");
    let disk = of("vmdk");
    let machine = Machine::on(&|net| {
        // A disk of this kind can always be written to; what is written is thrown away.
        let drive = format!("file={},format=vmdk,if=ide,snapshot=on", disk.display());
        let card = format!("vmxnet3,netdev={net}");
        ["-machine", "pc", "-drive", &drive, "-device", &card].map(str::to_owned).into()
    });
    let answer = machine.asked("/", |agent, url| agent.get(url).call()?.body_mut().read_to_string());
    assert_eq!(answer, "hello as 65532");
    machine.switched_off();
}

#[test]
#[ignore = "needs QEMU and what a machine boots with"]
fn size_and_boot_time_of_a_machine_are_told_before_one_is_chosen() {
    let mut yard = Yard::new();
    yard.world.environment.push(("MODELYARD_QEMU_ACCEL", "tcg".to_owned()));
    let built = yard.packaged(&examples().join("wine/v1"), &["--measure"]).ended(0).json();
    let format = &built["formats"][0];
    let seconds = format["start_seconds"].as_f64().unwrap_or_else(|| panic!("{built}"));
    assert!(seconds > 0.1 && seconds < 600.0, "{built}");
    for size in ["size_bytes", "disk_bytes", "root_bytes", "initramfs_bytes"] {
        assert!(format[size].as_u64().unwrap() > 1 << 20, "{size}: {built}");
    }
    yard.world.environment.push(("PATH", "/nowhere".to_owned()));
    let built = yard.packaged(&examples().join("wine/v1"), &["--measure"]).ended(0).json();
    assert!(built["formats"][0]["start_seconds"].is_null(), "{built}");
    assert!(built["formats"][0]["not_measured"].as_str().unwrap().contains("no QEMU runs here"), "{built}");
}

/// Where each partition begins, in bytes, and its name, as `sfdisk` reads the disk.
fn partitions(disk: &Path) -> Vec<(u64, String)> {
    let told: Value = serde_json::from_str(&run(Command::new("sfdisk").arg("--json").arg(disk))).unwrap();
    assert_eq!(told["partitiontable"]["label"], "gpt", "{told}");
    let all = told["partitiontable"]["partitions"].as_array().unwrap();
    all.iter().map(|one| (one["start"].as_u64().unwrap() * 512, one["name"].as_str().unwrap().to_owned())).collect()
}

#[test]
#[ignore = "needs what a machine boots with, unsquashfs and fsck.fat"]
fn a_disk_is_the_same_twice_and_other_software_reads_it() {
    let (one, other) = (Yard::new(), Yard::new());
    let packaged = |yard: &Yard| yard.packaged(&examples().join("wine/v1"), &["--disk", "raw"]).ended(0).json();
    let (built, again) = (packaged(&one), packaged(&other));
    assert_eq!(built["formats"][0]["digest"], again["formats"][0]["digest"], "another home makes the same bytes");
    let disk = path_of(&built);
    let [(firmware, _), (root, name)] = &partitions(&disk)[..] else { panic!("two partitions") };
    assert!(name.starts_with("modelyard-"), "{name}");

    let volume = one.world.scratch("firmware").join("volume");
    let (from, count) = (firmware >> 20, (root - firmware) >> 20);
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", disk.display())).arg(format!("of={}", volume.display()));
    run(dd.args(["bs=1M", &format!("skip={from}"), &format!("count={count}")]));
    run(Command::new("fsck.fat").arg("-n").arg(&volume));

    let files = one.world.scratch("root").join("files");
    let mut unsquashfs = Command::new("unsquashfs");
    unsquashfs.args(["-quiet", "-no-progress", "-offset", &root.to_string(), "-dest"]).arg(&files).arg(&disk);
    run(&mut unsquashfs);
    let document: Value =
        serde_json::from_slice(&std::fs::read(files.join("package").join(modelyard_core::package::DOCUMENT)).unwrap())
            .unwrap();
    assert_eq!(document["name"], "wine", "{document}");
    for (path, entry) in document["files"].as_object().unwrap() {
        let sum = run(Command::new("sha256sum").arg(files.join("package").join(path)));
        assert_eq!(format!("sha256:{}", sum.split_whitespace().next().unwrap()), entry["digest"].as_str().unwrap());
    }
    assert_eq!(files.join("modelyard").metadata().unwrap().len(), 0, "the program stands on the disk once");
    for folder in ["proc", "sys", "dev", "run", "tmp"] {
        assert!(files.join(folder).is_dir(), "{folder}");
    }
}

#[test]
fn what_there_is_to_boot_with_is_looked_for_and_told() {
    let world = World::default();
    let (model, out) = (examples().join("wine/v1"), world.scratch("out"));
    let bad = world.scratch("boot").join("kernel.deb");
    std::fs::write(&bad, "!<arch>\n").unwrap();
    let package = |boot: &Path| {
        let all = ["package", model.to_str().unwrap(), "--format", "vm", "--out", out.to_str().unwrap(), "--boot"];
        world.run(&[&all[..], &[boot.to_str().unwrap()]].concat()).ended(1).err
    };
    let told = package(&bad);
    assert!(told.contains("kernel.deb") && told.contains("no data.tar") && told.contains("linux-image"), "{told}");
    let told = package(Path::new("/nowhere"));
    assert!(told.contains("/nowhere") && told.contains("cannot be booted from"), "{told}");
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0, "nothing is left");
    let told = world.run(&["package", model.to_str().unwrap(), "--format", "vm", "--disk", "vdi"]).ended(2).err;
    assert!(told.contains("`vdi`") && told.contains("qcow2"), "{told}");
}
