//! Scripts: text in, text out. A test, a bug report and a demonstration in one.
//!
//! One command a line; `#` begins a comment.
//!
//! ```text
//! submit canary instances=2      a strategy by name, with its defaults; also automatic=no, stepped=yes, first=yes
//! candidate errors=0.05          how it behaves: errors=SHARE, latency=MS, crashes-after=SPAN, starts=no
//! advance 10m                    lets time pass
//! until closed 1h                … until the rollout is closed (or `waiting`, `kept`), for that long at most
//! order promote                  promote, promote-all, pause, resume, abort
//! cut gateway 10s                out of the controller's reach for that long; `mend gateway` ends it
//! restart gateway                counts from zero
//! kill candidate                 or stable, or controller (which stays down for a second)
//! show                           prints where everything stands
//! ```

use std::fmt::Write as _;

use modelyard_core::event::{Order, Outcome};
use modelyard_core::failure::Cause;
use modelyard_core::strategy::Strategy;
use modelyard_core::{Millis, RevisionNumber, Timestamp};
use modelyard_rollout::{Action, Plan, Rollout, Waiting};

use crate::world::{STABLE, TICK};
use crate::{INVARIANTS, Temper, World, rollouts};

const CANDIDATE: RevisionNumber = RevisionNumber(2);

/// A line that cannot be played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct ScriptError {
    /// Line, from 1.
    pub line: usize,
    /// What is wrong with it, or what went wrong while it was played.
    pub what: String,
}

/// Plays a script in a kind world; gives what was told, line by line, each with the virtual time.
///
/// # Errors
/// [`ScriptError`] for a line that makes no sense, or that breaks an invariant.
pub fn play(script: &str, seed: u64) -> Result<String, ScriptError> {
    let mut player = Player { world: World::seeded(seed), told: String::new() };
    for (index, line) in script.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        player.obey(&words).map_err(|what| ScriptError { line: index + 1, what })?;
    }
    Ok(player.told)
}

struct Player {
    world: World,
    told: String,
}

impl Player {
    fn obey(&mut self, words: &[&str]) -> Result<(), String> {
        match words {
            [] => Ok(()),
            ["submit", strategy, options @ ..] => self.submit(strategy, options),
            ["candidate", options @ ..] => self.behave(options),
            ["advance", span] => self.advance(parse(span)?, |_| false),
            ["until", "closed", span] => self.advance(parse(span)?, |rollout| rollout.is_closed()),
            ["until", "kept", span] => self.advance(parse(span)?, Rollout::is_in_rollback_window),
            ["until", "waiting", span] => {
                self.advance(parse(span)?, |rollout| rollout.waiting().is_some_and(Waiting::is_person))
            }
            ["order", name] => self.order(name),
            ["cut", "gateway", span] => {
                let span: Millis = parse(span)?;
                self.world.gateway.cut_until = self.world.now + span;
                Ok(())
            }
            ["mend", "gateway"] => {
                self.world.gateway.cut_until = Timestamp(0);
                Ok(())
            }
            ["restart", "gateway"] => {
                self.world.gateway.restart();
                Ok(())
            }
            ["kill", "controller"] => {
                self.world.kill_controller(Millis::seconds(1));
                Ok(())
            }
            ["kill", who] => self.kill(who),
            ["show"] => {
                self.show();
                Ok(())
            }
            other => Err(format!(
                "`{}` is no command; see the documentation of `modelyard_rehearse::script`",
                other.join(" ")
            )),
        }
    }

    fn submit(&mut self, strategy: &str, options: &[&str]) -> Result<(), String> {
        let names = Strategy::NAMES.join(", ");
        let strategy =
            Strategy::from_name(strategy).ok_or(format!("`{strategy}` is no strategy; there are {names}"))?;
        let mut spec = rollouts::spec(strategy, 1);
        let mut stable = true;
        for (key, value) in options.iter().map(|option| split(option)) {
            match key {
                "instances" => spec.instances = parse(value)?,
                "automatic" => spec.rollback.automatic = value == "yes",
                "stepped" => spec.rollback.stepped = value == "yes",
                "first" => stable = value != "yes",
                other => return Err(format!("`{other}` is no option of `submit`")),
            }
        }
        let plan = Plan::new(&spec).map_err(|error| error.to_string())?;
        self.world.submit(plan, stable);
        self.tell("submitted");
        Ok(())
    }

