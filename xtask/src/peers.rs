//! The real peers that the tests talk to: what each is, whether it is here, how it is installed.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::shell::{self, command, has, root};

/// Debian package by the program that shows that it is installed.
const DEBIAN: [(&str, &str); 12] = [
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
];

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
        "umoci, runc and root" => has("umoci") && has("runc") && is_root().unwrap_or(false),
        // Nobody but root has its folder on the path.
        "sshd" => std::path::Path::new("/usr/sbin/sshd").is_file() && has("ssh"),
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
    install_python()
}

fn install_debian() -> Result<()> {
    let missing: Vec<&str> = DEBIAN.iter().filter(|(program, _)| !has(program)).map(|&(_, package)| package).collect();
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
