//! The client of DHCP for IPv4: what it sends and when, what it takes and gives up. No socket and no clock: both are the caller's.
//!
//! Promises: it never gives up asking, and never asks more often than once a second; only the server whose offer was taken can grant or
//! refuse it; a lease is used no longer than it lasts, counted from when it was asked for.
//! Absent on purpose: a probe whether somebody has the address (it needs frames of our own), release at the end (the next start gets the
//! same address), authentication (nobody has it: whoever is on the link can be the server).
//! Source: RFC 2131, sections 4.1 and 4.4.

mod packet;

use std::net::Ipv4Addr;
use std::time::Duration;

use packet::{Kind, Question, Reply};
pub use packet::{Lease, MAX, Route};

/// Pauses between questions that nobody answers: 1 s, 2 s, 4 s … this.
const LONGEST_PAUSE: Duration = Duration::from_secs(64);

/// So often is an offer asked for before others are looked for.
const MAX_ASKED: u32 = 4;

/// RFC 2131, section 4.4.5.
const RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// After so many questions without an answer somebody wants to know; then each time that there are twice as many.
const TELL_AFTER: u32 = 4;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this to the port of servers, of one of them or (`None`) of all on the link.
    Send(Option<Ipv4Addr>, Vec<u8>),
    /// Use this lease, instead of the one before.
    Take(Box<Lease>),
    /// Stop using it.
    Lose(&'static str),
    /// Tell that so many questions have led to nothing.
    Unanswered(u32),
    /// Tell that this server refused.
    Refused(Option<Ipv4Addr>),
}

/// Where it is.
#[derive(Clone, Debug)]
enum Phase {
    /// There is no link.
    Idle,
    /// Asking who has an address.
    Looking,
    /// Asking for an offer.
    Asking { address: Ipv4Addr, server: Ipv4Addr },
    /// Having an address, since then.
    Held { lease: Box<Lease>, since: Duration, asking: Asking },
}

/// Who is asked whether a lease may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asking {
    /// Nobody yet.
    Nobody,
    /// Whoever gave it.
    Server,
    /// Everybody.
    All,
}

/// The client of one interface.
#[derive(Debug)]
pub struct Client {
    hardware: [u8; 6],
    hostname: String,
    random: fastrand::Rng,
    phase: Phase,
    number: u32,
    /// When the questions of this number began.
    began: Duration,
    /// When the last question was sent.
    asked: Duration,
    /// Questions since something changed.
    tries: u32,
    /// Questions for any address that led to nothing, since one was had or refused.
    unanswered: u32,
    refusals: u32,
    wake: Option<Duration>,
}

impl Client {
    /// A client that waits for a link.
    pub fn new(hardware: [u8; 6], hostname: &str, seed: u64) -> Self {
        Self {
            hardware,
            hostname: hostname.to_owned(),
            random: fastrand::Rng::with_seed(seed),
            phase: Phase::Idle,
            number: 0,
            began: Duration::ZERO,
            asked: Duration::ZERO,
            tries: 0,
            unanswered: 0,
            refusals: 0,
            wake: None,
        }
    }

    /// When it wants to be called next.
    pub fn wake(&self) -> Option<Duration> {
        self.wake
    }

    /// Whether it has no address: packets for any may be for it.
    pub fn is_without(&self) -> bool {
        !matches!(self.phase, Phase::Held { .. })
    }

    /// The link is there, or there again. Behind it may be another network: an address is asked for anew.
    pub fn link_up(&mut self, now: Duration) -> Vec<Action> {
        self.refusals = 0;
        match &mut self.phase {
            Phase::Held { asking, .. } => *asking = Asking::All,
            phase => *phase = Phase::Looking,
        }
        self.begin(now);
        self.wake = Some(now);
        self.tick(now)
    }

