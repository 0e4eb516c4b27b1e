//! What a service's flags are for one context. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use modelyard_core::RevisionNumber;
use modelyard_core::flags::{Context, Definition, EvaluationError, Reason, equal};
use modelyard_core::package::{Flag, Package};
use serde_json::{Map, Value, json};

use super::split::{Split, Whose};
use crate::store::fold::ServiceState;

/// The number of the revision that answers a session.
pub const REVISION: &str = "modelyard.revision";
/// What that revision is: `stable`, `candidate`, or a further arm by its revision, such as `r4`.
pub const ARM: &str = "modelyard.arm";

/// What a flag is. Without a value the caller's own default holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Value and the name of its variant.
    pub chosen: Option<(Value, String)>,
    /// Why.
    pub reason: Reason,
    /// What is said of it.
    pub metadata: Map<String, Value>,
}

/// Why a flag has no answer, in OpenFeature's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// OpenFeature's code.
    pub code: &'static str,
    /// For people.
    pub details: String,
}

impl Fault {
    /// A fault.
    pub fn new(code: &'static str, details: impl Into<String>) -> Self {
        Self { code, details: details.into() }
    }

    /// There is no such flag.
    pub fn not_found(key: &str) -> Self {
        EvaluationError::NotFound(key.to_owned()).into()
    }
}

