//! One conversation with `modelyard target` on a machine.
//!
//! Promises: every call has a deadline; when the other side ends, every call that waits is told what ssh said.

use std::collections::HashMap;
use std::io;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::wire::{self, Answer, Ask, Call, Said};

/// Of what ssh says, the end is what explains.
const SAID: usize = 4 << 10;

/// A conversation. Ends when it is dropped.
pub struct Session {
    next: AtomicU64,
    input: tokio::sync::Mutex<ChildStdin>,
    shared: Arc<Shared>,
    reader: JoinHandle<()>,
    _child: Child,
}

#[derive(Default)]
struct Shared {
    /// Who waits for which answer; none once the other side has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
    /// Why it ended.
    why: Mutex<String>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Session {
    /// Starts it and waits until the other side has greeted.
    ///
    /// # Errors
    /// When it does not, within `limit`, with what ssh said.
    pub async fn open(mut command: Command, limit: Duration) -> io::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(input), Some(output), Some(error)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("the pipes to ssh are not there"));
        };
        let said = Arc::new(Mutex::new(String::new()));
        let hearing = tokio::spawn(hear(error, Arc::clone(&said)));
        let mut output = BufReader::new(output);
        let greeted = tokio::time::timeout(limit, wire::greeted(&mut output)).await;
        let greeted = greeted.unwrap_or_else(|_| Err(late(limit)));
        if let Err(error) = greeted {
            drop(child);
            let _ = tokio::time::timeout(Duration::from_secs(1), hearing).await;
            return Err(io::Error::new(error.kind(), with(&error.to_string(), &lock(&said))));
        }
        let shared = Arc::new(Shared { waiting: Mutex::new(Some(HashMap::new())), why: Mutex::default() });
        let reader = tokio::spawn(Arc::clone(&shared).listen(output, said));
        Ok(Self { next: AtomicU64::new(1), input: tokio::sync::Mutex::new(input), shared, reader, _child: child })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When the other side has ended, or does not answer within `limit`.
    pub async fn call(&self, call: Call, limit: Duration) -> io::Result<Answer> {
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let line = wire::write(&Ask { n, call })?;
        let (answer, answered) = oneshot::channel();
        match &mut *lock(&self.shared.waiting) {
            Some(waiting) => drop(waiting.insert(n, answer)),
            None => return Err(self.ended()),
        }
        let ask = async {
            let mut input = self.input.lock().await;
            // A pipe that is broken: the reader learns why.
            let _ = input.write_all(&line).await;
            let _ = input.flush().await;
            drop(input);
            answered.await
        };
        let done = tokio::time::timeout(limit, ask).await;
        if let Some(waiting) = &mut *lock(&self.shared.waiting) {
            waiting.remove(&n);
        }
        match done {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.ended()),
            Err(_) => Err(late(limit)),
        }
    }

    fn ended(&self) -> io::Error {
        io::Error::new(io::ErrorKind::ConnectionAborted, lock(&self.shared.why).clone())
    }
}

impl Shared {
    async fn listen(self: Arc<Self>, mut output: BufReader<ChildStdout>, said: Arc<Mutex<String>>) {
        let why = loop {
            match wire::read::<Said>(&mut output).await {
                Ok(Some(Said { n, answer })) => {
                    let waits = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&n));
                    // Who gave up waiting is told nothing.
                    let _ = waits.map(|waits| waits.send(answer));
                }
                Ok(None) => break "the connection ended".to_owned(),
                Err(error) => break error.to_string(),
            }
        };
        *lock(&self.why) = with(&why, &lock(&said));
        lock(&self.waiting).take();
    }
}

/// Keeps the end of what ssh says.
async fn hear(mut from: ChildStderr, said: Arc<Mutex<String>>) {
    let mut buffer = [0; 1 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut said = lock(&said);
        said.push_str(&String::from_utf8_lossy(&buffer[..count]));
        if said.len() > SAID {
            let end: String = said.chars().rev().take(SAID / 4).collect();
            *said = end.chars().rev().collect();
        }
    }
}

fn late(limit: Duration) -> io::Error {
    let why = format!("no answer within {} s", limit.as_secs_f64());
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// What happened, and what ssh said of it.
pub fn with(what: &str, said: &str) -> String {
    let lines: Vec<String> = said.lines().map(|line| line.trim().escape_debug().to_string()).collect();
    let lines: Vec<String> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => what.to_owned(),
        lines => format!("{what}; ssh said: {}", lines[lines.len().saturating_sub(4)..].join(" / ")),
    }
}
