//! What is kept of each instance of one engine beside its container: what was asked of it, and how it ended.
//!
//! A container says what it is by its labels. What it cannot say is whether somebody asked it to start or to end, and it says nothing once it is removed.
//!
//! Promises: written down before it is done; a forgotten instance's note is its tombstone, and the last lines of its log stay.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use modelyard_core::instance::Exit;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::process::folder as documents;

/// How many logs of forgotten instances are kept, as the target `process` does.
const LOGS: usize = 50;
/// How many tombstones. Ids are never given twice; this is for those who ask again all the same.
const TOMBSTONES: usize = 2_000;

/// One instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Service it belongs to.
    pub service: ServiceName,
    /// Revision that it is a copy of.
    pub revision: RevisionNumber,
    /// Generation of the ask that was carried out.
    pub generation: u64,
    /// When it was asked for.
    pub asked: Timestamp,
    /// When its container was told to start. It is told so once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was asked to end, and how long it may take, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop: Option<(Timestamp, u64)>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// Its container is removed.
    #[serde(default)]
    pub forgotten: bool,
}

impl Note {
    /// Of an instance that is asked for now.
    pub fn asked(service: ServiceName, revision: RevisionNumber, generation: u64) -> Self {
        Self {
            service,
            revision,
            generation,
            asked: documents::now(),
            started: None,
            stop: None,
            exit: None,
            forgotten: false,
        }
    }
}

/// All notes of one engine.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    all: Mutex<BTreeMap<InstanceId, Note>>,
}

impl Notes {
    /// Reads what is in `folder`; makes it.
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&folder)?;
        let mut all = BTreeMap::new();
        for path in fs::read_dir(&folder)?.flatten().map(|entry| entry.path()) {
            let id = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".json")).map(InstanceId::new);
            let Some(Ok(id)) = id else { continue };
            match documents::read(&path) {
                Ok(Some(note)) => drop(all.insert(id, note)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "what was kept of an instance is passed over")
                }
            }
        }
        Ok(Self { folder, all: Mutex::new(all) })
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Note>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of one instance.
    pub fn get(&self, id: &InstanceId) -> Option<Note> {
        self.all().get(id).cloned()
    }

    /// Of those that are not forgotten.
    pub fn present(&self) -> Vec<(InstanceId, Note)> {
        let all = self.all();
        all.iter().filter(|(_, note)| !note.forgotten).map(|(id, note)| (id.clone(), note.clone())).collect()
    }

    /// Changes the note of an instance, on disk first; makes one from `new` if there is none.
    pub fn change(
        &self,
        id: &InstanceId,
        new: impl FnOnce() -> Note,
        with: impl FnOnce(&mut Note),
    ) -> io::Result<Note> {
        let mut all = self.all();
        let before = all.get(id).cloned();
        let mut note = before.clone().unwrap_or_else(new);
        with(&mut note);
        if before.as_ref() != Some(&note) {
            documents::write(&self.folder.join(format!("{id}.json")), &note)?;
            all.insert(id.clone(), note.clone());
        }
        Ok(note)
    }

    /// Where the log of a forgotten instance is.
    pub fn log(&self, id: &InstanceId) -> PathBuf {
        self.folder.join(format!("{id}.log"))
    }

    /// Drops the oldest logs and tombstones.
    pub fn trim(&self) {
        let mut all = self.all();
        let mut ended: Vec<(Timestamp, InstanceId)> = all
            .iter()
            .filter(|(_, note)| note.forgotten)
            .map(|(id, note)| (note.exit.as_ref().map_or(note.asked, |exit| exit.at), id.clone()))
            .collect();
        ended.sort();
        for (_, id) in ended.iter().rev().skip(LOGS) {
            let _ = fs::remove_file(self.log(id)); // most are gone already
        }
        for (_, id) in ended.iter().rev().skip(TOMBSTONES) {
            let _ = fs::remove_file(self.folder.join(format!("{id}.json")));
            all.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(at: u64) -> Note {
        Note { asked: Timestamp(at), ..Note::asked(ServiceName::new("wine").unwrap(), RevisionNumber(1), 1) }
    }

    #[test]
    fn notes_outlive_who_wrote_them_and_logs_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let notes = Notes::open(folder.path().to_owned()).unwrap();
        let id = |number: u64| InstanceId::new(format!("wine-r1-{number}")).unwrap();
        for number in 0..60 {
            notes.change(&id(number), || note(number), |note| note.forgotten = number != 59).unwrap();
            fs::write(notes.log(&id(number)), "said\n").unwrap();
        }
        notes.trim();
        assert!(!notes.log(&id(8)).exists() && notes.log(&id(9)).exists());
        fs::write(folder.path().join("wine-r1-77.json"), "{").unwrap();
        let again = Notes::open(folder.path().to_owned()).unwrap();
        assert_eq!(again.present().len(), 1);
        assert!(again.get(&id(0)).is_some_and(|note| note.forgotten), "a tombstone stays");
    }
}