    /// The link is gone. An address is kept as long as it lasts.
    pub fn link_down(&mut self) {
        if self.is_without() {
            self.phase = Phase::Idle;
            self.wake = None;
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Duration) -> Vec<Action> {
        if self.wake.is_none_or(|wake| now < wake) {
            return Vec::new();
        }
        match &self.phase {
            Phase::Idle => {
                self.wake = None;
                Vec::new()
            }
            Phase::Asking { .. } if self.tries >= MAX_ASKED => {
                self.look(now, Duration::ZERO);
                self.tick(now)
            }
            Phase::Looking | Phase::Asking { .. } => self.ask(now),
            Phase::Held { lease, since, asking } => {
                let at = |span: Duration| since.saturating_add(span);
                if lease.span.is_some_and(|span| at(span) <= now) {
                    self.look(now, Duration::ZERO);
                    let mut actions = vec![Action::Lose("its lease ran out")];
                    actions.extend(self.tick(now));
                    return actions;
                }
                let due = if at(lease.rebind) <= now { Asking::All } else { Asking::Server };
                let due = if *asking == Asking::All { Asking::All } else { due };
                let end = if at(lease.rebind) <= now { lease.span } else { Some(lease.rebind) };
                let end = end.map_or(Duration::MAX, at);
                self.keep(now, due, end)
            }
        }
    }

    /// Asks without having an address.
    fn ask(&mut self, now: Duration) -> Vec<Action> {
        let (kind, wanted) = match self.phase {
            Phase::Asking { address, server } => (Kind::Request, Some((address, server))),
            _ => (Kind::Discover, None),
        };
        let mut actions = vec![Action::Send(None, self.question(now, kind, None, wanted))];
        let pause = self.pause();
        self.wake = Some(now + pause);
        if kind == Kind::Discover {
            if self.unanswered >= TELL_AFTER && self.unanswered.is_power_of_two() {
                actions.push(Action::Unanswered(self.unanswered));
            }
            self.unanswered = self.unanswered.saturating_add(1);
        }
        actions
    }

    /// Asks whether the address may be kept; `end` is when something else is to be done.
    fn keep(&mut self, now: Duration, due: Asking, end: Duration) -> Vec<Action> {
        let Phase::Held { lease, asking, .. } = &mut self.phase else { return Vec::new() };
        let (own, server) = (lease.address, lease.server);
        let began = *asking != due || self.tries == 0;
        *asking = due;
        if began {
            self.begin(now);
        }
        let to = (due == Asking::Server).then_some(server);
        let action = Action::Send(to, self.question(now, Kind::Request, Some(own), None));
        let left = end.saturating_sub(now);
        // The first few in quick succession: one packet may be lost, and behind a new link somebody else may know better.
        let pause = if self.tries < MAX_ASKED { self.pause() } else { (left / 2).max(RENEWAL_PAUSE) };
        self.tries = self.tries.max(1);
        self.wake = Some(now.saturating_add(pause.min(left).max(Duration::from_secs(1))));
        vec![action]
    }

    fn question(
        &mut self,
        now: Duration,
        kind: Kind,
        own: Option<Ipv4Addr>,
        wanted: Option<(Ipv4Addr, Ipv4Addr)>,
    ) -> Vec<u8> {
        self.asked = now;
        let since = now.saturating_sub(self.began);
        let hostname = &self.hostname;
        Question { kind, number: self.number, since, hardware: self.hardware, hostname, own, wanted }.write()
    }

    /// The next pause, longer each time and never quite the same, so that machines that were started together do not ask together.
    fn pause(&mut self) -> Duration {
        let pause = Duration::from_secs(1 << self.tries.min(6)).min(LONGEST_PAUSE);
        self.tries = self.tries.saturating_add(1);
        pause + Duration::from_millis(self.random.u64(0..500))
    }

    /// Questions of a new number.
    fn begin(&mut self, now: Duration) {
        self.number = self.random.u32(..);
        self.began = now;
        self.tries = 0;
    }

    fn look(&mut self, now: Duration, after: Duration) {
        self.phase = Phase::Looking;
        self.begin(now);
        self.wake = Some(now.saturating_add(after));
    }

    /// Takes what arrived. What is no reply to the last question changes nothing.
    pub fn receive(&mut self, now: Duration, bytes: &[u8]) -> Vec<Action> {
        let Some(reply) = packet::read(bytes, self.number, self.hardware) else { return Vec::new() };
        match (&self.phase, reply) {
            (Phase::Looking, Reply::Offer { address, server }) if self.tries > 0 => {
                self.phase = Phase::Asking { address, server };
                self.tries = 0;
                self.ask(now)
            }
            (Phase::Asking { server, .. }, Reply::Acknowledge(lease)) if *server == lease.server => self.take(lease),
            (Phase::Asking { server, .. }, Reply::Refuse { server: from })
                if from.is_none_or(|from| from == *server) =>
            {
                self.refused(now, from)
            }
            (Phase::Held { lease: held, asking, .. }, Reply::Acknowledge(lease))
                if may(*asking, held, Some(lease.server)) =>
            {
                self.take(lease)
            }
            (Phase::Held { lease, asking, .. }, Reply::Refuse { server }) if may(*asking, lease, server) => {
                let mut actions = self.refused(now, server);
                actions.insert(0, Action::Lose("its server took it back"));
                actions
            }
            _ => Vec::new(),
        }
    }

    fn take(&mut self, lease: Box<Lease>) -> Vec<Action> {
        (self.unanswered, self.refusals, self.tries) = (0, 0, 0);
        let since = self.asked;
        self.wake = lease.span.map(|_| since.saturating_add(lease.renew));
        self.phase = Phase::Held { lease: lease.clone(), since, asking: Asking::Nobody };
        vec![Action::Take(lease)]
    }

    fn refused(&mut self, now: Duration, server: Option<Ipv4Addr>) -> Vec<Action> {
        let pause = Duration::from_secs(1 << self.refusals.min(6));
        self.refusals = self.refusals.saturating_add(1);
        self.unanswered = 0; // it is told that this one was answered
        self.look(now, pause);
        vec![Action::Refused(server)]
    }
}

/// Whether an answer about a lease counts: one was asked for, and it is from who was asked.
fn may(asking: Asking, lease: &Lease, from: Option<Ipv4Addr>) -> bool {
    match asking {
        Asking::Nobody => false,
        Asking::Server => from.is_none_or(|from| from == lease.server),
        Asking::All => true,
    }
}

/// Reads any bytes as a reply; for the fuzz target.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let _ = packet::read(bytes, 0, [0; 6]);
}

#[cfg(test)]
mod tests;
