//! The stores beside the folder: PostgreSQL and an S3 server, each started once for a test program, ended with it, and gone without a trace.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use modelyard_registry::storage::Settings;
use sha2::{Digest as _, Sha256};

/// Tells a test program that is started again by itself where the stores are.
const TOLD: &str = "MODELYARD_TEST_STORES";

/// The bucket that there is.
pub const BUCKET: &str = "models";

/// Runs a database below `$1` with the programs of `$2` until the standard input ends; `$3` is its port, and `$4`, if it is there, an address at
/// which it takes TLS and nothing else. As root it may not run.
const POSTGRES: &str = r#"
as=""
if [ "$(id -u)" = 0 ]; then chown nobody "$1"; as="setpriv --reuid=nobody --regid=nogroup --clear-groups"; fi
cd "$1" || exit 1
$as "$2/initdb" -D "$1/data" -U modelyard -A trust -E UTF8 --locale=C --locale-provider=icu --icu-locale=en-US --no-sync || { cd /; rm -rf "$1"; exit 1; }
printf 'local all guarded scram-sha-256\nlocal all all trust\nhostssl all all 127.0.0.0/8 trust\n' > "$1/data/pg_hba.conf"
if [ -n "$4" ]; then
  printf '[req]\ndistinguished_name=name\nx509_extensions=more\n[name]\n[more]\nsubjectAltName=IP:%s\nbasicConstraints=CA:FALSE\n' "$4" > data/tls.conf
  $as openssl req -x509 -config data/tls.conf -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=tests -keyout data/server.key -out data/server.crt
  tls="-c ssl=on"
fi
$as "$2/postgres" -D "$1/data" -k "$1" -h "$4" -p "$3" -F -c max_connections=400 $tls &
server=$!
read -r _
kill -INT $server; wait $server; cd /; rm -rf "$1"
"#;

/// Where the stores are.
#[derive(Clone)]
pub struct Stores {
    /// Folder of the database's socket.
    pub socket: PathBuf,
    /// Address of the S3 server.
    pub endpoint: String,
}

impl Stores {
    /// Both, started if they are not.
    pub fn here() -> &'static Self {
        static STORES: OnceLock<Stores> = OnceLock::new();
        STORES.get_or_init(|| told().unwrap_or_else(Self::start))
    }

    fn start() -> Self {
        let endpoint = start_s3();
        Self { socket: start_postgres(5432, None), endpoint }
    }

    /// What a test program that is started again has to be told.
    pub fn tell(&self, program: &mut Command) {
        program.env(TOLD, format!("{}|{}", self.socket.display(), self.endpoint));
    }

    /// Settings of a bucket's prefix.
    pub fn bucket(&self, prefix: &str) -> Settings {
        Settings {
            blobs: Some(format!("s3://{BUCKET}/{prefix}")),
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            access_key_id: Some("tests".to_owned()),
            secret_access_key: Some("hunter2".to_owned()),
            metadata: None,
        }
    }

    /// Address of a database, made if it is not there.
    pub fn database(&self, name: &str) -> String {
        let there = self.ask("postgres", &format!("SELECT datname FROM pg_database WHERE datname = '{name}'"));
        if there.is_empty() {
            self.ask("postgres", &format!("CREATE DATABASE {name}"));
        }
        self.url(name)
    }

    fn url(&self, database: &str) -> String {
        let socket = self.socket.display().to_string().replace('/', "%2F");
        format!("postgresql://modelyard@{socket}/{database}")
    }

    /// Asks the database behind the registry's back; the first column of what it says.
    pub fn ask(&self, database: &str, sql: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) =
                tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await.unwrap();
            tokio::spawn(connection);
            let messages = client.simple_query(sql).await.unwrap();
            let row = |message: tokio_postgres::SimpleQueryMessage| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            };
            messages.into_iter().filter_map(row).collect()
        })
    }

    /// Asks the S3 server behind the registry's back; status and body.
    pub fn s3(&self, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        // It wants to see somebody, and does not look closely.
        let somebody =
            "AWS4-HMAC-SHA256 Credential=tests/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let request = ureq::http::Request::builder().method(method).uri(format!("{}/{BUCKET}{path}", self.endpoint));
        let request = request.header("authorization", somebody);
        let mut answer = match method {
            "PUT" => agent.run(request.body(body).unwrap()).unwrap(),
            _ => agent.run(request.body(()).unwrap()).unwrap(),
        };
        (answer.status().as_u16(), answer.body_mut().with_config().limit(1 << 30).read_to_vec().unwrap())
    }
}

