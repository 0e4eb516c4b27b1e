//! Reports of whole rollouts.
#![allow(clippy::unwrap_used, reason = "tests")]

mod story;

use modelyard_core::RolloutId;
use modelyard_core::event::{Actor, Event, EventBody, Outcome};
use modelyard_core::failure::Cause;
use modelyard_monitor::Report;
use story::{STABLE, Story, compared, promoted, revision, taken_back, tested};

/// Keeps the page where a person can look at it.
fn page(name: &str, report: &Report) -> String {
    let html = report.html();
    std::fs::write(format!("{}/{name}.html", env!("CARGO_TARGET_TMPDIR")), &html).unwrap();
    html
}

#[test]
fn a_rollout_that_was_taken_back() {
    let report = Report::from_events(&taken_back());
    assert_eq!(report.outcome(), Some(Outcome::RolledBack));
    insta::assert_snapshot!("taken_back", report.markdown());
    let html = page("taken-back", &report);
    check_form(&html);
    assert_eq!(html.matches("<figure").count(), 4, "a chart is missing");
    assert!(html.contains("index out of bounds: the len is 13"), "the evidence is not whole");
}

#[test]
fn a_rollout_that_went_through() {
    let report = Report::from_events(&promoted());
    insta::assert_snapshot!("promoted", report.markdown());
    check_form(&page("promoted", &report));
}

#[test]
fn a_test_with_its_evidence() {
    let report = Report::from_events(&tested());
    let told = report.markdown();
    assert!(
        told.contains("18 units were met in more than one arm") && told.contains("2 labels belong to no known answer")
    );
    assert!(told.contains("input features\\[3\\]") || told.contains("input features[3]"), "what moved most: {told}");
    insta::assert_snapshot!("tested", told);
    let html = page("tested", &report);
    check_form(&html);
    assert!(html.contains("accuracy") && html.contains("<figure"), "the metric over time");
}

#[test]
fn a_comparison_with_its_interval_and_the_worst_pairs() {
    let report = Report::from_events(&compared());
    let told = report.markdown();
    assert!(told.contains("10.0 % (") && told.contains("In top 2") && told.contains("0f3c-1"), "{told}");
    insta::assert_snapshot!("compared", told);
    let html = page("compared", &report);
    check_form(&html);
    assert!(html.contains("In top 2") && !html.contains("0f3c-2 | <b>"), "ids of requests are text");
}

#[test]
fn a_report_is_found_by_its_rollout_among_others() {
    let mut events = taken_back();
    let mut later = Story::new();
    later.begin("wine-3").tell(900_000, revision(3, "3.0.0"));
    let last = events.len() as u64;
    events.extend(later.events.into_iter().map(|event| Event { seq: event.seq + last, ..event }));
    let report = Report::of(&RolloutId::new("wine-2").unwrap(), &events).unwrap();
    assert_eq!(report.markdown(), Report::from_events(&taken_back()).markdown());
    assert!(Report::of(&RolloutId::new("wine-9").unwrap(), &events).is_none());
}

#[test]
fn a_rollout_under_way_or_unknown_is_told_as_far_as_it_goes() {
    let events = taken_back();
    for length in 0..=events.len() {
        let report = Report::from_events(&events[..length]);
        check_form(&report.html());
        assert!(!report.headline().is_empty() && report.markdown().starts_with("# "));
    }
    assert_eq!(Report::from_events(&[]).headline(), "These events tell of no rollout.");
    assert_eq!(Report::from_events(&events[..12]).outcome(), None);
}

