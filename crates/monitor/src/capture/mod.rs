//! Payload capture: requests, answers and feedback as Parquet files, for people with notebooks.
//!
//! What is to be kept is first appended to a stage (lines in a file of the service's folder `.open`), already masked; a thread turns complete stages
//! into `{service}/{day}/{number}.parquet` and `feedback-{number}.parquet`. A reader of the folder sees whole files only.
//!
//! Promises: nothing unmasked is written where masks are asked for: a body whose parts cannot be told apart is left out then. Each segment counts
//! once, through kills at any point: a stage says which segment it has last. Oldest files go first once there are too many bytes or days.
//! Absent on purpose: which answers are told (the gateway's tap) and how bodies are decoded (whoever captures brings that).

mod file;
pub mod load;
mod mask;

mod row;
mod seal;
mod stage;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use modelyard_core::affinity::hash;
use modelyard_core::feedback::Feedback;
use modelyard_core::mirror::{Told, ToldAnswer, ToldFeedback};
use modelyard_core::profile::Side;
use modelyard_core::service::Capture;
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp};
use serde_json::Value;

use mask::Masks;
use row::{Line, Row};
use seal::{Job, Sealer};
use stage::Stage;

/// Bytes of a stage from which on it is complete.
const STAGE_BYTES: u64 = 32 << 20;
/// Age of a stage at which it is complete, unless somebody asks for another.
pub const SPAN: Duration = Duration::from_secs(300);
/// How often files are looked at that have become too old.
const RETAIN: Millis = Millis::seconds(600);

/// What is kept of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// As the service says it.
    pub capture: Capture,
    /// Share of what is told that is kept, 0 to 1: more may be told than is to be kept.
    pub keep: f64,
    /// Versions by revision.
    pub versions: BTreeMap<RevisionNumber, String>,
    /// The rollout that is open, or that ended last.
    pub rollout: Option<Arms>,
}

/// Who was what in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arms {
    /// The rollout.
    pub rollout: String,
    /// When it started.
    pub started: Timestamp,
    /// When its outcome was known.
    pub ended: Option<Timestamp>,
    /// `stable`, `candidate` or `arm`, by revision.
    pub roles: BTreeMap<RevisionNumber, &'static str>,
}

impl Arms {
    /// The rollout and the role of whoever answered, if it was answered within the rollout.
    fn of(&self, told: &ToldAnswer) -> Option<(&str, &'static str)> {
        let at = Timestamp(told.at_ms);
        let within = at >= self.started && self.ended.is_none_or(|ended| at <= ended);
        let role = if told.shadow { "shadow" } else { *self.roles.get(&told.revision)? };
        within.then_some((&self.rollout, role))
    }
}

/// A body in the form that pointers point into; `None` when it has none.
pub type Form<'a> = &'a dyn Fn(&ToldAnswer, Side, &[u8]) -> Option<Value>;

/// What was counted since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Rows that were kept.
    pub kept: AtomicU64,
    /// Rows that could not be written.
    pub lost: AtomicU64,
    /// Files that were completed.
    pub files: AtomicU64,
    /// Files that made room for others.
    pub removed: AtomicU64,
}

/// The captures of one home.
#[derive(Debug)]
pub struct Captures {
    root: PathBuf,
    span: Duration,
    services: BTreeMap<ServiceName, Kept>,
    /// What an earlier life left of services that nobody follows (yet).
    leftovers: BTreeMap<PathBuf, Stage>,
    sealer: Sealer,
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Kept {
    rule: Rule,
    masks: Masks,
    stage: Stage,
    retained: Timestamp,
    is_failing: bool,
}

impl Captures {
    /// Captures into a folder, made once there is something. What an earlier life left is completed. A stage is complete after `span`.
    ///
    /// # Errors
    /// When the thread that completes files cannot be started.
    pub fn open(root: PathBuf, span: Duration) -> io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let sealer = Sealer::start(Arc::clone(&counts))?;
        let mut leftovers = BTreeMap::new();
        for folder in stage::folders(&root) {
            let stage = Stage::new(folder.clone());
            // The newest one says which segment came last, and goes on.
            sealer.send(Job::Seal { folder: folder.clone(), before: stage.newest() });
            leftovers.insert(folder, stage);
        }
        Ok(Self { root, span, services: BTreeMap::new(), leftovers, sealer, counts })
    }

    /// What was counted.
    pub const fn counts(&self) -> &Arc<Counts> {
        &self.counts
    }

