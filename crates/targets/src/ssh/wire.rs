//! What the control plane and `modelyard target` on a machine say to each other: a line of JSON per call, a line per answer.
//!
//! Promises: what comes from the other side is bounded, a line at a time; answers may come in any order, each names its call.
//! Absent on purpose: packages and programs, which are copied beside it as plain bytes.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::process::supervise::chain;
use modelyard_core::InstanceId;
use modelyard_core::instance::{InstanceSpec, InstanceStatus};
use modelyard_core::ports::{Room, TargetError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

/// First line of the far side. What a login shell says before it is passed over.
pub const GREETING: &str = "modelyard-target 1";

/// Longest line in bytes. A thousand instances and their ends stay far below it.
pub const LONGEST_LINE: u64 = 16 << 20;

/// Most bytes that a log's lines may have in an answer.
pub const LONGEST_LOG: usize = 4 << 20;

/// A call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Its number, which the answer repeats.
    pub n: u64,
    /// What is asked.
    pub call: Call,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// Who calls: the first call, and nothing else is answered before it.
    Hello {
        /// A word that only this control plane and machine know.
        owner: String,
        /// For people.
        whose: String,
    },
    /// [`modelyard_core::ports::Target::ensure`]. The folder of the package is the far side's own.
    Ensure {
        /// What to run.
        spec: Box<InstanceSpec>,
        /// The ONNX Runtime library there, if the instance needs it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        onnxruntime: Option<PathBuf>,
    },
    /// [`modelyard_core::ports::Target::observe`].
    Observe,
    /// [`modelyard_core::ports::Target::stop`].
    Stop {
        /// Which.
        id: InstanceId,
        /// Until it is ended by force.
        grace_ms: u64,
    },
    /// [`modelyard_core::ports::Target::forget`].
    Forget {
        /// Which.
        id: InstanceId,
    },
    /// [`modelyard_core::ports::Target::logs`].
    Logs {
        /// Which.
        id: InstanceId,
        /// How many of the last lines.
        lines: usize,
    },
    /// [`modelyard_core::ports::Target::room`].
    Room,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Said {
    /// Number of the call.
    pub n: u64,
    /// What is said.
    pub answer: Answer,
}

/// What is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It is done.
    Done,
    /// Instances.
    Seen {
        /// All of them.
        instances: Vec<InstanceStatus>,
    },
    /// Lines of a log.
    Lines {
        /// Oldest first.
        lines: Vec<String>,
    },
    /// What is left.
    Room {
        /// Memory in bytes.
        memory_bytes: Option<u64>,
        /// Thousandths of a core.
        cpu_millis: Option<u64>,
    },
    /// The package must be copied first.
    NoPackage,
    /// The caller is not who this folder belongs to.
    NotYours {
        /// Why, and what to do.
        why: String,
    },
    /// [`TargetError::Impossible`].
    Impossible {
        /// Why.
        why: String,
    },
    /// [`TargetError::Stale`].
    Stale {
        /// The newer generation.
        seen: u64,
    },
    /// [`TargetError::Failed`].
    Failed {
        /// What was being done, and why it failed.
        why: String,
    },
}

impl Answer {
    /// An error of the target there.
    pub fn error(error: &TargetError) -> Self {
        match error {
            TargetError::Impossible { why, .. } => Self::Impossible { why: why.clone() },
            TargetError::Stale { seen, .. } => Self::Stale { seen: *seen },
            TargetError::Failed { .. } => Self::Failed { why: chain(error) },
        }
    }

    /// What is left there.
    pub fn room(room: Room) -> Self {
        Self::Room { memory_bytes: room.memory_bytes, cpu_millis: room.cpu_millis }
    }
}

