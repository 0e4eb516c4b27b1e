//! What every command knows: the home folder, how to print, who asks.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use miette::Diagnostic;
use modelyard_core::home::{Home, Running};
use serde::Serialize;

use crate::cli::{Connect, Output};
use crate::client::Client;

/// What every command knows.
#[derive(Clone, Debug)]
pub struct Context {
    /// Everything local.
    pub home: Home,
    /// How data is printed.
    pub output: Output,
}

/// Why there is no home folder or no control plane to talk to.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// No platform data folder is known.
    #[error("there is no home folder: neither MODELYARD_HOME, XDG_DATA_HOME nor HOME is set")]
    #[diagnostic(code(modelyard::home::unknown), help("pass `--home DIR` or set MODELYARD_HOME"))]
    NoHome,
    /// The home folder's path cannot be made absolute.
    #[error("the home folder {} has no absolute path", path.display())]
    #[diagnostic(code(modelyard::home::path), help("pass an absolute path as `--home`"))]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing runs in the home folder.
    #[error("no control plane runs in {}", home.display())]
    #[diagnostic(
        code(modelyard::control::not_running),
        help("start one with `modelyard up --detach`, or name another with `--home DIR` or `--control URL`")
    )]
    NotRunning {
        /// The home folder.
        home: PathBuf,
    },
}

impl Context {
    /// Finds the home folder.
    pub fn new(home: Option<PathBuf>, output: Output) -> Result<Self, Error> {
        let path = home.or_else(data_folder).ok_or(Error::NoHome)?;
        let path = std::path::absolute(&path).map_err(|source| Error::Path { path, source })?;
        Ok(Self { home: Home::new(path), output })
    }

    /// A client of the control plane that `connect` names, or of the one that runs in the home folder.
    pub fn client(&self, connect: &Connect) -> Result<Client, Error> {
        let address = match &connect.control {
            Some(url) => url.clone(),
            None => match running(&self.home, "control") {
                Some(running) => running.address.to_string(),
                None => return Err(Error::NotRunning { home: self.home.root().to_owned() }),
            },
        };
        // A saved token is for this home alone, not for wherever `--control` leads.
        let saved = || connect.control.is_none().then(|| crate::commands::token::saved(self)).flatten();
        Ok(Client::new(&address, connect.token.clone().or_else(saved)))
    }

    /// Prints data on stdout: `text` for people, or `json` as it is.
    pub fn print(&self, json: &impl Serialize, text: impl FnOnce() -> String) -> miette::Result<()> {
        let data = match self.output {
            Output::Text => text(),
            Output::Json => serde_json::to_string_pretty(json)
                .map_err(|error| crate::exit::Failed::from(error, "the answer is no JSON", "report this as a bug"))?,
        };
        print_data(&data);
        Ok(())
    }
}

/// Writes data on stdout with one line end. A reader that went away (`| head`) is no error.
pub fn print_data(data: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{}", data.trim_end_matches('\n')).and_then(|()| stdout.flush());
}

fn data_folder() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))?;
    Some(data.join("modelyard"))
}

/// Who asks, for the event log.
pub fn person() -> String {
    let name = |variable: &str| std::env::var(variable).ok().filter(|name| !name.is_empty());
    name("MODELYARD_BY").or_else(|| name("USER")).or_else(|| name("LOGNAME")).unwrap_or_else(|| "someone".to_owned())
}

/// What runs in this home, if the process that wrote the document is still the same one and alive.
pub fn running(home: &Home, what: &str) -> Option<Running> {
    let text = std::fs::read(home.running(what)).ok()?;
    let running: Running = serde_json::from_slice(&text).ok()?;
    (start_ticks(running.pid)? == running.start_ticks).then_some(running)
}

/// Start of a process in clock ticks since boot; `None` when there is none, or it ended and only waits to be reaped.
pub fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the program's name in parentheses and may hold anything, so count from the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(ticks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_and_another_start_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::new(folder.path());
        let pid = std::process::id();
        let ticks = start_ticks(pid).unwrap();
        std::fs::create_dir_all(home.running("control").parent().unwrap()).unwrap();
        let mut document = Running {
            pid,
            start_ticks: ticks,
            address: "127.0.0.1:1".parse().unwrap(),
            admin: None,
            version: "0".to_owned(),
        };
        std::fs::write(home.running("control"), serde_json::to_vec(&document).unwrap()).unwrap();
        assert_eq!(running(&home, "control"), Some(document.clone()));
        document.start_ticks += 1;
        std::fs::write(home.running("control"), serde_json::to_vec(&document).unwrap()).unwrap();
        assert_eq!(running(&home, "control"), None, "a reused pid is another process");
    }
}