#[test]
fn hostile_text_stays_text() {
    let attack = "</pre><script>alert(1)</script>\" onload=\"x \u{202e}\x1b[2J ``` | <img src=x>";
    let mut events = taken_back();
    for event in &mut events {
        if matches!(event.actor, Actor::Person(_)) {
            event.actor = Actor::Person(attack.to_owned());
        }
        match &mut event.body {
            EventBody::Failed { failure } => {
                failure.detail = attack.to_owned();
                failure.evidence = vec![attack.to_owned(); 3];
            }
            EventBody::RolloutStarted { strategy, .. } => *strategy = attack.to_owned(),
            EventBody::RolloutStepped { phase, .. } => *phase = attack.to_owned(),
            EventBody::Verdict { why, .. } | EventBody::Retried { why, .. } => *why = attack.to_owned(),
            EventBody::InstanceStopped { how, .. } => *how = attack.to_owned(),
            EventBody::RolloutFinished { failure: Some(failure), .. } => failure.detail = attack.to_owned(),
            _ => {}
        }
    }
    let report = Report::from_events(&events);
    let html = page("hostile", &report);
    check_form(&html);
    assert!(
        !html.contains("<script") && !html.contains("<img") && !html.contains('\x1b') && !html.contains('\u{202e}')
    );
    let markdown = report.markdown();
    assert!(!markdown.contains('\x1b') && !markdown.contains('\u{202e}'));
    let outside_fences = markdown.split("````").step_by(2).collect::<String>();
    assert!(!outside_fences.replace("\\<", "").contains('<'), "{outside_fences}");
}

#[test]
fn the_time_to_the_last_request_runs_from_the_verdict_to_the_applied_table() {
    let markdown = Report::from_events(&taken_back()).markdown();
    assert!(markdown.contains("| Verdict to zero traffic | 7 ms |"), "{markdown}");
    // 20 s at 10 %, 9.2 s at 25 %, and the moments between.
    assert!(markdown.contains("| Exposure | 29.3 s, "), "{markdown}");
}

#[test]
fn many_windows_are_thinned_without_losing_a_request() {
    let mut events = taken_back();
    let window = events.iter().position(|event| matches!(event.body, EventBody::Measured { .. })).unwrap();
    let many: Vec<Event> = std::iter::repeat_n(events[window].clone(), 5_000).collect();
    events.splice(window..=window, many);
    let requests = |events: &[Event]| -> u64 {
        let of = |event: &Event| match &event.body {
            EventBody::Measured { revisions } => revisions.get(&STABLE).map_or(0, |measured| measured.window.requests),
            _ => 0,
        };
        events.iter().map(of).sum()
    };
    let report = Report::from_events(&events);
    assert!(report.html().len() < 400_000, "{}", report.html().len());
    let digits = report.markdown().replace('\u{202f}', "");
    assert!(digits.contains(&format!("| revision 1 (wine 1.0.0) (stable) | {} |", requests(&events))), "{digits}");
}

#[test]
fn a_crash_loop_without_traffic_is_told_without_figures() {
    let events: Vec<Event> = taken_back()
        .into_iter()
        .filter(|event| !matches!(event.body, EventBody::Measured { .. } | EventBody::RouteApplied { .. }))
        .map(|mut event| {
            if let EventBody::RolloutFinished { cause, .. } = &mut event.body {
                *cause = Some(Cause::CrashLoop);
            }
            event
        })
        .collect();
    let report = Report::from_events(&events);
    assert!(report.headline().ends_with("; no caller was sent to it."), "{}", report.headline());
    check_form(&report.html());
}

/// Every element is closed where it was opened, attributes are quoted, and nothing is loaded from elsewhere.
fn check_form(html: &str) {
    const VOID: [&str; 4] = ["meta", "br", "hr", "!DOCTYPE"];
    let mut open: Vec<String> = Vec::new();
    let body = html
        .split_once("<style>")
        .map(|(before, rest)| format!("{before}<style>{}", rest.split_once("</style>").unwrap().1.to_owned() + ""));
    let text = body.unwrap().replacen("<style>", "", 1);
    let mut rest = text.as_str();
    while let Some(start) = rest.find('<') {
        let end = rest[start..].find('>').expect("an unclosed tag") + start;
        let tag = &rest[start + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "unbalanced quotes in <{tag}>");
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop().as_deref(), Some(name), "</{name}> closes another"),
            None => {
                let name = tag.split([' ', '\n']).next().unwrap();
                if !VOID.contains(&name) {
                    open.push(name.to_owned());
                }
            }
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "left open: {open:?}");
    for elsewhere in ["src=", "href=", "url(", "@import", "http://", "https://"] {
        assert!(!html.contains(elsewhere) || html.contains("&lt;img src="), "{elsewhere} is loaded");
    }
}
