//! Disks wrapped for hypervisors, read back by QEMU's own tools and by a reader of appliances.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use modelyard_package::vm::container::{Container, Hardware, write};
use modelyard_registry::blob::digest_of;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// A name that XML must escape, and nothing that a file system would mind.
const TITLE: &str = "wine:2.1.0 <\"taste\" & 'colour'>";

fn hardware() -> Hardware {
    Hardware {
        name: "wine-2.1.0".to_owned(),
        title: TITLE.to_owned(),
        cpus: 2,
        memory_bytes: 1 << 30,
        source_date_epoch: 1_700_000_000,
    }
}

/// Bytes that nothing compresses, the same every time.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// A disk of `size` bytes, sparse, with these bytes in it.
fn disk(folder: &Path, name: &str, size: u64, data: &[(u64, &[u8])]) -> PathBuf {
    let path = folder.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    for (at, bytes) in data {
        file.write_all_at(bytes, *at).unwrap();
    }
    path
}

/// The disk at `raw` wrapped, as a file beside it.
fn wrap(container: Container, raw: &Path) -> PathBuf {
    let wrapped = raw.with_extension(container.name());
    let mut sink = File::options().read(true).write(true).create(true).truncate(true).open(&wrapped).unwrap();
    write(container, &File::open(raw).unwrap(), &hardware(), &mut sink).unwrap();
    wrapped
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {told}");
    output
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// QEMU finds the disk of `raw` in `wrapped`, byte for byte.
fn qemu_finds(raw: &Path, wrapped: &Path, format: &str) {
    run("qemu-img", &["compare", "-f", format, "-F", "raw", text(wrapped), text(raw)]);
    let told = run("qemu-img", &["info", "--output", "json", "-f", format, text(wrapped)]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["virtual-size"], raw.metadata().unwrap().len());
    if format != "qcow2" && format != "vhdx" {
        let kind = &told["format-specific"]["data"]["create-type"];
        assert!(format == "raw" || kind == "streamOptimized", "{told}");
        return;
    }
    let told = run("qemu-img", &["check", "--output", "json", "-f", format, text(wrapped)]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    for wrong in ["corruptions", "leaks", "check-errors"] {
        assert!(told[wrong].as_u64().unwrap_or(0) == 0, "{wrong}: {told}");
    }
}

/// The disks that a container may be given: one that is like those that Modelyard makes, and those that are like none.
fn disks(folder: &Path) -> Vec<PathBuf> {
    let (some, much) = (noise(3 * MIB as usize, 1), noise(70 * MIB as usize, 2));
    let text = b"what compresses ".repeat(1 << 16);
    vec![
        disk(
            folder,
            "usual",
            300 * MIB,
            &[(0, &some[..4096]), (MIB, &text), (40 * MIB, &much), (299 * MIB, &some[..MIB as usize])],
        ),
        disk(folder, "sector", 512, &[(0, b"x")]),
        disk(folder, "partial", 5 * MIB + 512 * 7, &[(5 * MIB, &some[..512 * 7])]),
        disk(folder, "hole-at-the-end", 5 * MIB + 512, &[(0, &text)]),
        disk(folder, "zeros", 64 * MIB, &[]),
        disk(folder, "written-zeros", 4 * MIB, &[(0, &vec![0; 4 * MIB as usize])]),
        disk(folder, "noise", 3 * MIB, &[(0, &some)]),
        // Over borders of tables: 512 MiB (qcow2) and 32 MiB (VMDK), and offsets of more than 32 bits.
        disk(
            folder,
            "large",
            9 << 30,
            &[(512 * MIB - 70_000, &some), (5 << 30, &text), ((9 << 30) - 512, &some[..512])],
        ),
    ]
}

#[test]
#[ignore = "needs qemu-img"]
fn qemu_finds_the_same_disk_in_every_container() {
    let folder = tempfile::tempdir().unwrap();
    for raw in disks(folder.path()) {
        qemu_finds(&raw, &wrap(Container::Qcow2, &raw), "qcow2");
        qemu_finds(&raw, &wrap(Container::Vhdx, &raw), "vhdx");
        qemu_finds(&raw, &wrap(Container::Vmdk, &raw), "vmdk");
        let copy = wrap(Container::Raw, &raw);
        qemu_finds(&raw, &copy, "raw");
    }
}

#[test]
fn what_holds_nothing_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let raw = disk(folder.path(), "sparse", 512 << 30, &[(100 << 30, b"here")]);
    for container in Container::ALL {
        let facts = wrap(container, &raw).metadata().unwrap();
        assert!(facts.blocks() * 512 <= MIB, "{container}: {} blocks", facts.blocks());
        // A VHDX has a MiB each for headers, log and metadata, five for the table of this disk's blocks, and one for the block.
        let most = if container == Container::Vhdx { 9 * MIB } else { MIB };
        assert!(container == Container::Raw || facts.len() <= most, "{container}: {} bytes", facts.len());
    }
}

#[test]
fn the_same_disk_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let some = noise(MIB as usize, 3);
    let sparse = disk(folder.path(), "sparse", 20 * MIB, &[(7 * MIB, &some)]);
    let mut all = vec![0; 20 * MIB as usize];
    all[7 * MIB as usize..8 * MIB as usize].copy_from_slice(&some);
    let dense = disk(folder.path(), "dense", 20 * MIB, &[(0, &all)]);
    for container in Container::ALL {
        let [one, other] = [&sparse, &dense].map(|raw| std::fs::read(wrap(container, raw)).unwrap());
        assert!(one == other, "{container}");
        let other = disk(folder.path(), "other", 20 * MIB, &[(7 * MIB, &some[1..])]);
        assert!(one != std::fs::read(wrap(container, &other)).unwrap(), "{container}");
    }
}

