//! Filters over versions: `accuracy > 0.9 and tag.team = 'x' and name like 'wine%'`.
//!
//! Clauses are joined by `and`. A key is `name`, `version`, `alias`, `runtime`, `digest`, `from`, `tag.KEY`, `parameter.KEY`, `metric.KEY`, or any other word,
//! which is a metric. Keys with other characters stand in backticks or double quotes. Operators: `=` `!=` `<` `<=` `>` `>=` `like` `ilike` (`%` any
//! text, `_` one character) `in` `not in` (values in round brackets, with commas between them). Texts stand in single or double quotes, numbers do not. What a version does not have makes its clause false, `!=` of a tag apart.
//! Promises: at most 4 KiB and 32 clauses; time grows with length, whatever the pattern.
//!
//! Source of the form: MLflow's search of registered models, which is a part of this one.

use std::cmp::Ordering;

use modelyard_core::package::Package;
use serde_json::Value;

use crate::Listed;

const LONGEST: usize = 4_096;
const MOST_CLAUSES: usize = 32;

/// The text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the filter cannot be read at `{near}`: {why}")]
pub struct FilterError {
    near: String,
    why: &'static str,
}

/// Clauses that a version must fulfil, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter(Vec<Clause>);

#[derive(Clone, Debug, PartialEq)]
struct Clause {
    key: Key,
    operator: Operator,
    /// One, or those of `in` (the operator is `=`: one must fit) and `not in` (`!=`: all must).
    operands: Vec<Operand>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Version,
    /// A version's number, as MLflow's clients ask for it.
    Number,
    /// How MLflow's clients know a package: `modelyard:/NAME:VERSION`.
    Source,
    Alias,
    Runtime,
    Digest,
    /// Where it came from.
    From,
    Tag(String),
    Parameter(String),
    Metric(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Unequal,
    Less,
    AtMost,
    More,
    AtLeast,
    Like,
    LikeAnyCase,
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Text(String),
    Number(f64),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Quoted(char, String),
    Operator(Operator),
    Dot,
    Comma,
    Open,
    Close,
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        if text.len() > LONGEST {
            return Err(FilterError { near: text.chars().take(20).collect(), why: "it is longer than 4096 bytes" });
        }
        let tokens = tokens(text)?;
        let mut clauses = Vec::new();
        let mut rest = &tokens[..];
        while !rest.is_empty() {
            if !clauses.is_empty() {
                rest = match rest {
                    [Token::Word(and), rest @ ..] if and.eq_ignore_ascii_case("and") => rest,
                    _ => return Err(near(rest, "clauses are joined by `and`")),
                };
            }
            let (clause, left) = clause(rest)?;
            clauses.push(clause);
            if clauses.len() > MOST_CLAUSES {
                return Err(near(rest, "it has more than 32 clauses"));
            }
            rest = left;
        }
        Ok(Self(clauses))
    }
}

fn near(rest: &[Token], why: &'static str) -> FilterError {
    let near = match rest.first() {
        Some(Token::Word(word)) => word.chars().take(30).collect(),
        Some(Token::Quoted(quote, text)) => format!("{quote}{}", text.chars().take(30).collect::<String>()),
        Some(Token::Operator(_)) => "the operator".to_owned(),
        Some(Token::Dot) => ".".to_owned(),
        Some(Token::Comma) => ",".to_owned(),
        Some(Token::Open) => "(".to_owned(),
        Some(Token::Close) => ")".to_owned(),
        None => "its end".to_owned(),
    };
    FilterError { near, why }
}

