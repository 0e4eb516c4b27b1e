//! Tokens in the log: who was given what, who lost it, who was refused.
//!
//! Promises: whoever changed the home's tokens, by the API or by the file, the log tells of it, once; a token itself never stands in it; refusals
//! are bounded: of each kind the first is told at once, the others of a minute together.
//! Absent on purpose: who changed the file. Whoever may write the home may make tokens, and the file does not say who it was.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::{Actor, EventBody, TokenGrant};
use modelyard_registry::access::{Entry, Grant, Refused, Tokens, now};
use tokio::sync::{Mutex, MutexGuard, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::store;

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Refusals of one kind that come within this are told together.
const SPAN: Duration = Duration::from_secs(60);

/// Kinds of refusals that are told apart within a span; whoever tries thousands must not fill the disk.
const KINDS: usize = 8;

/// Refusals that wait to be told, at most.
pub const WAITING: usize = 64;

/// Kinds of events that tell of tokens.
pub const TOKEN_EVENTS: &[&str] = &["token-made", "token-revoked", "token-refused"];

/// Who changed the file.
const OWNER: &str = "the owner of the home folder";

/// Why the log does not tell of a token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tokens cannot be read or written.
    #[error(transparent)]
    Tokens(#[from] modelyard_registry::Error),
    /// The log cannot be written.
    #[error("the log cannot tell of it")]
    Log(#[from] store::Error),
}

/// The tokens of a home, and the log.
#[derive(Clone)]
pub struct TokenLog {
    tokens: Tokens,
    ledger: Arc<Ledger>,
    turn: Arc<Mutex<()>>,
}

impl TokenLog {
    /// The tokens and the log that tells of them.
    pub fn new(tokens: Tokens, ledger: Arc<Ledger>) -> Self {
        Self { tokens, ledger, turn: Arc::default() }
    }

    /// The tokens.
    pub const fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The log.
    pub const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Makes a token for somebody who asked.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Log`] the token is there, and the log tells of it later.
    pub async fn create(&self, grant: Grant, actor: &Actor) -> Result<(Entry, String), Error> {
        let turn = self.turn.lock().await;
        self.catch_up(&turn, &owner()).await?;
        let made = self.tokens.create(grant, now())?;
        self.catch_up(&turn, actor).await?;
        Ok(made)
    }

    /// Revokes a token for somebody who asked; none when there is none that still counts.
    ///
    /// # Errors
    /// As [`TokenLog::create`].
    pub async fn revoke(&self, id: &str, actor: &Actor) -> Result<Option<Entry>, Error> {
        let turn = self.turn.lock().await;
        self.catch_up(&turn, &owner()).await?;
        let revoked = self.tokens.revoke(id, now())?;
        self.catch_up(&turn, actor).await?;
        Ok(revoked)
    }

    /// Tells of everything in the file that the log does not tell of yet.
    async fn catch_up(&self, _turn: &MutexGuard<'_, ()>, actor: &Actor) -> Result<(), Error> {
        let known = Arc::clone(&self.ledger.world().tokens);
        let all = self.tokens.list()?;
        let bodies: Vec<EventBody> =
            all.iter().flat_map(|entry| untold(entry, known.get(&entry.id).copied())).collect();
        if !bodies.is_empty() {
            self.ledger.tell(actor.clone(), bodies).await?;
        }
        Ok(())
    }

    /// Looks at the file and takes refusals, until the control plane ends.
    pub async fn run(self, mut refused: mpsc::Receiver<Refused>) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refusals = Refusals::default();
        loop {
            let told = tokio::select! {
                _ = look.tick() => {
                    let turn = self.turn.lock().await;
                    if let Err(error) = self.catch_up(&turn, &owner()).await {
                        tracing::warn!(error = %chain(&error), "the log does not tell of the tokens");
                    }
                    refusals.settle(Instant::now())
                }
                Some(one) = refused.recv() => refusals.take(one, Instant::now()).into_iter().collect(),
            };
            for (actor, body) in told {
                if let Err(error) = self.ledger.tell(actor, vec![body]).await {
                    tracing::warn!(error = %chain(&error), "the log does not tell of a refusal");
                }
            }
        }
    }
}

fn owner() -> Actor {
    Actor::Person(OWNER.to_owned())
}

/// What is to be told of a token; `told` is whether the log tells of it, and as revoked.
fn untold(entry: &Entry, told: Option<bool>) -> Vec<EventBody> {
    let mut bodies = Vec::new();
    if told.is_none() {
        let grant = &entry.grant;
        bodies.push(EventBody::TokenMade {
            token: Box::new(TokenGrant {
                id: entry.id.clone(),
                name: grant.name.clone(),
                role: grant.role.name().to_owned(),
                environment: grant.scope.environment.clone(),
                repositories: grant.scope.repositories.clone(),
                made: entry.created,
                expires: grant.expires,
            }),
        });
    }
    if let (Some(revoked), None | Some(false)) = (entry.revoked, told) {
        bodies.push(EventBody::TokenRevoked { token: entry.id.clone(), name: entry.grant.name.clone(), revoked });
    }
    bodies
}

/// Refusals of the present span.
#[derive(Default)]
struct Refusals {
    since: Option<Instant>,
    kinds: BTreeMap<(Option<String>, String), (Refused, u32)>,
}

impl Refusals {
    /// Takes one; what is to be told of it now.
    fn take(&mut self, refused: Refused, at: Instant) -> Option<(Actor, EventBody)> {
        self.since.get_or_insert(at);
        let mut kind = (refused.token.clone(), refused.why.clone());
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS {
            kind = (None, String::new());
        }
        match self.kinds.get_mut(&kind) {
            Some((last, times)) => {
                *last = refused;
                *times = times.saturating_add(1);
                None
            }
            None => {
                self.kinds.insert(kind, (refused.clone(), 0));
                Some(told(refused, 1))
            }
        }
    }

    /// What is to be told at the end of the span.
    fn settle(&mut self, at: Instant) -> Vec<(Actor, EventBody)> {
        if self.since.is_none_or(|since| at < since + SPAN) {
            return Vec::new();
        }
        self.since = None;
        let kinds = std::mem::take(&mut self.kinds).into_values();
        kinds.filter(|&(_, times)| times > 0).map(|(last, times)| told(last, times)).collect()
    }
}

/// The event; who was refused did it.
fn told(refused: Refused, times: u32) -> (Actor, EventBody) {
    let Refused { token, name, why, asked } = refused;
    let actor = Actor::Person(name.clone().unwrap_or_else(|| "somebody".to_owned()));
    (actor, EventBody::TokenRefused { token, name, why, asked, times })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(token: &str, why: &str) -> Refused {
        Refused { token: Some(token.to_owned()), name: None, why: why.to_owned(), asked: "GET /".to_owned() }
    }

    #[tokio::test(start_paused = true)]
    async fn of_each_kind_the_first_is_told_at_once_and_the_others_together() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        assert!(refusals.take(refused("a", "role"), start).is_some());
        assert!(
            refusals.take(refused("a", "role"), start).is_none()
                && refusals.take(refused("a", "role"), start).is_none()
        );
        assert!(refusals.take(refused("a", "revoked"), start).is_some(), "another kind");
        assert!(refusals.settle(start + SPAN / 2).is_empty());
        let told = refusals.settle(start + SPAN);
        assert!(matches!(&told[..], [(_, EventBody::TokenRefused { times: 2, .. })]), "{told:?}");
        assert!(refusals.take(refused("a", "role"), start + SPAN).is_some(), "a new span");
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_of_kinds_are_few_events() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let at_once = (0..5000).filter(|n| refusals.take(refused(&n.to_string(), "x"), start).is_some()).count();
        assert!(at_once <= KINDS + 1 && refusals.settle(start + SPAN).len() == 1, "{at_once}");
    }
}
