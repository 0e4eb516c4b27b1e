//! A container as it is asked for and as it is read, as values.
//!
//! Promises: nothing of an instance runs as root, gains privileges, writes to its image or is reached from other machines; what its configuration says
//! cannot change that, nor where it listens; a container that is not ours, or says of itself what cannot be, is passed over.
//!
//! Source: Docker Engine API, `ContainerCreate`, `ContainerList`, `ContainerInspect`, `ContainerStats`, `ContainerLogs` (frames of a stream).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use modelyard_core::image::{PACKAGE, PACKAGE_DIR, PORT, USER, VARIABLES};
use modelyard_core::instance::{Exit, InstanceSpec};
use modelyard_core::machine::MachineId;
use modelyard_core::package::Runtime;
use modelyard_core::{InstanceId, RevisionNumber, ServiceName, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

/// Where the server listens in a container of its own network: for requests, and for probes.
const PORTS: (u16, u16) = (PORT, PORT + 1);
/// `/tmp`, the one place that can be written to. It counts as memory of the container.
const TMP: &str = "rw,nosuid,nodev,size=268435456,mode=1777";
/// Most processes and threads. A server has dozens.
const PROCESSES: u32 = 4_096;

const OWNER: &str = "io.modelyard.owner";
const MACHINE: &str = "io.modelyard.machine";
const INSTANCE: &str = "io.modelyard.instance";
const SERVICE: &str = "io.modelyard.service";
const REVISION: &str = "io.modelyard.revision";
const GENERATION: &str = "io.modelyard.generation";
/// Ports of a container that shares the network of the host.
const LISTENS: &str = "io.modelyard.listens";

/// How containers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Each has a network of its own; the engine publishes its ports on loopback.
    Bridge,
    /// They share that of the host, where the engine has no bridge: these ports, on loopback.
    Host(u16, u16),
}

/// Whose containers are meant.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Says nothing of the secret that it is made of.
    pub owner: String,
    /// The machine by whose name the engine goes.
    pub machine: MachineId,
}

impl Ours {
    /// What a container is called: one name, one container, so that an id is never started twice.
    pub fn name(&self, id: &InstanceId) -> String {
        format!("modelyard-{}-{id}", self.owner)
    }

    /// The filter of a list.
    pub fn filter(&self) -> String {
        json!({ "label": [format!("{OWNER}={}", self.owner), format!("{MACHINE}={}", self.machine)] }).to_string()
    }

    /// The container of an instance.
    pub fn plan(&self, spec: &InstanceSpec, image: &str, network: Network) -> Value {
        let (http, probe) = match network {
            Network::Bridge => (format!("0.0.0.0:{}", PORTS.0), format!("0.0.0.0:{}", PORTS.1)),
            Network::Host(http, probe) => (format!("127.0.0.1:{http}"), format!("127.0.0.1:{probe}")),
        };
        let mut labels = BTreeMap::from([
            (OWNER, self.owner.clone()),
            (MACHINE, self.machine.to_string()),
            (INSTANCE, spec.id.to_string()),
            (SERVICE, spec.service.to_string()),
            (REVISION, spec.revision.0.to_string()),
            (GENERATION, spec.generation.to_string()),
            (PACKAGE, spec.package.to_string()),
        ]);
        let ports = if is_probed(spec) { &[PORTS.0, PORTS.1][..] } else { &[PORTS.0] };
        let exposed: BTreeMap<String, Value> = ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        let bindings: BTreeMap<String, Value> = match network {
            Network::Bridge => {
                exposed.keys().map(|port| (port.clone(), json!([{ "HostIp": "127.0.0.1", "HostPort": "" }]))).collect()
            }
            Network::Host(http, probe) => {
                let probe = if is_probed(spec) { format!(",{probe}") } else { String::new() };
                labels.insert(LISTENS, format!("{http}{probe}"));
                BTreeMap::new()
            }
        };
        let memory = spec.resources.memory_bytes.unwrap_or(0);
        json!({
            "Image": image,
            "User": USER,
            "Cmd": arguments(spec, &http, &probe),
            "Env": environment(spec),
            "Labels": labels,
            "ExposedPorts": exposed,
            "StopSignal": "SIGTERM",
            "HostConfig": {
                "NetworkMode": if bindings.is_empty() { "host" } else { "bridge" },
                "PortBindings": bindings,
                "ReadonlyRootfs": true,
                "Tmpfs": { "/tmp": TMP },
                "CapDrop": ["ALL"],
                // The engine's own filter of system calls holds beside it.
                "SecurityOpt": ["no-new-privileges"],
                "RestartPolicy": { "Name": "no" },
                "Memory": memory,
                // As much as memory: none of it may be swapped out.
                "MemorySwap": memory,
                "NanoCpus": spec.resources.cpu_millis.unwrap_or(0).saturating_mul(1_000_000),
                "PidsLimit": PROCESSES,
                "Ulimits": [{ "Name": "core", "Soft": 0, "Hard": 0 }],
                "LogConfig": { "Type": "local", "Config": { "max-size": "4m", "max-file": "2" } },
            },
        })
    }
}

