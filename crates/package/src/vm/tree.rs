//! A container image laid over itself: the tree of files that its layers give, without unpacking them anywhere.
//!
//! Promises: what a container runtime would see is what the tree has: upper layers replace and remove what lies below; no path leaves the root; each layer
//! is held against its digest as it is read; weights stay where they lie, compressed layers are unpacked once into a file that has no name.
//! Absent on purpose: devices and other special files, which the machine makes itself, and extended attributes.
//!
//! Source: OCI image specification 1.1, "Image Layer Filesystem Changeset" ("Applying Changesets", "Whiteouts").

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write as _};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::rc::Rc;

use flate2::read::MultiGzDecoder;
use modelyard_registry::blob::Blobs;
use tar::EntryType;

use super::error::VmError;
use crate::image::{GZIP, Layer, LayerContent, damaged};

/// Most files of an image.
const MOST_FILES: usize = 2_000_000;

/// Longest path, in bytes: what Linux takes.
const MOST_PATH: usize = 4_095;

/// Longest name, in bytes: what squashfs takes.
const MOST_NAME: usize = 255;

/// How often a link is followed on the way to one file, as in Linux.
const MOST_LINKS: usize = 40;

/// A file, folder or link, and to whom it belongs.
#[derive(Clone, Debug)]
pub struct Node {
    /// Permission bits, at most 0o7777.
    pub mode: u16,
    /// Number of its owner.
    pub user: u32,
    /// Number of its group.
    pub group: u32,
    /// Seconds since 1970.
    pub modified: u32,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Content {
    /// A folder.
    Folder,
    /// A symbolic link, to this.
    Link(Vec<u8>),
    /// A file.
    File(Slice),
}

/// Bytes within a file.
#[derive(Clone, Debug)]
pub struct Slice {
    file: Rc<File>,
    at: u64,
    /// How many.
    pub length: u64,
}

impl Slice {
    /// Nothing of a file.
    pub fn empty(file: File) -> Self {
        Self { file: Rc::new(file), at: 0, length: 0 }
    }

    /// The bytes, from the first on; as many readers as one likes.
    pub fn read(&self) -> impl Read + use<> {
        Reading { slice: self.clone() }
    }
}

struct Reading {
    slice: Slice,
}

impl Read for Reading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.slice.length).unwrap_or(usize::MAX));
        let length = self.slice.file.read_at(&mut buffer[..most], self.slice.at)?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a layer became shorter while it was read"));
        }
        self.slice.at += length as u64;
        self.slice.length -= length as u64;
        Ok(length)
    }
}

/// What is known of a layer while it is laid over others.
#[derive(Debug, Default)]
struct Laying {
    /// What it brought, and the folders that lead there.
    own: BTreeSet<String>,
    /// Paths of lower layers that it took away already, and whether only what is below them.
    hidden: BTreeSet<(String, bool)>,
}

