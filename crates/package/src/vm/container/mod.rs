//! What a disk is wrapped in for those who run machines: as it is, qcow2, VHDX, VMDK, or an appliance with a description of the machine (OVA).
//!
//! Promises: the same disk gives the same bytes, wherever its file has holes; what holds nothing is not stored; memory stays flat; an error says which
//! side it was on.
//! Absent on purpose: times and random ids (ids are derived from what the disk holds), and reading containers back.

mod ovf;
mod qcow2;
mod source;
mod vhdx;
mod vmdk;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::str::FromStr;

use self::source::Source;

/// Longest name of a machine in bytes: with what is added to it, a tar file has room for it.
const MOST_NAME_BYTES: usize = 80;

/// What a disk is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Container {
    /// Nothing: the disk itself, with holes.
    Raw,
    /// QEMU, KVM, Proxmox, OpenStack.
    Qcow2,
    /// Hyper-V.
    Vhdx,
    /// VMware and VirtualBox; stream-optimised.
    Vmdk,
    /// An appliance for vSphere and VirtualBox: a VMDK with a description of the machine.
    Ova,
}

impl Container {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Raw, Self::Qcow2, Self::Vhdx, Self::Vmdk, Self::Ova];

    /// What it is called, which is also how its files end.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
            Self::Ova => "ova",
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The text names no container.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is nothing that a disk is wrapped in: expected `raw`, `qcow2`, `vhdx`, `vmdk` or `ova`")]
pub struct ContainerError {
    /// The refused text, shortened to 80 characters.
    pub given: String,
}

impl FromStr for Container {
    type Err = ContainerError;

    fn from_str(text: &str) -> Result<Self, ContainerError> {
        let refuse = || ContainerError { given: text.chars().take(80).collect() };
        Self::ALL.into_iter().find(|container| container.name() == text).ok_or_else(refuse)
    }
}

/// The machine that an appliance describes.
#[derive(Clone, Debug)]
pub struct Hardware {
    /// What the machine and its files are called: letters, digits, `.`, `_` and `-`, beginning with a letter or digit; at most 80.
    pub name: String,
    /// What people read: `wine:2.1.0`.
    pub title: String,
    /// Virtual CPUs, at least one.
    pub cpus: u32,
    /// Memory in bytes; rounded up to what hypervisors take, 4 MiB.
    pub memory_bytes: u64,
    /// Seconds since 1970 to stamp on files.
    pub source_date_epoch: u64,
}

/// Wraps the disk in `raw` and writes it into `sink`, an empty file that can seek.
///
/// Both positions are moved. After an error `sink` holds nothing of use.
///
/// # Errors
/// When one of the two fails, and says which; [`io::ErrorKind::InvalidInput`] when the disk is not made of whole sectors of 512 bytes, is larger than the
/// container takes, or the name is none that files can have.
pub fn write(container: Container, raw: &File, hardware: &Hardware, sink: &mut File) -> io::Result<()> {
    check(&hardware.name)?;
    let source = Source::new(raw)?;
    sink.rewind().map_err(writing)?;
    match container {
        Container::Raw => copy(&source, sink),
        Container::Qcow2 => qcow2::write(&source, sink),
        Container::Vhdx => vhdx::write(&source, sink),
        Container::Vmdk => {
            let mut buffered = BufWriter::with_capacity(1 << 20, sink);
            vmdk::write(&source, &format!("{}.vmdk", hardware.name), &mut buffered)?;
            buffered.flush().map_err(writing)
        }
        Container::Ova => ovf::write(&source, hardware, sink),
    }
}

fn check(name: &str) -> io::Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let starts = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    if starts && name.len() <= MOST_NAME_BYTES && name.bytes().all(plain) {
        return Ok(());
    }
    let why = format!(
        "`{}` cannot name a machine: take at most {MOST_NAME_BYTES} letters, digits, `.`, `_` and `-`, with a letter or digit first",
        name.chars().take(MOST_NAME_BYTES).collect::<String>()
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// Copies what the disk holds, and leaves holes where it holds nothing.
fn copy(source: &Source<'_>, sink: &mut File) -> io::Result<()> {
    source.filled(|at, run| {
        sink.seek(SeekFrom::Start(at)).map_err(writing)?;
        sink.write_all(run).map_err(writing)
    })?;
    sink.set_len(source.size()).map_err(writing)
}

/// Says that it was the sink that could not be written.
fn writing(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("could not write the disk: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_found_by_name() {
        for container in Container::ALL {
            assert_eq!(container.name().parse(), Ok(container));
        }
        let error = "vdi".parse::<Container>().unwrap_err().to_string();
        assert_eq!(
            error,
            "`vdi` is nothing that a disk is wrapped in: expected `raw`, `qcow2`, `vhdx`, `vmdk` or `ova`"
        );
    }

    #[test]
    fn names_that_files_cannot_have_are_refused() {
        for name in ["wine-2.1.0", "a", "9_b"] {
            check(name).unwrap();
        }
        for name in ["", "-a", ".a", "a/b", "a b", "a\"b", "ä", &"a".repeat(81)] {
            assert_eq!(check(name).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }
}
