//! A registry of its own process, keys, and plain requests.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use super::World;

/// A registry of its own process, ended when dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    /// Where it listens.
    pub address: String,
}

impl Registry {
    /// The registry of a home.
    #[track_caller]
    pub fn of(world: &World) -> Self {
        let mut command = world.command(&["registry", "--listen", "127.0.0.1:0", "--output", "json"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (mut lines, mut text) = (BufReader::new(child.stdout.take().unwrap()), String::new());
        while !text.trim_end().ends_with('}') {
            assert!(lines.read_line(&mut text).unwrap() > 0, "the registry ended: {text}");
        }
        let address = serde_json::from_str::<Value>(&text).unwrap()["address"].as_str().unwrap().to_owned();
        Self { child, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pair of keys: private, public.
pub fn keys(world: &World, name: &str) -> (String, String) {
    let path = world.scratch("keys").join(name);
    let made = world.json(&["sign", "--generate-key", path.to_str().unwrap()]);
    (made["private"].as_str().unwrap().to_owned(), made["public"].as_str().unwrap().to_owned())
}

/// Status and body of a request, with a token as `Bearer` or without.
pub fn ask(method: &str, url: &str, token: Option<&str>, body: &str) -> (u16, String) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut request = ureq::http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let mut answer = match method {
        "GET" | "DELETE" => agent.run(request.body(()).unwrap()).unwrap(),
        _ => agent.run(request.body(body).unwrap()).unwrap(),
    };
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}
