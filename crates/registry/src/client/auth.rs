//! Who we are to a registry: credentials as Docker keeps them, and tokens as registries give them.
//!
//! Source: Docker's `config.json` (`auths`, `credHelpers`, `credsStore`) and the credential helper protocol; the `Bearer` challenge of RFC 6750 as
//! registries use it (`realm`, `service`, `scope`).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::ClientError;

/// Name and secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    name: String,
    secret: String,
}

impl Credentials {
    /// The header's value.
    pub fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.name, self.secret)))
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials of {}", self.name)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

/// The credentials for a host, if there are any.
pub fn credentials(host: &str) -> Result<Option<Credentials>, ClientError> {
    let failed = |why: String| ClientError::Credentials { host: host.to_owned(), why };
    // As Docker keeps what belongs to its own registry.
    let host = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    let Some(path) = configuration_path().filter(|path| path.is_file()) else { return Ok(None) };
    let bytes = std::fs::read(&path).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    let configuration: Configuration =
        serde_json::from_slice(&bytes).map_err(|error| failed(format!("{}: {error}", path.display())))?;
    if let Some(helper) = configuration.cred_helpers.get(host).or(configuration.creds_store.as_ref()) {
        return ask_helper(helper, host).map_err(failed);
    }
    let keys = [host.to_owned(), format!("https://{host}"), format!("https://{host}/v1/"), format!("http://{host}")];
    let Some(entry) = keys.iter().find_map(|key| configuration.auths.get(key)) else { return Ok(None) };
    if let (Some(name), Some(secret)) = (&entry.username, &entry.password) {
        return Ok(Some(Credentials { name: name.clone(), secret: secret.clone() }));
    }
    let Some(auth) = &entry.auth else { return Ok(None) };
    let decoded = STANDARD.decode(auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let (name, secret) = decoded
        .as_deref()
        .and_then(|text| text.split_once(':'))
        .ok_or_else(|| failed("`auth` is no `NAME:SECRET` in base64".to_owned()))?;
    Ok(Some(Credentials { name: name.to_owned(), secret: secret.to_owned() }))
}

fn configuration_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")))?;
    Some(folder.join("config.json"))
}

/// Asks `docker-credential-HELPER get`; none when it knows nothing of the host.
fn ask_helper(helper: &str, host: &str) -> Result<Option<Credentials>, String> {
    if !helper.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
        return Err(format!("`{helper}` is no name of a credential helper"));
    }
    let program = format!("docker-credential-{helper}");
    let spawned =
        Command::new(&program).arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = spawned.map_err(|error| format!("{program}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not want to hear the host says so with its exit code.
        let _ = stdin.write_all(host.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stdout);
        return match told.contains("credentials not found") {
            true => Ok(None),
            false => Err(format!("{program} ended with {}: {}", output.status, told.trim())),
        };
    }
    let helped: Helped =
        serde_json::from_slice(&output.stdout).map_err(|error| format!("{program} answered no JSON: {error}"))?;
    Ok(Some(Credentials { name: helped.username, secret: helped.secret }))
}

/// What a registry wants before it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// Name and secret with each request.
    Basic,
    /// A token from elsewhere.
    Bearer {
        /// Where.
        realm: String,
        /// For which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// Reads `WWW-Authenticate`.
pub fn read_challenge(header: &str) -> Option<Challenge> {
    let (scheme, rest) = header.split_once(' ').unwrap_or((header, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters(rest);
    let get =
        |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
    Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
}

/// `key="value", key=value`: commas within quotes do not part.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((key.trim().trim_start_matches(',').trim().to_owned(), value.trim().to_owned()));
        rest = after.trim_start_matches([',', ' ']);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let text =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("registry.example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(read_challenge(text), Some(expected));
        assert_eq!(read_challenge("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(read_challenge("Bearer service=x"), None);
        assert_eq!(read_challenge("Digest x"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_challenge_makes_it_panic(text in ".{0,200}") {
            let _ = read_challenge(&text);
        }
    }
}