    /// Says what is kept of a service from now on; with nothing, what is there becomes a file.
    pub fn follow(&mut self, service: &ServiceName, rule: Option<Rule>, now: Timestamp) {
        let Some(rule) = rule else {
            if let Some(mut kept) = self.services.remove(service) {
                kept.complete(&self.sealer, true, now);
            }
            return;
        };
        let masks = Masks::new(&rule.capture.mask);
        match self.services.get_mut(service) {
            Some(kept) => (kept.rule, kept.masks) = (rule, masks),
            None => {
                let folder = self.root.join(service.as_str());
                let stage = self.leftovers.remove(&folder).unwrap_or_else(|| Stage::new(folder));
                let kept = Kept { rule, masks, stage, retained: Timestamp(0), is_failing: false };
                self.services.insert(service.clone(), kept);
            }
        }
    }

    /// Takes in a segment of the gateway's tap; one that is known already is left alone.
    pub fn take(&mut self, service: &ServiceName, segment: &str, told: &[Told], form: Form<'_>, now: Timestamp) {
        let Some(kept) = self.services.get_mut(service) else { return };
        let rows: Vec<Line> = told.iter().filter_map(|told| kept.line(service, told, form)).collect();
        kept.append(service, Some(segment), &rows, now, &self.counts);
    }

    /// Takes in feedback that did not come by the tap.
    pub fn feedback(&mut self, service: &ServiceName, items: &[Feedback], now: Timestamp) {
        let Some(kept) = self.services.get_mut(service) else { return };
        let told = |item: &Feedback| ToldFeedback { id: item.id.clone(), at_ms: now.0, body: item.body.clone() };
        let row = |item: &Feedback| Line::Feedback(row::Feedback::new(service, &told(item), &kept.masks));
        let rows: Vec<Line> = items.iter().map(row).collect();
        kept.append(service, None, &rows, now, &self.counts);
    }

    /// Completes stages whose time has come, and removes what is too old.
    pub fn turn(&mut self, now: Timestamp) {
        for kept in self.services.values_mut() {
            let is_due = kept.stage.is_due(now, self.span, STAGE_BYTES);
            if is_due || now - kept.retained >= RETAIN {
                kept.complete(&self.sealer, is_due, now);
            }
        }
        for (folder, stage) in &mut self.leftovers {
            if stage.is_due(now, self.span, STAGE_BYTES) {
                seal(&self.sealer, folder, stage, now);
            }
        }
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        for mut kept in std::mem::take(&mut self.services).into_values() {
            let now = Timestamp(kept.stage.newest());
            kept.complete(&self.sealer, true, now);
        }
        self.sealer.finish();
    }
}

/// Ends the open stage, and has everything before the next one made files. The number of the next one.
fn seal(sealer: &Sealer, folder: &Path, stage: &mut Stage, now: Timestamp) -> u64 {
    match stage.turn(now) {
        Ok(before) => {
            sealer.send(Job::Seal { folder: folder.to_owned(), before });
            before
        }
        Err(error) => {
            tracing::error!(folder = %folder.display(), %error, "captured requests cannot be made a file now");
            stage.newest()
        }
    }
}

impl Kept {
    fn complete(&mut self, sealer: &Sealer, turns: bool, now: Timestamp) {
        self.retained = now;
        let folder = self.stage.folder().to_owned();
        let before = if turns { seal(sealer, &folder, &mut self.stage, now) } else { self.stage.newest() };
        let (limit_bytes, age) = (self.rule.capture.limit_bytes, self.rule.capture.retention);
        sealer.send(Job::Retain { folder, before, limit_bytes, age, now });
    }

    fn append(&mut self, service: &ServiceName, segment: Option<&str>, rows: &[Line], now: Timestamp, counts: &Counts) {
        let count = rows.len() as u64;
        match self.stage.append(segment, rows, now) {
            Ok(is_new) => {
                self.is_failing = false;
                counts.kept.fetch_add(if is_new { count } else { 0 }, Ordering::Relaxed);
            }
            Err(error) => {
                if !self.is_failing {
                    tracing::error!(%service, %error, "captured requests cannot be written; they are lost");
                }
                self.is_failing = true;
                counts.lost.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn line(&self, service: &ServiceName, told: &Told, form: Form<'_>) -> Option<Line> {
        match told {
            Told::Answer(answer) if self.is_kept(&answer.id) => {
                let version = self.rule.versions.get(&answer.revision).cloned();
                let mut row = Row::new(service, version, answer, &self.rule.capture, &self.masks, form);
                if let Some((rollout, role)) = self.rule.rollout.as_ref().and_then(|arms| arms.of(answer)) {
                    (row.rollout, row.arm) = (Some(rollout.to_owned()), Some(role.to_owned()));
                }
                Some(Line::Answer(Box::new(row)))
            }
            Told::Answer(_) => None,
            Told::Feedback(feedback) => Some(Line::Feedback(row::Feedback::new(service, feedback, &self.masks))),
        }
    }

    /// By its id, so that a request, its shadows' answers and what a retry tells of it are kept together.
    fn is_kept(&self, id: &str) -> bool {
        let place = hash("capture", id.as_bytes()) as f64 / u64::MAX as f64;
        self.rule.keep >= 1.0 || place < self.rule.keep
    }
}
