//! The gateways that copy requests: ours, whose shadow is changed by a new route table, and nginx with and without `mirror`.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use modelyard_core::measure::GatewayReport;
use modelyard_core::mirror::Mirror;
use modelyard_core::route::{Pool, RouteTable, ServiceRoute};
use modelyard_core::sample::Tolerance;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Version, Weight};

use crate::gateway::ask_unix;
use crate::http1::Request;
use crate::machine::SERVER_CORE;
use crate::process::{Process, free_address, pin_thread};

/// Longest time that a gateway may take to answer.
const START: Duration = Duration::from_secs(15);
/// What `service.toml` gives a shadow by default, roughly.
const LIMIT: u32 = 64;
const TIMEOUT_MS: u64 = 1_000;

/// Our gateway.
pub struct Ours {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its version.
    pub version: String,
    admin: PathBuf,
    generation: u64,
    process: Process,
}

impl Ours {
    /// Starts one in front of `stable`, without a shadow, all its threads on the server's core.
    pub fn start(binary: &Path, stable: SocketAddr, folder: &Path, request: &Request) -> Result<Self> {
        let (address, folder) = (free_address()?, folder.join("modelyard"));
        fs::create_dir_all(&folder)?;
        let admin = folder.join("admin.sock");
        let mut command = Command::new(binary);
        command.args(["gateway", "--threads", "1", "--listen"]).arg(address.to_string());
        command.arg("--admin").arg(&admin).arg("--state").arg(folder.join("state")).env("MODELYARD_HOME", &folder);
        let version = first_line(Command::new(binary).arg("--version"))?;
        let process = Process::start("modelyard", command, SERVER_CORE, &folder)?;
        let mut ours = Self { address, version, admin, generation: 0, process };
        ours.publish(stable, None)?;
        ours.process.wait_for(address, request, START)?;
        Ok(ours)
    }

    /// Gives its threads that ask shadows and compare a core; those that answer requests stay where they are.
    pub fn place_shadows(&self, core: Option<usize>) -> Result<()> {
        let threads =
            self.process.threads_named(|name| name.starts_with("gateway-mirror") || name.starts_with("gateway-compar"));
        anyhow::ensure!(
            threads.len() == 2,
            "the gateway has {} threads for shadows, and 2 were expected",
            threads.len()
        );
        threads.into_iter().zip(core.into_iter().cycle()).try_for_each(|(thread, core)| pin_thread(Some(thread), core))
    }

    /// Gives it a table with this stable and this shadow.
    pub fn publish(&mut self, stable: SocketAddr, shadow: Option<SocketAddr>) -> Result<()> {
        self.generation += 1;
        let table = serde_json::to_string(&table(self.generation, stable, shadow)?)?;
        let start = Instant::now();
        loop {
            match ask_unix(&self.admin, "PUT", "/routes", &table) {
                Ok((200, _)) => return Ok(()),
                Ok((status, body)) => bail!("the routes were refused: {status} {}", String::from_utf8_lossy(&body)),
                Err(error) if start.elapsed() > START => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)), // polls until it listens
            }
        }
    }

    /// Copies that were sent and shed so far.
    pub fn copies(&self) -> Result<(u64, u64)> {
        let (status, body) = ask_unix(&self.admin, "GET", "/report", "")?;
        anyhow::ensure!(status == 200, "no report: {status}");
        let report: GatewayReport = serde_json::from_slice(&body)?;
        let mirrors = report.services.values().flat_map(|service| service.mirrors.values());
        Ok(mirrors.fold((0, 0), |(sent, shed), mirror| (sent + mirror.sent, shed + mirror.shed)))
    }

    /// Processor time used so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.process.cpu_seconds()
    }
}

fn table(generation: u64, stable: SocketAddr, shadow: Option<SocketAddr>) -> Result<RouteTable> {
    let pool = |revision: u32, address| -> Result<(RevisionNumber, Pool)> {
        let id = InstanceId::new(format!("bench-{revision}-1"))?;
        let pool = Pool { version: Version::new("1.0.0")?, instances: BTreeMap::from([(id, address)]), flags: None };
        Ok((RevisionNumber(revision), pool))
    };
    let mut pools = BTreeMap::from([pool(1, stable)?]);
    let mut mirrors = Vec::new();
    if let Some(address) = shadow {
        pools.extend([pool(2, address)?]);
        mirrors.push(Mirror {
            revision: RevisionNumber(2),
            share: Weight::ALL,
            limit: LIMIT,
            timeout_ms: TIMEOUT_MS,
            tolerance: Tolerance::default(),
            top_k: 1,
            against: None,
        });
    }
    let apis = BTreeMap::from([(1, BTreeMap::from([(RevisionNumber(1), Weight::ALL)]))]);
    let route = ServiceRoute { default_api: 1, apis, pools, mirrors, ..ServiceRoute::default() };
    let services = BTreeMap::from([(ServiceName::new("bench")?, route)]);
    Ok(RouteTable { generation, services, ..RouteTable::default() })
}

/// nginx, with two addresses: one plain, one that mirrors.
pub struct Nginx {
    /// Where it forwards only.
    pub plain: SocketAddr,
    /// Where it mirrors as well.
    pub mirrored: SocketAddr,
    /// Its version.
    pub version: String,
    process: Process,
}

impl Nginx {
    /// Starts it.
    pub fn start(stable: SocketAddr, shadow: SocketAddr, folder: &Path, request: &Request) -> Result<Self> {
        let (plain, mirrored, folder) = (free_address()?, free_address()?, folder.join("nginx"));
        fs::create_dir_all(&folder)?;
        let (file, root) = (folder.join("nginx.conf"), folder.display());
        let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
        let pass = |to: &str, uri: &str| {
            format!("proxy_pass http://{to}{uri}; proxy_http_version 1.1; proxy_set_header Connection \"\";")
        };
        let (to_stable, to_shadow) = (pass("stable", ""), pass("shadow", "$request_uri"));
        let text = format!(
            "{user}worker_processes 1;\npid {root}/nginx.pid;\nerror_log stderr warn;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off;\n  client_body_temp_path {root}/body;\n  proxy_temp_path {root}/proxy;\n  \
             fastcgi_temp_path {root}/fastcgi;\n  uwsgi_temp_path {root}/uwsgi;\n  scgi_temp_path {root}/scgi;\n  \
             keepalive_requests 100000000;\n  \
             upstream stable {{ server {stable}; keepalive 128; keepalive_requests 100000000; }}\n  \
             upstream shadow {{ server {shadow}; keepalive 128; keepalive_requests 100000000; }}\n  \
             server {{ listen {plain}; location / {{ {to_stable} }} }}\n  \
             server {{ listen {mirrored}; location / {{ mirror /mirror; {to_stable} }}\n    \
             location = /mirror {{ internal; {to_shadow} }} }}\n}}\n"
        );
        fs::write(&file, text)?;
        let version = first_line(Command::new("nginx").arg("-v"))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&folder).arg("-c").arg(file).args(["-e", "stderr", "-g", "daemon off;"]);
        let mut process = Process::start("nginx", command, SERVER_CORE, &folder)?;
        for address in [plain, mirrored] {
            process.wait_for(address, request, START)?;
        }
        Ok(Self { plain, mirrored, version, process })
    }

    /// Processor time used so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.process.cpu_seconds()
    }
}

fn first_line(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{} cannot be run", command.get_program().display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_ones_that_a_gateway_accepts() {
        let address = "127.0.0.1:1".parse().unwrap();
        for shadow in [None, Some(address)] {
            assert_eq!(table(1, address, shadow).unwrap().check(), Ok(()));
        }
    }
}
