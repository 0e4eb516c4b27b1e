//! The far side: `modelyard target`, which speaks for the processes of its machine.
//!
//! Promises: a folder belongs to one control plane and to one machine of it: nobody else is let in, so that nobody ends what others run; a caller
//! who says nothing for a minute is gone, and so is this.
//! Absent on purpose: deciding, and anything that is remembered: the instances' folders are the truth, as for `process`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::Digest;
use modelyard_core::home::Home;
use modelyard_core::ports::Target;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};

use super::wire::{self, Answer, Ask, Call, GREETING, LONGEST_LOG, Said};
use crate::process::{ProcessTarget, folder as documents};

/// The control plane looks every second.
const SILENCE: Duration = Duration::from_secs(60);

/// Calls that are carried out at once.
const AT_ONCE: usize = 32;

/// Where packages lie on this machine.
pub trait Depot: Send + Sync {
    /// Folder of the package's files, verified by digest; none when the package is not here.
    ///
    /// # Errors
    /// When it is here and cannot be used, in words.
    fn folder(&self, package: &Digest) -> Result<Option<PathBuf>, String>;
}

/// `machine.json`: whose the folder is.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    owner: String,
    whose: String,
}

/// The far side.
pub struct Far {
    /// This machine's instances.
    pub target: ProcessTarget,
    /// Its packages.
    pub depot: Arc<dyn Depot>,
    /// The folder of both.
    pub home: Home,
}

impl Far {
    /// Answers calls of standard input on standard output until the caller is gone. Blocks.
    ///
    /// # Errors
    /// As [`Far::answer`].
    pub fn serve(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let file = |fd: BorrowedFd<'_>| Ok::<_, io::Error>(tokio::fs::File::from_std(fd.try_clone_to_owned()?.into()));
        let (input, output) = (file(io::stdin().as_fd())?, file(io::stdout().as_fd())?);
        let done = runtime.block_on(self.answer(input, output));
        // A read that is under way cannot be taken back.
        runtime.shutdown_background();
        done
    }

    /// Answers calls until the caller is gone.
    ///
    /// # Errors
    /// When what is read makes no sense, or nothing can be written.
    pub async fn answer(self, input: impl AsyncRead + Unpin, mut output: impl AsyncWrite + Unpin) -> io::Result<()> {
        let far = Arc::new(self);
        output.write_all(format!("{GREETING}\n").as_bytes()).await?;
        output.flush().await?;
        let (said, mut saying) = mpsc::channel::<Said>(AT_ONCE);
        let listen = far.listen(BufReader::new(input), said);
        let speak = async {
            while let Some(said) = saying.recv().await {
                output.write_all(&wire::write(&said)?).await?;
                output.flush().await?;
            }
            Ok(())
        };
        tokio::try_join!(listen, speak).map(drop)
    }

    async fn listen(
        self: &Arc<Self>,
        mut input: impl tokio::io::AsyncBufRead + Unpin,
        said: mpsc::Sender<Said>,
    ) -> io::Result<()> {
        let (room, mut let_in) = (Arc::new(Semaphore::new(AT_ONCE)), false);
        loop {
            let read = tokio::time::timeout(SILENCE, wire::read::<Ask>(&mut input)).await;
            let Ok(ask) = read else { return Ok(()) };
            let Some(Ask { n, call }) = ask? else { return Ok(()) };
            if let Call::Hello { owner, whose } = call {
                let answer = self.hello(Owner { owner, whose });
                let_in = answer == Answer::Done;
                let _ = said.send(Said { n, answer }).await;
                continue;
            }
            if !let_in {
                let why = "nobody has said who calls".to_owned();
                let _ = said.send(Said { n, answer: Answer::NotYours { why } }).await;
                continue;
            }
            let Ok(place) = Arc::clone(&room).acquire_owned().await else { return Ok(()) };
            let (far, said) = (Arc::clone(self), said.clone());
            tokio::spawn(async move {
                let answer = far.carry_out(call).await;
                let _ = said.send(Said { n, answer }).await;
                drop(place);
            });
        }
    }

    /// The first who comes owns the folder.
    fn hello(&self, caller: Owner) -> Answer {
        let not_yours = |why: String| Answer::NotYours { why };
        let (root, path) = (self.home.root().display(), self.home.root().join("machine.json"));
        if self.home.store().exists() {
            return not_yours(format!("{root} is the home of a control plane; name another `folder` for this machine"));
        }
        let failed = |error: io::Error| Answer::Failed { why: format!("could not use {root}: {error}") };
        let kept = std::fs::create_dir_all(self.home.root()).and_then(|()| documents::write_new(&path, &caller));
        if let Err(error) = kept {
            return failed(error);
        }
        match documents::read::<Owner>(&path) {
            Ok(Some(owner)) if owner.owner == caller.owner => Answer::Done,
            Ok(Some(owner)) => not_yours(format!(
                "{root} is used by {}; name another `folder` for this machine, or remove {} there if that one is gone for good",
                owner.whose,
                path.display()
            )),
            Ok(None) => failed(io::Error::other("it was removed meanwhile")),
            Err(error) => failed(error),
        }
    }

