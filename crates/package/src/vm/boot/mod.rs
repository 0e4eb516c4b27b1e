//! What a disk boots with, none of which is ours: a kernel, its drivers, a boot loader. They come from folders that are laid out like the root of a
//! Linux system, or from Debian packages.
//!
//! Promises: nothing of it is run; what is not a plain file of a known name stays where it is; the newest kernel that has its drivers is taken, the same
//! on every machine.
//!
//! Source: Debian policy and Linux `Documentation/kbuild/` for where kernels and modules lie; UAPI group, "Boot Loader Specification".

mod deb;
mod module;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use modelyard_core::boot::Module;

pub use self::deb::unpacked;
use super::error::VmError;

/// Longest driver, in bytes: the largest of Debian's has 20 MiB.
const MOST_MODULE_BYTES: u64 = 64 << 20;

/// Loaded on every machine: what reads the root.
const ALWAYS: [&str; 1] = ["squashfs"];

/// Drivers of disks, networks and buttons of the machines that hypervisors give: KVM and Xen, vSphere, VirtualBox, Hyper-V, Amazon's and Google's.
const DRIVERS: [&str; 29] = [
    "virtio_pci",
    "virtio_mmio",
    "virtio_blk",
    "virtio_scsi",
    "virtio_net",
    "virtio_rng",
    "sd_mod",
    "nvme",
    "ahci",
    "ata_piix",
    "vmw_pvscsi",
    "mptspi",
    "mptsas",
    "vmxnet3",
    "e1000",
    "e1000e",
    "igb",
    "8139cp",
    "pcnet32",
    "hv_vmbus",
    "hv_storvsc",
    "hv_netvsc",
    "hv_utils",
    "xen_blkfront",
    "xen_netfront",
    "ena",
    "gve",
    "button",
    "evdev",
];

#[cfg(target_arch = "aarch64")]
const LOADER: (&str, &str) = ("systemd-bootaa64.efi", "BOOTAA64.EFI");
#[cfg(not(target_arch = "aarch64"))]
const LOADER: (&str, &str) = ("systemd-bootx64.efi", "BOOTX64.EFI");

/// Where firmware looks for the loader of a disk that it was told nothing of. Source: UEFI specification 2.10, 3.5.1.1.
pub const REMOVABLE: &str = LOADER.1;

const HELP: &str = "on Debian, as root: `apt-get install linux-image-cloud-amd64 systemd-boot-efi`; or fetch the two packages with `apt-get \
                    download` (linux-image-cloud-amd64 names the newest kernel's), and say `--boot FILE.deb --boot FILE.deb`";

/// What a disk boots with.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its release: `6.1.0-57-cloud-amd64`.
    pub release: String,
    /// Its drivers, with their bytes' place; what each needs stands before it.
    pub modules: Vec<Driver>,
    /// The boot loader, an EFI program.
    pub loader: PathBuf,
}

/// A driver and its file.
#[derive(Clone, Debug)]
pub struct Driver {
    /// How the first process loads it.
    pub module: Module,
    /// Where its bytes are, maybe compressed.
    pub file: PathBuf,
}

impl Driver {
    /// Its bytes as the kernel takes them.
    pub fn bytes(&self) -> Result<Vec<u8>, VmError> {
        contents(&self.file)
    }
}

impl BootFiles {
    /// Looks in `roots`, in their order.
    ///
    /// # Errors
    /// [`VmError::Nothing`], [`VmError::Boot`].
    pub fn find(roots: &[PathBuf]) -> Result<Self, VmError> {
        let nothing = |what: &str| VmError::Nothing {
            what: what.to_owned(),
            looked: roots.iter().map(|root| root.display().to_string()).collect(),
            help: HELP.to_owned(),
        };
        let (release, kernel, folder) =
            roots.iter().find_map(|root| newest(root)).ok_or_else(|| nothing("kernel with its drivers"))?;
        let loader = roots.iter().map(|root| root.join("usr/lib/systemd/boot/efi").join(LOADER.0));
        let loader = loader.into_iter().find(|path| path.is_file());
        let loader = loader.ok_or_else(|| nothing(&format!("boot loader ({})", LOADER.0)))?;
        let modules = drivers(&folder)?;
        Ok(Self { kernel, release, modules, loader })
    }
}

/// The newest kernel below a root that has its drivers: release, file, folder of drivers.
fn newest(root: &Path) -> Option<(String, PathBuf, PathBuf)> {
    let folders = ["lib/modules", "usr/lib/modules"].map(|folder| root.join(folder));
    let releases = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten();
    let mut found: Vec<_> = releases
        .filter_map(|entry| {
            let (release, folder) = (entry.file_name().into_string().ok()?, entry.path());
            let places = [root.join("boot").join(format!("vmlinuz-{release}")), folder.join("vmlinuz")];
            let kernel = places.into_iter().find(|path| path.is_file())?;
            Some((release, kernel, folder))
        })
        .collect();
    found.sort_by(|one, other| numbers(&one.0).cmp(&numbers(&other.0)).then(one.0.cmp(&other.0)));
    found.pop()
}