/// Whether it answers probes at a port of their own. A program that is told one port has no other.
fn is_probed(spec: &InstanceSpec) -> bool {
    matches!(spec.runtime, Runtime::Onnx { .. } | Runtime::Python { .. })
}

/// What the server in the image is told. Words weigh more than variables.
fn arguments(spec: &InstanceSpec, http: &str, probe: &str) -> Vec<String> {
    let mut words = vec!["serve", "--http", http, "--reachable", "--contract", "none", "--name"];
    match &spec.runtime {
        Runtime::Command { .. } | Runtime::None {} => words.push(spec.service.as_str()),
        Runtime::Onnx { .. } | Runtime::Python { .. } => {
            words.push(spec.known_as.as_ref().unwrap_or(&spec.service).as_str());
            if spec.known_as.is_some() {
                words.extend(["--also", spec.service.as_str()]);
            }
            words.extend(["--probe", probe]);
        }
    }
    words.into_iter().map(str::to_owned).collect()
}

/// Variables that the image sets for its server, and that no configuration may move.
const OF_THE_IMAGE: [&str; 9] = [
    "MODELYARD_HOME",
    "MODELYARD_HTTP",
    "MODELYARD_REACHABLE",
    "MODELYARD_CONTRACT",
    "MODELYARD_ONNXRUNTIME",
    "MODELYARD_PACKAGE_DIR",
    "MODELYARD_PYTHON_ENVIRONMENT",
    "ORT_DISABLE_TELEMETRY",
    VARIABLES,
];

fn environment(spec: &InstanceSpec) -> Vec<String> {
    let given = |(name, _): &(&String, &String)| !OF_THE_IMAGE.contains(&name.as_str());
    let mut all: BTreeMap<String, String> =
        spec.environment.iter().filter(given).map(|(name, value)| (name.clone(), value.clone())).collect();
    if let Runtime::Command { .. } = &spec.runtime {
        all.entry("PYTHONUNBUFFERED".to_owned()).or_insert_with(|| "1".to_owned());
        all.insert(VARIABLES.to_owned(), json!(all).to_string());
    }
    let own = [
        ("MODELYARD_SERVICE", spec.service.to_string()),
        ("MODELYARD_REVISION", spec.revision.to_string()),
        ("MODELYARD_INSTANCE", spec.id.to_string()),
        ("MODELYARD_PACKAGE_DIR", PACKAGE_DIR.to_owned()),
    ];
    all.extend(own.map(|(name, value)| (name.to_owned(), value)));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// A container of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// `created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`.
    pub state: String,
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Port {
    #[serde(default, rename = "IP")]
    ip: Option<String>,
    private_port: u16,
    #[serde(default)]
    public_port: Option<u16>,
}

/// Who a container is, by its labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Identity.
    pub id: InstanceId,
    /// Service.
    pub service: ServiceName,
    /// Revision.
    pub revision: RevisionNumber,
    /// Generation of the ask that made it.
    pub generation: u64,
    /// Where it listens of the host's ports, if it has no network of its own.
    listens: Option<(u16, Option<u16>)>,
}

