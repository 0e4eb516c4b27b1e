//! Counts per revision over a window that slides, and what they say against the reference.
//!
//! Promises: a revision costs at most [`SLOTS`] × 256 fields of counts; of its answers at most [`PER_SECOND`] a second are looked at, of each at
//! most [`ELEMENTS`] elements per tensor, evenly spaced. Counts live in memory: after a restart the window fills anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use modelyard_core::evidence::Drift;
use modelyard_core::profile::{Builder, Field, Profile, Side, Tensor, Values, tensors};
use modelyard_core::strategy::Reference;
use modelyard_core::{Millis, RevisionNumber, Timestamp};
use serde_json::Value;

use super::measures::measure;

/// The window moves in these steps.
const SLOT: Millis = Millis::seconds(300);
/// Steps that it has: an hour.
const SLOTS: u64 = 12;
/// Answers of a revision that are looked at within a second.
const PER_SECOND: u32 = 100;
/// Elements of a tensor that are looked at.
const ELEMENTS: usize = 4_096;
/// Rows from which bins are learnt where no package brings any.
const LEARN: usize = 500;
/// Revisions that are counted at once: stable, candidate, further arms, shadows.
const REVISIONS: usize = 16;

/// What is held against what.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// The reference that is asked for. A revision whose package has no profile is held against stable instead.
    pub reference: Reference,
    /// The stable revision.
    pub stable: Option<RevisionNumber>,
    /// The packages' profiles.
    pub profiles: BTreeMap<RevisionNumber, Arc<Profile>>,
}

/// Counts of one service.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    rule: Rule,
    arms: BTreeMap<RevisionNumber, Arm>,
    /// Bins that stable's own rows gave.
    learnt: Option<Arc<Profile>>,
    learning: Builder,
    learnt_rows: usize,
}

/// Counts of one revision.
#[derive(Clone, Debug)]
struct Arm {
    bins: Arc<Profile>,
    /// Where each field's counts begin; the last is where they end.
    starts: Vec<usize>,
    /// Oldest first.
    slots: VecDeque<(u64, Vec<u64>)>,
}

/// Answers that were looked at within a second.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    second: u64,
    looked: u32,
}

/// Decides which answers are looked at, so that nothing is decoded in vain.
#[derive(Clone, Debug, Default)]
pub struct Sampler(BTreeMap<RevisionNumber, Second>);

impl Sampler {
    /// Whether this answer is looked at: the first ones of every second are.
    pub fn takes(&mut self, revision: RevisionNumber, at: Timestamp) -> bool {
        let second = at.0 / 1_000;
        if self.0.len() > 4 * REVISIONS {
            self.0.retain(|_, known| known.second + 60 > second);
        }
        let known = self.0.entry(revision).or_default();
        if known.second != second {
            *known = Second { second, looked: 0 };
        }
        known.looked += 1;
        known.looked <= PER_SECOND
    }
}

impl Meter {
    /// Says what is held against what from now on. Counts in bins that stay the same stay.
    pub fn follow(&mut self, mut rule: Rule) {
        // A package from elsewhere may say anything.
        rule.profiles.retain(|_, profile| profile.problem().is_none());
        if rule == self.rule {
            return;
        }
        if rule.stable != self.rule.stable {
            (self.learnt, self.learning, self.learnt_rows) = (None, Builder::new(), 0);
        }
        self.rule = rule;
        let arms = std::mem::take(&mut self.arms);
        let stays = |(revision, arm): &(RevisionNumber, Arm)| {
            self.bins(*revision).is_some_and(|bins| Arc::ptr_eq(&bins, &arm.bins) || *bins == *arm.bins)
        };
        self.arms = arms.into_iter().filter(stays).collect();
    }

    /// Bins in which a revision is counted; none before there are any.
    fn bins(&self, revision: RevisionNumber) -> Option<Arc<Profile>> {
        let own = self.rule.profiles.get(&revision).filter(|_| self.rule.reference == Reference::Package);
        let stable = || self.rule.profiles.get(&self.rule.stable?).or(self.learnt.as_ref());
        own.or_else(stable).cloned()
    }

    /// Counts a request and its answer, in the JSON forms of the Open Inference Protocol or of plain predictions.
    pub fn observe(
        &mut self,
        revision: RevisionNumber,
        at: Timestamp,
        request: Option<&Value>,
        response: Option<&Value>,
    ) {
        let inputs = request.map(|body| tensors(Side::Input, body)).unwrap_or_default();
        let outputs = response.map(|body| tensors(Side::Output, body)).unwrap_or_default();
        let Some(bins) = self.bins(revision) else {
            if self.rule.stable == Some(revision) {
                self.learn(&inputs, &outputs);
            }
            return;
        };
        if !self.arms.contains_key(&revision) && self.arms.len() == REVISIONS {
            self.forget_oldest();
        }
        let arm = self.arms.entry(revision).or_insert_with(|| Arm::new(bins));
        arm.count(at, Side::Input, &inputs);
        arm.count(at, Side::Output, &outputs);
    }

