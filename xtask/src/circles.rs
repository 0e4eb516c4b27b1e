//! Circles among the modules of a crate: the compiler allows them, readers get lost in them.

use std::collections::{BTreeMap, BTreeSet};

/// Crates whose modules may form no circle. Add one once it has none.
const CRATES: [&str; 4] = ["registry", "targets", "monitor", "guest"];

/// Modules by name, and which others each uses.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// What is wrong in these files, of which `read` gives the text.
pub fn find(files: &[String], read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut wrong = Vec::new();
    for krate in CRATES {
        let folder = format!("crates/{krate}/src/");
        let within = files.iter().filter_map(|file| Some((file, file.strip_prefix(&folder)?)));
        let within: Vec<_> = within.filter(|(_, path)| path.ends_with(".rs") && !path.contains("tests")).collect();
        let mut uses: Uses = within.iter().map(|(_, path)| (module(path).to_owned(), BTreeSet::new())).collect();
        for (file, path) in within {
            let text = read(file).unwrap_or_default();
            let used: Vec<String> = mentioned(&text).filter(|name| uses.contains_key(name)).collect();
            uses.entry(module(path).to_owned()).or_default().extend(used);
        }
        if let Some(circle) = circle(&uses) {
            wrong.push(format!(
                "crates/{krate}: modules form a circle: {}; move what both need below them",
                circle.join(" → ")
            ));
        }
    }
    wrong
}

/// The module of a crate in which a file lies.
fn module(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

/// Names that stand behind `crate::`, alone or between braces, outside of comments and of the tests at the end of a file.
fn mentioned(text: &str) -> impl Iterator<Item = String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> = code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let code = code.join(" ");
    let word =
        |text: &str| text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect::<String>();
    let mut names = Vec::new();
    for rest in code.split("crate::").skip(1) {
        let Some(list) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 1;
        let end = list.find(|letter| {
            depth += match letter {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            depth == 0
        });
        let mut depth = 0;
        for part in list[..end.unwrap_or(list.len())].split(',') {
            if depth == 0 {
                names.push(word(part.trim_start()));
            }
            depth += part.matches('{').count() as i32 - part.matches('}').count() as i32;
        }
    }
    names.into_iter()
}

/// A way that leads back to where it began, if there is one.
fn circle(uses: &Uses) -> Option<Vec<String>> {
    // What nothing leads out of is in no circle; what is left when no such module is left leads on for ever.
    let mut left = uses.clone();
    loop {
        let ends: Vec<String> = left
            .iter()
            .filter(|(name, used)| !used.iter().any(|other| other != *name && left.contains_key(other)))
            .map(|(name, _)| name.clone())
            .collect();
        if ends.is_empty() {
            break;
        }
        left.retain(|name, _| !ends.contains(name));
    }
    let mut way = vec![left.keys().next()?.clone()];
    loop {
        let here = way.last()?;
        let next = left[here].iter().find(|other| *other != here && left.contains_key(*other))?.clone();
        let before = way.iter().position(|name| *name == next);
        way.push(next);
        if let Some(before) = before {
            return Some(way.split_off(before));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let names: Vec<String> = files.iter().map(|(name, _)| format!("crates/registry/src/{name}")).collect();
        find(&names, |file| files.iter().find(|(name, _)| file.ends_with(name)).map(|(_, text)| (*text).to_owned()))
    }

    #[test]
    fn circles_are_named_and_comments_and_tests_make_none() {
        assert_eq!(
            found(&[("a.rs", "use crate::b::X;"), ("b/mod.rs", "// crate::a"), ("b/c.rs", "")]),
            Vec::<String>::new()
        );
        let within_tests = "fn x() {}\n#[cfg(test)]\nmod tests { use crate::a::Y; }";
        assert!(found(&[("a.rs", "use crate::b;"), ("b.rs", within_tests)]).is_empty());
        let told = found(&[
            ("a.rs", "use crate::{Error, b::{X, Y}};"),
            ("b/mod.rs", ""),
            ("b/c.rs", "crate::c::f()"),
            ("c.rs", "use crate::{d, a};"),
        ]);
        assert!(told[0].contains("a → b → c → a"), "{told:?}");
    }
}