/// The tree: paths without a slash at either end; the root itself is not in it.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// Lays the layers of an image over each other; what is compressed is unpacked in `scratch`.
    ///
    /// # Errors
    /// [`VmError`].
    pub fn of(blobs: &Blobs, layers: &[Layer], scratch: &Path) -> Result<Self, VmError> {
        let mut tree = Self::default();
        for layer in layers {
            let file = blobs.open_blob(&layer.descriptor.digest)?;
            let refuse = |why: String| VmError::Layer { layer: layer.what.clone(), why };
            tree.lay(layer, file, scratch).map_err(refuse)?;
        }
        Ok(tree)
    }

    /// Every path with its node, folders before what is in them.
    pub fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// Puts a node in place of what is there.
    pub fn put(&mut self, path: &str, node: Node) {
        self.remove(path);
        self.nodes.insert(path.to_owned(), node);
    }

    /// Adds a folder unless there is one.
    pub fn folder(&mut self, path: &str, mode: u16) {
        if !self.nodes.get(path).is_some_and(|node| matches!(node.content, Content::Folder)) {
            self.put(path, Node { mode, user: 0, group: 0, modified: 0, content: Content::Folder });
        }
    }

    fn lay(&mut self, layer: &Layer, file: File, scratch: &Path) -> Result<(), String> {
        let told = |error: io::Error| damaged(&error);
        let (lies, source): (File, Box<dyn Read>) = match layer.descriptor.media_type == GZIP {
            true => {
                let room =
                    tempfile::tempfile_in(scratch).map_err(|error| format!("there is no room for it: {error}"))?;
                let copy = room.try_clone().map_err(told)?;
                let unpacking = MultiGzDecoder::new(BufReader::with_capacity(256 << 10, file));
                (room, Box::new(Copied { source: unpacking, copy }))
            }
            false => {
                let source = file.try_clone().map_err(told)?;
                (file, Box::new(BufReader::with_capacity(256 << 10, source)))
            }
        };
        let mut content = LayerContent::of(source, layer.descriptor.size);
        let laid = self.entries(&mut content, &Rc::new(lies));
        content.end(laid, &layer.diff)
    }

    fn entries(&mut self, source: &mut dyn Read, lies: &Rc<File>) -> Result<(), String> {
        let told = |error: io::Error| damaged(&error);
        let mut archive = tar::Archive::new(source);
        let mut layer = Laying::default();
        for entry in archive.entries().map_err(told)? {
            let entry = entry.map_err(told)?;
            if self.nodes.len() >= MOST_FILES {
                return Err(format!("it has more than {MOST_FILES} files"));
            }
            let Some(path) = clean(&entry.path_bytes())? else { continue };
            let path = self.resolved(&path)?;
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            if name == ".wh..wh..opq" {
                self.hide(folder, true, &mut layer);
                continue;
            }
            if let Some(gone) = name.strip_prefix(".wh.") {
                let gone = if folder.is_empty() { gone.to_owned() } else { format!("{folder}/{gone}") };
                self.hide(&gone, false, &mut layer);
                continue;
            }
            if let Some(node) = self.node(&entry, lies)? {
                for (at, _) in path.match_indices('/') {
                    // Folders that lead to it and that no layer spoke of.
                    self.folder(&path[..at], 0o755);
                    if !layer.own.contains(&path[..at]) {
                        layer.own.insert(path[..at].to_owned());
                    }
                }
                match (&node.content, self.nodes.get_mut(&path)) {
                    // A folder that is there keeps what is in it.
                    (Content::Folder, Some(there)) if matches!(there.content, Content::Folder) => *there = node,
                    _ => self.put(&path, node),
                }
                layer.own.insert(path);
            }
        }
        Ok(())
    }

    /// Takes away what lower layers have at a path, or only below it. What the layer itself brought stays, whatever the order.
    fn hide(&mut self, path: &str, only_below: bool, layer: &mut Laying) {
        // Once hidden, all that is there is the layer's own.
        if !layer.hidden.insert((path.to_owned(), only_below)) {
            return;
        }
        let below = self.below(path).filter(|path| !layer.own.contains(*path)).map(str::to_owned);
        let mut gone: Vec<String> = below.collect();
        if !only_below && !layer.own.contains(path) {
            gone.push(path.to_owned());
        }
        gone.iter().for_each(|path| drop(self.nodes.remove(path)));
    }

    /// What an entry is; `None` for what is left out.
    fn node<R: Read>(&self, entry: &tar::Entry<'_, R>, lies: &Rc<File>) -> Result<Option<Node>, String> {
        let told = |error: io::Error| damaged(&error);
        let header = entry.header();
        let number = |value: u64| u32::try_from(value).map_err(|_| format!("{value} is no number of a user"));
        let target = || entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let content = match header.entry_type() {
            EntryType::Directory => Content::Folder,
            EntryType::Symlink => match target() {
                target if target.is_empty() || target.len() > MOST_PATH => {
                    return Err("a link leads nowhere".to_owned());
                }
                target => Content::Link(target),
            },
            EntryType::Regular | EntryType::Continuous => {
                Content::File(Slice { file: Rc::clone(lies), at: entry.raw_file_position(), length: entry.size() })
            }
            EntryType::Link => {
                let Some(path) = clean(&target())? else { return Err("a hard link leads to the root".to_owned()) };
                let there = self.nodes.get(&self.resolved(&path)?);
                let there = there.filter(|node| matches!(node.content, Content::File(_)));
                return there
                    .cloned()
                    .map(Some)
                    .ok_or_else(|| format!("a hard link leads to `{path:.200}`, which is no file"));
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo | EntryType::XGlobalHeader => return Ok(None),
            other => {
                return Err(format!("it holds an entry of the kind {:?}, which is not read", other.as_byte() as char));
            }
        };
        Ok(Some(Node {
            mode: u16::try_from(header.mode().map_err(told)? & 0o7777).unwrap_or(0o755),
            // Some writers leave numbers of nobody blank.
            user: number(header.uid().unwrap_or(0))?,
            group: number(header.gid().unwrap_or(0))?,
            modified: u32::try_from(header.mtime().unwrap_or(0)).unwrap_or(0),
            content,
        }))
    }

    fn below<'a>(&'a self, folder: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let after = self.nodes.range(start.clone()..).map(|(path, _)| path.as_str());
        after.take_while(move |path| path.starts_with(&start))
    }

    fn remove(&mut self, path: &str) {
        if self.nodes.remove(path).is_some_and(|node| matches!(node.content, Content::Folder)) {
            let below: Vec<String> = self.below(path).map(str::to_owned).collect();
            below.iter().for_each(|path| drop(self.nodes.remove(path)));
        }
    }

    /// Where a path leads once the links among its folders are followed, within the root.
    fn resolved(&self, path: &str) -> Result<String, String> {
        let mut left: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let (mut there, mut followed) = (String::new(), 0);
        while let Some(part) = left.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    there.truncate(there.rfind('/').unwrap_or(0));
                    continue;
                }
                part if part.len() > MOST_NAME || part.contains('\0') => {
                    return Err(format!("a link on the way to `{path:.200}` leads to no name"));
                }
                _ => {}
            }
            let next = if there.is_empty() { part } else { format!("{there}/{part}") };
            match self.nodes.get(&next).map(|node| &node.content) {
                // The last part is what is meant itself.
                Some(Content::Link(target)) if !left.is_empty() => {
                    followed += 1;
                    if followed > MOST_LINKS {
                        return Err(format!("the links on the way to `{path:.200}` lead in a circle"));
                    }
                    let target = std::str::from_utf8(target)
                        .map_err(|_| format!("a link on the way to `{path:.200}` is not UTF-8"))?;
                    if target.starts_with('/') {
                        there.clear();
                    }
                    left.extend(target.split('/').rev().map(str::to_owned));
                }
                _ => there = next,
            }
            if there.len() > MOST_PATH {
                return Err(format!("a path is longer than {MOST_PATH} bytes"));
            }
        }
        Ok(there)
    }
}

