//! Takes answers and feedback in: joins, counts, excludes. Everything within the caller's transaction.
//!
//! Promises: an answer or a label counts once, in whatever order and however often they come; a unit that was met in two arms counts in none.

use std::collections::HashMap;
use std::sync::Arc;

use modelyard_core::metric::{Metric, MetricSource};
use modelyard_core::mirror::ToldAnswer;
use modelyard_core::strategy::Unit;
use modelyard_core::{RevisionNumber, Timestamp};
use serde_json::Value;

use super::schema::{AnswerRow, Rows, UnitRow};
use super::sums::{self, Sums};
use super::{Error, Following, response, score};

/// What is known of a service while it is followed.
#[derive(Clone, Debug)]
pub struct Room {
    /// What is measured.
    pub following: Arc<Following>,
    /// What follows for the arms.
    pub sums: Sums,
    /// Feedback that waits for its answer.
    pub orphans: u64,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Became {
    /// An answer that was not known.
    New,
    /// Something that was known.
    Repeated,
    /// Feedback that found its answer.
    Joined,
    /// Feedback whose answer is not known yet.
    Orphaned,
}

/// One transaction over one service.
pub struct Taking<'a> {
    rows: Rows<'a>,
    room: &'a mut Room,
    /// Sessions that this transaction has met.
    units: HashMap<String, UnitRow>,
    /// Feedback that found its answer.
    joined: u64,
}

impl<'a> Taking<'a> {
    /// Begins with what is known.
    pub fn new(rows: Rows<'a>, room: &'a mut Room) -> Self {
        Self { rows, room, units: HashMap::new(), joined: 0 }
    }

    /// Writes sessions and sums; how much feedback found its answer.
    pub fn finish(self, now: Timestamp) -> Result<u64, Error> {
        let scope = &self.room.following.scope;
        self.units.iter().try_for_each(|(unit, row)| self.rows.put_unit(scope, unit, row))?;
        self.rows.put_sums(scope, now, &self.room.sums)?;
        Ok(self.joined)
    }

    /// Takes in an answer; `body` is its response.
    pub fn answer(&mut self, told: &ToldAnswer, body: Option<&[u8]>) -> Result<Became, Error> {
        let known = self.rows.answers(&told.id)?;
        if known.iter().any(|row| row.revision == told.revision) {
            return Ok(Became::Repeated);
        }
        let following = Arc::clone(&self.room.following);
        let body = match following.metrics.iter().any(reads_response) {
            true => body.and_then(|body| response::read(told, body)),
            false => None,
        };
        let at = Timestamp(told.at_ms);
        let mut row = AnswerRow {
            id: told.id.clone(),
            revision: told.revision,
            at,
            scope: if following.counts(at) { following.scope.clone() } else { String::new() },
            shadow: told.shadow,
            unit: told.unit.clone(),
            status: told.status,
            micros: told.micros,
            predictions: predictions(&following.metrics, told.status, body.as_ref()),
            scores: following.metrics.iter().filter_map(|m| own_score(m, told, body.as_ref())).collect(),
            excluded: false,
        };
        let posted = self.rows.feedback(&told.id)?;
        for feedback in &posted {
            let scores = self.label(&row, feedback);
            row.scores.extend(scores);
        }
        if !posted.is_empty() {
            let joined = self.rows.join_feedback(&told.id)?;
            self.joined += joined;
            self.room.orphans = self.room.orphans.saturating_sub(joined);
        }
        if !row.scope.is_empty() {
            self.count(&mut row, &known)?;
        }
        self.rows.put_answer(&row)?;
        Ok(Became::New)
    }

    /// Takes in feedback.
    pub fn feedback(&mut self, id: &str, at: Timestamp, body: &Value) -> Result<Became, Error> {
        let rows = self.rows.answers(id)?;
        let is_new = self.rows.put_feedback(id, at, body, !rows.is_empty())?;
        match (rows.is_empty(), is_new) {
            (true, true) => self.room.orphans += 1,
            (false, true) => self.joined += 1,
            (_, false) => {}
        }
        if rows.is_empty() {
            return Ok(Became::Orphaned);
        }
        for mut row in rows {
            let fresh = self.label(&row, body);
            if fresh.is_empty() {
                continue;
            }
            let counts = row.scope == self.room.following.scope && !row.excluded;
            for (name, value) in fresh {
                if counts {
                    self.add(&row, &name, value)?;
                }
                row.scores.insert(name, value);
            }
            self.rows.update_answer(&row)?;
        }
        Ok(Became::Joined)
    }

    /// What feedback says of an answer that nothing has said yet: the first label counts.
    fn label(&self, row: &AnswerRow, feedback: &Value) -> Vec<(String, f64)> {
        let unsaid = self.room.following.metrics.iter().filter(|metric| !row.scores.contains_key(&metric.name));
        let said = |metric: &Metric| {
            let value = score::of_feedback(metric, row.predictions.get(&metric.name), feedback)?;
            Some((metric.name.clone(), value))
        };
        unsaid.filter_map(said).collect()
    }

