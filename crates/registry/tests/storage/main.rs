//! One contract for every pair of stores: the folder with SQLite, the bucket with PostgreSQL, and the mixed pairs in short; each with several
//! registries at once.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod contract;
mod crashes;
mod faults;
mod models;
#[allow(dead_code, reason = "each test uses a part of the support")]
#[path = "../support/mod.rs"]
mod support;
mod tls;

use std::path::{Path, PathBuf};

use modelyard_registry::Store;
use modelyard_registry::storage::Settings;
use support::stores::{Stores, fresh_name};
use support::{Reply, Served};

/// Where a registry keeps things.
#[derive(Clone, Copy, PartialEq)]
pub enum Pair {
    /// In a folder that all machines share.
    FolderAndSqlite,
    /// In an S3-compatible store and a database.
    BucketAndPostgresql,
    /// Blobs in a folder that all machines share, the rest in a database.
    FolderAndPostgresql,
    /// Blobs in an S3-compatible store, the rest in a folder that all machines share.
    BucketAndSqlite,
}

impl Pair {
    fn in_bucket(self) -> bool {
        matches!(self, Self::BucketAndPostgresql | Self::BucketAndSqlite)
    }

    fn in_database(self) -> bool {
        matches!(self, Self::BucketAndPostgresql | Self::FolderAndPostgresql)
    }
}

/// A registry of several machines.
pub struct Site {
    pair: Pair,
    name: String,
    settings: Settings,
    folder: tempfile::TempDir,
}

impl Site {
    /// A registry with nothing in it.
    pub fn new(pair: Pair) -> Self {
        let (name, folder) = (fresh_name(), tempfile::tempdir().unwrap());
        let blobs = if pair.in_bucket() { Stores::here().bucket(&name) } else { Settings::default() };
        let metadata = pair.in_database().then(|| Stores::here().database(&name));
        let settings = Settings { metadata, ..blobs };
        Self { pair, name, settings, folder }
    }

    /// The folder of a machine: those that share the folder have one, the others one each.
    pub fn home(&self, machine: u32) -> PathBuf {
        match self.pair {
            Pair::BucketAndPostgresql => self.folder.path().join(machine.to_string()),
            _ => self.folder.path().join("shared"),
        }
    }

    /// The registry as it is served by a machine, started anew each time.
    pub fn served(&self, machine: u32) -> Served {
        Served::open_with(&self.home(machine), &self.settings)
    }

    /// The registry as a machine's commands see it.
    pub fn store(&self, machine: u32) -> Store {
        let home = self.home(machine);
        Store::open_with(home.join("registry"), home.join("unpacked"), &self.settings).unwrap()
    }

    /// The bytes of a blob where it is kept, or none.
    pub fn kept(&self, digest: &str) -> Option<Vec<u8>> {
        let place = format!("blobs/{}", digest.replace(':', "/"));
        if !self.pair.in_bucket() {
            return std::fs::read(self.home(0).join("registry").join(place)).ok();
        }
        let (status, bytes) = Stores::here().s3("GET", &format!("/{}/{place}", self.name), b"");
        (status == 200).then_some(bytes)
    }

    /// Changes the bytes of a blob where it is kept, behind the registry's back.
    pub fn damage(&self, digest: &str, bytes: &[u8]) {
        let place = format!("blobs/{}", digest.replace(':', "/"));
        if self.pair.in_bucket() {
            assert_eq!(Stores::here().s3("PUT", &format!("/{}/{place}", self.name), bytes).0, 200);
            return;
        }
        let path = self.home(0).join("registry").join(place);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// Pushes an image until it is taken: a sweep without grace may take a blob that has no name yet. Its digest.
pub fn push_until_taken(registry: &Served, name: &str, tag: &str, layer: &[u8]) -> String {
    for _ in 0..200 {
        let (config, part) = (registry.push(name, b"{}"), registry.push(name, layer));
        let bytes = image(&config, &part, layer.len());
        let reply = put(registry, name, tag, &bytes);
        match reply.status {
            201 => return support::digest(&bytes),
            _ => drop(reply.refused(404, "MANIFEST_BLOB_UNKNOWN")),
        }
    }
    panic!("no push went through");
}

/// A manifest of a configuration of two bytes and one layer.
pub fn image(config: &str, layer: &str, size: usize) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "mediaType": support::MANIFEST,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/octet-stream", "digest": layer, "size": size }],
    }))
    .unwrap()
}

