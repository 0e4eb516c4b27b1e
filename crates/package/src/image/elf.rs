//! Which shared libraries programs need, read from the files themselves: nothing is run for it.
//!
//! Promises: everything that the loader would load at start is found where the loader would look, or there is an error that names it.
//! Absent on purpose: libraries that a program opens by itself later; whoever knows of one names it as a root too.
//!
//! Source: System V ABI, "Dynamic Linking" (`DT_NEEDED`, `DT_RUNPATH`, `PT_INTERP`); ld.so(8) for the order of folders.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, DT_RPATH, DT_RUNPATH, FileHeader64, Machine};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};
use object::{Endianness, ReadCache};

use super::error::ImageError;

/// A version of the C library: `GLIBC_2.36` is (2, 36).
pub type Glibc = (u32, u32);

/// Folders that every loader looks into, those of Debian's multiarch first.
const FOLDERS: [&str; 7] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
];

/// The C library itself: where it lies, the others go.
const LIBC: &str = "libc.so.6";

/// What one file says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    machine: Option<Machine>,
    interpreter: Option<String>,
    libraries: Vec<String>,
    folders: Vec<String>,
    /// The newest version of the C library that it asks for.
    glibc: Option<Glibc>,
}

/// Everything that programs need besides themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Closure {
    /// Libraries by their name, with the file that was found.
    pub libraries: BTreeMap<String, PathBuf>,
    /// The folder in which the loader finds them; none when there are none.
    pub folder: Option<String>,
    /// The loader: the path under which programs ask for it.
    pub interpreter: Option<String>,
    /// The oldest C library that will do.
    pub glibc: Option<Glibc>,
}

/// Whether a file is a program or library in this form.
pub fn is_elf(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::with_capacity(4);
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == b"\x7fELF")
}

/// Reads what a file needs.
pub fn needs(path: &Path) -> Result<Needs, ImageError> {
    let file = File::open(path).map_err(ImageError::file(path))?;
    let wrong = |why: String| ImageError::Program {
        path: path.to_owned(),
        why,
        help: "images hold 64-bit ELF programs, built for the machine that packages",
    };
    read(file).map_err(|error| wrong(error.to_string()))
}

fn read(file: File) -> object::Result<Needs> {
    let cache = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&cache)?;
    let endian = header.endian()?;
    let mut needs = Needs { machine: Some(header.e_machine(endian)), ..Needs::default() };
    for segment in header.program_headers(endian, &cache)? {
        if let Some(path) = segment.interpreter(endian, &cache)? {
            needs.interpreter = Some(text(path));
        }
    }
    let sections = header.sections(endian, &cache)?;
    if let Some((entries, strings)) = sections.dynamic(endian, &cache)? {
        let strings = sections.strings(endian, &cache, strings)?;
        for entry in entries {
            let value = || u32::try_from(entry.val(endian)).ok().and_then(|at| strings.get(at).ok()).map(text);
            match entry.tag(endian) {
                DT_NEEDED => needs.libraries.extend(value()),
                DT_RUNPATH | DT_RPATH => {
                    let folders = value().unwrap_or_default();
                    needs.folders.extend(folders.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned));
                }
                _ => {}
            }
        }
    }
    if let Some((mut files, strings)) = sections.gnu_verneed(endian, &cache)? {
        let strings = sections.strings(endian, &cache, strings)?;
        while let Some((_, mut versions)) = files.next()? {
            while let Some(version) = versions.next()? {
                needs.glibc = needs.glibc.max(glibc(version.name(endian, strings)?));
            }
        }
    }
    Ok(needs)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// `GLIBC_2.36` as a version.
fn glibc(name: &[u8]) -> Option<Glibc> {
    let (major, minor) = std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?.split_once('.')?;
    // A third part, as in 2.2.5, only old versions have.
    let minor = minor.split('.').next()?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The newest version that a C library offers, by the names that stand in it.
pub fn offered(libc: &[u8]) -> Option<Glibc> {
    const MARK: &[u8] = b"GLIBC_2.";
    let starts = libc.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK).map(|(at, _)| at);
    starts
        .filter_map(|at| {
            let rest = &libc[at..];
            let end = rest.iter().take(20).position(|&byte| byte == 0)?;
            glibc(&rest[..end])
        })
        .max()
}