    /// Counts a new answer, or leaves its unit out.
    fn count(&mut self, row: &mut AnswerRow, known: &[AnswerRow]) -> Result<(), Error> {
        self.room.sums.answer(row.revision);
        let following = Arc::clone(&self.room.following);
        match (following.unit, row.unit.clone()) {
            // A shadow answers what stable answers: that is no unit in two arms.
            (_, _) if row.shadow => self.room.sums.unit(row.revision),
            (Unit::Request, _) => {
                let other = known.iter().find(|other| !other.shadow && other.scope == row.scope);
                if let Some(other) = other {
                    row.excluded = true;
                    return if other.excluded {
                        Ok(())
                    } else {
                        self.exclude(other.revision, vec![other.clone()], None)
                    };
                }
                self.room.sums.unit(row.revision);
            }
            (Unit::Session, Some(unit)) => {
                if !self.meets(&unit, row)? {
                    row.excluded = true;
                    return Ok(());
                }
            }
            // Without a session nothing was assigned by session.
            (Unit::Session, None) => {
                row.excluded = true;
                return Ok(());
            }
        }
        let scores: Vec<(String, f64)> = row.scores.iter().map(|(name, &value)| (name.clone(), value)).collect();
        scores.into_iter().try_for_each(|(name, value)| self.add(row, &name, value))
    }

    /// Whether the session counts with this answer.
    fn meets(&mut self, unit: &str, row: &AnswerRow) -> Result<bool, Error> {
        self.load(unit)?;
        let Some(met) = self.units.get(unit).map(|met| (met.excluded, met.revision)) else {
            let fresh = UnitRow { revision: row.revision, excluded: false, at: row.at, pairs: Default::default() };
            self.units.insert(unit.to_owned(), fresh);
            self.room.sums.unit(row.revision);
            return Ok(true);
        };
        match met {
            (true, _) => Ok(false),
            (false, revision) if revision == row.revision => Ok(true),
            (false, revision) => {
                let rows = self.rows.answers_of_unit(&row.scope, unit)?;
                self.exclude(revision, rows, Some(unit))?;
                Ok(false)
            }
        }
    }

    fn load(&mut self, unit: &str) -> Result<(), Error> {
        if !self.units.contains_key(unit)
            && let Some(row) = self.rows.unit(&self.room.following.scope, unit)?
        {
            self.units.insert(unit.to_owned(), row);
        }
        Ok(())
    }

    /// Takes away what a unit counted for.
    fn exclude(&mut self, revision: RevisionNumber, rows: Vec<AnswerRow>, unit: Option<&str>) -> Result<(), Error> {
        self.room.sums.exclude(revision);
        for mut row in rows.into_iter().filter(|row| !row.shadow && !row.excluded) {
            let scores = std::mem::take(&mut row.scores);
            for (name, &value) in &scores {
                self.change(&row, name, value, false)?;
            }
            row.scores = scores;
            row.excluded = true;
            self.rows.update_answer(&row)?;
        }
        if let Some(met) = unit.and_then(|unit| self.units.get_mut(unit)) {
            met.excluded = true;
            met.pairs.clear();
        }
        Ok(())
    }

    fn add(&mut self, row: &AnswerRow, name: &str, value: f64) -> Result<(), Error> {
        self.change(row, name, value, true)
    }

    fn change(&mut self, row: &AnswerRow, name: &str, value: f64, adds: bool) -> Result<(), Error> {
        let following = Arc::clone(&self.room.following);
        let (Some(since), Some(metric)) = (following.since, following.metrics.iter().find(|m| m.name == name)) else {
            return Ok(());
        };
        // A shadow has no session of its own: each of its answers stands alone.
        let unit = if row.shadow { Unit::Request } else { following.unit };
        let session = row.unit.as_deref().filter(|_| unit == Unit::Session);
        if let Some(session) = session {
            self.load(session)?;
        }
        let met = session.and_then(|session| self.units.get_mut(session));
        let pair = met.map(|met| met.pairs.entry(name.to_owned()).or_default());
        let value = sums::Value { metric, unit, revision: row.revision, after_ms: sums::after(row.at, since), value };
        let sums = &mut self.room.sums;
        if adds {
            sums.add(value, pair)
        } else {
            sums.remove(value, pair)
        }
        Ok(())
    }
}

fn reads_response(metric: &Metric) -> bool {
    matches!(metric.from, MetricSource::Feedback | MetricSource::Response)
}

fn own_score(metric: &Metric, told: &ToldAnswer, body: Option<&Value>) -> Option<(String, f64)> {
    Some((metric.name.clone(), score::of_answer(metric, told.status, told.micros, body)?))
}

fn predictions(metrics: &[Metric], status: u16, body: Option<&Value>) -> serde_json::Map<String, Value> {
    let keep = |metric: &Metric| Some((metric.name.clone(), score::prediction(metric, status, body)?));
    metrics.iter().filter_map(keep).collect()
}
