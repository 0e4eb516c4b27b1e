//! A flag of a definition for one context, as flagd evaluates it.
//!
//! Promises: the reasons and errors are OpenFeature's; a context cannot make an evaluation run away.

use serde_json::{Map, Value, json};

use super::definition::{Defined, Definition};
use super::logic::{Fault, Machine};

/// Why a flag has its value, in OpenFeature's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It has no rules.
    Static,
    /// No rule said anything, so it is the default.
    Default,
    /// A rule chose it.
    TargetingMatch,
    /// The caller fell into a share.
    Split,
    /// The flag is turned off.
    Disabled,
}

impl Reason {
    /// As OFREP writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Static => "STATIC",
            Self::Default => "DEFAULT",
            Self::TargetingMatch => "TARGETING_MATCH",
            Self::Split => "SPLIT",
            Self::Disabled => "DISABLED",
        }
    }
}

/// What a flag is for one context. Without a value the caller's own default holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluated {
    /// Value and the name of its variant.
    pub chosen: Option<(Value, String)>,
    /// Why.
    pub reason: Reason,
    /// What is said of the flag.
    pub metadata: Map<String, Value>,
}

/// Why a flag has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// There is no such flag.
    #[error("there is no flag `{}`", .0.escape_debug().take(80).collect::<String>())]
    NotFound(String),
    /// The rule makes no sense.
    #[error("the rule cannot be evaluated: {0}")]
    Parse(String),
    /// The rule chose nothing that there is, or took too long.
    #[error("{0}")]
    General(String),
}

impl EvaluationError {
    /// OpenFeature's code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "FLAG_NOT_FOUND",
            Self::Parse(_) => "PARSE_ERROR",
            Self::General(_) => "GENERAL",
        }
    }
}

/// What is known of the caller, as rules see it.
#[derive(Clone, Debug, PartialEq)]
pub struct Context(Value);

impl Context {
    /// The caller's context at a moment, in seconds since 1970.
    pub fn new(mut given: Map<String, Value>, now_seconds: u64) -> Self {
        given.insert("$flagd".to_owned(), json!({"flagKey": "", "timestamp": now_seconds}));
        given.entry("targetingKey").or_insert(Value::Null);
        Self(Value::Object(given))
    }

    fn of(&mut self, flag: &str) -> &Value {
        self.0["$flagd"]["flagKey"] = Value::from(flag);
        &self.0
    }
}

impl Definition {
    /// The flag for a context.
    ///
    /// # Errors
    /// [`EvaluationError`].
    pub fn evaluate(&self, key: &str, context: &mut Context) -> Result<Evaluated, EvaluationError> {
        let flag = self.flags.get(key).ok_or_else(|| EvaluationError::NotFound(key.to_owned()))?;
        let mut metadata = self.metadata.clone();
        metadata.extend(flag.metadata.clone());
        let (chosen, reason) = match (&flag.targeting, flag.enabled) {
            (_, false) => (None, Reason::Disabled),
            (None, true) => fallback(flag, Reason::Static),
            (Some(rule), true) => {
                let mut machine = Machine::new(key, self.bucketing);
                match variant(machine.apply(rule, context.of(key)).map_err(refused)?)? {
                    None => fallback(flag, Reason::Default),
                    Some(variant) => {
                        let known = flag.variants.get(&variant).cloned();
                        let value = known.ok_or_else(|| {
                            EvaluationError::General(format!(
                                "the rule chose `{}`, which is no variant",
                                variant.escape_debug().take(80).collect::<String>()
                            ))
                        })?;
                        (Some((value, variant)), Reason::TargetingMatch)
                    }
                }
            }
        };
        Ok(Evaluated { chosen, reason, metadata })
    }
}

fn refused(fault: Fault) -> EvaluationError {
    match fault {
        Fault::Unknown(operator) => EvaluationError::Parse(format!("there is no operator `{operator}`")),
        Fault::Exhausted => EvaluationError::General("the rule takes too many steps with this context".to_owned()),
    }
}

/// The default variant; without one the caller's own default holds, whatever the reason would be.
fn fallback(flag: &Defined, reason: Reason) -> (Option<(Value, String)>, Reason) {
    let chosen = flag.default.as_ref().and_then(|name| Some((flag.variants.get(name)?.clone(), name.clone())));
    let reason = if chosen.is_some() { reason } else { Reason::Default };
    (chosen, reason)
}