/// Everything that the programs and libraries in `roots` need.
pub fn closure(roots: &[&Path]) -> Result<Closure, ImageError> {
    let (mut found, mut closure) = (BTreeMap::new(), Closure::default());
    let mut left: Vec<PathBuf> = roots.iter().map(|&root| root.to_owned()).collect();
    let (mut looked_at, mut machine) = (BTreeSet::new(), None);
    while let Some(path) = left.pop() {
        let path = std::fs::canonicalize(&path).map_err(ImageError::file(&path))?;
        if !looked_at.insert(path.clone()) {
            continue;
        }
        let needs = needs(&path)?;
        machine = machine.or(needs.machine);
        closure.glibc = closure.glibc.max(needs.glibc);
        if closure.interpreter.is_none() {
            closure.interpreter.clone_from(&needs.interpreter);
        }
        for library in needs.libraries.iter().filter(|library| !is_loader(library)) {
            if !found.contains_key(library) {
                let file = find(library, &needs, &path, machine)?;
                left.push(file.clone());
                found.insert(library.clone(), file);
            }
        }
    }
    closure.folder = found.get(LIBC).and_then(|libc| libc.parent()).map(|folder| folder.display().to_string());
    closure.libraries = found;
    Ok(closure)
}

/// Whether a library is the loader itself, which programs name by its path as well.
pub fn is_loader(library: &str) -> bool {
    library.starts_with("ld-linux") || library.starts_with("ld64.so")
}

/// Whether a library is part of the C library, all of whose parts must be of one version.
pub fn is_of_glibc(library: &str) -> bool {
    ["libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0", "libresolv.so.2", "libmvec.so.1"]
        .contains(&library)
}

fn find(library: &str, needs: &Needs, of: &Path, machine: Option<Machine>) -> Result<PathBuf, ImageError> {
    let refuse = |why: String| ImageError::Program {
        path: of.to_owned(),
        why,
        help: "install the library on this machine, or choose a base that has it: `--base REF`",
    };
    if library.contains('/') {
        return Err(refuse(format!("it needs a library by its path, {library}")));
    }
    let origin = of.parent().unwrap_or(Path::new("/")).display().to_string();
    let own = needs.folders.iter().map(|folder| folder.replace("${ORIGIN}", &origin).replace("$ORIGIN", &origin));
    let fits = |path: &PathBuf| path.is_file() && self::needs(path).is_ok_and(|found| found.machine == machine);
    let candidates = own.chain(FOLDERS.map(str::to_owned)).map(|folder| Path::new(&folder).join(library));
    candidates.into_iter().find(fits).ok_or_else(|| refuse(format!("it needs {library}, which is not on this machine")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_needs_its_c_library_and_loader() {
        let own = std::env::current_exe().unwrap();
        let found = closure(&[&own]).unwrap();
        assert!(found.libraries.keys().any(|library| library == LIBC), "{found:?}");
        assert!(found.libraries.keys().all(|library| !is_loader(library)), "{found:?}");
        let loader = found.interpreter.unwrap();
        assert!(is_elf(Path::new(&loader)).unwrap(), "{loader}");
        // The C library here offers what this program, which runs on it, asks for.
        let libc = std::fs::read(&found.libraries[LIBC]).unwrap();
        assert!(offered(&libc) >= found.glibc && found.glibc >= Some((2, 2)), "{:?}", found.glibc);
        assert!(!is_elf(Path::new(file!()).parent().unwrap().join("nothing").as_path()).unwrap_or(false));
    }

    #[test]
    fn what_is_no_program_or_is_cut_off_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("program");
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for bytes in [&b"#!/bin/sh\n"[..], b"\x7fELF", &own[..40], &own[..4096], b""] {
            std::fs::write(&path, bytes).unwrap();
            let told = closure(&[&path]).unwrap_err().to_string();
            assert!(told.contains("cannot go into an image"), "{told}");
        }
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(glibc(b"GLIBC_2.36"), Some((2, 36)));
        assert_eq!(glibc(b"GLIBC_2.2.5"), Some((2, 2)));
        assert_eq!(glibc(b"GLIBC_PRIVATE"), None);
        assert_eq!(offered(b"..GLIBC_2.9\0GLIBC_2.31\0GLIBC_2.4\0GLIBC_2."), Some((2, 31)));
    }
}
