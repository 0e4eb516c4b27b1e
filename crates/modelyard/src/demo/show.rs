//! What a person sees of the demo: headings, a live view of each rollout, plain lines without a terminal.

use std::time::{Duration, Instant};

use modelyard_core::RolloutId;

use super::stage::Interrupt;
use crate::api::{RolloutEnd, Status};
use crate::client::Client;
use crate::exit::Failed;
use crate::follow::Follower;
use crate::terminal::{Canvas, Paint, columns, say, size};
use crate::view::{Live, lines};

/// How long one rollout of the demo may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often the view is drawn.
const FRAME_MS: u64 = 200;

/// Says a heading.
pub fn heading(number: usize, words: &str) {
    let paint = Paint::stderr();
    say(&format!("\n{}  {}", paint.candidate(&number.to_string()), paint.bold(words)));
}

/// Says aligned lines below a heading.
pub fn rows(rows: &[Vec<String>]) {
    columns(rows).iter().for_each(|line| say(&format!("   {line}")));
}

/// Shows a rollout until it ends.
pub fn rollout(client: &Client, rollout: &RolloutId, interrupt: &Interrupt) -> miette::Result<RolloutEnd> {
    let follower = Follower::new(client, rollout.clone());
    let (_, end) = follower.stands()?;
    let mut live = Live::new(client, end.service, 0, Paint::stderr()).of(rollout.clone());
    let mut canvas = Canvas::possible().then(Canvas::default);
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt.check()?;
        let news = live.events(FRAME_MS)?;
        let scene = live.scene()?;
        match &mut canvas {
            Some(canvas) => canvas.draw(&lines(&scene, Paint::stderr(), size().0)),
            None => news.iter().filter_map(|(_, line)| line.as_ref()).for_each(|line| say(&format!("   {line}"))),
        }
        let (_, end) = follower.stands()?;
        if end.outcome != "running" {
            for (_, line) in live.events(0)? {
                line.iter().filter(|_| canvas.is_none()).for_each(|line| say(&format!("   {line}")));
            }
            if let Some(canvas) = &mut canvas {
                canvas.draw(&lines(&live.scene()?, Paint::stderr(), size().0));
            }
            return Ok(end);
        }
        if Instant::now() > deadline {
            return Err(late(&scene.status, &end).into());
        }
        pace(news.is_empty());
    }
}

/// A burst of events is not drawn one by one.
fn pace(quiet: bool) {
    if !quiet {
        std::thread::park_timeout(Duration::from_millis(FRAME_MS / 2));
    }
}

fn late(status: &Status, end: &RolloutEnd) -> Failed {
    let phase = end.phase.clone().or_else(|| status.rollout.as_ref().map(|rollout| rollout.phase.clone()));
    Failed::new(
        format!(
            "the rollout of {} had not ended after {} s: {}",
            end.service,
            PATIENCE.as_secs(),
            phase.unwrap_or_default()
        ),
        "is the machine very busy? Run `modelyard demo --keep` and look at the logs in the folder that it names",
    )
}
