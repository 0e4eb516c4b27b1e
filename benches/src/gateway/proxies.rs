//! How each gateway is configured and started: one core, one thread, a 90/10 split kept by a cookie, connections to the upstream kept.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use modelyard_core::affinity::{Affinity, AffinityRoute, KeySource};
use modelyard_core::route::{Pool, RouteTable, ServiceRoute};
use modelyard_core::service::Routing;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Version, Weight};

use crate::http1::Request;
use crate::machine::SERVER_CORE;
use crate::process::{Process, free_address};

/// Longest time that a gateway may take to answer.
const START: Duration = Duration::from_secs(15);

/// A gateway that runs, or no gateway at all.
pub struct Proxy {
    /// Its name in the table.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Name and version, as it tells them.
    pub version: String,
    process: Option<Process>,
}

impl Proxy {
    /// The upstream itself: what no gateway can beat.
    pub fn none(address: SocketAddr) -> Self {
        Self { name: "direct".to_owned(), address, version: "direct: no gateway".to_owned(), process: None }
    }

    /// Whether there is a gateway.
    pub fn is_gateway(&self) -> bool {
        self.process.is_some()
    }

    /// Processor time used so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.process.as_ref().map_or(0.0, Process::cpu_seconds)
    }

    /// Memory in use.
    pub fn resident_bytes(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::resident_bytes)
    }
}

/// Starts one gateway and waits until it answers `request`.
pub fn start(
    name: &str,
    modelyard: &Path,
    upstreams: [SocketAddr; 2],
    folder: &Path,
    request: &Request,
    with_sessions: bool,
) -> Result<Proxy> {
    let address = free_address()?;
    let folder = folder.join(name);
    fs::create_dir_all(&folder)?;
    let command = match name {
        "haproxy" => haproxy(address, upstreams, &folder)?,
        "nginx" => nginx(address, upstreams, &folder)?,
        _ => gateway(modelyard, address, &folder),
    };
    let version = version(&command)?;
    let mut process = Process::start(name, command, SERVER_CORE, &folder)?;
    if name == "modelyard" {
        publish(&folder.join("admin.sock"), &table(upstreams, with_sessions)?)?;
    }
    process.wait_for(address, request, START)?;
    Ok(Proxy { name: name.to_owned(), address, version, process: Some(process) })
}

fn version(command: &Command) -> Result<String> {
    let program = command.get_program();
    let flag = if program.display().to_string().ends_with("modelyard") { "--version" } else { "-v" };
    let output = Command::new(program).arg(flag).output();
    let output = output.with_context(|| format!("{} is not installed", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned())
}

fn haproxy(address: SocketAddr, [stable, candidate]: [SocketAddr; 2], folder: &Path) -> Result<Command> {
    let file = folder.join("haproxy.cfg");
    let text = format!(
        "global\n    nbthread 1\n    maxconn 4096\n\
         defaults\n    mode http\n    option http-keep-alive\n    http-reuse always\n    \
         timeout connect 5s\n    timeout client 60s\n    timeout server 60s\n\
         frontend callers\n    bind {address}\n    default_backend model\n\
         backend model\n    balance roundrobin\n    cookie REVISION insert indirect nocache\n    \
         server stable {stable} weight 90 cookie stable\n    \
         server candidate {candidate} weight 10 cookie candidate\n"
    );
    fs::write(&file, text)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(file);
    Ok(command)
}

fn nginx(address: SocketAddr, [stable, candidate]: [SocketAddr; 2], folder: &Path) -> Result<Command> {
    let file = folder.join("nginx.conf");
    let root = folder.display();
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let text = format!(
        "{user}worker_processes 1;\npid {root}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  client_body_temp_path {root}/body;\n  proxy_temp_path {root}/proxy;\n  \
         fastcgi_temp_path {root}/fastcgi;\n  uwsgi_temp_path {root}/uwsgi;\n  scgi_temp_path {root}/scgi;\n  \
         userid on; userid_name session; userid_path /;\n  \
         split_clients $uid_got$uid_set $pool {{ 90% stable; * candidate; }}\n  \
         upstream stable {{ server {stable}; keepalive 128; keepalive_requests 100000000; }}\n  \
         upstream candidate {{ server {candidate}; keepalive 128; keepalive_requests 100000000; }}\n  \
         server {{\n    listen {address};\n    keepalive_requests 100000000;\n    \
         location / {{ proxy_pass http://$pool; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}\n  }}\n}}\n"
    );
    fs::write(&file, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(file).args(["-e", "stderr", "-g", "daemon off;"]);
    Ok(command)
}

fn gateway(modelyard: &Path, address: SocketAddr, folder: &Path) -> Command {
    let mut command = Command::new(modelyard);
    command.args(["gateway", "--threads", "1", "--listen"]).arg(address.to_string());
    command.arg("--admin").arg(folder.join("admin.sock")).arg("--state").arg(folder.join("state"));
    command.env("MODELYARD_HOME", folder);
    command
}

/// Gives our gateway its route table.
fn publish(admin: &Path, table: &RouteTable) -> Result<()> {
    let table = serde_json::to_string(table)?;
    let start = Instant::now();
    loop {
        match super::ask_unix(admin, "PUT", "/routes", &table) {
            Ok((200, _)) => return Ok(()),
            Ok((status, body)) => bail!("the gateway refused the routes: {status} {}", String::from_utf8_lossy(&body)),
            Err(error) if start.elapsed() > START => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)), // polls until it listens
        }
    }
}

/// Two revisions with one instance each, nine requests in ten to the first.
fn table(upstreams: [SocketAddr; 2], with_sessions: bool) -> Result<RouteTable> {
    let revisions = [(RevisionNumber(1), 9_000), (RevisionNumber(2), 1_000)];
    let (mut pools, mut weights) = (BTreeMap::new(), BTreeMap::new());
    for ((revision, weight), address) in revisions.into_iter().zip(upstreams) {
        let id = InstanceId::new(format!("bench-{revision}-1"))?;
        let pool = Pool { version: Version::new("1.0.0")?, instances: BTreeMap::from([(id, address)]), flags: None };
        pools.insert(revision, pool);
        weights.insert(revision, Weight::new(weight)?);
    }
    let apis = BTreeMap::from([(1, weights)]);
    let route = ServiceRoute {
        default_api: 1,
        apis,
        pools,
        park: false,
        routing: Routing::default(),
        affinity: with_sessions.then(|| AffinityRoute {
            rule: Affinity { by: KeySource::Issued, name: None, lifetime: None },
            salt: "bench-1".to_owned(),
            secret: "5a".repeat(32),
            starts: BTreeMap::from([(RevisionNumber(2), 0)]),
        }),
        ..ServiceRoute::default()
    };
    let services = BTreeMap::from([(ServiceName::new("bench")?, route)]);
    Ok(RouteTable { generation: 1, services, ..RouteTable::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_route_table_is_one_that_a_gateway_accepts() {
        let address = "127.0.0.1:1".parse().unwrap();
        for with_sessions in [true, false] {
            assert_eq!(table([address, address], with_sessions).unwrap().check(), Ok(()));
        }
    }
}