impl Listed {
    /// Who it is; none if that cannot be read.
    pub fn who(&self, ours: &Ours) -> Option<Who> {
        who(self.labels.as_ref()?, ours)
    }

    /// Where it takes requests, and where it answers probes if that is another port, once the engine has published that.
    pub fn addresses(&self, who: &Who) -> Option<(SocketAddr, Option<SocketAddr>)> {
        let here = |port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if let Some((http, probe)) = who.listens {
            return Some((here(http), probe.map(here)));
        }
        let public = |wanted: u16| {
            let mut ports = self.ports.iter().flatten();
            ports.find_map(|port| {
                let ip: IpAddr = port.ip.as_deref()?.parse().ok()?;
                let fits = port.private_port == wanted && ip.is_loopback();
                port.public_port.filter(|_| fits).map(|public| (ip, public).into())
            })
        };
        Some((public(PORTS.0)?, public(PORTS.1)))
    }
}

fn who(labels: &HashMap<String, String>, ours: &Ours) -> Option<Who> {
    let label = |name: &str| labels.get(name).map(String::as_str);
    let is_ours = label(OWNER) == Some(&ours.owner) && label(MACHINE) == Some(&ours.machine.to_string());
    let listens = match label(LISTENS) {
        Some(ports) => Some(match ports.split_once(',') {
            Some((http, probe)) => (http.parse().ok()?, Some(probe.parse().ok()?)),
            None => (ports.parse().ok()?, None),
        }),
        None => None,
    };
    let who = Who {
        id: InstanceId::new(label(INSTANCE)?).ok()?,
        service: ServiceName::new(label(SERVICE)?).ok()?,
        revision: RevisionNumber(label(REVISION)?.parse().ok()?),
        generation: label(GENERATION)?.parse().ok()?,
        listens,
    };
    is_ours.then_some(who)
}

/// A container, looked at closely.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspected {
    /// Its id.
    pub id: String,
    /// Where it stands.
    pub state: State,
    config: Config,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    labels: Option<HashMap<String, String>>,
}

/// Where a container stands.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct State {
    /// Process id, 0 if it does not run.
    #[serde(default)]
    pub pid: u32,
    #[serde(default)]
    exit_code: i64,
    #[serde(default, rename = "OOMKilled")]
    out_of_memory: bool,
    #[serde(default)]
    error: String,
    #[serde(default)]
    started_at: String,
    #[serde(default)]
    finished_at: String,
}

impl Inspected {
    /// Who it is; none if it is not ours.
    pub fn who(&self, ours: &Ours) -> Option<Who> {
        who(self.config.labels.as_ref()?, ours)
    }
}

impl State {
    /// When it was started; none if it never was.
    pub fn started(&self) -> Option<Timestamp> {
        instant(&self.started_at)
    }

    /// How it ended.
    pub fn exit(&self, now: Timestamp, asked: bool) -> Exit {
        // 128 and a signal's number is how whoever runs programs tells the signal that ended one.
        let signal = i32::try_from(self.exit_code - 128).ok().filter(|signal| (1..=64).contains(signal));
        let code = i32::try_from(self.exit_code).ok().filter(|_| signal.is_none());
        let never_ran = self.started().is_none() && !self.error.is_empty();
        let start_error =
            never_ran.then(|| self.error.chars().take(1_000).collect::<String>().escape_debug().to_string());
        let at = instant(&self.finished_at).unwrap_or(now);
        Exit { code, signal, out_of_memory: self.out_of_memory, asked, start_error, ..Exit::at(at) }
    }
}