/// The numbers in a release, for comparing: 6.1.0-9 is older than 6.1.0-57.
fn numbers(release: &str) -> Vec<u64> {
    let parts = release.split(|letter: char| !letter.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// The wanted drivers of a kernel and what they need, in the order in which they can be loaded.
fn drivers(folder: &Path) -> Result<Vec<Driver>, VmError> {
    let mut files = BTreeMap::new();
    walk(&folder.join("kernel"), 0, &mut files).map_err(VmError::part("the list of the kernel's drivers"))?;
    let builtin = std::fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
    let builtin: BTreeSet<String> = builtin.lines().filter_map(|line| name_of(Path::new(line))).collect();
    let (mut all, mut taken) = (Vec::new(), BTreeSet::new());
    for name in ALWAYS.into_iter().chain(DRIVERS) {
        if !builtin.contains(name) {
            take(name, &files, &builtin, ALWAYS.contains(&name), &mut taken, &mut all)?;
        }
    }
    if let Some(lacking) = ALWAYS.iter().find(|name| !builtin.contains(**name) && !taken.contains(**name)) {
        let help = "choose a kernel that has it, such as Debian's linux-image-cloud-amd64: `--boot FILE.deb`";
        return Err(VmError::Boot { path: folder.to_owned(), why: format!("it has no driver {lacking}"), help });
    }
    Ok(all)
}

/// Takes a driver after everything that it needs. One that this kernel does not have is left out.
fn take(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &BTreeSet<String>,
    always: bool,
    taken: &mut BTreeSet<String>,
    all: &mut Vec<Driver>,
) -> Result<(), VmError> {
    let Some(file) = files.get(name) else { return Ok(()) };
    // Noted before its needs are: a circle ends here.
    if !taken.insert(name.to_owned()) {
        return Ok(());
    }
    let bytes = contents(file)?;
    let help = "is it one of this machine's architecture, and whole? Fetch the kernel's package again";
    let told = module::read(&bytes).map_err(|why| VmError::Boot { path: file.clone(), why, help })?;
    let needs: Vec<String> = told.needs.into_iter().filter(|need| !builtin.contains(need)).collect();
    for need in &needs {
        take(need, files, builtin, false, taken, all)?;
        if !taken.contains(need) {
            let why = format!("it needs {need}, which is not there");
            return Err(VmError::Boot { path: file.clone(), why, help });
        }
    }
    let path = format!("/lib/modules/{name}.ko");
    let aliases = if DRIVERS.contains(&name) { told.aliases } else { Vec::new() };
    let module = Module { name: name.to_owned(), path, aliases, always, needs };
    all.push(Driver { module, file: file.clone() });
    Ok(())
}

/// All drivers below a folder, by name.
fn walk(folder: &Path, depth: u32, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    if depth > 16 {
        return Err(io::Error::other(format!("{} lies too deep", folder.display())));
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            walk(&path, depth + 1, files)?;
        } else if let Some(name) = name_of(&path).filter(|_| kind.is_file()) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// What a driver is called: `virtio_blk` for `virtio_blk.ko.xz`.
fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, rest) = file.split_once(".ko")?;
    ["", ".xz", ".zst", ".gz"].contains(&rest).then(|| name.replace('-', "_"))
}

/// The bytes of a file, unpacked as its name says.
fn contents(path: &Path) -> Result<Vec<u8>, VmError> {
    let read = || -> io::Result<Vec<u8>> {
        let file = io::BufReader::new(File::open(path)?);
        let mut bytes = Vec::new();
        deb::unpacking(path, file)?.take(MOST_MODULE_BYTES + 1).read_to_end(&mut bytes)?;
        match bytes.len() as u64 > MOST_MODULE_BYTES {
            true => Err(io::Error::other(format!("it is longer than {} MiB", MOST_MODULE_BYTES >> 20))),
            false => Ok(bytes),
        }
    };
    read().map_err(|error| VmError::Boot {
        path: path.to_owned(),
        why: error.to_string(),
        help: "may this user read it? Kernels can be root's alone; fetch the kernel's package instead: `--boot FILE.deb`",
    })
}

/// A Debian package, or a driver, with these bytes.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    deb::fuzz(bytes);
    let _ = module::read(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_that_has_its_drivers_is_taken() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for release in ["6.1.0-9-amd64", "6.1.0-57-amd64", "6.12.1-1-amd64"] {
            std::fs::create_dir_all(at("boot")).unwrap();
            std::fs::write(at(&format!("boot/vmlinuz-{release}")), "kernel").unwrap();
        }
        assert!(newest(root.path()).is_none());
        for release in ["6.1.0-9-amd64", "6.1.0-57-amd64", "6.99.0-1-amd64"] {
            std::fs::create_dir_all(at(&format!("lib/modules/{release}"))).unwrap();
        }
        let (release, kernel, folder) = newest(root.path()).unwrap();
        assert_eq!(release, "6.1.0-57-amd64");
        assert_eq!((kernel, folder), (at("boot/vmlinuz-6.1.0-57-amd64"), at("lib/modules/6.1.0-57-amd64")));
    }

    #[test]
    fn what_is_lacking_is_told_with_what_to_do() {
        let root = tempfile::tempdir().unwrap();
        let error = BootFiles::find(&[root.path().to_owned()]).unwrap_err();
        assert!(error.to_string().contains("no kernel"), "{error}");
        let help = miette::Diagnostic::help(&error).unwrap().to_string();
        assert!(help.contains("apt-get") && help.contains("--boot"), "{help}");
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        let name = |file: &str| name_of(Path::new(file));
        assert_eq!(name("kernel/drivers/xen-blkfront.ko"), Some("xen_blkfront".to_owned()));
        assert_eq!(name("virtio_blk.ko.zst"), Some("virtio_blk".to_owned()));
        assert_eq!(name("virtio_blk.ko.txt"), None);
        assert_eq!(name("modules.order"), None);
    }
}
