//! A database on another machine: reached by TLS and by nothing else, and only if it is who it says.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};

use modelyard_registry::storage::Settings;

use crate::support::Served;
use crate::support::stores::{is_again, start_postgres};
use crate::{image, pull_whole, put};

const NAME: &str = "tls::the_database_is_asked_by_tls_and_must_be_who_it_says";
const DATABASE: &str = "MODELYARD_TEST_DATABASE";

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn the_database_is_asked_by_tls_and_must_be_who_it_says() {
    if is_again() {
        return push_and_pull(&std::env::var(DATABASE).unwrap());
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let folder = start_postgres(port, Some("127.0.0.1"));
    let certificate = folder.join("data/server.crt");
    let at = |host: &str, mode: &str| format!("postgresql://modelyard@{host}:{port}/postgres?sslmode={mode}");

    let told = run(&at("127.0.0.1", "require"), Some(&certificate));
    assert!(told.status.success(), "{}", text(&told));
    // The database takes nothing else, so that whoever got in came by TLS.
    assert_refused(&at("127.0.0.1", "disable"), Some(&certificate), "no encryption");
    assert_refused(&at("127.0.0.1", "require"), None, "UnknownIssuer");
    assert_refused(&at("localhost", "require"), Some(&certificate), "not valid for name");
}

fn run(database: &str, trusted: Option<&Path>) -> Output {
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([NAME, "--exact", "--include-ignored"]).env("MODELYARD_TEST_AGAIN", "1").env(DATABASE, database);
    match trusted {
        Some(certificate) => again.env("PGSSLROOTCERT", certificate),
        None => again.env_remove("PGSSLROOTCERT"),
    };
    again.output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn assert_refused(database: &str, trusted: Option<&Path>, why: &str) {
    let told = run(database, trusted);
    assert!(!told.status.success() && text(&told).contains(why), "{database}: {}", text(&told));
}

fn push_and_pull(database: &str) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings { metadata: Some(database.to_owned()), ..Settings::default() };
    let registry = Served::open_with(folder.path(), &settings);
    let (config, layer) = (registry.push("wine", b"{}"), registry.push("wine", b"weights"));
    put(&registry, "wine", "1.0.0", &image(&config, &layer, 7)).expect(201);
    pull_whole(&registry, "wine", "1.0.0");
}
