//! Connections that break: the client's, and those to the stores.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use modelyard_registry::storage::Settings;

use crate::support::stores::{Stores, fresh_name};
use crate::support::{Served, digest};
use crate::{Pair, Site, image, pull_whole, put};

pub fn a_push_that_breaks_off_goes_on_where_it_stood(pair: Pair) {
    let site = Site::new(pair);
    let registry = site.served(0);
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| (n % 249) as u8).collect();
    let place = registry.call("POST", "/v2/a/blobs/uploads/", &[], b"").expect(202).header("location").to_owned();
    let mut stream = TcpStream::connect(registry.address).unwrap();
    let head = format!("PATCH {place} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", bytes.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&bytes[..1_000_000]).unwrap();
    stream.shutdown(Shutdown::Both).unwrap();
    drop(stream);
    let name = digest(&bytes);
    registry.get(&format!("/v2/a/blobs/{name}")).refused(404, "BLOB_UNKNOWN");
    assert_eq!(site.kept(&name), None);
    let stands = registry.get(&place).expect(204).header("range").to_owned();
    let last: usize = stands.strip_prefix("0-").unwrap().parse().unwrap();
    let from = if last == 0 { 0 } else { last + 1 };
    assert!(from <= 1_000_000, "{stands}");
    let range = format!("{from}-{}", bytes.len() - 1);
    registry.call("PUT", &format!("{place}?digest={name}"), &[("content-range", &range)], &bytes[from..]).expect(201);
    assert!(registry.get(&format!("/v2/a/blobs/{name}")).expect(200).body == bytes);
}

/// Something in between that can be cut: every connection breaks, and new ones are refused until it is mended.
struct Between {
    port: u16,
    is_cut: Arc<AtomicBool>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    cuts: AtomicU32,
}

impl Between {
    fn new<S: Stream>(connect: impl Fn() -> std::io::Result<S> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_cut, open) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (cut, streams) = (Arc::clone(&is_cut), Arc::clone(&open));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                if cut.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = connect() else { continue };
                streams.lock().unwrap().push(near.try_clone().unwrap());
                let (near_again, far_again) = (near.try_clone().unwrap(), far.twin());
                std::thread::spawn(move || forward(near, far));
                std::thread::spawn(move || forward(far_again, near_again));
            }
        });
        Self { port, is_cut, open, cuts: AtomicU32::new(0) }
    }

    fn cut(&self) {
        self.is_cut.store(true, Ordering::SeqCst);
        self.cuts.fetch_add(1, Ordering::Relaxed);
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

trait Stream: Read + Write + Send + 'static {
    fn twin(&self) -> Self;
    fn close(&self);
}

impl Stream for TcpStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Stream for UnixStream {
    fn twin(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn close(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

fn forward(mut from: impl Stream, mut to: impl Stream) {
    let _ = std::io::copy(&mut from, &mut to);
    from.close();
    to.close();
}

fn try_push(registry: &Served, nth: u32) -> Option<String> {
    let layer = format!("layer {nth}");
    let push = |bytes: &[u8]| {
        let place = format!("/v2/a/blobs/uploads/?digest={}", digest(bytes));
        let reply = registry.call("POST", &place, &[], bytes);
        assert!([201, 503].contains(&reply.status), "{}: {}", reply.status, String::from_utf8_lossy(&reply.body));
        reply.status == 201
    };
    if !push(b"{}") || !push(layer.as_bytes()) {
        return None;
    }
    let bytes = image(&digest(b"{}"), &digest(layer.as_bytes()), layer.len());
    let reply = put(registry, "a", &format!("t{nth}"), &bytes);
    assert!([201, 503].contains(&reply.status), "{}: {}", reply.status, String::from_utf8_lossy(&reply.body));
    (reply.status == 201).then(|| format!("t{nth}"))
}

/// While pushes go on, the way to a store is cut again and again. What was acknowledged is there; what was not is there whole or not at all.
fn cut_while_pushing(between: &Between, registry: &Served, site: &Settings) {
    let over = AtomicBool::new(false);
    let mut pushed = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Now soon, now late: at every point of a push, and some pushes in peace.
            for nth in 0_u64.. {
                std::thread::park_timeout(Duration::from_millis(50 + nth * 379 % 1_400));
                if over.load(Ordering::Relaxed) {
                    return;
                }
                between.cut();
                std::thread::park_timeout(Duration::from_millis(50));
                between.mend();
            }
        });
        let end = Instant::now() + Duration::from_secs(60);
        let mut nth = 0;
        while (pushed.len() < 8 || between.cuts.load(Ordering::Relaxed) < 8) && Instant::now() < end {
            nth += 1;
            pushed.extend(try_push(registry, nth));
        }
        over.store(true, Ordering::Relaxed);
    });
    between.mend();
    assert!(pushed.len() >= 8, "{} pushes went through", pushed.len());
    let home = tempfile::tempdir().unwrap();
    let elsewhere = Served::open_with(home.path(), site);
    for tag in &pushed {
        pull_whole(&elsewhere, "a", tag);
    }
    for tag in elsewhere.get("/v2/a/tags/list").json()["tags"].as_array().unwrap() {
        pull_whole(&elsewhere, "a", tag.as_str().unwrap());
    }
    let swept = elsewhere.distribution.sweep_blocking(Duration::ZERO, false).unwrap();
    assert!(swept.damaged.is_empty(), "{swept:?}");
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn a_database_that_is_cut_off_loses_nothing() {
    let (stores, name) = (Stores::here(), fresh_name());
    let site = Settings { metadata: Some(stores.database(&name)), ..stores.bucket(&name) };
    let socket = stores.socket.join(".s.PGSQL.5432");
    let between = Between::new(move || UnixStream::connect(&socket));
    let url = format!("postgresql://modelyard@127.0.0.1:{}/{name}", between.port);
    let home = tempfile::tempdir().unwrap();
    let registry = Served::open_with(home.path(), &Settings { metadata: Some(url), ..site.clone() });
    cut_while_pushing(&between, &registry, &site);
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn a_bucket_that_is_cut_off_loses_nothing() {
    let (stores, name) = (Stores::here(), fresh_name());
    let site = Settings { metadata: Some(stores.database(&name)), ..stores.bucket(&name) };
    let address = stores.endpoint.strip_prefix("http://").unwrap().to_owned();
    let between = Between::new(move || TcpStream::connect(&address));
    let endpoint = format!("http://127.0.0.1:{}", between.port);
    let home = tempfile::tempdir().unwrap();
    let registry = Served::open_with(home.path(), &Settings { endpoint: Some(endpoint), ..site.clone() });
    cut_while_pushing(&between, &registry, &site);
}

/// Tells this test program to be a registry: its folder, and the name of its site.
const SERVE: &str = "MODELYARD_TEST_SERVE";

/// A registry in a process of its own, that can be killed.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(home: &Path, name: &str) -> Self {
        let test = "crashes::a_registry_that_is_killed_leaves_nothing_half";
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.args([test, "--exact", "--include-ignored", "--nocapture"]).stdout(Stdio::piped());
        program.env(SERVE, format!("{}|{name}", home.display()));
        Stores::here().tell(&mut program);
        let mut child = program.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.split_once("listens on ").map(|(_, rest)| rest.to_owned()));
        Self { child, address: address.expect("the registry says its address") }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// The other side: this very test, as a registry.
