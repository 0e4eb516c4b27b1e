//! A registry that is served on a free port, and a caller that shows every answer as it is.

pub mod stores;

use std::net::SocketAddr;
use std::path::Path;

use modelyard_registry::Store;
use modelyard_registry::access::Tokens;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::storage::Settings;
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};

/// A registry that is served until it is dropped.
pub struct Served {
    pub address: SocketAddr,
    pub distribution: Distribution,
    _runtime: tokio::runtime::Runtime,
}

/// An answer.
pub struct Reply {
    pub status: u16,
    headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Panics unless the answer has this status; shows what came instead.
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Panics unless it is refused with this status and code.
    pub fn refused(self, status: u16, code: &str) -> Self {
        let reply = self.expect(status);
        let errors = reply.json();
        assert_eq!(errors["errors"][0]["code"], code, "{errors}");
        assert!(errors["errors"][0]["message"].as_str().is_some_and(|message| message.len() > 10), "{errors}");
        reply
    }
}

impl Served {
    pub fn open(home: &Path) -> Self {
        Self::open_with(home, &stores::settings_for(home))
    }

    pub fn open_with(home: &Path, settings: &Settings) -> Self {
        Self::behind(None, home, settings)
    }

    /// Behind the guard, where there are tokens.
    pub fn behind(tokens: Option<Tokens>, home: &Path, settings: &Settings) -> Self {
        let store = Store::open_with(home.join("registry"), home.join("unpacked"), settings).unwrap();
        let distribution = Distribution::open(&home.join("registry"), store).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router = match tokens {
            Some(tokens) => distribution.guarded(tokens),
            None => distribution.router(),
        };
        runtime.spawn(modelyard_registry::listen::serve(listener, router, std::future::pending()));
        Self { address, distribution, _runtime: runtime }
    }

    pub fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("http://{}{path}", self.address) };
        let agent = ureq::Agent::config_builder().http_status_as_error(false).allow_non_standard_methods(true).build();
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sends = matches!(method, "POST" | "PUT" | "PATCH");
        let mut answer = match sends {
            true => agent.new_agent().run(request.body(body).unwrap()).unwrap(),
            false => agent.new_agent().run(request.body(()).unwrap()).unwrap(),
        };
        let body = answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap();
        Reply { status: answer.status().as_u16(), headers: answer.headers().clone(), body }
    }

    pub fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"")
    }

    /// Pushes a blob in one piece; its digest.
    pub fn push(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.call("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), &[], bytes).expect(201);
        digest
    }

    /// Pushes a manifest of an empty configuration and one layer under a tag; its digest.
    pub fn image(&self, name: &str, tag: &str, layer: &[u8], more: &Value) -> String {
        let (config, layer_digest) = (self.push(name, b"{}"), self.push(name, layer));
        let mut manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2 },
            "layers": [{ "mediaType": "application/octet-stream", "digest": layer_digest, "size": layer.len() }],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            manifest[key] = value.clone();
        }
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let path = format!("/v2/{name}/manifests/{tag}");
        let reply = self.call("PUT", &path, &[("content-type", MANIFEST)], &bytes).expect(201);
        assert_eq!(reply.header("docker-content-digest"), digest(&bytes));
        digest(&bytes)
    }
}

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

pub fn digest_512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(&Sha512::digest(bytes)))
}
