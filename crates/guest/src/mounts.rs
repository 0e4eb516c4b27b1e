//! The file systems of the kernel, and the step from the initial RAM file system into the root.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, symlink};

use modelyard_core::boot::{INIT, PROGRAM};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move, mount_remount};
use rustix::process::{chdir, chroot};

use crate::console::say;

/// Where the root is mounted before it becomes the root.
pub const ROOT: &str = "/root";

/// Names server addresses are written here; see [`RESOLVER_USE`].
pub const RESOLVER: &str = "/run/resolv.conf";

/// Where programs look for name servers.
const RESOLVER_USE: &str = "/etc/resolv.conf";

/// A file system that has no disk.
struct Virtual {
    kind: &'static str,
    at: &'static str,
    flags: MountFlags,
    options: &'static CStr,
}

const QUIET: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC).union(MountFlags::NODEV);

/// What stands in the initial RAM file system and moves on into the root.
const KERNEL: [Virtual; 4] = [
    Virtual { kind: "proc", at: "/proc", flags: QUIET, options: c"" },
    Virtual { kind: "sysfs", at: "/sys", flags: QUIET, options: c"" },
    Virtual {
        kind: "devtmpfs",
        at: "/dev",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0755",
    },
    Virtual { kind: "tmpfs", at: "/run", flags: MountFlags::NOSUID.union(MountFlags::NODEV), options: c"mode=0755" },
];

/// What stands on the devices.
const DEVICES: [Virtual; 2] = [
    Virtual {
        kind: "devpts",
        at: "/dev/pts",
        flags: MountFlags::NOSUID.union(MountFlags::NOEXEC),
        options: c"mode=0620,ptmxmode=0666",
    },
    Virtual { kind: "tmpfs", at: "/dev/shm", flags: QUIET, options: c"mode=1777" },
];

/// What programs of containers find in their devices.
const LINKS: [(&str, &str); 4] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
];

/// Mounts what the kernel shows and takes.
///
/// # Errors
/// Which of them could not be mounted, and why.
pub fn kernel() -> Result<(), String> {
    for system in KERNEL.iter().chain(&DEVICES) {
        // Folders of the initial RAM file system and of the devices: both can be written.
        let _ = fs::DirBuilder::new().mode(0o755).create(system.at);
        match mount(system.kind, system.at, system.kind, system.flags, system.options) {
            Ok(()) => {}
            Err(error) if system.at.starts_with("/dev/") => {
                say(format_args!("{} could not be mounted on {}: {error}", system.kind, system.at));
            }
            Err(Errno::BUSY) => {} // the kernel did it (CONFIG_DEVTMPFS_MOUNT)
            Err(error) => return Err(format!("{} could not be mounted on {}: {error}", system.kind, system.at)),
        }
    }
    for (target, link) in LINKS {
        let _ = symlink(target, link); // there already under some kernels
    }
    Ok(())
}

/// Mounts the root from its device, so that nobody can write it.
///
/// # Errors
/// Why not, and what that means.
pub fn root(device: &str) -> Result<(), String> {
    let _ = fs::create_dir(ROOT);
    mount(device, ROOT, "squashfs", MountFlags::RDONLY | MountFlags::NODEV, c"").map_err(|error| match error {
        Errno::NODEV => format!("{device} could not be mounted: this kernel has no squashfs, and this image no driver for it"),
        Errno::INVAL | Errno::IO => format!("{device} could not be mounted: {error}; it is damaged or holds no squashfs; write the image to the disk again"),
        error => format!("{device} could not be mounted: {error}"),
    })
}

/// Makes the mounted root the root of this process and of all that it starts. The initial RAM file system stays below, for whoever holds it open.
///
/// # Errors
/// Which step could not be done, and why.
pub fn enter() -> Result<(), String> {
    let failed = |what: &'static str| move |error: Errno| format!("{what} could not be put into the root: {error}");
    for system in &KERNEL {
        mount_move(system.at, format!("{ROOT}{}", system.at)).map_err(failed(system.at))?;
    }
    let program = format!("{ROOT}{PROGRAM}");
    mount_bind(INIT, &program).map_err(failed(PROGRAM))?;
    // Not writable there either. Without it, only a program that runs as root could: then it harms itself.
    let _ =
        mount_remount(&program, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID, c"");
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", format!("{ROOT}/tmp"), "tmpfs", flags, c"mode=1777").map_err(failed("/tmp"))?;
    chdir(ROOT).and_then(|()| mount_move(".", "/")).map_err(failed("/"))?;
    chroot(".").and_then(|()| chdir("/")).map_err(failed("this process"))
}

/// Gives programs that look for name servers a file that can be written, where the root has a place for it. Whether it has.
pub fn resolver() -> bool {
    let is_file = fs::metadata(RESOLVER_USE).is_ok_and(|metadata| metadata.is_file());
    is_file && fs::write(RESOLVER, "").is_ok() && mount_bind(RESOLVER, RESOLVER_USE).is_ok()
}