/// The variant that a rule's outcome names.
fn variant(outcome: Value) -> Result<Option<String>, EvaluationError> {
    match outcome {
        Value::Null => Ok(None),
        Value::String(name) => Ok(Some(name)),
        Value::Bool(name) => Ok(Some(name.to_string())),
        Value::Number(name) => Ok(Some(name.to_string())),
        Value::Array(_) | Value::Object(_) => {
            Err(EvaluationError::General("the rule gave a list or an object, which names no variant".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(flag: Value) -> Definition {
        Definition::parse(&json!({"flags": {"f": flag}, "metadata": {"team": "shop", "owner": "a"}})).unwrap()
    }

    fn ask(flag: Value, context: Value) -> Result<Evaluated, EvaluationError> {
        let given = context.as_object().unwrap().clone();
        definition(flag).evaluate("f", &mut Context::new(given, 1_700_000_000))
    }

    fn targeted(rule: Value) -> Value {
        json!({"state": "ENABLED", "variants": {"a": 1, "b": 2}, "defaultVariant": "a", "targeting": rule})
    }

    #[test]
    fn reasons_are_flagd_s() {
        let with = |rule| ask(targeted(rule), json!({"plan": "pro", "targetingKey": "x"})).unwrap();
        let told = |found: Evaluated| (found.chosen.map(|(_, name)| name), found.reason);
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(told(with(json!(null))), (name("a"), Reason::Static));
        assert_eq!(
            told(with(json!({"if": [{"==": [{"var": "plan"}, "pro"]}, "b"]}))),
            (name("b"), Reason::TargetingMatch)
        );
        assert_eq!(told(with(json!({"if": [{"==": [{"var": "plan"}, "x"]}, "b"]}))), (name("a"), Reason::Default));
        let off = json!({"state": "DISABLED", "variants": {"a": 1}, "defaultVariant": "a"});
        assert_eq!(told(ask(off, json!({})).unwrap()), (None, Reason::Disabled));
        let bare = json!({"state": "ENABLED", "variants": {"a": 1}});
        assert_eq!(told(ask(bare, json!({})).unwrap()), (None, Reason::Default));
        let boolean = json!({"state": "ENABLED", "variants": {"true": 1, "false": 0}, "targeting": {"==": [1, 1]}});
        assert_eq!(told(ask(boolean, json!({})).unwrap()), (name("true"), Reason::TargetingMatch));
    }

    #[test]
    fn metadata_of_the_flag_comes_before_that_of_the_document() {
        let mut flag = targeted(json!(null));
        flag["metadata"] = json!({"owner": "b"});
        let found = ask(flag, json!({})).unwrap();
        assert_eq!(Value::Object(found.metadata), json!({"team": "shop", "owner": "b"}));
    }

    #[test]
    fn rules_see_their_flag_and_the_time() {
        let rule = json!({"if": [{"and": [
            {"==": [{"var": "$flagd.flagKey"}, "f"]}, {"==": [{"var": "$flagd.timestamp"}, 1_700_000_000]},
        ]}, "b"]});
        let forged = json!({"$flagd": {"flagKey": "g", "timestamp": 0}});
        assert_eq!(ask(targeted(rule), forged).unwrap().reason, Reason::TargetingMatch);
    }

    #[test]
    fn errors_have_openfeature_s_codes() {
        let code = |error: EvaluationError| error.code();
        let none = definition(targeted(json!(null))).evaluate("g", &mut Context::new(Map::new(), 0)).unwrap_err();
        assert_eq!(code(none), "FLAG_NOT_FOUND");
        assert_eq!(code(ask(targeted(json!({"cat": ["c"]})), json!({})).unwrap_err()), "GENERAL");
        assert_eq!(code(ask(targeted(json!({"merge": [1]})), json!({})).unwrap_err()), "GENERAL");
    }

    #[test]
    fn no_context_makes_a_rule_run_away() {
        let list: Vec<u32> = (0..300).collect();
        let inner = json!({"map": [{"var": ""}, {"var": ""}]});
        for rule in [
            // 300 times 300 times 300 steps.
            json!({"map": [{"var": "list"}, {"map": [[0, {"var": ""}], inner]}]}),
            json!({"reduce": [{"var": "list"}, {"cat": [{"var": "accumulator"}, {"var": "accumulator"}]}, "xx"]}),
            json!({"reduce": [{"var": "list"}, {"merge": [{"var": "accumulator"}, {"var": "accumulator"}]}, [1]]}),
        ] {
            let outcome = ask(targeted(rule), json!({"list": list, "big": "x".repeat(10_000)}));
            assert!(matches!(outcome, Err(EvaluationError::General(_))), "{outcome:?}");
        }
    }
}