fn tokens(text: &str) -> Result<Vec<Token>, FilterError> {
    let (mut tokens, mut rest) = (Vec::new(), text.trim_start());
    while let Some(first) = rest.chars().next() {
        let fail = |why| Err(FilterError { near: rest.chars().take(30).collect(), why });
        let (token, length) = match first {
            '\'' | '"' | '`' => match rest[1..].split_once(first) {
                Some((inside, _)) => (Token::Quoted(first, inside.to_owned()), inside.len() + 2),
                None => return fail("the quotation never ends"),
            },
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (Token::Dot, 1),
            ',' => (Token::Comma, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '=' => (Token::Operator(Operator::Equal), if rest.starts_with("==") { 2 } else { 1 }),
            '!' if rest.starts_with("!=") => (Token::Operator(Operator::Unequal), 2),
            '<' if rest.starts_with("<=") => (Token::Operator(Operator::AtMost), 2),
            '<' => (Token::Operator(Operator::Less), 1),
            '>' if rest.starts_with(">=") => (Token::Operator(Operator::AtLeast), 2),
            '>' => (Token::Operator(Operator::More), 1),
            c if c.is_alphanumeric() || "_-+.".contains(c) => {
                let number = c.is_ascii_digit() || "-+.".contains(c);
                let part = |c: char| c.is_alphanumeric() || "_-+".contains(c) || (number && c == '.');
                let length = rest.find(|c| !part(c)).unwrap_or(rest.len());
                (word(&rest[..length]), length)
            }
            _ => return fail("this character has no meaning here"),
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> Token {
    match text.to_ascii_lowercase().as_str() {
        "like" => Token::Operator(Operator::Like),
        "ilike" => Token::Operator(Operator::LikeAnyCase),
        _ => Token::Word(text.to_owned()),
    }
}

fn clause(tokens: &[Token]) -> Result<(Clause, &[Token]), FilterError> {
    let (key, rest) = match tokens {
        [Token::Word(kind), Token::Dot, Token::Word(name) | Token::Quoted('`' | '"', name), rest @ ..] => {
            // A name may have dots of its own.
            let (mut name, mut rest) = (name.clone(), rest);
            while let [Token::Dot, Token::Word(more), left @ ..] = rest {
                name = format!("{name}.{more}");
                rest = left;
            }
            let key = match kind.to_ascii_lowercase().as_str() {
                "tag" | "tags" => Key::Tag(name),
                "parameter" | "parameters" | "param" | "params" => Key::Parameter(name),
                "metric" | "metrics" => Key::Metric(name),
                _ => return Err(near(tokens, "write tag., parameter. or metric. before the name")),
            };
            (key, rest)
        }
        [Token::Word(name), rest @ ..] => {
            let key = match name.to_ascii_lowercase().as_str() {
                "name" => Key::Name,
                "version" => Key::Version,
                "version_number" => Key::Number,
                "source_path" => Key::Source,
                "run_id" => Key::Tag("mlflow.run_id".to_owned()),
                "alias" => Key::Alias,
                "runtime" => Key::Runtime,
                "digest" => Key::Digest,
                "from" => Key::From,
                _ => Key::Metric(name.clone()),
            };
            (key, rest)
        }
        [Token::Quoted('`' | '"', name), rest @ ..] => (Key::Metric(name.clone()), rest),
        _ => return Err(near(tokens, "a clause begins with a key")),
    };
    let is = |token: &Token, wanted: &str| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(wanted));
    let (operator, (operands, rest)) = match rest {
        [Token::Operator(operator), rest @ ..] => {
            let (operand, rest) = operand(rest)?;
            (*operator, (vec![operand], rest))
        }
        [of, rest @ ..] if is(of, "in") => (Operator::Equal, list(rest)?),
        [not, of, rest @ ..] if is(not, "not") && is(of, "in") => (Operator::Unequal, list(rest)?),
        _ => return Err(near(rest, "after the key comes one of = != < <= > >= like ilike, or (not) in")),
    };
    match &key {
        Key::Metric(_) if operands.iter().any(|operand| matches!(operand, Operand::Text(_))) => {
            Err(near(tokens, "a metric is compared with a number"))
        }
        _ => Ok((Clause { key, operator, operands }, rest)),
    }
}

fn operand(tokens: &[Token]) -> Result<(Operand, &[Token]), FilterError> {
    match tokens {
        [Token::Quoted('\'' | '"', text), rest @ ..] => Ok((Operand::Text(text.clone()), rest)),
        [Token::Word(word), rest @ ..] => match word.parse::<f64>().ok().filter(|number| number.is_finite()) {
            Some(number) => Ok((Operand::Number(number), rest)),
            None if matches!(word.as_str(), "true" | "false") => Ok((Operand::Text(word.clone()), rest)),
            None => Err(near(tokens, "texts stand in quotes")),
        },
        _ => Err(near(tokens, "a value is missing")),
    }
}

/// `('a', 'b')`
fn list(tokens: &[Token]) -> Result<(Vec<Operand>, &[Token]), FilterError> {
    let [Token::Open, rest @ ..] = tokens else {
        return Err(near(tokens, "the values of `in` stand in round brackets"));
    };
    let (mut operands, mut rest) = (Vec::new(), rest);
    loop {
        let (one, left) = operand(rest)?;
        operands.push(one);
        rest = match left {
            [Token::Comma, left @ ..] => left,
            [Token::Close, left @ ..] => return Ok((operands, left)),
            _ => return Err(near(left, "between values stands a comma, and behind the last a round bracket")),
        };
    }
}

impl Filter {
    /// Whether a version may fulfil it, as far as can be said without its package.
    pub fn may_take(&self, listed: &Listed) -> bool {
        self.0.iter().all(|clause| clause.of_listed(listed).unwrap_or(true))
    }

    /// Whether a version fulfils every clause.
    pub fn takes(&self, listed: &Listed, package: &Package) -> bool {
        self.0.iter().all(|clause| match clause.of_listed(listed) {
            Some(fulfilled) => fulfilled,
            None => clause.of_package(package),
        })
    }

    /// Whether a model fulfils it by its name and tags alone; other clauses are false.
    pub fn takes_model(&self, name: &str, tags: &super::Tags) -> bool {
        self.0.iter().all(|clause| match &clause.key {
            Key::Name => clause.text(name),
            Key::Tag(key) => clause.tag(tags, key),
            _ => false,
        })
    }
}

impl Clause {
    /// The answer, where the package is not needed for it.
    fn of_listed(&self, listed: &Listed) -> Option<bool> {
        Some(match &self.key {
            Key::Name => self.text(listed.model.as_str()),
            Key::Version => self.text(listed.version.as_str()),
            Key::Number => self.text(&listed.number.to_string()),
            Key::Source => self.text(&format!("modelyard:/{}:{}", listed.model, listed.version)),
            Key::Digest => self.text(&listed.digest.to_string()),
            // A version that came on several ways came from each; one of which nobody knows came from none.
            Key::From if self.operator == Operator::Unequal => {
                listed.arrivals.iter().all(|arrival| self.text(&arrival.way.source()))
            }
            Key::From => listed.arrivals.iter().any(|arrival| self.text(&arrival.way.source())),
            Key::Alias if self.operator == Operator::Unequal => {
                listed.aliases.iter().all(|alias| self.text(alias.as_str()))
            }
            Key::Alias => listed.aliases.iter().any(|alias| self.text(alias.as_str())),
            Key::Tag(key) => self.tag(&listed.tags, key),
            Key::Runtime | Key::Parameter(_) | Key::Metric(_) => return None,
        })
    }

    /// What has no such tag has another one, as MLflow's clients take it.
    fn tag(&self, tags: &super::Tags, key: &str) -> bool {
        tags.get(key).map_or(self.operator == Operator::Unequal, |value| self.text(value))
    }

    fn of_package(&self, package: &Package) -> bool {
        match &self.key {
            Key::Runtime => self.text(package.runtime.name()),
            Key::Metric(name) => package.metrics.get(name).is_some_and(|&value| self.number(value)),
            Key::Parameter(name) => package.parameters.get(name).is_some_and(|value| match value {
                Value::Number(number) => number.as_f64().is_some_and(|number| self.number(number)),
                Value::String(text) => self.text(text),
                other => self.text(&other.to_string()),
            }),
            _ => false,
        }
    }

    /// Whether a value fits to the operands, each of which is asked by itself.
    fn fits(&self, one: impl FnMut(&Operand) -> bool) -> bool {
        match self.operator {
            Operator::Unequal => self.operands.iter().all(one),
            _ => self.operands.iter().any(one),
        }
    }

    fn number(&self, value: f64) -> bool {
        self.fits(|operand| match operand {
            Operand::Number(wanted) => self.orders(value.partial_cmp(wanted)),
            Operand::Text(_) => self.fits_text(&value.to_string(), operand),
        })
    }

    fn text(&self, value: &str) -> bool {
        self.fits(|operand| self.fits_text(value, operand))
    }

    /// Texts are compared as texts, or as numbers where a number was asked for.
    fn fits_text(&self, value: &str, operand: &Operand) -> bool {
        match (operand, self.operator) {
            (Operand::Text(pattern), Operator::Like) => like(pattern, value),
            (Operand::Text(pattern), Operator::LikeAnyCase) => like(&pattern.to_lowercase(), &value.to_lowercase()),
            (Operand::Text(wanted), _) => self.orders(Some(value.cmp(wanted.as_str()))),
            (Operand::Number(wanted), _) => {
                self.orders(value.parse::<f64>().ok().and_then(|value| value.partial_cmp(wanted)))
            }
        }
    }

    fn orders(&self, order: Option<Ordering>) -> bool {
        match (self.operator, order) {
            (Operator::Unequal, order) => order != Some(Ordering::Equal),
            (_, None) | (Operator::Like | Operator::LikeAnyCase, _) => false,
            (Operator::Equal, Some(order)) => order.is_eq(),
            (Operator::Less, Some(order)) => order.is_lt(),
            (Operator::AtMost, Some(order)) => order.is_le(),
            (Operator::More, Some(order)) => order.is_gt(),
            (Operator::AtLeast, Some(order)) => order.is_ge(),
        }
    }
}

/// SQL's LIKE: `%` is any text, `_` one character. After the last `%` that fitted, nothing earlier is tried again: linear for each `%`.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut back) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                back = Some((p, t));
                p += 1;
            }
            Some(&c) if c == '_' || c == text[t] => (p, t) = (p + 1, t + 1),
            _ => match back {
                Some((star, from)) => {
                    back = Some((star, from + 1));
                    (p, t) = (star + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '%')
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use modelyard_core::{AliasName, Digest, ModelName, Timestamp, Version};
    use serde_json::json;

    use super::*;
    use crate::catalog::{Arrival, Way};

    fn version() -> (Listed, Package) {
        let listed = Listed {
            model: ModelName::new("wine-quality").unwrap(),
            version: Version::new("2.1.0").unwrap(),
            digest: Digest::from_sha256([7; 32]),
            aliases: vec![AliasName::new("champion").unwrap()],
            tags: BTreeMap::from([
                ("team".into(), "x".into()),
                ("cost.eur".into(), "12".into()),
                ("mlflow.run_id".into(), "r1".into()),
            ]),
            yanked: None,
            number: 1,
            added: None,
            arrivals: vec![Arrival {
                at: Timestamp(1),
                digest: Digest::from_sha256([7; 32]),
                way: Way::pulled_from("registry.example/wine"),
            }],
        };
        let package = json!({
            "format_version": 1, "name": "wine-quality", "version": "2.1.0", "files": {},
            "runtime": {"kind": "onnx", "model": "model.onnx"}, "signature": {"inputs": [], "outputs": []},
            "metrics": {"accuracy": 0.93, "f1 macro": 0.5}, "parameters": {"depth": 4, "solver": "lbfgs", "warm": true},
        });
        (listed, serde_json::from_value(package).unwrap())
    }

    #[test]
    fn clauses_look_at_names_tags_parameters_and_metrics() {
        let (listed, package) = version();
        for (text, wanted) in [
            ("", true),
            ("accuracy > 0.9 and tag.team = \"x\"", true),
            ("accuracy > 0.9 AND tags.`team` = 'y'", false),
            ("metric.accuracy >= .93 and metrics.\"f1 macro\" < 1e0", true),
            ("recall > 0", false),
            ("recall != 0", false),
            ("name like 'wine%'", true),
            ("name LIKE 'WINE%'", false),
            ("name ILIKE '%QUAL_TY'", true),
            ("name = 'wine'", false),
            ("version = '2.1.0' and alias = 'champion'", true),
            ("alias != 'champion'", false),
            ("parameter.depth = 4 and params.solver = 'lbfgs' and param.warm = true", true),
            ("parameter.depth < 4", false),
            ("tag.cost.eur > 9", true),
            ("tag.team > 9", false),
            ("runtime = 'onnx' and digest like 'sha256:07%'", true),
            ("tag.none = ''", false),
            ("version_number = 1 and version_number < 2 and version_number = '1'", true),
            ("version_number = 2", false),
            ("source_path = 'modelyard:/wine-quality:2.1.0' and run_id = 'r1'", true),
            ("run_id = 'r2'", false),
            ("run_id IN ('r2', 'r1') and name = 'wine-quality'", true),
            ("run_id in ('r2')", false),
            ("version_number in (2, 1) and accuracy not in (0.9, 0.91)", true),
            ("accuracy not in (0.9, 0.93)", false),
            ("alias not in ('champion', 'none')", false),
            ("tag.none not in ('a', 'b') and tag.team NOT IN ('y')", true),
            ("tag.none in ('')", false),
            ("from like 'registry.example/%'", true),
            ("from = 'built-here'", false),
            ("from != 'built-here'", true),
            ("from != 'registry.example/wine'", false),
        ] {
            let filter: Filter = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(filter.takes(&listed, &package), wanted, "{text}");
            assert!(filter.may_take(&listed) || !wanted, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        let long = format!("name = '{}'", "x".repeat(LONGEST));
        let many = ["a > 1"; 33].join(" and ");
        for (text, part) in [
            ("accuracy >", "value"),
            ("accuracy 0.9", "after the key"),
            ("> 1", "begins with a key"),
            ("a > 1 b > 2", "joined by `and`"),
            ("a > 1 and", "begins with a key"),
            ("name = wine", "quotes"),
            ("name = 'wine", "never ends"),
            ("run_id in 'r1'", "round brackets"),
            ("run_id in ()", "value is missing"),
            ("run_id in ('a' 'b')", "comma"),
            ("run_id in ('a',", "value is missing"),
            ("run_id not ('a')", "after the key"),
            ("accuracy in ('high')", "number"),
            ("accuracy = 'high'", "number"),
            ("what.ever = 1", "tag., parameter."),
            ("a > 1; drop", "no meaning"),
            (&long, "4096"),
            (&many, "32 clauses"),
        ] {
            let error = text.parse::<Filter>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_cruel_pattern_ends_soon() {
        let began = std::time::Instant::now();
        assert!(!like(&"%a".repeat(1_000), &"a".repeat(999)));
        assert!(like("%b%", &format!("{}b", "a".repeat(4_000))));
        assert!(began.elapsed() < std::time::Duration::from_secs(2));
    }
}
