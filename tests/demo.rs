//! The demo from outside: it does the whole job, in plain lines without a terminal, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use support::process::{alive, census};
use support::{World, until};

/// Processes of any demo that plays in `folder`.
fn players(folder: &Path) -> Vec<u32> {
    census(folder)
}

#[test]
fn the_demo_does_the_whole_job_and_leaves_nothing_behind() {
    let world = World::default();
    let temporary = world.scratch("tmp");
    let began = Instant::now();
    let output = world.command(&["demo"]).env("TMPDIR", &temporary).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(began.elapsed() < Duration::from_secs(120), "it takes less than two minutes, not {:?}", began.elapsed());
    let summary = told.lines().skip_while(|line| !line.ends_with("What happened")).skip(1);
    assert_eq!(summary.take_while(|line| !line.is_empty()).count(), 10, "ten lines tell what happened:\n{told}");
    assert!(!told.contains('\x1b'), "escape codes without a terminal:\n{told}");
    for line in [
        ", 0 failed",
        "1.0.0 to 2.0.0: promoted",
        "`accuracy` is better",
        "labels came late",
        "1.0.0 to 2.0.0: compared",
        "disagrees in",
        "3.0.0-crash: taken back by itself (crash",
        "none is left",
        "modelyard deploy",
    ] {
        assert!(told.contains(line), "`{line}` is missing:\n{told}");
    }
    for report in ["wine-2.html", "wine-2.md", "breast-cancer-2.html", "digits-2.html", "breast-cancer-3.md"] {
        assert!(world.home().join("reports/demo").join(report).is_file(), "{report} is not there:\n{told}");
    }
    assert_eq!(players(&temporary), Vec::<u32>::new());
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "the temporary home is gone");
}

#[test]
fn on_a_terminal_the_demo_draws() {
    let world = World::default();
    let temporary = world.scratch("tmp");
    let (mut child, screen) = support::terminal::run(world.command(&["demo"]).env("TMPDIR", &temporary));
    assert_eq!(child.wait().unwrap().code(), Some(0), "{}", screen.lock().unwrap());
    let cursor = "\x1b[";
    for words in
        [cursor, "of this step", "req/s", "candidate", "1.0.0 to 2.0.0: promoted", "taken back by itself (crash"]
    {
        until(words, 10, || match screen.lock().unwrap().clone() {
            drawn if drawn.contains(words) => Ok(()),
            drawn => Err(drawn),
        });
    }
    assert_eq!(players(&temporary), Vec::<u32>::new());
}

#[test]
fn an_interrupted_demo_stops_what_it_started() {
    let world = World::default();
    let temporary = world.scratch("tmp");
    let mut child = world.command(&["demo"]).env("TMPDIR", &temporary).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map_while(Result::ok);
    assert!(lines.any(|line| line.contains("baking at")), "the canary never got a share");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let told: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{told:?}");
    assert!(told.iter().any(|line| line.contains("interrupted")), "{told:?}");
    until("nothing of it is left", 20, || match players(&temporary) {
        left if left.iter().all(|&pid| !alive(pid)) => Ok(()),
        left => Err(format!("{left:?}")),
    });
}