/// A path as the tree has it; `None` for the root.
fn clean(bytes: &[u8]) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "a name in it is not UTF-8".to_owned())?;
    if text.contains('\0') || text.len() > MOST_PATH {
        return Err("a name in it is none".to_owned());
    }
    let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.iter().any(|part| *part == ".." || part.len() > MOST_NAME) {
        return Err(format!("the path `{text:.200}` leaves the root, or is too long"));
    }
    Ok((!parts.is_empty()).then(|| parts.join("/")))
}

/// Writes down what passes.
struct Copied<R> {
    source: R,
    copy: File,
}

impl<R: Read> Read for Copied<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.copy.write_all(&buffer[..length])?;
        Ok(length)
    }
}

/// A layer with these bytes, over itself: whatever they are, each node that comes out lies in a folder.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(file) = tempfile::tempfile() else { return };
    if (&file).write_all(bytes).is_err() {
        return;
    }
    let (mut tree, lies) = (Tree::default(), Rc::new(file));
    for _ in 0..2 {
        let _ = tree.entries(&mut &bytes[..], &lies);
    }
    for (path, node) in tree.nodes() {
        let folder = path.rsplit_once('/').map(|(folder, _)| &tree.nodes[folder].content);
        assert!(folder.is_none_or(|content| matches!(content, Content::Folder)), "{path:?} lies in no folder");
        assert!(path.split('/').all(|name| !["", ".", ".."].contains(&name) && name.len() <= MOST_NAME), "{path:?}");
        if let Content::File(slice) = &node.content {
            let _ = io::copy(&mut slice.read().take(1 << 20), &mut io::sink());
        }
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