/// The next line as a document; `None` at the end.
///
/// # Errors
/// When the line is longer than [`LONGEST_LINE`], is cut off, or is no such document.
pub async fn read<T: DeserializeOwned>(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<T>> {
    let Some(line) = line(from, LONGEST_LINE).await? else { return Ok(None) };
    serde_json::from_slice(&line).map(Some).map_err(|error| {
        let shown: String = String::from_utf8_lossy(&line).chars().take(120).collect();
        invalid(format!("`{}` was not understood: {error}", shown.escape_debug()))
    })
}

/// The next line without its end; `None` at the end.
///
/// # Errors
/// When it is longer than `limit` or cut off.
pub async fn line(from: &mut (impl AsyncBufRead + Unpin), limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = from.take(limit + 1).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if read as u64 > limit => Err(invalid(format!("a line is longer than {limit} bytes"))),
        Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the last line is cut off")),
    }
}

/// A document as a line.
///
/// # Errors
/// When it cannot be one, or would be longer than the other side reads.
pub fn write<T: Serialize>(document: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document).map_err(io::Error::other)?;
    if line.len() as u64 > LONGEST_LINE {
        return Err(invalid(format!("{} bytes are more than a line may have", line.len())));
    }
    line.push(b'\n');
    Ok(line)
}

/// Passes over what a login shell says, up to the [`GREETING`].
///
/// # Errors
/// When it does not come; what came instead is told.
pub async fn greeted(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<()> {
    let mut said = String::new();
    // A message of the day has dozens of lines.
    for _ in 0..1_000 {
        let Some(line) = line(from, 4_096).await? else { break };
        if line.trim_ascii() == GREETING.as_bytes() {
            return Ok(());
        }
        said.push_str(&String::from_utf8_lossy(&line).chars().take(120).collect::<String>());
        said.push(' ');
    }
    let shown: String = said.chars().take(400).collect();
    Err(invalid(format!("Modelyard there does not answer; it said: {}", shown.escape_debug())))
}

/// Milliseconds, for the other side.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: &[u8]) -> io::Result<Vec<Ask>> {
        let mut source = bytes;
        let mut asks = Vec::new();
        while let Some(ask) = read(&mut source).await? {
            asks.push(ask);
        }
        Ok(asks)
    }

    #[tokio::test]
    async fn calls_survive_the_wire() {
        let stop = Ask { n: 7, call: Call::Stop { id: InstanceId::new("wine-r1-1").unwrap(), grace_ms: 10 } };
        let both = [stop.clone(), Ask { n: 8, call: Call::Observe }];
        let bytes: Vec<u8> = both.iter().flat_map(|ask| write(ask).unwrap()).collect();
        assert_eq!(all(&bytes).await.unwrap(), both);
    }

    #[tokio::test]
    async fn garbage_endless_lines_and_early_ends_are_refused() {
        for (bytes, why) in [
            (&b"{}\n"[..], "not understood"),
            (b"\xff\x00\n", "not understood"),
            (b"{\"n\":1,\"call\":{\"rm\":{}}}\n", "not understood"),
            (b"{\"n\":1,\"call\":\"observe\"}", "cut off"),
        ] {
            let told = all(bytes).await.unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        let mut endless = tokio::io::BufReader::new(tokio::io::repeat(b'x'));
        let told = line(&mut endless, 1 << 20).await.unwrap_err().to_string();
        assert!(told.contains("longer than"), "{told}");
        let mut endless = tokio::io::BufReader::new(tokio::io::repeat(b'\n'));
        assert!(greeted(&mut endless).await.unwrap_err().to_string().contains("does not answer"));
    }

    #[tokio::test]
    async fn what_a_login_shell_says_is_passed_over() {
        let mut source = &b"Welcome!\n\nmodelyard-target 1\n{\"n\":1,\"answer\":\"done\"}\n"[..];
        greeted(&mut source).await.unwrap();
        assert_eq!(read::<Said>(&mut source).await.unwrap(), Some(Said { n: 1, answer: Answer::Done }));
        let told = greeted(&mut &b"\x1b[2Jbash: no\n"[..]).await.unwrap_err().to_string();
        assert!(told.contains("\\u{1b}[2Jbash: no"), "{told}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_upset_the_reader(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(all(&bytes));
        }
    }
}
