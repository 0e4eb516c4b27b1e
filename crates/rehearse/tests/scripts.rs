//! Scripts: what is told, word for word where it matters.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use modelyard_rehearse::script::{ScriptError, play};

/// The told lines without their times.
fn told(script: &str) -> Vec<String> {
    let text = play(script, 1).unwrap();
    text.lines().map(|line| line.split_once(" s  ").unwrap().1.to_owned()).collect()
}

#[test]
fn a_canary_is_promoted_through_a_cut_and_a_crash() {
    let lines = told(
        "submit canary instances=2
         advance 5s
         cut gateway 1m        # the bake clock stands still
         advance 50s
         show
         kill controller
         until closed 10m
         show",
    );
    let shown: Vec<&String> = lines.iter().filter(|line| line.contains("requests found nobody")).collect();
    assert_eq!(
        shown[0],
        "baking at 10 %, step 1 of 4 (gateway out of reach): the gateway is out of reach; nothing moves until it reports again; \
         outcome none yet; wanted r1 x2, r2 x1; routed r1 90 %, r2 10 %; 0 requests found nobody"
    );
    assert_eq!(shown[1], "promoted: nothing; outcome promoted; wanted r2 x2; routed r2 100 %; 0 requests found nobody");
    let steps: Vec<&String> = lines.iter().filter(|line| line.starts_with("baking")).collect();
    assert!(steps.iter().any(|line| *line == "baking at 50 %, step 3 of 4"), "{lines:#?}");
}

#[test]
fn a_bad_candidate_is_taken_back() {
    let lines = told(
        "submit canary instances=2
         candidate errors=0.4
         until closed 10m
         show",
    );
    assert!(
        lines.iter().any(|line| line.starts_with("verdict fail: ") && line.contains("requests failed in")),
        "{lines:#?}"
    );
    assert!(lines.contains(&"finished: rolled-back, error-rate".to_owned()), "{lines:#?}");
    assert!(
        lines.last().unwrap().ends_with("outcome rolled-back; wanted r1 x2; routed r1 100 %; 0 requests found nobody")
    );
}

#[test]
fn blue_stands_by_and_takes_over_when_green_dies() {
    let lines = told(
        "submit blue-green instances=2
         until kept 1m
         kill candidate
         until closed 1m
         show",
    );
    let finished: Vec<&String> = lines.iter().filter(|line| line.starts_with("finished")).collect();
    assert_eq!(finished, ["finished: promoted", "finished: rolled-back, crash"]);
    assert!(lines.last().unwrap().ends_with("routed r1 100 %; 0 requests found nobody"), "{lines:#?}");
}

#[test]
fn orders_are_obeyed_or_answered() {
    let lines = told(
        "submit rolling instances=3
         advance 3s
         order resume
         order pause
         advance 5m
         order abort
         until closed 1m
         order promote
         show",
    );
    assert!(lines.contains(&"refused: the rollout is not paused".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.ends_with("(paused)")), "{lines:#?}");
    assert!(lines.contains(&"finished: aborted".to_owned()), "{lines:#?}");
}

#[test]
fn recreate_parks_for_as_long_as_nothing_runs() {
    let lines = told("submit recreate\nuntil closed 1m\nshow");
    assert!(lines.contains(&"stopping stable".to_owned()), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(last.contains("outcome promoted") && !last.contains("; 0 requests found nobody"), "{last}");
}

#[test]
fn nonsense_is_answered_with_its_line() {
    let error = play("submit canary\n\ndance", 1).unwrap_err();
    assert_eq!((error.line, error.what.starts_with("`dance` is no command")), (3, true));
    assert_eq!(
        play("submit tango", 1),
        Err(ScriptError {
            line: 1,
            what: "`tango` is no strategy; there are recreate, rolling, blue-green, canary, ab, shadow".into()
        })
    );
    assert!(play("advance soon", 1).unwrap_err().what.contains("is not a span of time"));
}
