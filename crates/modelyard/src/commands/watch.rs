//! `modelyard watch S`: a live view of one service; without a terminal, lines as things happen.
//!
//! Promises: the terminal is put back as it was, however the view ends.

use std::io::{IsTerminal as _, Read as _};
use std::time::{Duration, Instant};

use clap::Args;
use modelyard_core::ServiceName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use crate::cli::{Connect, Output};
use crate::client::{self, Client};
use crate::context::{Context, print_data};
use crate::exit::{Exit, Failed};
use crate::terminal::{Canvas, Paint, say, size};
use crate::view::{Live, lines};

/// How often the view is drawn anew, at most: ten times a second is as fast as figures can be read.
const FRAME: Duration = Duration::from_millis(100);

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct Watch {
    /// The service.
    service: ServiceName,
    #[command(flatten)]
    connect: Connect,
}

impl Watch {
    /// Shows it until `q` or Ctrl-C.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let mut live = Live::new(&client, self.service.clone(), 0, Paint::stdout());
        live.scene()?; // An unknown service is told before anything is drawn.
        let interactive = context.output == Output::Text && Canvas::possible() && std::io::stdin().is_terminal();
        match interactive {
            true => draw(&mut live),
            false => tell(&client, live, context.output),
        }
    }
}

fn draw(live: &mut Live<'_>) -> miette::Result<Exit> {
    let keys = Keys::take().map_err(|error| {
        Failed::from(error, "the terminal cannot be read key by key", "use `modelyard watch S | cat` for plain lines")
    })?;
    let mut canvas = Canvas::default();
    let paint = Paint::stderr();
    let mut lost = None;
    loop {
        let began = Instant::now();
        let seen = live.events(0).and_then(|_| live.scene());
        match seen {
            Ok(scene) => {
                lost = None;
                let mut block = lines(&scene, paint, size().0);
                block.extend([String::new(), paint.dim("q quits")]);
                canvas.draw(&block);
            }
            Err(error @ client::Error::Unreachable { .. }) => {
                lost.get_or_insert(began);
                canvas.draw(&[paint.warn(&error.to_string()), paint.dim("the gateway serves on; waiting. q quits")]);
            }
            Err(error) => return Err(error.into()),
        }
        if keys.quit_within(if lost.is_some() { FRAME * 5 } else { FRAME }) {
            return Ok(Exit::Done);
        }
    }
}

fn tell(client: &Client, mut live: Live<'_>, output: Output) -> miette::Result<Exit> {
    loop {
        let events = match live.events(10_000) {
            Ok(events) => events,
            Err(client::Error::Unreachable { .. }) if client.get::<serde_json::Value>("/api/health").is_err() => {
                say("the control plane is gone");
                return Ok(Exit::Failed);
            }
            Err(client::Error::Unreachable { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        for (event, line) in events {
            match output {
                Output::Json => print_data(&serde_json::to_string(&event).unwrap_or_default()),
                Output::Text => line.iter().for_each(|line| print_data(line)),
            }
        }
    }
}

/// The keyboard, key by key and without echo. Put back when dropped.
struct Keys(Termios);

impl Keys {
    fn take() -> rustix::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let mut raw = before.clone();
        // Ctrl-C arrives as a key too, so that there is one way out.
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }

    /// Whether somebody asks to quit within `span`.
    fn quit_within(&self, span: Duration) -> bool {
        let stdin = std::io::stdin();
        let wait = Timespec::try_from(span).ok();
        let mut watched = [PollFd::new(&stdin, PollFlags::IN)];
        if !matches!(poll(&mut watched, wait.as_ref()), Ok(ready) if ready > 0) {
            return false;
        }
        let mut typed = [0; 64];
        match stdin.lock().read(&mut typed) {
            Ok(0) | Err(_) => true, // The terminal went away.
            Ok(count) => typed[..count].iter().any(|key| matches!(key, b'q' | b'Q' | 3 | 4)),
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
