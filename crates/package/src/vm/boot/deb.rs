//! Debian packages: the few files of one that boot a machine, unpacked once.
//!
//! Promises: only plain files of known names come out, below the folder; what swells beyond reason is refused; a folder is whole or not there.
//! Absent on purpose: running a package's scripts.
//!
//! Source: deb(5): an `ar` archive whose member `data.tar`, compressed or not, holds the files.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;

use crate::image::digest_of;
use crate::vm::error::VmError;

/// What a package may hold in all, in bytes: Debian's full kernel has 400 MiB.
const MOST_BYTES: u64 = 4 << 30;

/// Memory for unpacking xz, in KiB; Debian's packages ask for 65 MiB.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// Largest window of zstd, in bytes.
const ZSTD_WINDOW: u64 = 128 << 20;

/// The folder in `cache` that holds what a package boots with; it is unpacked there unless it was before.
///
/// # Errors
/// [`VmError::Boot`] when it is no package, or holds nothing of use.
pub fn unpacked(package: &Path, cache: &Path) -> Result<PathBuf, VmError> {
    let refuse = |error: io::Error| VmError::Boot {
        path: package.to_owned(),
        why: error.to_string(),
        help: "name a folder that is laid out like a system's root, or a Debian package of a kernel (linux-image-…) or of the boot loader \
               (systemd-boot-efi)",
    };
    let digest = File::open(package).and_then(|mut file| digest_of(&mut file)).map_err(refuse)?;
    let folder = cache.join(digest.hex());
    if folder.is_dir() {
        return Ok(folder);
    }
    let unpack = || -> io::Result<()> {
        fs::create_dir_all(cache)?;
        let part = tempfile::Builder::new().prefix(".incoming-").tempdir_in(cache)?;
        if unpack(package, part.path())? == 0 {
            return Err(io::Error::other("it holds neither a kernel nor a boot loader"));
        }
        match fs::rename(part.path(), &folder) {
            // Somebody else was faster with the same bytes.
            Err(_) if folder.is_dir() => Ok(()),
            other => other,
        }
    };
    unpack().map_err(refuse)?;
    Ok(folder)
}

/// Unpacks what boots; how many files there are of it.
fn unpack(package: &Path, folder: &Path) -> io::Result<u32> {
    let mut members = ar::Archive::new(BufReader::new(File::open(package)?));
    while let Some(member) = members.next_entry() {
        let member = member.map_err(|error| io::Error::other(format!("it is no Debian package: {error}")))?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        if name.starts_with("data.tar") {
            let data = unpacking(Path::new(&name), BufReader::new(member))?.take(MOST_BYTES);
            return files(data, folder);
        }
    }
    Err(io::Error::other("it is no Debian package: it has no data.tar"))
}

fn files(data: impl Read, folder: &Path) -> io::Result<u32> {
    let (mut archive, mut count) = (tar::Archive::new(data), 0);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Some(path) = wanted(&path).filter(|_| entry.header().entry_type().is_file()) else { continue };
        let target = folder.join(path);
        fs::create_dir_all(target.parent().unwrap_or(folder))?;
        io::copy(&mut entry, &mut File::create_new(&target)?)?;
        count += 1;
    }
    Ok(count)
}

/// Where a file goes, if it is one of those that boot.
fn wanted(path: &Path) -> Option<PathBuf> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let path = path.strip_prefix("/").unwrap_or(path);
    if !path.components().all(|part| matches!(part, Component::Normal(_))) {
        return None;
    }
    let text = path.to_str()?;
    let modules = text.starts_with("lib/modules/") || text.starts_with("usr/lib/modules/");
    let boots = text.starts_with("boot/vmlinuz-")
        || (modules && (text.contains(".ko") || text.ends_with("/modules.builtin") || text.ends_with("/vmlinuz")))
        || (text.starts_with("usr/lib/systemd/boot/efi/") && text.ends_with(".efi"));
    boots.then(|| path.to_owned())
}

/// The content of a file, unpacked as its name says: xz, zstd, gzip, or not at all.
pub fn unpacking<'a>(name: &Path, file: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match name.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Box::new(lzma_rust2::XzReader::new_mem_limit(file, true, XZ_MEMORY_KIB)),
        Some("zst") => {
            let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(file, ZSTD_WINDOW);
            Box::new(decoder.map_err(io::Error::other)?)
        }
        Some("gz") => Box::new(MultiGzDecoder::new(file)),
        _ => Box::new(file),
    })
}

/// A package with these bytes, or with them as its files: nothing leaves the folder.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(folder) = tempfile::tempdir() else { return };
    let (package, inner) = (folder.path().join("a.deb"), folder.path().join("files"));
    if fs::create_dir(&inner).is_ok() && fs::write(&package, bytes).is_ok() {
        let _ = unpack(&package, &inner);
        let _ = files(bytes, &inner);
        for name in ["a.xz", "a.zst", "a.gz"] {
            let _ =
                unpacking(Path::new(name), bytes).and_then(|file| io::copy(&mut file.take(1 << 20), &mut io::sink()));
        }
        let there = fs::read_dir(folder.path()).map(Iterator::count);
        assert!(there.is_ok_and(|count| count == 2), "a file left its folder");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A package with these files in its `data.tar`.
    fn package(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
        let mut data = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            data.append(&header, text.as_bytes()).unwrap();
        }
        let data = data.into_inner().unwrap();
        let path = folder.join("kernel.deb");
        let mut archive = ar::Builder::new(File::create(&path).unwrap());
        archive.append(&ar::Header::new(b"debian-binary".to_vec(), 4), &b"2.0\n"[..]).unwrap();
        archive.append(&ar::Header::new(b"data.tar".to_vec(), data.len() as u64), &data[..]).unwrap();
        path
    }

    #[test]
    fn only_what_boots_comes_out_and_nothing_leaves_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let files = [
            ("./boot/vmlinuz-6.1.0-57-amd64", "kernel"),
            ("./lib/modules/6.1.0-57-amd64/kernel/fs/squashfs.ko.xz", "driver"),
            ("./lib/modules/../../../../escaped.ko", "bad"),
            ("../boot/vmlinuz-escaped", "bad"),
            ("./usr/share/doc/copyright", "text"),
        ];
        let there = unpacked(&package(folder.path(), &files), &cache).unwrap();
        assert_eq!(fs::read_to_string(there.join("boot/vmlinuz-6.1.0-57-amd64")).unwrap(), "kernel");
        assert!(there.join("lib/modules/6.1.0-57-amd64/kernel/fs/squashfs.ko.xz").is_file());
        assert!(!there.join("usr").exists() && !folder.path().join("escaped.ko").exists());
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_package_or_boots_nothing_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let refused = |path: &Path| unpacked(path, &cache).unwrap_err().to_string();
        let other = folder.path().join("other.deb");
        fs::write(&other, "!<arch>\n").unwrap();
        assert!(refused(&other).contains("no data.tar"));
        fs::write(&other, "hello").unwrap();
        assert!(refused(&other).contains("no Debian package"), "{}", refused(&other));
        let empty = package(folder.path(), &[("./usr/bin/hello", "program")]);
        assert!(refused(&empty).contains("neither a kernel nor a boot loader"));
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 0, "nothing half done is left");
    }
}