fn told() -> Option<Stores> {
    let told = std::env::var(TOLD).ok()?;
    let (socket, endpoint) = told.split_once('|').unwrap();
    Some(Stores { socket: socket.into(), endpoint: endpoint.to_owned() })
}

/// The stores of the registry at `home`: the folder and SQLite, unless this test program was started again for the others.
pub fn settings_for(home: &Path) -> Settings {
    let Some(stores) = told() else { return Settings::default() };
    let name: String =
        Sha256::digest(home.as_os_str().as_encoded_bytes())[..8].iter().map(|b| format!("{b:02x}")).collect();
    let name = format!("home_{name}");
    Settings { metadata: Some(stores.database(&name)), ..stores.bucket(&name) }
}

/// A name that nobody else has.
pub fn fresh_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("site_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Tells a test program that it was started again by itself.
const AGAIN: &str = "MODELYARD_TEST_AGAIN";

/// Whether this test program was started again by itself.
pub fn is_again() -> bool {
    std::env::var_os(AGAIN).is_some()
}

/// Runs this test program again with these arguments, its registries over the stores if there are any.
pub fn again(arguments: &[&str], stores: Option<&Stores>) {
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.args(arguments).env(AGAIN, "1");
    if let Some(stores) = stores {
        stores.tell(&mut program);
    }
    let ran = program.output().unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{told}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(told.contains("test result: ok. ") && !told.contains("ok. 0 passed"), "{told}");
}

/// Starts a server that ends when this process does, however that comes: its standard input ends then. What it says.
fn lasting(command: &mut Command) -> Option<ChildStdout> {
    static KEPT: Mutex<Vec<Child>> = Mutex::new(Vec::new());
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let said = child.stdout.take();
    KEPT.lock().unwrap().push(child);
    said
}

fn start_s3() -> String {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/peers/s3_server.py");
    let said = lasting(Command::new(python).arg(script).stdout(Stdio::piped())).unwrap();
    let mut endpoint = String::new();
    BufReader::new(said).read_line(&mut endpoint).unwrap();
    assert!(endpoint.starts_with("http://127.0.0.1:"), "the S3 server said {endpoint:?}");
    endpoint.trim().to_owned()
}

/// Starts a database; the folder of its socket. At `tls`, if it is there, it takes TLS with the certificate `data/server.crt`.
pub fn start_postgres(port: u16, tls: Option<&str>) -> PathBuf {
    let programs = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed as Debian has it");
    let newest = programs.map(|entry| entry.unwrap().path().join("bin")).max().expect("a version of PostgreSQL");
    let folder = tempfile::Builder::new().prefix("modelyard-pg-").tempdir().unwrap().keep();
    let log = std::fs::File::create(folder.with_extension("log")).unwrap();
    let mut script = Command::new("sh");
    script.args(["-c", POSTGRES, "sh"]).arg(&folder).arg(newest).arg(port.to_string());
    script.args(tls).stdout(log.try_clone().unwrap()).stderr(log);
    lasting(&mut script);
    let deadline = Instant::now() + Duration::from_secs(60);
    while UnixStream::connect(folder.join(format!(".s.PGSQL.{port}"))).is_err() || !is_ready(&folder, port) {
        let log = || std::fs::read_to_string(folder.with_extension("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "the database is not ready: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = std::fs::remove_file(folder.with_extension("log"));
    folder
}

fn is_ready(socket: &Path, port: u16) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = format!("postgresql://modelyard@{}:{port}/postgres", socket.display().to_string().replace('/', "%2F"));
    runtime.block_on(async { tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok() })
}
