//! The registries: ours, Debian's `docker-registry`, zot where it is installed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use modelyard_core::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::client::Client;
use crate::http1::Request;
use crate::machine::SERVER_CORE;
use crate::process::{Process, free_address};

/// Every registry, in the order in which they are measured.
pub const NAMES: [&str; 3] = ["modelyard", "docker-registry", "zot"];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Tags that go with one manifest, where a registry takes several: the address stays short of 64 KiB.
const TAGS_AT_ONCE: usize = 1_000;

/// A registry that runs.
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it answers.
    pub address: SocketAddr,
    process: Process,
    home: PathBuf,
}

impl Peer {
    /// Starts a registry over an empty folder; none when it is not installed.
    pub fn start(name: &str, modelyard: &Path, home: &Path) -> Result<Option<Self>> {
        let address = free_address()?;
        let Some(command) = command(name, modelyard, home, address)? else { return Ok(None) };
        let mut process = Process::start(name, command, SERVER_CORE, home)?;
        process.wait_for(address, &Request::get("/v2/"), Duration::from_secs(30))?;
        Ok(Some(Self { name: name.to_owned(), address, process, home: home.to_owned() }))
    }

    /// The most memory that it ever had, in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = text.lines().find(|line| line.starts_with("VmHWM:")).context("the kernel tells no peak")?;
        let kib: u64 = line.split_ascii_whitespace().nth(1).context("no figure")?.parse()?;
        Ok(kib * 1024)
    }

    /// Gives the repository `tagged` one manifest with this many tags.
    pub fn seed_tags(&self, count: usize) -> Result<()> {
        let mut client = Client::new(self.address)?;
        let config = digest(b"{}");
        client.push("tagged", &config, 2, || std::iter::once(&b"{}"[..]))?;
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": [],
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        }))?;
        let name = digest(&manifest);
        let tags: Vec<String> = (0..count).map(|number| format!("v{number:06}")).collect();
        match self.name.as_str() {
            "modelyard" => tags.chunks(TAGS_AT_ONCE).try_for_each(|tags| {
                let path = format!("/v2/tagged/manifests/{name}?tag={}", tags.join("&tag="));
                client.put_manifest(&path, MANIFEST, &manifest)
            }),
            // It takes one tag a request, which is not what is measured: its own files are written for it.
            "docker-registry" => {
                client.put_manifest(&format!("/v2/tagged/manifests/{}", tags[0]), MANIFEST, &manifest)?;
                let folder = self.home.join("data/docker/registry/v2/repositories/tagged/_manifests/tags");
                tags.iter().try_for_each(|tag| {
                    let current = folder.join(tag).join("current");
                    fs::create_dir_all(&current)?;
                    Ok(fs::write(current.join("link"), &name)?)
                })
            }
            _ => tags
                .iter()
                .try_for_each(|tag| client.put_manifest(&format!("/v2/tagged/manifests/{tag}"), MANIFEST, &manifest)),
        }
    }
}

fn digest(bytes: &[u8]) -> String {
    Digest::from_sha256(Sha256::digest(bytes).into()).to_string()
}

fn command(name: &str, modelyard: &Path, home: &Path, address: SocketAddr) -> Result<Option<Command>> {
    let data = home.join("data");
    if name == "modelyard" {
        let mut command = Command::new(modelyard);
        command.args(["registry", "--listen", &address.to_string()]).env("MODELYARD_HOME", &data);
        return Ok(Some(command));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let Some(program) = std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| path.is_file())
    else {
        return Ok(None);
    };
    let mut command = Command::new(program);
    if name == "zot" {
        let file = home.join("zot.json");
        let settings = json!({
            "storage": { "rootDirectory": data },
            "http": { "address": address.ip().to_string(), "port": address.port().to_string() },
            "log": { "level": "error" },
        });
        fs::write(&file, settings.to_string())?;
        command.arg("serve").arg(file);
    } else {
        let file = home.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            data.display()
        );
        fs::write(&file, text)?;
        command.arg("serve").arg(file);
    }
    Ok(Some(command))
}
