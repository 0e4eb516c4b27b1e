//! `modelyard publish FILE…`: uploads wheels and source distributions to a Python package index.
//!
//! Promises: Modelyard's own token goes to Modelyard's own control plane alone; a name and a password go where they are asked to go.

use std::path::PathBuf;

use clap::Args;
use modelyard_registry::python::publish::{Login, publish};
use serde_json::{Value, json};

use super::package::size;
use crate::cli::Connect;
use crate::context::{Context, running};
use crate::exit::{Exit, Failed};
use crate::terminal::{Busy, Paint, table};

/// Arguments of `publish`.
#[derive(Debug, Args)]
pub struct Publish {
    /// Wheels and source distributions.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where the index takes uploads. Default: the index of the control plane. TWINE_USERNAME and TWINE_PASSWORD say who uploads.
    #[arg(long, value_name = "URL", env = "TWINE_REPOSITORY_URL")]
    repository_url: Option<String>,
    #[command(flatten)]
    connect: Connect,
}

impl Publish {
    /// Uploads them one after the other; the first that is refused ends it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let own = self.own(context);
        let url = match (&self.repository_url, &own) {
            (Some(url), _) => url.clone(),
            (None, Some(own)) => format!("{own}/legacy/"),
            (None, None) => {
                let help =
                    "name one with `--repository-url URL`, or start a control plane with `modelyard up --detach`";
                return Err(Failed::new("there is no package index to upload to", help).into());
            }
        };
        if !url.starts_with("http://") && !url.starts_with("https://") {
            let help = "it looks like https://packages.example.com/legacy/";
            return Err(Failed::new(format!("`{url}` is no address of an index"), help).into());
        }
        let is_own = own.is_some_and(|own| url.strip_prefix(&own).is_some_and(|rest| rest.starts_with('/')));
        let set = |name: &str| std::env::var(name).ok();
        let login = login(set("TWINE_USERNAME"), set("TWINE_PASSWORD"), self.connect.token.filter(|_| is_own));
        let mut done = Vec::new();
        for path in &self.files {
            let _busy = Busy::with(&format!("uploading {}", path.display()));
            done.push(publish(&url, login.as_ref(), path)?);
        }
        let files: Vec<Value> = done
            .iter()
            .map(|file| json!({ "file": file.filename, "digest": file.digest, "size_bytes": file.size_bytes }))
            .collect();
        context.print(&json!({ "repository_url": url, "files": files }), || {
            let row = |file: &modelyard_registry::python::publish::Published| {
                vec![file.filename.clone(), file.digest.to_string(), size(file.size_bytes)]
            };
            table(&["uploaded", "digest", "size"], done.iter().map(row).collect(), Paint::stdout())
        })?;
        Ok(Exit::Done)
    }

    /// Address of the control plane, without a slash at its end.
    fn own(&self, context: &Context) -> Option<String> {
        let named = self.connect.control.clone();
        let address = named.or_else(|| running(&context.home, "control").map(|found| found.address.to_string()))?;
        let address = address.trim_end_matches('/');
        Some(if address.contains("://") { address.to_owned() } else { format!("http://{address}") })
    }
}

/// Who uploads: as twine is told, else with Modelyard's own token.
fn login(name: Option<String>, secret: Option<String>, token: Option<String>) -> Option<Login> {
    match (name, secret, token) {
        (name, Some(secret), _) => Some(Login::Basic { name: name.unwrap_or_else(|| "__token__".to_owned()), secret }),
        (_, None, token) => token.map(Login::Bearer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_counts_before_the_own_token() {
        let text = |text: &str| Some(text.to_owned());
        let basic = |name: &str, secret: &str| Login::Basic { name: name.to_owned(), secret: secret.to_owned() };
        assert_eq!(login(text("me"), text("secret"), text("own")), Some(basic("me", "secret")));
        assert_eq!(login(None, text("pypi-x"), None), Some(basic("__token__", "pypi-x")));
        assert_eq!(login(text("me"), None, text("own")), Some(Login::Bearer("own".to_owned())));
        assert_eq!(login(None, None, None), None);
    }
}
