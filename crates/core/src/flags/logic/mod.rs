//! JsonLogic, with flagd's operators.
//!
//! Promises: an evaluation ends after [`MOST_STEPS`] steps; the size of what it makes counts as steps, so it takes bounded memory too.
//! What JavaScript would make `NaN` or infinite is `null`.
//! Absent on purpose: `method` and operators that a program adds, and identity of lists (two lists are `===` when they are equal).
//! Sources: jsonlogic.com (operations, and its JavaScript implementation where the text is silent); flagd's custom operations.

mod operators;
mod values;

use serde_json::{Map, Value};

use super::definition::Bucketing;
use values::truthy;

/// Steps of one evaluation. Rules that people write take tens.
const MOST_STEPS: usize = 100_000;

/// Operators that decide themselves which of their arguments are evaluated, and against what.
const LAZY: [&str; 10] = ["if", "?:", "and", "or", "map", "filter", "reduce", "all", "some", "none"];

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such operator.
    Unknown(String),
    /// It took too many steps.
    Exhausted,
}

/// Whether an operator is known.
pub(super) fn is_operator(name: &str) -> bool {
    LAZY.contains(&name) || operators::NAMES.contains(&name)
}

/// One evaluation.
pub(super) struct Machine<'a> {
    flag: &'a str,
    bucketing: Bucketing,
    left: usize,
}

impl<'a> Machine<'a> {
    pub(super) const fn new(flag: &'a str, bucketing: Bucketing) -> Self {
        Self { flag, bucketing, left: MOST_STEPS }
    }

    /// Evaluates a rule against data.
    pub(super) fn apply(&mut self, rule: &Value, data: &Value) -> Result<Value, Fault> {
        self.pay(1)?;
        match rule {
            Value::Array(list) => self.each(list, data).map(Value::Array),
            Value::Object(map) => match map.iter().next() {
                Some((operator, arguments)) if map.len() == 1 => match arguments {
                    Value::Array(list) => self.operate(operator, list, data),
                    single => self.operate(operator, std::slice::from_ref(single), data),
                },
                _ => self.copy(rule),
            },
            _ => self.copy(rule),
        }
    }

    fn operate(&mut self, operator: &str, arguments: &[Value], data: &Value) -> Result<Value, Fault> {
        match operator {
            "if" | "?:" => self.choose(arguments, data),
            "and" => self.until(arguments, data, |value| !truthy(value)),
            "or" => self.until(arguments, data, truthy),
            "map" => self.map(arguments, data),
            "filter" => self.filter(arguments, data).map(Value::Array),
            "reduce" => self.reduce(arguments, data),
            // JsonLogic says that nothing is true of all of nothing.
            "all" => self.count(arguments, data).map(|(met, of)| Value::Bool(of > 0 && met == of)),
            "some" => self.count(arguments, data).map(|(met, _)| Value::Bool(met > 0)),
            "none" => self.count(arguments, data).map(|(met, _)| Value::Bool(met == 0)),
            _ => {
                let arguments = self.each(arguments, data)?;
                self.eager(operator, arguments, data)
            }
        }
    }

    fn each(&mut self, rules: &[Value], data: &Value) -> Result<Vec<Value>, Fault> {
        rules.iter().map(|rule| self.apply(rule, data)).collect()
    }

    fn choose(&mut self, arguments: &[Value], data: &Value) -> Result<Value, Fault> {
        let mut rest = arguments;
        loop {
            match rest {
                [] => return Ok(Value::Null),
                [otherwise] => return self.apply(otherwise, data),
                [condition, then, further @ ..] => {
                    if truthy(&self.apply(condition, data)?) {
                        return self.apply(then, data);
                    }
                    rest = further;
                }
            }
        }
    }

    /// The first value that ends the search, else the last.
    fn until(&mut self, arguments: &[Value], data: &Value, ends: impl Fn(&Value) -> bool) -> Result<Value, Fault> {
        let mut last = Value::Null;
        for argument in arguments {
            last = self.apply(argument, data)?;
            if ends(&last) {
                break;
            }
        }
        Ok(last)
    }

    /// The list that the first argument gives; none when it gives something else.
    fn items(&mut self, arguments: &[Value], data: &Value) -> Result<Vec<Value>, Fault> {
        let Some(first) = arguments.first() else { return Ok(Vec::new()) };
        match self.apply(first, data)? {
            Value::Array(list) => Ok(list),
            _ => Ok(Vec::new()),
        }
    }

    fn map(&mut self, arguments: &[Value], data: &Value) -> Result<Value, Fault> {
        let rule = arguments.get(1).unwrap_or(&Value::Null);
        let items = self.items(arguments, data)?;
        items.iter().map(|item| self.apply(rule, item)).collect::<Result<_, _>>().map(Value::Array)
    }

    fn filter(&mut self, arguments: &[Value], data: &Value) -> Result<Vec<Value>, Fault> {
        let Some(rule) = arguments.get(1) else { return Ok(Vec::new()) };
        let mut kept = Vec::new();
        for item in self.items(arguments, data)? {
            if truthy(&self.apply(rule, &item)?) {
                kept.push(item);
            }
        }
        Ok(kept)
    }

    /// How many items meet the rule, and how many there are.
    fn count(&mut self, arguments: &[Value], data: &Value) -> Result<(usize, usize), Fault> {
        let Some(rule) = arguments.get(1) else { return Ok((0, 0)) };
        let items = self.items(arguments, data)?;
        let mut met = 0;
        for item in &items {
            met += usize::from(truthy(&self.apply(rule, item)?));
        }
        Ok((met, items.len()))
    }

    fn reduce(&mut self, arguments: &[Value], data: &Value) -> Result<Value, Fault> {
        let items = self.items(arguments, data)?;
        let rule = arguments.get(1).unwrap_or(&Value::Null);
        let mut reached = arguments.get(2).map_or(Ok(Value::Null), |start| self.apply(start, data))?;
        for item in items {
            let seen = [("current".to_owned(), item), ("accumulator".to_owned(), reached)];
            reached = self.apply(rule, &Value::Object(Map::from_iter(seen)))?;
        }
        Ok(reached)
    }

    /// A copy, paid for.
    fn copy(&mut self, value: &Value) -> Result<Value, Fault> {
        self.weigh(value)?;
        Ok(value.clone())
    }

    fn weigh(&mut self, value: &Value) -> Result<(), Fault> {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => self.pay(1),
            Value::String(text) => self.pay(1 + text.len() / 16),
            Value::Array(list) => {
                self.pay(1)?;
                list.iter().try_for_each(|item| self.weigh(item))
            }
            Value::Object(map) => map.iter().try_for_each(|(key, value)| {
                self.pay(1 + key.len() / 16)?;
                self.weigh(value)
            }),
        }
    }

    fn pay(&mut self, steps: usize) -> Result<(), Fault> {
        self.left = self.left.checked_sub(steps).ok_or(Fault::Exhausted)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
