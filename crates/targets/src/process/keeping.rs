//! What is kept of instances that ended: their logs, of the last [`KEPT`] of them.
//!
//! A kept log is also a tombstone: its id is not started again.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use modelyard_core::InstanceId;

use super::{Inner, log};

/// How many forgotten instances' logs are kept: a few rollouts' worth, at most 8 MiB each.
const KEPT: usize = 50;

/// No instance id starts with a full stop.
const KEEPING: &str = ".ended";

impl Inner {
    fn kept(&self, id: &InstanceId) -> PathBuf {
        self.instances.join(KEEPING).join(id.as_str())
    }

    pub(super) fn is_kept(&self, id: &InstanceId) -> bool {
        self.kept(id).is_dir()
    }

    pub(super) fn forget(&self, id: &InstanceId) -> io::Result<()> {
        let folder = self.folder(id);
        if !folder.path().is_dir() {
            return Ok(());
        }
        if folder.spec().exists() && !folder.exit().exists() {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, "it has not ended; stop it first"));
        }
        let kept = self.kept(id);
        fs::create_dir_all(&kept)?;
        for from in [folder.log(), log::older(&folder.log())].into_iter().filter(|path| path.exists()) {
            fs::rename(&from, kept.join(from.file_name().unwrap_or_default()))?;
        }
        fs::remove_dir_all(folder.path())?;
        self.memory().known.remove(id);
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> io::Result<()> {
        let mut kept: Vec<(SystemTime, PathBuf)> = fs::read_dir(self.instances.join(KEEPING))?
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        kept.sort();
        let surplus = kept.len().saturating_sub(KEPT);
        kept.into_iter().take(surplus).try_for_each(|(_, path)| fs::remove_dir_all(path))
    }

    pub(super) fn logs(&self, id: &InstanceId, lines: usize) -> io::Result<Vec<String>> {
        let folder = self.folder(id);
        if let Some(lines) = log::tail(&folder.log(), lines)? {
            return Ok(lines);
        }
        if folder.spec().exists() {
            return Ok(Vec::new()); // it has not written anything yet
        }
        match log::tail(&self.kept(id).join("log"), lines)? {
            Some(lines) => Ok(lines),
            None if self.is_kept(id) => Ok(Vec::new()),
            None => {
                let why = format!("no such instance is known; of ended ones the last {KEPT} logs are kept");
                Err(io::Error::new(io::ErrorKind::NotFound, why))
            }
        }
    }
}
