//! Registries side by side: pushing and pulling the same bytes in few and many blobs, listing many tags, memory; against SHA-256 and a copy of the same bytes.
//!
//! Promises: every registry gets the same requests in the same round, on the same core, each blob's bytes new to it; what comes back is counted to the byte.

mod client;
mod peers;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use modelyard_core::Digest;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::machine::{self, LOAD_CORE};
use crate::process::pin;
use crate::report::{self, Spread, Table, show};
use client::Client;
use peers::Peer;

/// Registries side by side.
#[derive(Args)]
pub struct Options {
    /// Bytes that are pushed and pulled in each case, in MiB.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Tags of the repository whose tags are listed.
    #[arg(long, default_value_t = 100_000)]
    tags: usize,
    /// Alternated rounds.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// Where the registries keep their files; the disk counts.
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// How the bytes are cut, and how many clients move them at once.
const CASES: [(&str, usize, usize); 4] =
    [("1 blob", 1, 1), ("10 blobs", 10, 1), ("1 000 blobs", 1_000, 1), ("1 024 blobs, 32 clients", 1_024, 32)];

/// One figure of one round.
#[derive(Clone, Serialize)]
struct Figure {
    round: usize,
    who: String,
    what: String,
    value: f64,
}

/// One blob: a stamp, then pieces that repeat.
struct Blob {
    stamp: [u8; 16],
    length: usize,
    digest: String,
}

/// Runs the rounds and prints the medians.
pub fn run(options: &Options) -> Result<()> {
    let binary = machine::modelyard(options.modelyard.as_deref())?.canonicalize()?;
    let mut figures = Vec::new();
    for round in 0..options.rounds {
        let folder = match &options.folder {
            Some(folder) => tempfile::tempdir_in(folder)?,
            None => tempfile::tempdir()?,
        };
        limits(options, round, folder.path(), &mut figures)?;
        for name in peers::NAMES {
            let home = folder.path().join(name);
            std::fs::create_dir_all(&home)?;
            let Some(peer) = Peer::start(name, &binary, &home)? else {
                eprintln!("registry: {name} is not here");
                continue;
            };
            measure(options, round, &peer, &mut figures)?;
            drop(peer);
            std::fs::remove_dir_all(&home).with_context(|| format!("could not remove {}", home.display()))?;
        }
        eprintln!("registry: round {} of {} done", round + 1, options.rounds);
    }
    report::print(&render(&figures))?;
    report::save(options.json.as_deref(), &serde_json::json!({ "machine": machine::describe(), "figures": figures }))
}

/// 1 MiB that no compression and no deduplication makes smaller.
fn filler() -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(11);
    std::iter::repeat_with(|| random.u64(..).to_le_bytes()).flatten().take(1 << 20).collect()
}

/// Gives a blob's bytes piece by piece.
fn pieces<'a>(stamp: &'a [u8], length: usize, filler: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut left = length;
    std::iter::once(stamp).chain(std::iter::repeat(filler)).map_while(move |piece| {
        let piece = &piece[..piece.len().min(left)];
        left -= piece.len();
        (!piece.is_empty()).then_some(piece)
    })
}

fn blobs(round: usize, case: usize, count: usize, bytes: usize, filler: &[u8]) -> Vec<Blob> {
    let make = |number: usize| {
        let mut stamp = [0; 16];
        stamp[..8].copy_from_slice(&((round as u64) << 32 | case as u64).to_le_bytes());
        stamp[8..].copy_from_slice(&(number as u64).to_le_bytes());
        let (length, mut hash) = (bytes / count, Sha256::new());
        pieces(&stamp, length, filler).for_each(|piece| hash.update(piece));
        Blob { stamp, length, digest: Digest::from_sha256(hash.finalize().into()).to_string() }
    };
    (0..count).map(make).collect()
}