fn serve(told: &str) {
    let (home, name) = told.split_once('|').unwrap();
    let stores = Stores::here();
    let registry =
        Served::open_with(Path::new(home), &Settings { metadata: Some(stores.database(name)), ..stores.bucket(name) });
    std::io::stdout().write_all(format!("listens on {}\n", registry.address).as_bytes()).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn a_registry_that_is_killed_leaves_nothing_half() {
    if let Ok(told) = std::env::var(SERVE) {
        return serve(&told);
    }
    let (stores, name, home) = (Stores::here(), fresh_name(), tempfile::tempdir().unwrap());
    let site = Settings { metadata: Some(stores.database(&name)), ..stores.bucket(&name) };
    let other_home = tempfile::tempdir().unwrap();
    let other = Served::open_with(other_home.path(), &site);
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 241) as u8).collect();
    let blob = digest(&bytes);
    let mut process = Process::start(home.path(), &name);
    let url = |process: &Process, path: &str| format!("http://{}{path}", process.address);
    let begun = other.call("POST", &url(&process, "/v2/a/blobs/uploads/"), &[], b"").expect(202);
    let place = begun.header("location").to_owned();
    other.call("PATCH", &url(&process, &place), &[("content-range", "0-39999999")], &bytes).expect(202);
    for pause_ms in [0, 30, 90, 180] {
        let finish = url(&process, &format!("{place}?digest={blob}"));
        let answer = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
                agent.put(&finish).send_empty().map(|answer| answer.status().as_u16()).ok()
            });
            std::thread::park_timeout(Duration::from_millis(pause_ms));
            process.kill();
            asking.join().unwrap()
        });
        // What is there is there whole; what was acknowledged is there.
        let kept = stores.s3("GET", &format!("/{name}/blobs/{}", blob.replace(':', "/")), b"");
        assert!(kept.0 == 404 || kept.1 == bytes, "half a blob of {} bytes", kept.1.len());
        let seen = other.call("HEAD", &format!("/v2/a/blobs/{blob}"), &[], b"").status;
        assert!(seen == 404 || kept.0 == 200, "a name without its blob");
        assert!(answer != Some(201) || seen == 200, "it was acknowledged and is not there");
        process = Process::start(home.path(), &name);
        if other.call("GET", &url(&process, &place), &[], b"").status == 404 {
            break; // it went through
        }
    }
    if other.call("HEAD", &format!("/v2/a/blobs/{blob}"), &[], b"").status == 404 {
        other.call("PUT", &url(&process, &format!("{place}?digest={blob}")), &[], b"").expect(201);
    }
    assert!(other.get(&format!("/v2/a/blobs/{blob}")).expect(200).body == bytes);
    assert!(other.distribution.sweep_blocking(Duration::ZERO, false).unwrap().damaged.is_empty());
    process.kill();
}