#[test]
fn a_sink_that_is_full_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let raw = disk(folder.path(), "raw", 8 * MIB, &[(0, &noise(8 * MIB as usize, 4))]);
    for container in Container::ALL {
        let mut full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let error = write(container, &File::open(&raw).unwrap(), &hardware(), &mut full).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{container}: {error}");
        assert!(error.to_string().contains("could not write the disk: "), "{container}: {error}");
    }
}

#[test]
fn a_disk_that_cannot_be_read_or_is_none_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut sink = File::create(folder.path().join("sink")).unwrap();
    let unreadable = File::options().write(true).create(true).truncate(false).open(folder.path().join("raw")).unwrap();
    unreadable.set_len(MIB).unwrap();
    unreadable.write_all_at(b"x", 0).unwrap();
    for container in Container::ALL {
        let error = write(container, &unreadable, &hardware(), &mut sink).unwrap_err().to_string();
        assert!(error.contains("could not read the raw disk: "), "{container}: {error}");
    }
    let odd = disk(folder.path(), "odd", MIB + 1, &[]);
    let error = write(Container::Qcow2, &File::open(odd).unwrap(), &hardware(), &mut sink).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let named = Hardware { name: "../wine".to_owned(), ..hardware() };
    let error = write(Container::Ova, &unreadable, &named, &mut sink).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// The members of an appliance: names and contents, in order.
fn members(ova: &Path) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(ova).unwrap());
    let mut found = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header();
        assert!(header.as_ustar().is_some());
        assert_eq!((header.mtime().unwrap(), header.mode().unwrap(), header.uid().unwrap()), (1_700_000_000, 0o644, 0));
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.push((name, content));
    }
    found
}

