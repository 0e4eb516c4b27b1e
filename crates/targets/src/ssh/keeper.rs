//! Keeping one machine in reach: connecting, looking, connecting again.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use modelyard_core::instance::{InstanceState, InstanceStatus};

use super::Inner;
use super::command::over;
use super::forwards::Forwards;
use super::install::{PROGRAM, RUN, put};
use super::session::Session;
use super::wire::{Answer, Call};
use crate::place::Kept;

/// The far side is here and has only to start.
const GREETING: Duration = Duration::from_secs(30);
/// A look that takes longer than this is none: the connection is made anew.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks that nobody asked for. The far side ends when it hears nothing for a minute.
const CALM: Duration = Duration::from_secs(1);
/// Between two tries to connect: at first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

impl Inner {
    /// Runs until it is dropped.
    pub(super) async fn keep(self: Arc<Self>, mut kept: Kept) {
        let mut forwards = Forwards::load(self.ssh.clone());
        let mut pause = AGAIN.0;
        loop {
            let why = match self.connect(&mut forwards, &mut kept).await {
                Ok((session, program)) => {
                    pause = AGAIN.0;
                    let session = Arc::new(session);
                    self.converse(Some((Arc::clone(&session), program)));
                    let why = self.follow(&session, &mut forwards, &mut kept).await;
                    self.converse(None);
                    why
                }
                Err(why) => why,
            };
            self.sights.gone(&self.id, why);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN.1);
        }
    }

    fn converse(&self, session: Option<(Arc<Session>, String)>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = session;
    }

    /// A conversation with the far side, over a master that forwards what is to be forwarded; and the digest of the program there.
    async fn connect(&self, forwards: &mut Forwards, kept: &mut Kept) -> Result<(Session, String), String> {
        if !kept.was(&self.machine) {
            // The master that may run leads to where the machine was before.
            self.ssh.end().await;
            kept.reach(&self.machine);
        }
        let master = match self.ssh.master().await {
            Some(master) => master,
            None => {
                let master = self.ssh.start(&self.login).await?;
                if let Err(why) = self.ssh.lets_through().await {
                    // The next try asks anew.
                    self.ssh.end().await;
                    return Err(why);
                }
                master
            }
        };
        // Traffic first: everything else may take its time.
        forwards.renew(master).await;
        let folder = &self.login.folder;
        let program = put(&self.ssh, Arc::clone(&self.kit.hashes), folder, &self.kit.binary, PROGRAM).await?;
        let session = Session::open(self.ssh.command(over(RUN, &[folder, &program, ""])), GREETING).await;
        let session = session.map_err(|error| error.to_string())?;
        let hello = Call::Hello { owner: format!("{} {}", self.kit.owner, self.id), whose: self.kit.whose.clone() };
        match session.call(hello, GREETING).await.map_err(|error| error.to_string())? {
            Answer::Done => Ok((session, program)),
            Answer::NotYours { why } | Answer::Failed { why } => Err(why),
            other => Err(format!("it answered something else: {other:?}")),
        }
    }

    /// Looks whenever somebody asks, and once a second; returns why it cannot any more.
    async fn follow(&self, session: &Session, forwards: &mut Forwards, kept: &mut Kept) -> String {
        let mut asked = self.sights.asked();
        loop {
            let number = *asked.borrow_and_update();
            let instances = match session.call(Call::Observe, LOOK).await {
                Ok(Answer::Seen { instances }) => instances,
                Ok(Answer::Failed { why }) => {
                    // Its disk, for example: the connection is well, and what was last known still counts.
                    tracing::warn!(machine = %self.id, why, "a machine cannot be looked at");
                    tokio::time::sleep(CALM).await;
                    continue;
                }
                Ok(other) => return format!("it answered something else: {other:?}"),
                Err(error) => return error.to_string(),
            };
            let instances = self.reached(instances, forwards).await;
            self.ssh.trim_log();
            kept.see(&instances);
            self.sights.saw(&self.id, number, instances);
            let _ = tokio::time::timeout(CALM, asked.changed()).await;
        }
    }

    /// The instances with the addresses at which they are reached from here.
    async fn reached(&self, mut instances: Vec<InstanceStatus>, forwards: &mut Forwards) -> Vec<InstanceStatus> {
        for status in &mut instances {
            (status.machine, status.out_of_reach) = (Some(self.id.clone()), None);
            let InstanceState::Running { address, probe } = status.state else { continue };
            let local = forwards.local(&status.id, address).await;
            let aside = match probe {
                Some(probe) => forwards.local(&status.id, probe).await.map(Some),
                None => Ok(None),
            };
            status.state = match (local, aside) {
                (Ok(address), Ok(probe)) => InstanceState::Running { address, probe },
                (Err(why), _) | (_, Err(why)) => {
                    tracing::warn!(machine = %self.id, instance = %status.id, why, "an instance cannot be reached");
                    InstanceState::Starting
                }
            };
        }
        let runs = |id: &_| {
            instances.iter().any(|status| status.id == *id && !matches!(status.state, InstanceState::Exited(_)))
        };
        forwards.retain(runs).await;
        instances
    }
}