impl From<EvaluationError> for Fault {
    fn from(error: EvaluationError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A flag's answer.
pub type Answer = Result<Found, Fault>;

/// Everything that a service's flags follow from.
pub struct Sources {
    /// The service.
    pub state: Arc<ServiceState>,
    /// How its sessions are spread.
    pub split: Split,
    /// Packages of the revisions that are in the split.
    pub packages: BTreeMap<RevisionNumber, Arc<Package>>,
}

/// Who asks.
pub struct Asker {
    whose: Whose,
    context: Context,
}

impl Sources {
    /// Somebody with this context, at a moment in seconds since 1970.
    pub fn asker(&self, context: Map<String, Value>, now_seconds: u64) -> Asker {
        let whose = self.split.whose(context.get("targetingKey").and_then(Value::as_str));
        Asker { whose, context: Context::new(context, now_seconds) }
    }

    /// Every key, in order.
    pub fn keys(&self) -> BTreeSet<&str> {
        let revisions = self.declared().map(|(_, name, _)| name);
        let defined = self.definition().into_iter().flat_map(Definition::keys);
        [ARM, REVISION].into_iter().chain(revisions).chain(defined).collect()
    }

    /// The service's definition, when it has one that can be read.
    pub fn definition(&self) -> Option<&Definition> {
        self.state.flags.as_ref()?.definition.as_ref().ok()
    }

    /// Flags that revisions of the split declare.
    fn declared(&self) -> impl Iterator<Item = (RevisionNumber, &str, &Flag)> {
        self.packages
            .iter()
            .flat_map(|(&number, package)| package.flags.iter().map(move |(name, flag)| (number, name.as_str(), flag)))
    }

    /// One flag.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn answer(&self, key: &str, asker: &mut Asker) -> Answer {
        if key == REVISION || key == ARM {
            return self.own(key, asker.whose);
        }
        if self.declared().any(|(_, name, _)| name == key) {
            return self.of_revisions(key, asker.whose);
        }
        match self.state.flags.as_ref().map(|held| &held.definition) {
            None => Err(Fault::not_found(key)),
            Some(Err(why)) => {
                Err(Fault::new("PARSE_ERROR", format!("the definition cannot be read: {}", why.join("; "))))
            }
            Some(Ok(definition)) => {
                let found = definition.evaluate(key, &mut asker.context)?;
                Ok(Found { chosen: found.chosen, reason: found.reason, metadata: found.metadata })
            }
        }
    }

    /// What a revision is in the present split.
    pub fn arm(&self, number: RevisionNumber) -> String {
        let candidate = self.state.open.as_ref().map(|open| open.machine.candidate);
        if self.state.stable == Some(number) {
            "stable".to_owned()
        } else if candidate == Some(number) {
            "candidate".to_owned()
        } else {
            format!("r{number}")
        }
    }

    fn own(&self, key: &str, whose: Whose) -> Answer {
        let (number, reason) = match whose {
            Whose::Everybodys(number) => (number, Reason::Static),
            Whose::Sessions { revision, .. } => (revision, Reason::Split),
            Whose::Nobodys => return Err(Fault::new("GENERAL", "no revision carries the service yet")),
            Whose::Unnamed => {
                let details = "several revisions answer now: name the session's key as `targetingKey`";
                return Err(Fault::new("TARGETING_KEY_MISSING", details));
            }
            Whose::Unassigned => {
                let details = "several revisions answer now and each request is spread by itself: set [routing.affinity], and a \
                               session keeps its revision";
                return Err(Fault::new("GENERAL", details));
            }
        };
        let value = if key == REVISION { json!(number) } else { json!(self.arm(number)) };
        Ok(Found { chosen: Some((value, format!("r{number}"))), reason, metadata: self.metadata(number, whose) })
    }

    /// The value that the asker's revision runs with. Where it is not known which one that is: what all agree on, else stable's.
    fn of_revisions(&self, key: &str, whose: Whose) -> Answer {
        let values: Vec<(RevisionNumber, Option<&Value>)> =
            self.packages.keys().map(|&number| (number, self.value(number, key))).collect();
        let agreed = values.windows(2).all(|pair| match (pair[0].1, pair[1].1) {
            (Some(one), Some(other)) => equal(one, other),
            _ => false,
        });
        let stable = self.state.stable.or_else(|| values.first().map(|&(number, _)| number));
        let (number, reason) = match whose {
            Whose::Everybodys(number) => (number, Reason::Static),
            Whose::Sessions { revision, .. } if !agreed => (revision, Reason::Split),
            Whose::Sessions { revision, .. } => (revision, Reason::Static),
            Whose::Nobodys | Whose::Unnamed | Whose::Unassigned => {
                let number = stable.ok_or_else(|| Fault::not_found(key))?;
                (number, if agreed { Reason::Static } else { Reason::Default })
            }
        };
        // The revision that answers need not declare what another one does.
        let value = self.value(number, key).ok_or_else(|| Fault::not_found(key))?;
        let flag = self.packages.get(&number).and_then(|package| package.flags.get(key));
        let value = typed(value, flag);
        Ok(Found { chosen: Some((value, format!("r{number}"))), reason, metadata: self.metadata(number, whose) })
    }

    fn value(&self, number: RevisionNumber, key: &str) -> Option<&Value> {
        self.state.revisions.get(&number)?.flags.get(key)
    }

    fn metadata(&self, number: RevisionNumber, whose: Whose) -> Map<String, Value> {
        let mut metadata = Map::new();
        let mut say = |key: &str, value: Value| metadata.insert(key.to_owned(), value);
        say("service", json!(self.state.name));
        say("revision", json!(number));
        say("arm", json!(self.arm(number)));
        if let Some(revision) = self.state.revisions.get(&number) {
            say("version", json!(revision.version));
        }
        if let Some(rollout) = self.state.current_rollout() {
            say("rollout", json!(rollout));
        }
        if let Whose::Sessions { point, .. } = whose {
            say("point", json!(point));
        }
        metadata
    }
}

/// A number as its flag has it: clients tell whole numbers from others by how they are written.
fn typed(value: &Value, flag: Option<&Flag>) -> Value {
    match (flag, value.as_f64()) {
        (Some(Flag::Number { whole: true, .. }), Some(number)) => json!(number as i64),
        (Some(Flag::Number { whole: false, .. }), Some(number)) => json!(number),
        _ => value.clone(),
    }
}
