//! An MLflow server as a caller sees it: its registry, its runs, and the files that it keeps.
//!
//! Promises: connecting, and the beginning of every answer, have a deadline; no path that a server names leads out of the folder that is filled; files are written while they come, so memory
//! stays flat.
//! Absent on purpose: stores that only MLflow's own client reads (`s3://…` without MLflow's proxy): `mlflow artifacts download` fetches those.
//!
//! Source: MLflow REST API 2.0; `mlflow-artifacts` as MLflow's own client asks for it.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

use modelyard_control::mlflow_login;
use modelyard_core::url::encoded;
use modelyard_registry::paths;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use crate::exit::Failed;

/// As many files a model may have.
const MOST_FILES: usize = 10_000;
/// So deep its folders may be.
const DEEPEST: usize = 16;
/// Largest file in bytes: 256 GiB.
const LARGEST: u64 = 256 << 30;
/// Longest answer that is no file.
const MOST_TOLD: u64 = 64 << 20;

/// An MLflow server.
pub struct Server {
    agent: Agent,
    base: String,
    login: Option<String>,
}

impl Server {
    /// The server at `address`; who asks is told as MLflow's clients are.
    pub fn new(address: &str) -> Result<Self, Failed> {
        if !address.starts_with("http://") && !address.starts_with("https://") {
            let help = "it looks like http://127.0.0.1:5000; name it with `--server URL` or MLFLOW_TRACKING_URI";
            return Err(Failed::new(format!("`{address}` is no address of an MLflow server"), help));
        }
        // It is written into packages, which others get.
        if address.split(['/', '?', '#']).nth(2).is_some_and(|authority| authority.contains('@')) {
            let help = "leave them out there, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN";
            return Err(Failed::new(
                "the address of the MLflow server holds a user name or password, which packages would keep",
                help,
            ));
        }
        let agent = Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            // A login that goes to another host than was meant is given away.
            .max_redirects(0)
            .build()
            .new_agent();
        Ok(Self { agent, base: address.trim_end_matches('/').to_owned(), login: mlflow_login() })
    }

    /// Where it is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// A call of the registry or of tracking: `GET`.
    pub fn get(&self, call: &str, query: &[(&str, &str)]) -> Result<Value, Failed> {
        self.told(call, self.open(&format!("mlflow/{call}"), query)?)
    }

    /// A call that changes something: `POST`.
    pub fn post(&self, call: &str, body: &Value) -> Result<Value, Failed> {
        let mut request = self.agent.post(format!("{}/api/2.0/mlflow/{call}", self.base));
        if let Some(login) = &self.login {
            request = request.header("authorization", login);
        }
        let answer = request.send_json(body).map_err(|error| self.unreachable(error))?;
        self.told(call, answer)
    }

    fn open(&self, path: &str, query: &[(&str, &str)]) -> Result<Response<Body>, Failed> {
        let mut request = self.agent.get(format!("{}/api/2.0/{path}", self.base));
        if let Some(login) = &self.login {
            request = request.header("authorization", login);
        }
        request.query_pairs(query.iter().copied()).call().map_err(|error| self.unreachable(error))
    }

    fn unreachable(&self, error: ureq::Error) -> Failed {
        let help = "check the address (`--server URL`, MLFLOW_TRACKING_URI), and whether `mlflow server` runs there";
        Failed::from(error, format!("the MLflow server at {} does not answer", self.base), help)
    }

    fn told(&self, call: &str, mut answer: Response<Body>) -> Result<Value, Failed> {
        let status = answer.status().as_u16();
        let text = answer.body_mut().with_config().limit(MOST_TOLD).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| self.unreachable(error))?;
        let document: Value = serde_json::from_str(&text).unwrap_or_default();
        if status < 300 {
            return Ok(document);
        }
        let said = document["message"].as_str().map(|said| said.chars().take(400).collect::<String>());
        let what = said.unwrap_or_else(|| format!("status {status}"));
        let help = match status {
            401 | 403 => {
                "say who asks: MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            }
            _ => {
                "see whether the model, the version or the alias is there: `mlflow models` or the server's page lists them"
            }
        };
        Err(Failed::new(format!("the MLflow server refused {call}: {what}"), help))
    }

    /// Fetches every file below an artefact address into `into`; how many there are.
    pub fn fetch(&self, address: &str, into: &Path) -> Result<usize, Failed> {
        let Some(rest) = address.strip_prefix("mlflow-artifacts:") else {
            let help = "fetch it with `mlflow artifacts download --artifact-uri … -d DIR`, and import that folder: `modelyard import mlflow DIR`";
            return Err(Failed::new(
                format!("the model's files lie at {address}, which only MLflow's client reads"),
                help,
            ));
        };
        // `mlflow-artifacts://host/path` is this server's, too: it is the one that named it.
        let path = rest.strip_prefix("//").map_or(rest, |rest| rest.split_once('/').map_or("", |(_, path)| path));
        let root = path.trim_matches('/').to_owned();
        let (mut folders, mut count) = (vec![(String::new(), 0)], 0);
        while let Some((folder, depth)) = folders.pop() {
            let below = if folder.is_empty() { root.clone() } else { format!("{root}/{folder}") };
            let listing = self.told("list of files", self.open("mlflow-artifacts/artifacts", &[("path", &below)])?)?;
            for entry in listing["files"].as_array().into_iter().flatten() {
                let name = entry["path"].as_str().unwrap_or_default();
                let path = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                if let Some(why) = paths::fault(&path).or((depth >= DEEPEST).then_some("its folders are too deep")) {
                    let help = "nothing was packaged; look at the model on the server";
                    return Err(Failed::new(
                        format!("the server names the file `{}`: {why}", path.escape_debug()),
                        help,
                    ));
                }
                count += 1;
                if count > MOST_FILES {
                    return Err(Failed::new(
                        format!("the model has more than {MOST_FILES} files"),
                        "package what it needs by hand",
                    ));
                }
                match entry["is_dir"].as_bool() {
                    Some(true) => folders.push((path, depth + 1)),
                    _ => self.fetch_file(&root, &path, into)?,
                }
            }
        }
        Ok(count)
    }

    fn fetch_file(&self, root: &str, path: &str, into: &Path) -> Result<(), Failed> {
        let target = into.join(path);
        let unwritable = |error: io::Error| {
            Failed::from(
                error,
                format!("could not write {}", target.display()),
                "choose another folder with `--out DIR`",
            )
        };
        fs::create_dir_all(target.parent().unwrap_or(into)).map_err(unwritable)?;
        let encoded: Vec<String> = format!("{root}/{path}").split('/').map(encoded).collect();
        let mut answer = self.open(&format!("mlflow-artifacts/artifacts/{}", encoded.join("/")), &[])?;
        if answer.status().as_u16() != 200 {
            return self.told(&format!("the file {path}"), answer).map(|_| ());
        }
        let mut file = File::create(&target).map_err(unwritable)?;
        io::copy(&mut answer.body_mut().with_config().limit(LARGEST).reader(), &mut file).map_err(unwritable)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_a_password_is_refused_without_telling_it() {
        for address in
            ["https://ada:secret@mlflow.example", "http://ada@mlflow.example/x", "https://secret@mlflow.example?a"]
        {
            let told = format!("{:?}", Server::new(address).err().unwrap());
            assert!(told.contains("user name or password") && !told.contains("secret"), "{told}");
        }
        assert!(Server::new("https://mlflow.example/@x").is_ok() && Server::new("mlflow.example").is_err());
    }
}