    fn learn(&mut self, inputs: &[Tensor<'_>], outputs: &[Tensor<'_>]) {
        self.learning.observe(Side::Input, inputs);
        self.learning.observe(Side::Output, outputs);
        self.learnt_rows += inputs.iter().chain(outputs).map(Tensor::rows).max().unwrap_or(0);
        if self.learnt_rows >= LEARN {
            self.learnt = Some(Arc::new(self.learning.build()));
            self.learning = Builder::new();
        }
    }

    fn forget_oldest(&mut self) {
        let last = |arm: &Arm| arm.slots.back().map_or(0, |(slot, _)| *slot);
        let oldest = self.arms.iter().min_by_key(|(_, arm)| last(arm)).map(|(revision, _)| *revision);
        oldest.into_iter().for_each(|revision| drop(self.arms.remove(&revision)));
    }

    /// What the window says of every revision that has a reference, its worst field first.
    pub fn drift(&self, now: Timestamp) -> BTreeMap<RevisionNumber, Vec<Drift>> {
        let seen = self.arms.iter().map(|(&revision, arm)| (revision, self.of(revision, arm, now)));
        seen.filter(|(_, fields)| !fields.is_empty()).collect()
    }

    fn of(&self, revision: RevisionNumber, arm: &Arm, now: Timestamp) -> Vec<Drift> {
        let stable = self.rule.stable.filter(|stable| *stable != revision).and_then(|stable| self.arms.get(&stable));
        let (reference, name) = match self.rule.reference {
            Reference::Package if self.rule.profiles.contains_key(&revision) => {
                (arm.bins.fields.iter().flat_map(Field::counts).collect(), "package")
            }
            _ => match stable.filter(|stable| *stable.bins == *arm.bins) {
                Some(stable) => (stable.counts(now), "stable"),
                None => return Vec::new(),
            },
        };
        let counts = arm.counts(now);
        let fields = arm.bins.fields.iter().zip(arm.starts.windows(2));
        let mut drift: Vec<Drift> = fields
            .filter_map(|(field, range)| {
                let (seen, reference) = (counts.get(range[0]..range[1])?, reference.get(range[0]..range[1])?);
                let measures = measure(reference, seen, matches!(field.values, Values::Numbers { .. }))?;
                Some(Drift {
                    field: field.to_string(),
                    seen: seen.iter().sum(),
                    psi: measures.psi,
                    ks: measures.ks,
                    chi_square_p: measures.chi_square_p,
                    jensen_shannon: measures.jensen_shannon,
                    reference: name.to_owned(),
                })
            })
            .collect();
        drift.sort_by(|one, two| two.psi.total_cmp(&one.psi));
        drift
    }
}

impl Arm {
    fn new(bins: Arc<Profile>) -> Self {
        let mut starts = vec![0];
        let mut end = 0;
        for field in &bins.fields {
            end += field.bins();
            starts.push(end);
        }
        Self { bins, starts, slots: VecDeque::new() }
    }

    fn count(&mut self, at: Timestamp, side: Side, tensors: &[Tensor<'_>]) {
        for tensor in tensors {
            let Some(fields) = self.bins.fields_of(side, tensor.name, tensor.width) else { continue };
            let (bins, starts) = (Arc::clone(&self.bins), self.starts.clone());
            let Some(counts) = self.slot(at) else { return };
            for (index, value) in tensor.spread(fields.len(), ELEMENTS) {
                let field = fields.start + index % fields.len();
                counts[starts[field] + bins.fields[field].bin(value)] += 1;
            }
        }
    }

    /// The counts of that moment; none when the window has moved past it.
    fn slot(&mut self, at: Timestamp) -> Option<&mut Vec<u64>> {
        let number = at.0 / SLOT.0;
        let newest = self.slots.back().map_or(number, |(newest, _)| (*newest).max(number));
        while self.slots.front().is_some_and(|(oldest, _)| oldest + SLOTS <= newest) {
            self.slots.pop_front();
        }
        if number + SLOTS <= newest {
            return None;
        }
        let place = self.slots.partition_point(|(known, _)| *known < number);
        if self.slots.get(place).is_none_or(|(known, _)| *known != number) {
            let length = self.starts.last().copied().unwrap_or(0);
            self.slots.insert(place, (number, vec![0; length]));
        }
        self.slots.get_mut(place).map(|(_, counts)| counts)
    }

    fn counts(&self, now: Timestamp) -> Vec<u64> {
        let number = now.0 / SLOT.0;
        let mut sum = vec![0; self.starts.last().copied().unwrap_or(0)];
        for (_, counts) in self.slots.iter().filter(|(slot, _)| slot + SLOTS > number) {
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        sum
    }
}
