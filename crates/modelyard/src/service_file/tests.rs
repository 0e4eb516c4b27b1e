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
fn a_day_is_a_date_or_a_text_and_begins_in_utc() {
    let sunset = |day: &str| {
        let read = read("service.toml", &format!("[api]\nof = \"wine\"\nversion = 2\nsunset = {day}\n"));
        read.map(|table| table["api"]["sunset"].as_integer())
    };
    for day in ["2027-03-01", "\"2027-03-01\""] {
        assert_eq!(sunset(day).unwrap(), Some(1_803_859_200_000), "{day}");
    }
    for wrong in ["\"soon\"", "\"2027-02-30\"", "\"1960-01-01\"", "17"] {
        let error = sunset(wrong).unwrap_err().to_string();
        assert!(error.contains("must be a day such as \"2027-03-01\""), "{error}");
    }
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
        let others = keys::SERVICE.iter().filter(|key| !matches!(key.kind, keys::Kind::Strategy));
        let text: String = others.map(|key| format!("{} = {}\n", key.name, example(key))).collect();
        let text = format!("{text}strategy = {{ kind = \"{kind}\", {} }}\n", inline(strategy_keys));
        let mut table = draft(&text).table;
        table.remove("package");
        Value::Table(table).try_into::<ServiceSpec>().unwrap_or_else(|error| panic!("{error}\n{text}"));
    }
}

fn inline(keys: &[keys::Key]) -> String {
    keys.iter().map(|key| format!("{} = {}", key.name, example(key))).collect::<Vec<_>>().join(", ")
}

fn example(key: &keys::Key) -> String {
    match key.kind {
        keys::Kind::Switch => "true".to_owned(),
        keys::Kind::Whole(least) => least.max(1).to_string(),
        keys::Kind::Number(low, _) if low >= 1.0 => "1.5".to_owned(),
        keys::Kind::Number(..) | keys::Kind::Cores => "0.5".to_owned(),
        keys::Kind::Size => "\"96MiB\"".to_owned(),
        keys::Kind::Span => "\"1s\"".to_owned(),
        keys::Kind::Day => "\"2099-03-01\"".to_owned(),
        keys::Kind::Steps => "[\"10%\", \"100%\"]".to_owned(),
        keys::Kind::Share => "\"5%\"".to_owned(),
        keys::Kind::Limits => "[0, 1]".to_owned(),
        keys::Kind::List => "[\"/a\"]".to_owned(),
        keys::Kind::Names => "[\"a\"]".to_owned(),
        keys::Kind::Choices(words) => format!("[\"{}\"]", words[0]),
        keys::Kind::Package | keys::Kind::Name | keys::Kind::Text | keys::Kind::Any => "\"a\"".to_owned(),
        keys::Kind::Texts => "{ a = \"b\" }".to_owned(),
        keys::Kind::Values | keys::Kind::Numbers => "{ a = 1 }".to_owned(),
        keys::Kind::Choice(words) => format!("\"{}\"", words[0]),
        keys::Kind::Table(inner) => format!("{{ {} }}", inline(inner)),
        keys::Kind::Named(inner) => format!("{{ a = {{ {} }} }}", inline(inner)),
        keys::Kind::Tables(inner) => format!("[{{ {} }}]", inline(inner)),
        keys::Kind::Strategy => "\"canary\"".to_owned(),
    }
}

#[test]
fn every_key_that_the_words_know_is_declared() {
    for (kind, _, strategy_keys) in keys::STRATEGIES {
        let spec = ServiceSpec {
            strategy: Strategy::from_name(kind).unwrap(),
            ..ServiceSpec::named(modelyard_core::ServiceName::new("a").unwrap())
        };
        let written = serde_json::to_value(&spec).unwrap();
        declared(&written, keys::SERVICE, &["name"]);
        for key in keys::SERVICE {
            if let keys::Kind::Table(inner) = key.kind {
                declared(&written[key.name], inner, &[]);
            }
        }
        declared(&written["strategy"], strategy_keys, &["kind"]);
    }
}

fn declared(written: &serde_json::Value, keys: &[keys::Key], besides: &[&str]) {
    for field in written.as_object().into_iter().flat_map(|object| object.keys()) {
        let known = keys.iter().any(|key| key.field() == field) || besides.contains(&field.as_str());
        assert!(known, "`{field}` is no declared key");
    }
}

#[test]
fn a_test_between_arms_is_read_whole() {
    let text = "name = \"wine\"\npackage = \"wine:2.0.0\"\n[strategy]\nkind = \"ab\"\nshare = \"40%\"\nunit = \"session\"\n\
                metric = \"accuracy\"\neffect = 0.02\nlongest = \"14d\"\n[[strategy.arms]]\npackage = \"wine:3.0.0\"\nshare = 1000\n\
                [[metrics]]\nname = \"accuracy\"\nkind = \"accuracy\"\nfrom = \"feedback\"\nvalue = \"/outputs/0/data/0\"\n\
                [[metrics]]\nname = \"spend\"\nkind = \"mean\"\nfrom = \"reward\"\nbounds = [0, 5]\ndry-run = true\n\
                [judge]\nkind = \"classical\"\ngroups = { quality = 70, money = 30 }\n[quality]\nmax-psi = 0.2\n\
                [routing.affinity]\nby = \"issued\"\nlifetime = \"7d\"\n[capture]\nshare = \"5%\"\nbody = \"16KiB\"\nmask = [\"/inputs/0/data\"]\n";
    let table = draft(text).table;
    let strategy: Strategy = table["strategy"].clone().try_into().unwrap();
    let Strategy::Ab(ab) = strategy else { panic!("no A/B test") };
    assert_eq!((ab.share.basis_points(), ab.arms.len(), ab.arms[0].share.basis_points()), (4_000, 1, 1_000));
    let mut table = table;
    table.remove("package");
    let spec: ServiceSpec = Value::Table(table).try_into().unwrap();
    assert_eq!(spec.metrics.len(), 2);
    assert_eq!((spec.metrics[1].bounds, spec.metrics[1].dry_run), (Some((0.0, 5.0)), true));
    assert_eq!(spec.judge.groups["quality"], 70.0);
    let affinity = spec.routing.affinity.unwrap();
    assert_eq!(affinity.lifetime.map(|span| span.0), Some(7 * 86_400_000));
    let capture = spec.capture.unwrap();
    assert_eq!((capture.share.basis_points(), capture.body_bytes), (500, 16 << 10));
}

#[test]
fn mistakes_in_lists_of_tables_are_named_too() {
    let found = mistakes(
        "[[metrics]]\nname = \"a\"\nkind = \"acuracy\"\nform = \"feedback\"\nbounds = [2, 1]\n[judge]\ngroups = { a = \"x\" }\n",
    );
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found.iter().any(|what| what.contains("`from` is missing")), "{found:#?}");
    assert!(found.iter().any(|what| what.contains("did you mean `accuracy`")), "{found:#?}");
    assert!(found.iter().any(|what| what.contains("did you mean `from`")), "{found:#?}");
}