    fn behave(&mut self, options: &[&str]) -> Result<(), String> {
        let mut temper = Temper::good();
        for (key, value) in options.iter().map(|option| split(option)) {
            match key {
                "errors" => temper.error_rate = parse(value)?,
                "latency" => temper.latency_ms = parse(value)?,
                "crashes-after" => temper.crashes_after = Some((parse(value)?, Cause::Crash)),
                "starts" => temper.never_starts = value == "no",
                other => return Err(format!("`{other}` is no option of `candidate`")),
            }
        }
        self.world.tempers.insert(CANDIDATE, temper);
        Ok(())
    }

    /// Plays, and tells whenever the rollout moves.
    fn advance(&mut self, span: Millis, enough: impl Fn(&Rollout) -> bool) -> Result<(), String> {
        let until = self.world.now + span;
        let mut place = String::new();
        while self.world.now < until && !self.world.rollout().is_some_and(&enough) {
            self.world.tick();
            self.world.check_all(INVARIANTS).map_err(|violation| violation.to_string())?;
            let news: Vec<String> =
                self.world.last_move().iter().flat_map(|made| &made.actions).filter_map(tell_action).collect();
            news.iter().for_each(|news| self.tell(news));
            let now = self.world.rollout().map(Rollout::describe).unwrap_or_default();
            if self.world.last_move().is_some() && now != place {
                self.tell(&now);
                place = now;
            }
        }
        Ok(())
    }

    fn order(&mut self, name: &str) -> Result<(), String> {
        let order = match name {
            "promote" => Order::Promote { all: false },
            "promote-all" => Order::Promote { all: true },
            "pause" => Order::Pause,
            "resume" => Order::Resume,
            "abort" => Order::Abort,
            other => {
                return Err(format!("`{other}` is no order; there are promote, promote-all, pause, resume, abort"));
            }
        };
        self.world.order(order);
        self.advance(TICK, |_| false)
    }

    fn kill(&mut self, who: &str) -> Result<(), String> {
        let revision = match who {
            "candidate" => CANDIDATE,
            "stable" => STABLE,
            other => return Err(format!("`{other}` cannot be killed; there are candidate, stable, controller")),
        };
        let victim = self.world.cluster.instances.iter().find(|(_, instance)| instance.revision == revision);
        let (&id, _) = victim.ok_or(format!("{who} has no instance"))?;
        self.world.cluster.die(id, Cause::Crash, self.world.now);
        Ok(())
    }

    fn show(&mut self) {
        let Some(rollout) = self.world.rollout() else { return self.tell("nothing was submitted") };
        let desired = rollout.desired();
        let outcome = rollout.outcome().map_or("none yet", Outcome::name);
        let wanted: Vec<String> =
            desired.instances.iter().map(|(revision, count)| format!("r{revision} x{count}")).collect();
        let table = &self.world.gateway.table.weights;
        let routed: Vec<String> = table.iter().map(|(revision, weight)| format!("r{revision} {weight}")).collect();
        let (_, parked) = self.world.requests();
        let line = format!(
            "{}; outcome {outcome}; wanted {}; routed {}; {parked} requests found nobody",
            self.world.why_waiting(),
            or_none(&wanted),
            or_none(&routed)
        );
        self.tell(&line);
    }

    fn tell(&mut self, what: &str) {
        // Writing into a `String` cannot fail.
        let _ = writeln!(self.told, "{:>8.3} s  {what}", self.world.elapsed().as_seconds());
    }
}

fn tell_action(action: &Action) -> Option<String> {
    match action {
        Action::Desire { .. } | Action::WakeAt { .. } => None,
        Action::Verdict { verdict, why, .. } => Some(format!("verdict {}: {why}", verdict.name())),
        Action::Refused { why, .. } => Some(format!("refused: {why}")),
        Action::Finish { outcome, cause, .. } => {
            Some(format!("finished: {}{}", outcome.name(), cause.map(|cause| format!(", {cause}")).unwrap_or_default()))
        }
    }
}

fn or_none(list: &[String]) -> String {
    if list.is_empty() { "nothing".into() } else { list.join(", ") }
}

fn split(option: &str) -> (&str, &str) {
    option.split_once('=').unwrap_or((option, ""))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("`{text}`: {error}"))
}