/// Pushes a manifest.
pub fn put(registry: &Served, name: &str, reference: &str, bytes: &[u8]) -> Reply {
    let path = format!("/v2/{name}/manifests/{reference}");
    registry.call("PUT", &path, &[("content-type", support::MANIFEST)], bytes)
}

/// Everything that an image is made of can be pulled, and is what it says.
pub fn pull_whole(registry: &Served, name: &str, reference: &str) {
    let manifest = registry.get(&format!("/v2/{name}/manifests/{reference}")).expect(200);
    assert_eq!(support::digest(&manifest.body), manifest.header("docker-content-digest"));
    let manifest = manifest.json();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().unwrap();
        let blob = registry.get(&format!("/v2/{name}/blobs/{digest}")).expect(200);
        assert_eq!(support::digest(&blob.body), digest);
    }
}

/// Files below a folder, at any depth.
pub fn files_below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files_below(&path) } else { 1 }).sum()
}

macro_rules! contract {
    ($($module:ident :: $name:ident),* $(,)?) => {
        mod folder_and_sqlite {
            $(#[test] fn $name() { crate::$module::$name(crate::Pair::FolderAndSqlite) })*
        }
        mod bucket_and_postgresql {
            $(#[test] #[ignore = "needs the Python peers and PostgreSQL"]
            fn $name() { crate::$module::$name(crate::Pair::BucketAndPostgresql) })*
        }
    };
}

contract!(
    contract::a_blob_is_pushed_whole_in_chunks_and_after_a_restart,
    contract::many_push_one_blob_at_once,
    contract::ranges_are_given,
    contract::what_is_deleted_is_gone_everywhere,
    contract::referrers_are_found_from_everywhere,
    contract::a_wrong_digest_leaves_nothing,
    contract::tags_come_page_by_page_by_their_bytes,
    contract::two_writers_of_a_tag_leave_one_of_both,
    contract::a_sweep_beside_pushes_takes_nothing_that_has_a_name,
    contract::what_somebody_cares_for_is_young_again,
    contract::a_damaged_blob_breaks_off_and_is_mended,
    contract::a_damaged_manifest_is_named_and_its_parts_stay,
    contract::a_large_blob_streams_through_little_memory,
    crashes::a_push_that_breaks_off_goes_on_where_it_stood,
    models::a_version_is_for_ever_and_everywhere,
    models::two_who_add_one_version_are_told_who_won,
    models::where_a_version_came_from_is_known_everywhere,
    models::aliases_and_tags_move_for_everybody,
    models::a_model_is_served_to_everybody_and_its_files_are_laid_out,
);

macro_rules! in_short {
    ($($pair:ident: $is:expr),* $(,)?) => {$(
        #[test]
        #[ignore = "needs the Python peers and PostgreSQL"]
        fn $pair() {
            contract::a_blob_is_pushed_whole_in_chunks_and_after_a_restart($is);
            contract::what_is_deleted_is_gone_everywhere($is);
            contract::a_sweep_beside_pushes_takes_nothing_that_has_a_name($is);
            models::two_who_add_one_version_are_told_who_won($is);
            models::a_model_is_served_to_everybody_and_its_files_are_laid_out($is);
        }
    )*};
}

in_short!(folder_and_postgresql: Pair::FolderAndPostgresql, bucket_and_sqlite: Pair::BucketAndSqlite);
