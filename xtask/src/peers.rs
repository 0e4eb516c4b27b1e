//! The real peers that the tests talk to: what each is, whether it is here, how it is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{self, command, has, root};

/// Debian package by the program that shows that it is installed.
const DEBIAN: [(&str, &str); 15] = [
    ("promtool", "prometheus"),
    ("skopeo", "skopeo"),
    ("haproxy", "haproxy"),
    ("nginx", "nginx-light"),
    ("dockerd", "docker.io"),
    ("pg_createcluster", "postgresql"),
    ("ip", "iproute2"),
    ("runc", "runc"),
    ("umoci", "umoci"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("unsquashfs", "squashfs-tools"),
    ("fsck.fat", "dosfstools"),
];

/// Debian package by the file that shows that it is installed, where it brings no program.
const FILES: [(&str, &str); 1] = [("/usr/share/ovmf/OVMF.fd", "ovmf")];

/// Packages that are not installed but lie in [`boot`]: what machines of tests boot with. The first names the newest kernel's.
const BOOT: [&str; 2] = ["linux-image-cloud-amd64", "systemd-boot-efi"];

/// The folder that holds the packages that machines of tests boot with.
fn boot_folder() -> PathBuf {
    root().join("target/peers/boot")
}

/// That folder, once it is complete.
pub fn boot() -> Option<PathBuf> {
    let folder = boot_folder();
    let debs = std::fs::read_dir(&folder)
        .ok()?
        .flatten()
        .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "deb"));
    (debs.count() == BOOT.len()).then_some(folder)
}

/// The Python environment that holds the Python peers.
pub fn venv() -> PathBuf {
    root().join("target/peers/venv")
}

/// The interpreter of that environment, once it is complete.
pub fn python() -> Option<PathBuf> {
    let stamp = std::fs::read_to_string(venv().join("installed.txt")).ok()?;
    let wanted = std::fs::read_to_string(requirements()).ok()?;
    (stamp == wanted).then(|| venv().join("bin/python"))
}

fn requirements() -> PathBuf {
    root().join("tests/peers/requirements.txt")
}

/// Whether what a test `needs` is here. The reason is the text of its `#[ignore = "needs …"]`.
pub fn is_here(need: &str) -> bool {
    match need.strip_prefix("needs ").unwrap_or(need) {
        "the Python peers" => python().is_some(),
        "the Python peers and PostgreSQL" => python().is_some() && has_postgres(),
        // `environment` in test.rs has found it, or the run has ended with the reason.
        "ONNX Runtime" => true,
        "pip and a package index" => has("pip") || has("pip3"),
        "root and network namespaces" => has("ip") && is_root().unwrap_or(false) && has_namespaces(),
        "the Python peers, dockerd and root" => python().is_some() && has("dockerd") && is_root().unwrap_or(false),
        "dockerd and root" => has("dockerd") && is_root().unwrap_or(false),
        "QEMU and what a machine boots with" => {
            has("qemu-system-x86_64") && FILES.iter().all(|(file, _)| Path::new(file).is_file()) && boot().is_some()
        }
        "what a machine boots with, unsquashfs and fsck.fat" => {
            has("unsquashfs") && has("fsck.fat") && boot().is_some()
        }
        "umoci, runc and root" => has("umoci") && has("runc") && is_root().unwrap_or(false),
        // Nobody but root has its folder on the path.
        "sshd" => Path::new("/usr/sbin/sshd").is_file() && has("ssh"),
        program => has(program),
    }
}

/// Whether the server's programs are where Debian has them; on the path are only those that ask it.
fn has_postgres() -> bool {
    std::fs::read_dir("/usr/lib/postgresql")
        .is_ok_and(|versions| versions.flatten().any(|version| version.path().join("bin/initdb").is_file()))
}

/// Whether the kernel gives a network of its own to who asks; in a container it often does not.
fn has_namespaces() -> bool {
    command("unshare", &["--net", "true"]).status().is_ok_and(|status| status.success())
}

/// Installs everything that is missing.
pub fn install() -> Result<()> {
    install_debian()?;
    fetch_boot()?;
    install_python()
}

fn install_debian() -> Result<()> {
    let programs = DEBIAN.iter().filter(|(program, _)| !has(program));
    let files = FILES.iter().filter(|(file, _)| !Path::new(file).is_file());
    let missing: Vec<&str> = programs.chain(files).map(|&(_, package)| package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !has("apt-get") {
        bail!("these peers are missing and this is no Debian: install {} by hand, then run again", missing.join(", "));
    }
    let sudo = if is_root()? { None } else { Some("sudo") };
    let apt = |arguments: &[&str]| {
        let words: Vec<&str> = sudo.into_iter().chain(["apt-get"]).chain(arguments.iter().copied()).collect();
        let mut apt = command(words[0], &words[1..]);
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        shell::run(&mut apt)
    };
    apt(&["update", "-qq"])?;
    apt(&[&["install", "-y", "-qq", "--no-install-recommends"], missing.as_slice()].concat())
}

/// Fetches what machines of tests boot with; the lists of packages were brought up to date before, or long ago.
fn fetch_boot() -> Result<()> {
    if boot().is_some() {
        return Ok(());
    }
    let folder = boot_folder();
    std::fs::create_dir_all(&folder)?;
    let depends = shell::output(&mut command("apt-cache", &["depends", BOOT[0]]))?;
    let kernel =
        depends.lines().find_map(|line| line.trim().strip_prefix("Depends: ")).context("no kernel is known")?;
    let mut apt = command("apt-get", &["download", "-qq", kernel, BOOT[1]]);
    shell::run(apt.current_dir(&folder)).context("could not fetch what machines of tests boot with")
}

fn is_root() -> Result<bool> {
    Ok(shell::output(&mut command("id", &["-u"]))?.trim() == "0")
}

fn install_python() -> Result<()> {
    if python().is_some() {
        return Ok(());
    }
    let folder = venv();
    let text = folder.to_str().context("the path of the checkout is not UTF-8")?;
    shell::run(&mut command("python3", &["-m", "venv", "--clear", text]))?;
    let interpreter = folder.join("bin/python");
    let wanted = requirements();
    let mut pip = std::process::Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]).arg(&wanted);
    shell::run(&mut pip).context("could not install the Python peers")?;
    std::fs::copy(&wanted, folder.join("installed.txt"))
        .context("could not note that the Python peers are installed")?;
    Ok(())
}
