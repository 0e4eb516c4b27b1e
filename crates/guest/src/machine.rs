//! The life of the machine after it was set up: one loop that waits for whatever comes first.
//!
//! Promises: whatever ends is waited for; a program that ends is started again; who switches the machine off waits no longer than
//! the program may take to end.

use std::time::Duration;

use modelyard_core::boot::Program;
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::clock;
use crate::console::say;
use crate::modules::Modules;
use crate::network::Network;
use crate::power::{self, Buttons, End, Signals};
use crate::program::{self, Schedule};
use crate::uevent::Events;

/// How long the program may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(30);

/// A run of the program.
#[derive(Clone, Copy, Debug)]
struct Run {
    pid: Pid,
    since: Duration,
    /// How often memory had been used up before.
    out_of_memory: u64,
}

/// Whether the program runs.
#[derive(Clone, Copy, Debug)]
enum State {
    /// It does.
    Running(Run),
    /// It is started then.
    Pausing(Duration),
}

/// Everything that is looked after.
#[derive(Debug)]
pub struct Machine {
    /// Drivers, for devices that come later.
    pub modules: Modules,
    /// Devices that come and go.
    pub events: Events,
    /// Signals to this process.
    pub signals: Signals,
    /// Power buttons.
    pub buttons: Buttons,
    /// The network, if there is one.
    pub network: Option<Network>,
    /// What is run.
    pub program: Program,
}

impl Machine {
    /// Runs the program until somebody ends the machine. How.
    pub fn live(mut self) -> End {
        self.buttons.look();
        let mut schedule = Schedule::default();
        let mut state = State::Pausing(clock::now());
        // How it ends, and until when the program has time, once somebody asked.
        let mut ending: Option<(End, Duration)> = None;
        loop {
            let now = clock::now();
            state = self.start_if_due(state, now, ending.is_none(), &mut schedule);
            if let Some(network) = &mut self.network {
                network.go_on(now);
            }
            if let Some((end, deadline)) = ending {
                match state {
                    State::Pausing(_) => return end,
                    State::Running(..) if deadline <= now => {
                        say(format_args!("the program did not end within {} s and is killed", GRACE.as_secs()));
                        return end;
                    }
                    State::Running(..) => {}
                }
            }
            self.wait(state, ending.map(|(_, deadline)| deadline));
            self.follow();
            let asked = self.signals.asked().or_else(|| self.buttons.pressed().then_some(End::Off));
            state = reap(state, ending.is_none(), &mut schedule);
            if let (Some(end), None) = (asked, ending) {
                ending = Some((end, clock::now() + GRACE));
                ask_to_end(state, end);
            }
        }
    }

    fn start_if_due(&self, state: State, now: Duration, wanted: bool, schedule: &mut Schedule) -> State {
        match state {
            State::Pausing(until) if wanted && until <= now => match program::start(&self.program) {
                Ok(pid) => State::Running(Run { pid, since: now, out_of_memory: program::out_of_memory_kills() }),
                Err(error) => {
                    let pause = schedule.pause(Duration::ZERO);
                    say(format_args!("{error}; tried again in {} s", pause.as_secs()));
                    State::Pausing(now + pause)
                }
            },
            state => state,
        }
    }

    fn wait(&self, state: State, deadline: Option<Duration>) {
        let start = match state {
            State::Pausing(until) => Some(until),
            State::Running(..) => None,
        };
        let network = self.network.as_ref().and_then(Network::wake);
        let next = [start, network, deadline].into_iter().flatten().min();
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.events, PollFlags::IN)];
        let more = self.network.iter().flat_map(Network::fds).chain(self.buttons.fds());
        fds.extend(more.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        clock::wait(&mut fds, next.map(|next| next.saturating_sub(clock::now())));
    }

    /// Loads drivers of devices that came, and opens buttons among them.
    fn follow(&mut self) {
        let batch = self.events.read();
        self.modules.follow(&batch);
        if batch.lost || batch.came().any(|event| event.subsystem == "input") {
            self.buttons.look();
        }
    }
}

fn ask_to_end(state: State, end: End) {
    say(end);
    if let State::Running(Run { pid, .. }) = state {
        program::ask_to_end(pid);
    }
}

/// Waits for everything that ended: the program, and whatever lost its parent.
fn reap(mut state: State, wanted: bool, schedule: &mut Schedule) -> State {
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if let State::Running(run) = state
            && run.pid == pid
        {
            state = State::Pausing(ended(run, status, wanted, schedule));
        }
    }
    state
}

/// Tells how the program ended, ends what it left, and says when it is started again.
fn ended(run: Run, status: WaitStatus, wanted: bool, schedule: &mut Schedule) -> Duration {
    let out_of_memory = program::out_of_memory_kills() > run.out_of_memory;
    let how = program::describe(status.exit_status(), status.terminating_signal(), out_of_memory);
    power::kill_all();
    let now = clock::now();
    let ran = now.saturating_sub(run.since);
    if !wanted {
        say(format_args!("the program {how}"));
        return now;
    }
    let pause = schedule.pause(ran);
    say(format_args!("after {} s the program {how}; it is started again in {} s", ran.as_secs(), pause.as_secs()));
    now + pause
}
