//! What is accepted, what is refused, and in which words.

use modelyard_core::strategy::Strategy;

use super::*;

fn mistakes(text: &str) -> Vec<String> {
    match read("service.toml", text) {
        Ok(table) => panic!("accepted: {table:?}"),
        Err(Error::Mistakes { mistakes, .. }) => mistakes.into_iter().map(|mistake| mistake.what).collect(),
        Err(error) => panic!("{error}"),
    }
}

fn draft(text: &str) -> Draft {
    Draft { table: read("service.toml", text).unwrap() }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let found = mistakes(
        "nmae = \"wine\"\ninstances = 0\n[strategy]\nkind = \"canary\"\nbkae = \"5s\"\nsteps = [10, 50, 100]\n\
         [analysis]\nwindow = 5\nno-traffic = \"promot\"\n",
    );
    assert_eq!(found.len(), 6, "{found:#?}");
    assert!(found[0].contains("did you mean `name`"), "{found:#?}");
    assert!(found[1].contains("at least 1"), "{found:#?}");
    assert!(found[2].contains("did you mean `bake`"), "{found:#?}");
    assert!(found[3].contains("basis points"), "{found:#?}");
    assert!(found[4].contains("span of time"), "{found:#?}");
    assert!(found[5].contains("did you mean `promote`"), "{found:#?}");
}

#[test]
fn a_full_file_becomes_a_spec() {
    let text = "name = \"wine\"\npackage = \"wine:2.0.0\"\ninstances = 3\n[configuration]\nMODE = \"fast\"\n\
                [strategy]\nkind = \"canary\"\nsteps = [\"10%\", \"50%\", \"100%\"]\nbake = \"5s\"\n\
                [analysis]\nmin-requests = 20\nmax-latency-ms = 50\n[routing]\nretries = 1\n[resources]\nmemory = \"96MiB\"\n";
    let draft = draft(text);
    assert_eq!(draft.package(), Some("wine:2.0.0"));
    let spec = draft.finish("other").unwrap();
    assert_eq!(spec.resources.memory_bytes, Some(96 << 20));
    assert_eq!((spec.name.as_str(), spec.instances), ("wine", 3));
    assert_eq!(spec.analysis.max_latency_ms, Some(50.0));
    let Strategy::Canary(canary) = spec.strategy else { panic!("no canary") };
    assert_eq!(canary.steps.iter().map(|step| step.basis_points()).collect::<Vec<_>>(), [1_000, 5_000, 10_000]);
}

#[test]
fn what_is_set_wins_and_another_strategy_replaces_the_old_one() {
    let mut spec = draft("[strategy]\nkind = \"canary\"\nbake = \"5s\"\n");
    spec.set("strategy.bake=7s").unwrap();
    spec.set(&format!("strategy.steps={}", steps_value("20, 100%"))).unwrap();
    spec.set("instances=2").unwrap();
    spec.set("strategy.kind=blue-green").unwrap();
    spec.set("strategy.manual=true").unwrap();
    let spec = spec.finish("wine").unwrap();
    assert_eq!(spec.instances, 2);
    let Strategy::BlueGreen(blue_green) = spec.strategy else { panic!("no blue-green") };
    assert!(blue_green.manual && blue_green.steps.is_empty());
}

#[test]
fn a_stored_spec_is_a_draft() {
    let spec =
        draft("name = \"wine\"\ninstances = 2\n[strategy]\nkind = \"rolling\"\npause = \"1s\"").finish("").unwrap();
    let again = Draft::from_spec(&spec).finish("").unwrap();
    assert_eq!(again, spec);
}

#[test]
fn wrong_assignments_say_so() {
    let mut draft = Draft::default();
    assert!(draft.set("bake").unwrap_err().to_string().contains("no `=`"));
    assert!(draft.set("strategy.bkae=5s").unwrap_err().to_string().contains("did you mean `bake`"));
    assert!(draft.set("strategy.kind=canry").unwrap_err().to_string().contains("did you mean `canary`"));
}

#[test]
fn every_declared_key_is_one_that_the_words_know() {
    // Each key with a valid value, so that serde refuses any that it does not know.
    for (kind, _, strategy_keys) in keys::STRATEGIES {
        let mut text = String::from("name = \"a\"\nenvironment = \"dev\"\ntarget = \"process\"\ninstances = 2\n");
        for key in keys::SERVICE {
            if let keys::Kind::Table(inner) = key.kind {
                text.push_str(&format!("[{}]\n{}", key.name, inner.iter().map(example).collect::<String>()));
            }
        }
        let given: String = strategy_keys.iter().map(example).collect();
        text.push_str(&format!("[flags]\n[configuration]\n[strategy]\nkind = \"{kind}\"\n{given}"));
        draft(&text).finish("a").unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

fn example(key: &keys::Key) -> String {
    let value = match key.kind {
        keys::Kind::Switch => "true",
        keys::Kind::Whole(_) => "1",
        keys::Kind::Number(low, _) if low >= 1.0 => "1.5",
        keys::Kind::Number(..) | keys::Kind::Cores => "0.5",
        keys::Kind::Size => "\"96MiB\"",
        keys::Kind::Span => "\"1s\"",
        keys::Kind::Steps => "[\"10%\", \"100%\"]",
        keys::Kind::Choice(words) => return format!("{} = \"{}\"\n", key.name, words[0]),
        other => panic!("no example for {other:?}"),
    };
    format!("{} = {value}\n", key.name)
}

#[test]
fn every_key_that_the_words_know_is_declared() {
    for (kind, _, _) in keys::STRATEGIES {
        let spec = draft(&format!("strategy = \"{kind}\"")).finish("a").unwrap();
        let written = serde_json::to_value(&spec).unwrap();
        declared(&written, keys::SERVICE, &["name"]);
        for key in keys::SERVICE {
            if let keys::Kind::Table(inner) = key.kind {
                declared(&written[key.name], inner, &[]);
            }
        }
        declared(&written["strategy"], keys::strategy(kind).unwrap(), &["kind"]);
    }
}

fn declared(written: &serde_json::Value, keys: &[keys::Key], besides: &[&str]) {
    for field in written.as_object().into_iter().flat_map(|object| object.keys()) {
        let known = keys.iter().any(|key| key.field() == field) || besides.contains(&field.as_str());
        assert!(known, "`{field}` is no declared key");
    }
}
