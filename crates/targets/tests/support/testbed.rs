//! Plays Modelyard's binary (`instance`, `serve`) and the programs of packages (`act`), well-behaved and not, for the tests of the targets.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::zombie_processes, reason = "a test program")]

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["instance", dir] => {
            if let Err(error) = modelyard_targets::process::supervise(Path::new(dir)) {
                eprintln!("{error}");
                std::process::exit(1);
            }
        }
        ["serve", ..] if std::env::var("ACT").is_ok_and(|act| act == "eat") => eat(),
        ["serve", options @ ..] => serve(options),
        ["--version"] => say("testbed"),
        ["--home", home, "target"] => target(Path::new(home)),
        ["--home", home, "target", "--take"] => take(Path::new(home)),
        ["act", what @ ..] => act(what),
        other => panic!("unknown words {other:?}"),
    }
}

/// Packages of a machine: one folder for all of them, once a package was taken.
struct OneFolder(std::path::PathBuf);

impl modelyard_targets::ssh::Depot for OneFolder {
    fn folder(&self, _: &modelyard_core::Digest) -> Result<Option<std::path::PathBuf>, String> {
        Ok(self.0.is_dir().then(|| self.0.clone()))
    }
}

/// The far side of the target `ssh`.
fn target(home: &Path) {
    let home = modelyard_core::home::Home::new(std::path::absolute(home).unwrap());
    let target = modelyard_targets::ProcessTarget::new(std::env::current_exe().unwrap(), &home);
    let depot = Arc::new(OneFolder(home.root().join("package")));
    let far = modelyard_targets::ssh::Far { target, depot, home };
    let _ = far.serve();
}

/// Takes a package: notes that it came.
fn take(home: &Path) {
    let mut package = String::new();
    std::io::Read::read_to_string(&mut std::io::stdin(), &mut package).unwrap();
    assert_eq!(package, "a package");
    std::fs::create_dir_all(home.join("package")).unwrap();
    let mut taken = std::fs::OpenOptions::new().create(true).append(true).open(home.join("taken")).unwrap();
    taken.write_all(b"x").unwrap();
}

/// Announces itself as the model server does.
fn serve(options: &[&str]) {
    let option = |name: &str| options.windows(2).find(|pair| pair[0] == name).map(|pair| pair[1]).unwrap();
    let (http, probe) = (TcpListener::bind(option("--http")).unwrap(), TcpListener::bind(option("--probe")).unwrap());
    // As the first process of a container, it ends at nothing that it does not listen for.
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGTERM, 0, Arc::new(AtomicBool::new(true)))
        .unwrap();
    say("it serves");
    if !options.contains(&"--announce") {
        rest();
    }
    let announcement = modelyard_core::home::Announcement {
        address: http.local_addr().unwrap(),
        probe: Some(probe.local_addr().unwrap()),
    };
    let (file, aside) = (option("--announce"), format!("{}.tmp", option("--announce")));
    std::fs::write(&aside, serde_json::to_vec(&announcement).unwrap()).unwrap();
    std::fs::rename(aside, file).unwrap();
    rest();
}

fn act(what: &[&str]) {
    match what {
        ["listen"] => listen(),
        ["exit", code] => std::process::exit(code.parse().unwrap()),
        ["listen-then-exit", code] => {
            let _listener = bind();
            say("until the file `go` is there");
            wait_for(Path::new("go"));
            std::process::exit(code.parse().unwrap());
        }
        ["abort"] => std::process::abort(),
        ["eat"] => {
            let _listener = bind();
            eat();
        }
        ["eat-unheard"] => eat(),
        ["eat-in-a-child"] => {
            Command::new(std::env::current_exe().unwrap()).args(["act", "eat-unheard"]).spawn().unwrap();
            listen();
        }
        ["say", lines] => {
            (0..lines.parse().unwrap()).for_each(|number: u32| say(&format!("line {number}")));
            std::io::stderr().write_all(b"\x1b[2Jhostile \xff\n").unwrap();
            listen();
        }
        ["environment"] => {
            std::env::vars().for_each(|(name, value)| say(&format!("{name}={value}")));
            say(&format!("cwd={}", std::env::current_dir().unwrap().display()));
            listen();
        }
        ["stubborn"] => {
            signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false))).unwrap();
            listen();
        }
        ["family", tag] => {
            // A grandchild, one in a session of its own, and one that forgot where it comes from.
            let script = format!("sleep {tag}1 & setsid sleep {tag}2 & env -i setsid sleep {tag}3 & wait");
            Command::new("sh").args(["-c", &script]).spawn().unwrap();
            listen();
        }
        ["family-and-exit", tag] => {
            let script = format!("setsid sleep {tag}1 & sleep {tag}2 & env -i setsid sleep {tag}3 &");
            Command::new("sh").args(["-c", &script]).status().unwrap();
            std::process::exit(7);
        }
        ["lose-the-port"] => lose_the_port(),
        ["flood"] => {
            let mut out = std::io::stdout().lock();
            (0..400_000).for_each(|number: u32| writeln!(out, "{number:063}").unwrap());
        }
        ["mute"] => {
            let mut listens = Command::new(std::env::current_exe().unwrap());
            let error = listens.args(["act", "listen"]).stdout(Stdio::null()).stderr(Stdio::null()).exec();
            panic!("{error}");
        }
        ["count-own"] => {
            let id = std::env::var("MODELYARD_INSTANCE").unwrap();
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(id).unwrap();
            file.write_all(b"x").unwrap();
            listen();
        }
        ["count"] => {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open("starts").unwrap();
            file.write_all(b"x").unwrap();
            listen();
        }
        other => panic!("unknown act {other:?}"),
    }
}

fn say(line: &str) {
    println!("{line}");
}

fn rest() -> ! {
    loop {
        std::thread::park();
    }
}

fn bind() -> TcpListener {
    let port: u16 = std::env::var("PORT").unwrap().parse().unwrap();
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| {
        eprintln!("cannot listen on {port}: {error}");
        std::process::exit(98);
    })
}

fn listen() -> ! {
    let _listener = bind();
    rest()
}

fn eat() -> ! {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    loop {
        eaten.push(vec![1; 4 << 20]);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn wait_for(path: &Path) {
    while !path.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// The first time, tells the test which port it was given, and waits until the test took it.
fn lose_the_port() -> ! {
    if !Path::new("taken").exists() {
        std::fs::write("wanted.tmp", std::env::var("PORT").unwrap()).unwrap();
        std::fs::rename("wanted.tmp", "wanted").unwrap();
        wait_for(Path::new("taken"));
    }
    listen()
}