/// What the processor and the disk allow.
fn limits(options: &Options, round: usize, folder: &Path, figures: &mut Vec<Figure>) -> Result<()> {
    let (filler, bytes) = (filler(), options.size << 20);
    let mut add = |what: &str, seconds: f64| {
        let value = options.size as f64 / seconds;
        figures.push(Figure { round, who: "limit".to_owned(), what: what.to_owned(), value });
    };
    let mut hash = Sha256::new();
    let start = Instant::now();
    pieces(&[0; 16], bytes, &filler).for_each(|piece| hash.update(piece));
    std::hint::black_box(hash.finalize());
    let hashing = start.elapsed().as_secs_f64();
    add("SHA-256", hashing);
    let (from, to) = (folder.join("from"), folder.join("to"));
    let mut file = std::fs::File::create(&from)?;
    for piece in pieces(&[0; 16], bytes, &filler) {
        std::io::Write::write_all(&mut file, piece)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    std::fs::copy(&from, &to)?;
    std::fs::File::open(&to)?.sync_all()?;
    let copying = start.elapsed().as_secs_f64();
    add("copy of the file, on the disk", copying);
    add("both, one after the other", hashing + copying);
    std::fs::remove_file(from)?;
    Ok(std::fs::remove_file(to)?)
}

fn measure(options: &Options, round: usize, peer: &Peer, figures: &mut Vec<Figure>) -> Result<()> {
    let filler = filler();
    let mut add = |what: String, value: f64| figures.push(Figure { round, who: peer.name.clone(), what, value });
    for (case, (name, count, clients)) in CASES.into_iter().enumerate() {
        let blobs = blobs(round, case, count, options.size << 20, &filler);
        let push = |client: &mut Client, blob: &Blob| {
            client.push("bench", &blob.digest, blob.length, || pieces(&blob.stamp, blob.length, &filler))
        };
        let pull = |client: &mut Client, blob: &Blob| {
            let came = client.get(&format!("/v2/bench/blobs/{}", blob.digest), None)?;
            ensure!(came == blob.length as u64, "{came} of {} bytes came", blob.length);
            Ok(())
        };
        add(format!("push, {name}"), options.size as f64 / in_lanes(peer, clients, &blobs, push)?);
        add(format!("pull, {name}"), options.size as f64 / in_lanes(peer, clients, &blobs, pull)?);
    }
    add("memory at its peak, MiB".to_owned(), peer.peak_bytes()? as f64 / f64::from(1 << 20));
    peer.seed_tags(options.tags)?;
    let mut client = Client::new(peer.address)?;
    let (start, mut next, mut seen) = (Instant::now(), Some("/v2/tagged/tags/list?n=10000".to_owned()), 0);
    while let Some(path) = next.take() {
        let mut body = Vec::new();
        client.get(&path, Some(&mut body))?;
        let page: serde_json::Value = serde_json::from_slice(&body)?;
        seen += page["tags"].as_array().map_or(0, Vec::len);
        next = client.link();
    }
    ensure!(seen == options.tags, "{}: {seen} of {} tags were listed", peer.name, options.tags);
    add("listing all tags, ms".to_owned(), start.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

/// Does the work for every blob with this many clients at once; seconds.
fn in_lanes(
    peer: &Peer,
    clients: usize,
    blobs: &[Blob],
    work: impl Fn(&mut Client, &Blob) -> Result<()> + Sync,
) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let lane = || -> Result<()> {
        pin(LOAD_CORE)?;
        let mut client = Client::new(peer.address)?;
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut client, blob).with_context(|| format!("{}: blob {}", peer.name, blob.digest))?;
        }
        Ok(())
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..clients).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| anyhow::anyhow!("a client panicked"))?)
    })?;
    Ok(start.elapsed().as_secs_f64())
}

fn render(figures: &[Figure]) -> String {
    let unique = |of: fn(&Figure) -> &String| {
        let mut seen: Vec<String> = Vec::new();
        figures.iter().map(of).for_each(|name| {
            if !seen.contains(name) {
                seen.push(name.clone());
            }
        });
        seen
    };
    let who = unique(|figure| &figure.who);
    let head = ["MiB/s unless said".to_owned()].into_iter().chain(who.iter().cloned());
    let mut table = Table::new(head.chain(["ours × docker-registry".to_owned()]));
    for what in unique(|figure| &figure.what) {
        let of = |name: &String| {
            let values = figures.iter().filter(|figure| figure.who == *name && figure.what == what);
            show(Spread::of(values.map(|figure| figure.value)), 0)
        };
        let value = |name: &str, round: usize| {
            let of = |figure: &&Figure| figure.who == name && figure.round == round && figure.what == what;
            figures.iter().find(of).map(|figure| figure.value)
        };
        let rounds = 0..=figures.iter().map(|figure| figure.round).max().unwrap_or(0);
        let ratios = rounds.filter_map(|round| Some(value("modelyard", round)? / value("docker-registry", round)?));
        let ratio = show(Spread::of(ratios), 2);
        table.row([what.clone()].into_iter().chain(who.iter().map(of)).chain([ratio]).collect());
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_has_its_length_and_its_own_bytes() {
        let filler = filler();
        let made = blobs(1, 2, 3, 3 << 20, &filler);
        for blob in &made {
            let bytes: usize = pieces(&blob.stamp, blob.length, &filler).map(<[u8]>::len).sum();
            assert_eq!(bytes, 1 << 20);
        }
        assert!(made[0].digest != made[1].digest && made[0].digest.len() == 71);
    }
}
