//! Trees of layers: what stays, what is taken away, what is refused.

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};

use super::*;

/// Media type of a layer that is a tar file.
const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

/// An entry: path, kind, content or target.
type Told<'a> = (&'a str, EntryType, &'a str);

fn tape(entries: &[Told<'_>]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, text) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(if *kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        let is_file = kind.is_file();
        header.set_size(if is_file { text.len() as u64 } else { 0 });
        if !is_file && !text.is_empty() {
            header.set_link_name_literal(text).unwrap();
        }
        header.set_cksum();
        archive.append(&header, if is_file { text.as_bytes() } else { b"" }).unwrap();
    }
    archive.into_inner().unwrap()
}

fn laid(layers: &[Vec<Told<'_>>]) -> Result<Tree, String> {
    let folder = tempfile::tempdir().unwrap();
    let mut tree = Tree::default();
    for (number, entries) in layers.iter().enumerate() {
        let plain = tape(entries);
        let diff = Digest::from_sha256(Sha256::digest(&plain).into());
        // Every second layer is compressed.
        let (bytes, kind) = match number % 2 {
            0 => (plain, TAR),
            _ => {
                let mut packed = Vec::new();
                flate2::read::GzEncoder::new(&plain[..], flate2::Compression::fast()).read_to_end(&mut packed).unwrap();
                (packed, crate::image::GZIP)
            }
        };
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, &bytes).unwrap();
        let descriptor = modelyard_registry::manifest::Descriptor::new(kind, diff, bytes.len() as u64);
        let layer = Layer { what: "test".into(), descriptor, diff, reused: false };
        tree.lay(&layer, File::open(&path).unwrap(), folder.path())?;
    }
    Ok(tree)
}

/// Paths with what they hold: text of files, `-> target` of links, a slash for folders.
fn told(tree: &Tree) -> Vec<String> {
    let told = tree.nodes().map(|(path, node)| match &node.content {
        Content::Folder => format!("{path}/"),
        Content::Link(target) => format!("{path} -> {}", String::from_utf8_lossy(target)),
        Content::File(slice) => {
            let mut text = String::new();
            slice.read().read_to_string(&mut text).unwrap();
            format!("{path} = {text}")
        }
    });
    told.collect()
}

const FILE: EntryType = EntryType::Regular;
const FOLDER: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;

#[test]
fn upper_layers_replace_and_remove_what_lies_below() {
    let below = vec![
        ("./", FOLDER, ""),
        ("a/", FOLDER, ""),
        ("a/one", FILE, "1"),
        ("a/two", FILE, "2"),
        ("b/three", FILE, "3"),
        ("c/d/four", FILE, "4"),
        ("e", FILE, "5"),
    ];
    let above = vec![
        ("a/.wh.one", FILE, ""),
        ("b/new", FILE, "new"),
        ("b/.wh..wh..opq", FILE, ""),
        (".wh.c", FILE, ""),
        ("e/", FOLDER, ""),
        ("e/f", FILE, "6"),
    ];
    let tree = laid(&[below, above]).unwrap();
    assert_eq!(told(&tree), ["a/", "a/two = 2", "b/", "b/new = new", "e/", "e/f = 6"]);
}

/// Source: OCI image specification 1.1, "Whiteouts": they apply to lower layers only, wherever they stand in their own.
#[test]
fn what_a_layer_brings_itself_is_never_taken_away_by_it() {
    let below = vec![("a/b/old", FILE, "old"), ("a/old", FILE, "old"), ("c/old", FILE, "old"), ("d", FILE, "old")];
    let above = vec![
        ("a/b/new", FILE, "new"),
        ("a/.wh..wh..opq", FILE, ""),
        ("c/new", FILE, "new"),
        (".wh.c", FILE, ""),
        ("d", FILE, "new"),
        (".wh.d", FILE, ""),
        (".wh.", FILE, ""),
        (".wh..", FILE, ""),
    ];
    let tree = laid(&[below, above]).unwrap();
    assert_eq!(told(&tree), ["a/", "a/b/", "a/b/new = new", "c/", "c/new = new", "d = new"]);
}

#[test]
fn links_are_kept_and_followed_within_the_root() {
    let below = vec![
        ("usr/lib/libc", FILE, "c"),
        ("lib", LINK, "usr/lib"),
        ("out", LINK, "/../../../usr"),
        ("usr/lib/same", HARD, "usr/lib/libc"),
    ];
    let above = vec![("lib/libm", FILE, "m"), ("out/lib/libz", FILE, "z")];
    let tree = laid(&[below, above]).unwrap();
    let wanted = [
        "lib -> usr/lib",
        "out -> /../../../usr",
        "usr/",
        "usr/lib/",
        "usr/lib/libc = c",
        "usr/lib/libm = m",
        "usr/lib/libz = z",
        "usr/lib/same = c",
    ];
    assert_eq!(told(&tree), wanted);
}

#[test]
fn what_is_hostile_is_refused_in_words() {
    let long = "n".repeat(MOST_NAME + 1);
    for (entries, why) in [
        (vec![("../etc/passwd", FILE, "x")], "leaves the root"),
        (vec![("a", LINK, "b"), ("b", LINK, "a"), ("a/c", FILE, "x")], "lead in a circle"),
        (vec![("a", HARD, "/etc/passwd")], "is no file"),
        (vec![("a", EntryType::new(b'Z'), "")], "is not read"),
        (vec![("a", LINK, "")], "leads nowhere"),
    ] {
        let refused = laid(&[entries]).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
    let mut linked = Tree::default();
    let link =
        |target: &[u8]| Node { mode: 0o777, user: 0, group: 0, modified: 0, content: Content::Link(target.to_vec()) };
    linked.put("a", link(long.as_bytes()));
    assert!(linked.resolved("a/b").unwrap_err().contains("leads to no name"));
    linked.put("a", link(b"\xff"));
    assert!(linked.resolved("a/b").unwrap_err().contains("is not UTF-8") && linked.resolved("a").is_ok());
    assert!(clean(long.as_bytes()).is_err() && clean(b"\xff").is_err() && clean(b"a\0b").is_err());
    // Special files are the machine's own.
    assert_eq!(told(&laid(&[vec![("dev/sda", EntryType::Block, ""), ("x", FILE, "x")]]).unwrap()), ["x = x"]);
}

#[test]
fn a_layer_that_is_not_what_was_said_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = tape(&[("a", FILE, "right")]);
    let diff = Digest::from_sha256(Sha256::digest(b"other").into());
    let path = folder.path().join("layer");
    std::fs::write(&path, &bytes).unwrap();
    let descriptor = modelyard_registry::manifest::Descriptor::new(TAR, diff, bytes.len() as u64);
    let layer = Layer { what: "test".into(), descriptor, diff, reused: false };
    let refused = Tree::default().lay(&layer, File::open(&path).unwrap(), folder.path()).unwrap_err();
    assert!(refused.contains("and the configuration says"), "{refused}");
}