/// A moment; none for Docker's year 1, which is none.
fn instant(text: &str) -> Option<Timestamp> {
    let at: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(at.as_millisecond()).ok().filter(|&at| at > 0).map(Timestamp)
}

/// Memory that a container uses in bytes, without the files that the kernel would give up first.
pub fn memory_bytes(stats: &Value) -> Option<u64> {
    let memory = &stats["memory_stats"];
    let used = memory["usage"].as_u64()?;
    // The first is of control groups 2, the second of 1.
    let files = ["inactive_file", "total_inactive_file"].iter().find_map(|name| memory["stats"][name].as_u64());
    Some(used.saturating_sub(files.unwrap_or(0)))
}

/// What a container said, without the heads of the frames that the engine sends it in.
pub fn said(mut frames: &[u8]) -> Vec<u8> {
    let mut said = Vec::with_capacity(frames.len());
    while let Some((head, rest)) = frames.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
        said.extend_from_slice(&rest[..length]);
        frames = &rest[length..];
    }
    said
}

#[cfg(test)]
mod tests {
    use modelyard_core::Digest;
    use modelyard_core::package::Resources;

    use super::*;

    fn ours() -> Ours {
        Ours { owner: "0123456789ab".to_owned(), machine: "prod/box".parse().unwrap() }
    }