#[test]
#[ignore = "needs qemu-img"]
fn an_appliance_holds_its_description_digests_and_disk_in_this_order() {
    let folder = tempfile::tempdir().unwrap();
    let raw = disk(folder.path(), "raw", 50 * MIB, &[(MIB, &noise(MIB as usize, 5)), (49 * MIB, b"end")]);
    let ova = wrap(Container::Ova, &raw);
    let members = members(&ova);
    let names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["wine-2.1.0.ovf", "wine-2.1.0.mf", "wine-2.1.0-disk1.vmdk"]);
    let digest = |place: usize| digest_of(&members[place].1).to_string().replace("sha256:", "");
    let told = format!("SHA256(wine-2.1.0.ovf)= {}\nSHA256(wine-2.1.0-disk1.vmdk)= {}\n", digest(0), digest(2));
    assert_eq!(String::from_utf8_lossy(&members[1].1), told);
    let description = String::from_utf8_lossy(&members[0].1);
    assert!(description.contains(&format!("ovf:size=\"{}\"", members[2].1.len())), "{description}");
    // 1 MiB of noise, and the cluster that holds the end.
    assert!(description.contains(&format!("ovf:populatedSize=\"{}\"", MIB + (64 << 10))), "{description}");
    let vmdk = folder.path().join("within.vmdk");
    File::create(&vmdk).unwrap().write_all(&members[2].1).unwrap();
    qemu_finds(&raw, &vmdk, "vmdk");
}

/// Reads a VMDK with libvmdk, and says whether it is the raw disk.
const LIBVMDK: &str = "
import sys, pyvmdk
vmdk, raw = pyvmdk.handle(), open(sys.argv[2], 'rb')
vmdk.open(sys.argv[1])
vmdk.open_extent_data_files()
left = vmdk.get_media_size()
while left:
    piece = vmdk.read_buffer(min(left, 1 << 20))
    assert piece == raw.read(len(piece)), raw.tell()
    left -= len(piece)
assert raw.read(1) == b''
print('same')
";

#[test]
#[ignore = "needs the Python peers"]
fn libvmdk_reads_the_same_disk() {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let folder = tempfile::tempdir().unwrap();
    let words = b"what compresses ".repeat(1 << 14);
    let raw = disk(
        folder.path(),
        "raw",
        70 * MIB + 512,
        &[(MIB, &noise(MIB as usize, 7)), (40 * MIB, &words), (70 * MIB, b"end")],
    );
    let vmdk = wrap(Container::Vmdk, &raw);
    assert_eq!(run(&python, &["-c", LIBVMDK, text(&vmdk), text(&raw)]).stdout, b"same\n");
}

#[test]
#[ignore = "needs the Python peers"]
fn the_common_ovf_tool_reads_and_changes_an_appliance() {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let folder = tempfile::tempdir().unwrap();
    let raw = disk(folder.path(), "raw", 50 * MIB, &[(MIB, &noise(MIB as usize, 6))]);
    let ova = wrap(Container::Ova, &raw);
    let changed = folder.path().join("changed.ova");
    let tool = |arguments: &[&str]| {
        let all = [&["-m", "COT.ui.cli"][..], arguments].concat();
        String::from_utf8(run(&python, &all).stdout).unwrap()
    };
    // The tool knows SHA-1 only where the envelope is of version 1, and says so on its error output; the digests are checked above.
    let told = tool(&["info", text(&ova)]);
    for line in [
        &format!("Annotation: {TITLE}")[..],
        "wine-2.1.0-disk1.vmdk 1.075 MiB    50 MiB harddisk @ IDE 0:0",
        "System types:             vmx-13",
        "Ethernet device types:    VmxNet3",
        "None (default)            2     1 GiB    1       0  1 /    50 MiB",
    ] {
        assert!(told.contains(line), "no `{line}` in:\n{told}");
    }
    tool(&["edit-hardware", text(&ova), "--cpus", "4", "--memory", "2GB", "--output", text(&changed)]);
    let told = tool(&["info", text(&changed)]);
    assert!(told.contains("None (default)            4     2 GiB    1       0  1 /    50 MiB"), "{told}");
}
