//! The root of a machine as a squashfs.
//!
//! Promises: the same tree gives the same bytes; what does not shrink, such as weights, is stored as it is, without the time that trying would cost.
//! Absent on purpose: sharing equal files by a short hash of their content, which a hostile file could forge.
//!
//! Source: Linux, `Documentation/filesystems/squashfs.rst`; the writer is the crate `backhand`.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write as _};

use backhand::compression::{CompressionAction, Compressor};
use backhand::kind::{Kind, LE_V4_0};
use backhand::{BackhandError, FilesystemCompressor, FilesystemWriter, NodeHeader, SuperBlock};
use flate2::Compression;
use flate2::read::{ZlibDecoder, ZlibEncoder};

use super::tree::{Content, Tree};

/// Bytes of a block: what one read of a page costs at most.
const BLOCK: u32 = 128 << 10;

/// How much of a block is tried before all of it is, in bytes.
const TRIED: usize = 8 << 10;

/// Compresses what shrinks.
#[derive(Clone, Copy)]
struct Frugal;

static FRUGAL: Frugal = Frugal;

impl CompressionAction for Frugal {
    type Error = BackhandError;
    type Compressor = Compressor;
    type FilesystemCompressor = FilesystemCompressor;
    type SuperBlock = SuperBlock;

    fn decompress(&self, bytes: &[u8], out: &mut Vec<u8>, _: Compressor) -> Result<(), BackhandError> {
        ZlibDecoder::new(bytes).read_to_end(out)?;
        Ok(())
    }

    fn compress(&self, bytes: &[u8], _: FilesystemCompressor, _: u32) -> Result<Vec<u8>, BackhandError> {
        let pack = |bytes: &[u8], level: u32| -> io::Result<Vec<u8>> {
            let mut packed = Vec::with_capacity(bytes.len());
            ZlibEncoder::new(bytes, Compression::new(level)).read_to_end(&mut packed)?;
            Ok(packed)
        };
        let tried = &bytes[..bytes.len().min(TRIED)];
        // What is longer than it was is stored as it is. Below an eighth, reading faster is worth more.
        if bytes.len() > TRIED && pack(tried, 1)?.len() > TRIED - TRIED / 8 {
            return Ok(vec![0; bytes.len() + 1]);
        }
        Ok(pack(bytes, 6)?)
    }

    fn compression_options(
        &self,
        _: &mut SuperBlock,
        _: &Kind,
        _: FilesystemCompressor,
    ) -> Result<Option<Vec<u8>>, BackhandError> {
        Ok(None)
    }
}

/// Writes it to `sink`; its length in bytes.
pub fn write(tree: &Tree, moment: u32, sink: &File) -> io::Result<u64> {
    let failed = |error: BackhandError| io::Error::other(error.to_string());
    let mut writer = FilesystemWriter::default();
    writer.set_block_size(BLOCK);
    writer.set_time(moment);
    writer.set_kind(Kind::new_v4_with_const(&FRUGAL, LE_V4_0));
    writer.set_compressor(FilesystemCompressor::new(Compressor::Gzip, None).map_err(failed)?);
    writer.set_no_duplicate_files(false);
    writer.set_only_root_id();
    writer.set_root_mode(0o755);
    for (path, node) in tree.nodes() {
        let header = NodeHeader::new(node.mode, node.user, node.group, node.modified);
        match &node.content {
            Content::Folder => writer.push_dir(path, header),
            Content::Link(target) => {
                let target = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(target);
                writer.push_symlink(target, path, header)
            }
            Content::File(slice) => writer.push_file(slice.read(), path, header),
        }
        .map_err(failed)?;
    }
    let mut sink = BufWriter::with_capacity(1 << 20, sink);
    let (_, length) = writer.write(&mut sink).map_err(failed)?;
    sink.flush()?;
    Ok(length)
}
