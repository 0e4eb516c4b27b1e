//! The format `standalone`: one tar file that holds this program, the package and the inference engine, and needs nothing installed.
//!
//! Promises: the same package, program and engine give the same bytes; unpacked anywhere, `./run` serves the model.
//! Absent on purpose: compression, so that weights can be read where they lie.
//!
//! Source of the form: POSIX.1-2017, pax, "ustar Interchange Format".

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use modelyard_core::Digest;
use modelyard_core::package::{DOCUMENT, Package};
use sha2::{Digest as _, Sha256};

use crate::context::Context;
use crate::exit::Failed;

/// What was exported.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of its bytes; of an image, the digest of its manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What else the format has to tell.
    pub more: serde_json::Map<String, serde_json::Value>,
}

const RUN: &str = "#!/bin/sh
# Serves the model of this folder: ./run [ADDRESS], by default 127.0.0.1:8080. Further arguments are those of `modelyard serve`.
here=$(CDPATH= cd -- \"$(dirname -- \"$0\")\" && pwd) || exit 1
address=${1:-127.0.0.1:8080}
[ $# -gt 0 ] && shift
if [ -f \"$here/lib/libonnxruntime.so\" ]; then MODELYARD_ONNXRUNTIME=$here/lib/libonnxruntime.so; export MODELYARD_ONNXRUNTIME; fi
exec \"$here/modelyard\" serve --package-dir \"$here/package\" --http \"$address\" \"$@\"
";

/// Exports a package that is laid out in `folder` to `out`.
pub fn export(context: &Context, package: &Package, folder: &Path, out: &Path) -> miette::Result<Exported> {
    let began = Instant::now();
    let engine = match super::package::is_onnx(package) {
        true => Some(super::serve::library(&context.home.cache())?),
        false => None,
    };
    let program = super::up::program()?;
    let name = format!("{}-{}", package.name, package.version);
    let path = out.join(format!("{name}-standalone.tar"));
    let part = out.join(format!(".{name}-standalone.tar.part"));
    let write = || -> io::Result<(Digest, u64)> {
        std::fs::create_dir_all(out)?;
        let mut tar = Tar::new(File::create(&part)?, &name);
        tar.bytes("run", RUN.as_bytes(), true)?;
        tar.file("modelyard", &program, true)?;
        if let Some(engine) = &engine {
            tar.file("lib/libonnxruntime.so", engine, false)?;
        }
        for file in package.files.keys().map(String::as_str).chain([DOCUMENT]) {
            tar.file(&format!("package/{file}"), &folder.join(file), false)?;
        }
        let done = tar.finish()?;
        std::fs::rename(&part, &path)?;
        Ok(done)
    };
    let (digest, size_bytes) = write().map_err(|error| {
        let _ = std::fs::remove_file(&part);
        Failed::from(error, format!("could not write {}", path.display()), "choose another folder with `--out DIR`")
    })?;
    Ok(Exported { path, digest, size_bytes, seconds: began.elapsed().as_secs_f64(), more: Default::default() })
}

/// A tar file that is hashed while it is written.
struct Tar<'a, W> {
    out: W,
    hash: Sha256,
    size: u64,
    folder: &'a str,
}

impl<'a, W: Write> Tar<'a, W> {
    fn new(out: W, folder: &'a str) -> Self {
        Self { out, hash: Sha256::new(), size: 0, folder }
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn bytes(&mut self, name: &str, bytes: &[u8], program: bool) -> io::Result<()> {
        self.put(&header(&format!("{}/{name}", self.folder), bytes.len() as u64, program)?)?;
        self.put(bytes)?;
        self.pad()
    }

    fn file(&mut self, name: &str, path: &Path, program: bool) -> io::Result<()> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        self.put(&header(&format!("{}/{name}", self.folder), size, program)?)?;
        let mut left = size;
        let mut buffer = vec![0; 256 << 10];
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut buffer[..want])?;
            self.put(&buffer[..want])?;
            left -= want as u64;
        }
        self.pad()
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = self.size % 512;
        if over == 0 { Ok(()) } else { self.put(&[0; 512][usize::try_from(over).unwrap_or(0)..]) }
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        self.put(&[0; 1024])?;
        self.out.flush()?;
        Ok((Digest::from_sha256(self.hash.finalize().into()), self.size))
    }
}

/// One header block. Owner, time and umask of this machine are not part of it.
fn header(name: &str, size: u64, program: bool) -> io::Result<[u8; 512]> {
    let mut block = [0; 512];
    let (prefix, name) = split(name).ok_or_else(|| io::Error::other(format!("the path {name} is too long")))?;
    let mut field = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, if program { "0000755\0" } else { "0000644\0" });
    field(108, "0000000\0");
    field(116, "0000000\0");
    // Eleven octal digits hold 8 GiB; a larger file does not fit this form.
    let octal = format!("{size:011o}\0");
    if octal.len() != 12 {
        return Err(io::Error::other("a file is larger than 8 GiB"));
    }
    field(124, &octal);
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    field(345, prefix);
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// A path as prefix (up to 155 bytes) and name (up to 100).
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_tar_reads_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tar");
        let long = format!("{}/weights.bin", "d".repeat(120));
        let mut tar = Tar::new(File::create(&path).unwrap(), "wine-1");
        tar.bytes("run", b"#!/bin/sh\n", true).unwrap();
        tar.bytes(&long, &[7; 1000], false).unwrap();
        let (digest, size) = tar.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(size, bytes.len() as u64);
        assert_eq!(digest, Digest::from_sha256(Sha256::digest(&bytes).into()));
        let status =
            std::process::Command::new("tar").arg("xf").arg(&path).current_dir(folder.path()).status().unwrap();
        assert!(status.success());
        assert_eq!(std::fs::read(folder.path().join("wine-1").join(long)).unwrap(), [7; 1000]);
    }
}