    fn spec(runtime: Runtime) -> InstanceSpec {
        InstanceSpec {
            id: InstanceId::new("wine-r2-7").unwrap(),
            service: ServiceName::new("wine").unwrap(),
            known_as: Some(ServiceName::new("vino").unwrap()),
            revision: RevisionNumber(2),
            package: Digest::from_sha256([7; 32]),
            image: None,
            package_dir: "/p".into(),
            runtime,
            environment: [("THRESHOLD", "0.5"), ("MODELYARD_HTTP", "0.0.0.0:1"), ("MODELYARD_INSTANCE", "forged")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            resources: Resources { memory_bytes: Some(64 << 20), cpu_millis: Some(500) },
            generation: 5,
            machine: Some("prod/box".parse().unwrap()),
        }
    }

    #[test]
    fn an_instance_is_kept_in_and_told_what_it_needs() {
        let asked = spec(Runtime::Onnx { model: "model.onnx".into() });
        let plan = ours().plan(&asked, "sha256:1", Network::Bridge);
        assert_eq!(
            plan["Cmd"].as_array().unwrap().iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            "serve --http 0.0.0.0:8080 --reachable --contract none --name vino --also wine --probe 0.0.0.0:8081"
        );
        let host = &plan["HostConfig"];
        assert_eq!(
            (&host["CapDrop"], &host["ReadonlyRootfs"], &plan["User"]),
            (&json!(["ALL"]), &json!(true), &json!(USER))
        );
        assert_eq!(
            (&host["Memory"], &host["MemorySwap"], &host["NanoCpus"]),
            (&json!(64 << 20), &json!(64 << 20), &json!(500_000_000))
        );
        assert_eq!(host["PortBindings"]["8080/tcp"][0]["HostIp"], "127.0.0.1");
        let told: Vec<&str> = plan["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        assert!(told.contains(&"THRESHOLD=0.5") && told.contains(&"MODELYARD_INSTANCE=wine-r2-7"), "{told:?}");
        assert!(!told.iter().any(|one| one.starts_with("MODELYARD_HTTP=")), "{told:?}");

        let shared = ours().plan(&asked, "sha256:1", Network::Host(4_001, 4_002));
        assert_eq!(
            (&shared["HostConfig"]["NetworkMode"], &shared["Cmd"][2]),
            (&json!("host"), &json!("127.0.0.1:4001"))
        );
    }

    #[test]
    fn a_program_gets_its_configuration_over_what_its_package_declares() {
        let command = Runtime::Command { command: vec!["x".into()], health: "/".into(), environment: BTreeMap::new() };
        let plan = ours().plan(&spec(command), "sha256:1", Network::Bridge);
        let told: Vec<&str> = plan["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        let variables = told.iter().find_map(|one| one.strip_prefix("MODELYARD_VARIABLES=")).unwrap();
        let variables: BTreeMap<String, String> = serde_json::from_str(variables).unwrap();
        assert_eq!(variables["THRESHOLD"], "0.5");
        assert!(plan["Cmd"].as_array().unwrap().iter().all(|word| word != "--probe"), "{plan}");
    }

    #[test]
    fn only_containers_of_ours_are_read() {
        let labels = |owner: &str, id: &str| json!({ OWNER: owner, MACHINE: "prod/box", INSTANCE: id, SERVICE: "wine", REVISION: "2", GENERATION: "5" });
        let listed = |labels: Value, ports: Value| -> Listed {
            serde_json::from_value(
                json!({ "Id": "c", "State": "running", "Labels": labels, "Ports": ports, "More": 1 }),
            )
            .unwrap()
        };
        let ports = json!([
            { "IP": "127.0.0.1", "PrivatePort": 8080, "PublicPort": 32_768, "Type": "tcp" },
            { "IP": "127.0.0.1", "PrivatePort": 8081, "PublicPort": 32_769, "Type": "tcp" },
        ]);
        let one = listed(labels("0123456789ab", "wine-r2-7"), ports);
        let who = one.who(&ours()).unwrap();
        assert_eq!((who.id.as_str(), who.revision, who.generation), ("wine-r2-7", RevisionNumber(2), 5));
        assert_eq!(one.addresses(&who).unwrap().0, "127.0.0.1:32768".parse().unwrap());
        let open = json!([{ "IP": "0.0.0.0", "PrivatePort": 8080, "PublicPort": 1, "Type": "tcp" }]);
        assert_eq!(listed(labels("0123456789ab", "wine-r2-7"), open).addresses(&who), None, "not on loopback");
        for strange in [labels("other", "wine-r2-7"), labels("0123456789ab", "../x"), json!({}), Value::Null] {
            assert_eq!(listed(strange, Value::Null).who(&ours()), None);
        }
    }

    #[test]
    fn ends_are_told_apart() {
        let state = |document: Value| serde_json::from_value::<State>(document).unwrap().exit(Timestamp(9), false);
        let ended = |code: i64| json!({ "Status": "exited", "ExitCode": code, "StartedAt": "2026-01-01T00:00:00Z", "FinishedAt": "2026-01-01T00:00:01.5Z" });
        assert_eq!((state(ended(7)).code, state(ended(7)).signal), (Some(7), None));
        assert_eq!((state(ended(137)).code, state(ended(137)).signal), (None, Some(9)));
        assert_eq!(state(ended(0)).at, Timestamp(1_767_225_601_500));
        let never = json!({ "Status": "created", "ExitCode": 127, "Error": "no such file", "StartedAt": "0001-01-01T00:00:00Z" });
        assert_eq!(state(never).start_error.as_deref(), Some("no such file"));
    }

    #[test]
    fn figures_and_words_are_read_from_what_the_engine_sends() {
        let stats = json!({ "memory_stats": { "usage": 100, "stats": { "total_inactive_file": 40 } } });
        assert_eq!((memory_bytes(&stats), memory_bytes(&json!({}))), (Some(60), None));
        let frames = [
            &[1, 0, 0, 0, 0, 0, 0, 3][..],
            b"ab\n",
            &[2, 0, 0, 0, 0, 0, 0, 2],
            b"c\n",
            &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
            b"cut",
        ]
        .concat();
        assert_eq!(said(&frames), b"ab\nc\ncut");
        assert_eq!(said(b"short"), b"");
    }
}