    async fn carry_out(&self, call: Call) -> Answer {
        let target = &self.target;
        let done = match call {
            Call::Hello { .. } => Ok(()),
            Call::Ensure { mut spec, onnxruntime } => {
                let (depot, package) = (Arc::clone(&self.depot), spec.package);
                let found = tokio::task::spawn_blocking(move || depot.folder(&package)).await;
                match found.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(Some(folder)) => spec.package_dir = folder,
                    Ok(None) => return Answer::NoPackage,
                    Err(why) => return Answer::Failed { why },
                }
                if let Some(library) = onnxruntime {
                    target.use_onnxruntime(library);
                }
                target.ensure(&spec).await
            }
            Call::Observe => match target.observe().await {
                Ok(instances) => return Answer::Seen { instances },
                Err(error) => Err(error),
            },
            Call::Stop { id, grace_ms } => target.stop(&id, Duration::from_millis(grace_ms)).await,
            Call::Forget { id } => target.forget(&id).await,
            Call::Logs { id, lines } => match target.logs(&id, lines).await {
                Ok(lines) => return Answer::Lines { lines: newest(lines) },
                Err(error) => Err(error),
            },
            Call::Room => return Answer::room(target.room().await),
        };
        done.map_or_else(|error| Answer::error(&error), |()| Answer::Done)
    }
}

/// As many of the last lines as an answer may hold.
fn newest(lines: Vec<String>) -> Vec<String> {
    let mut left = LONGEST_LOG;
    let fits = lines.iter().rev().take_while(|line| {
        left = left.saturating_sub(line.len() + 8);
        left > 0
    });
    let surplus = lines.len() - fits.count();
    lines.into_iter().skip(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;
    impl Depot for Nothing {
        fn folder(&self, _: &Digest) -> Result<Option<PathBuf>, String> {
            Ok(None)
        }
    }

    /// What is answered to these lines in a home, without the greeting.
    async fn said(home: &std::path::Path, lines: &str) -> io::Result<Vec<Answer>> {
        let home = Home::new(home);
        let far = Far { target: ProcessTarget::new("/nowhere", &home), depot: Arc::new(Nothing), home };
        let mut output = Vec::new();
        far.answer(lines.as_bytes(), &mut output).await?;
        let text = String::from_utf8(output).unwrap();
        let (greeting, rest) = text.split_once('\n').unwrap();
        assert_eq!(greeting, GREETING);
        Ok(rest.lines().map(|line| serde_json::from_str::<Said>(line).unwrap().answer).collect())
    }

    const ADA: &str = "{\"n\":1,\"call\":{\"hello\":{\"owner\":\"a\",\"whose\":\"ada's\"}}}\n";

    #[tokio::test]
    async fn a_folder_belongs_to_who_came_first() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(said(home.path(), ADA).await.unwrap(), [Answer::Done]);
        let bob = ADA.replace("\"a\"", "\"b\"") + "{\"n\":2,\"call\":\"observe\"}\n";
        let answers = said(home.path(), &bob).await.unwrap();
        let [Answer::NotYours { why }, Answer::NotYours { .. }] = answers.as_slice() else { panic!("{answers:?}") };
        assert!(why.contains("is used by ada's") && why.contains("machine.json"), "{why}");
        assert_eq!(said(home.path(), ADA).await.unwrap(), [Answer::Done]);
        std::fs::write(home.path().join("modelyard.sqlite"), "").unwrap();
        let answers = said(home.path(), ADA).await.unwrap();
        assert!(matches!(&answers[0], Answer::NotYours { why } if why.contains("home of a control plane")));
    }

    #[tokio::test]
    async fn what_makes_no_sense_ends_it() {
        let home = tempfile::tempdir().unwrap();
        assert!(said(home.path(), "rm -rf /\n").await.is_err());
        assert_eq!(said(home.path(), "{\"n\":2,\"call\":\"observe\"}\n").await.unwrap().len(), 1);
        let seen = said(home.path(), &format!("{ADA}{{\"n\":2,\"call\":\"observe\"}}\n")).await.unwrap();
        assert_eq!(seen, [Answer::Done, Answer::Seen { instances: vec![] }]);
    }

    #[test]
    fn of_a_long_log_the_end_is_shown() {
        let lines: Vec<String> = (0..10_000).map(|n| format!("{n:04}{}", "x".repeat(1_000))).collect();
        let shown = newest(lines.clone());
        assert!(shown.len() < 5_000 && shown.last() == lines.last(), "{}", shown.len());
        assert_eq!(newest(vec!["a".into()]), ["a"]);
    }
}
