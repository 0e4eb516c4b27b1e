//! How long a machine takes from being switched on until it answers correctly: QEMU boots the disk, with the firmware that Debian, Fedora and Arch have.
//!
//! Promises: the disk is only read; the machine reaches nothing but the port that is asked.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use modelyard_core::package::Package;
use modelyard_core::sample::Sample;

use super::{Started, asked, port, run, told};
use crate::commands::vm::memory_bytes;

/// Says how QEMU runs the processor: `kvm`, or `tcg` where that does not work, many times slower.
const ACCELERATOR: &str = "MODELYARD_QEMU_ACCEL";

/// Longest time until the first correct answer, where the processor is emulated.
const PATIENCE: Duration = Duration::from_secs(600);

/// Pause between two questions: each asked too early stays in QEMU's network for a while, and thousands of them choke it.
const PAUSE: Duration = Duration::from_millis(50);

/// Where distributions keep a firmware that needs no file of variables.
const FIRMWARE: [&str; 6] = [
    "/usr/share/ovmf/OVMF.fd",
    "/usr/share/qemu/OVMF.fd",
    "/usr/share/edk2/ovmf/OVMF.fd",
    "/usr/share/edk2/x64/OVMF.4m.fd",
    "/usr/share/edk2-ovmf/x64/OVMF.fd",
    "/usr/share/qemu-efi-aarch64/QEMU_EFI.fd",
];

/// Seconds from the start of the machine to its first correct answer.
pub fn seconds(package: &Package, sample: &Sample, path: &Path) -> Result<f64, String> {
    let qemu = format!("qemu-system-{}", std::env::consts::ARCH);
    run(Command::new(&qemu).arg("--version")).map_err(|error| format!("no QEMU runs here ({error})"))?;
    let firmware = FIRMWARE.iter().find(|path| Path::new(path).is_file());
    let firmware = firmware.ok_or("no UEFI firmware for QEMU is here (on Debian the package ovmf)")?;
    let scratch = tempfile::tempdir().map_err(told("no room to unpack it"))?;
    let (disk, format) = disk(path, scratch.path())?;
    let address = format!("127.0.0.1:{}", port()?);
    let memory = memory_bytes(package).div_ceil(1 << 20);
    let mut command = Command::new(&qemu);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command.args(["-machine", if cfg!(target_arch = "aarch64") { "virt" } else { "q35" }, "-smp", "2"]);
    command.arg("-m").arg(memory.to_string()).arg("-bios").arg(firmware);
    match std::env::var(ACCELERATOR) {
        Ok(accelerator) => command.arg("-accel").arg(accelerator),
        // QEMU takes the first that works.
        Err(_) => command.args(["-accel", "kvm", "-accel", "tcg"]),
    };
    let quoted = disk.display().to_string().replace(',', ",,");
    command.arg("-drive").arg(format!("file={quoted},format={format},if=virtio,readonly=on"));
    command.arg("-nic").arg(format!("user,model=virtio-net-pci,restrict=on,hostfwd=tcp:{address}-:8080"));
    command.args(["-device", "virtio-rng-pci"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut started = Started(command.spawn().map_err(told(&qemu))?);
    asked(package, sample, &address, (began, PATIENCE, PAUSE), || match started.0.try_wait() {
        Ok(Some(status)) => Err(format!("{qemu} ended with {status}")),
        _ => Ok(()),
    })
}

/// The disk, and how QEMU calls its form. That of an appliance is taken out of it.
fn disk(path: &Path, scratch: &Path) -> Result<(PathBuf, &'static str), String> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("ova") => {
            run(Command::new("tar").arg("-xf").arg(path).arg("-C").arg(scratch))?;
            let files = std::fs::read_dir(scratch).map_err(told("the appliance"))?.flatten().map(|entry| entry.path());
            let disk = files.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "vmdk"));
            Ok((disk.ok_or("the appliance has no disk")?, "vmdk"))
        }
        Some("vmdk") => Ok((path.to_owned(), "vmdk")),
        Some("qcow2") => Ok((path.to_owned(), "qcow2")),
        Some("vhdx") => Ok((path.to_owned(), "vhdx")),
        _ => Ok((path.to_owned(), "raw")),
    }
}
