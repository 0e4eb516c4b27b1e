//! Stores that cannot be used: what is said, and that no secret is; tables of other builds.

use std::io::{Read, Write};
use std::net::TcpListener;

use modelyard_registry::Store;
use modelyard_registry::storage::Settings;

use crate::support::stores::{Stores, fresh_name};

/// What is said when the registry cannot be opened.
fn refused(settings: &Settings) -> String {
    let home = tempfile::tempdir().unwrap();
    let error = Store::open_with(home.path().join("registry"), home.path().join("unpacked"), settings).unwrap_err();
    let told = format!("{error} / {}", miette::Diagnostic::help(&error).unwrap());
    assert!(!told.contains("hunter2"), "a secret is told: {told}");
    told
}

/// An S3 server that refuses everything in the same words.
fn refusing(status: &'static str, code: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let body = format!("<Error><Code>{code}</Code><Message>refused by the test</Message></Error>");
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        }
    });
    address
}

fn bucket(endpoint: String) -> Settings {
    Settings {
        blobs: Some("s3://models/a".to_owned()),
        endpoint: Some(endpoint),
        region: Some("us-east-1".to_owned()),
        access_key_id: Some("tests".to_owned()),
        secret_access_key: Some("hunter2".to_owned()),
        metadata: None,
    }
}

#[test]
fn a_bucket_that_cannot_be_used_is_named_with_the_reason() {
    let key = refused(&bucket(refusing("403 Forbidden", "InvalidAccessKeyId")));
    assert!(key.contains("`s3://models/a`") && key.contains("InvalidAccessKeyId"), "{key}");
    assert!(key.contains("AWS_ACCESS_KEY_ID"), "what to look at: {key}");
    let missing = refused(&bucket(refusing("404 Not Found", "NoSuchBucket")));
    assert!(missing.contains("NoSuchBucket") || missing.contains("not found"), "{missing}");
    let nowhere = refused(&bucket("http://127.0.0.1:9".to_owned()));
    assert!(nowhere.contains("Connection refused"), "{nowhere}");
    let clear = refused(&bucket("http://s3.example.com".to_owned()));
    assert!(clear.to_lowercase().contains("http"), "not in the clear: {clear}");
    let url = refused(&Settings { blobs: Some("models".to_owned()), ..Settings::default() });
    assert!(url.contains("does not begin with `s3://`"), "{url}");
}

#[test]
fn a_database_that_cannot_be_used_is_named_with_the_reason() {
    let ask = |url: &str| refused(&Settings { metadata: Some(url.to_owned()), ..Settings::default() });
    let nowhere = ask("postgresql://me:hunter2@127.0.0.1:9/models");
    assert!(nowhere.contains("`models`") && nowhere.contains("Connection refused"), "{nowhere}");
    let url = ask("mysql://me:hunter2@127.0.0.1/models");
    assert!(url.contains("does not begin with `postgresql://`"), "{url}");
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn a_wrong_password_bucket_or_database_is_told() {
    let (stores, name) = (Stores::here(), fresh_name());
    stores.ask("postgres", "CREATE ROLE guarded LOGIN PASSWORD 'right'");
    stores.ask("postgres", &format!("CREATE DATABASE {name} OWNER guarded"));
    let with = |password: &str, database: &str| {
        let url =
            stores.database(&name).replace("modelyard@", &format!("guarded:{password}@")).replace(&name, database);
        Settings { metadata: Some(url), ..Settings::default() }
    };
    let wrong = refused(&with("hunter2", &name));
    assert!(wrong.contains("password authentication failed"), "{wrong}");
    let missing = refused(&with("right", "nowhere"));
    assert!(missing.contains("\"nowhere\""), "{missing}");
    let home = tempfile::tempdir().unwrap();
    Store::open_with(home.path().join("registry"), home.path().join("unpacked"), &with("right", &name)).unwrap();
    let other = Settings { blobs: Some("s3://no-such-bucket".to_owned()), ..stores.bucket("x") };
    let told = refused(&other);
    assert!(told.contains("`s3://no-such-bucket`") && told.to_lowercase().contains("bucket"), "{told}");
}

#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn tables_are_made_once_and_those_of_a_newer_build_are_left_alone() {
    let (stores, name) = (Stores::here(), fresh_name());
    let settings = Settings { metadata: Some(stores.database(&name)), ..Settings::default() };
    let home = tempfile::tempdir().unwrap();
    let open = || Store::open_with(home.path().join("registry"), home.path().join("unpacked"), &settings);
    std::thread::scope(|scope| {
        let opening: Vec<_> = (0..8).map(|_| scope.spawn(|| open().map(drop))).collect();
        opening.into_iter().for_each(|opening| opening.join().unwrap().unwrap());
    });
    assert_eq!(stores.ask(&name, "SELECT form FROM modelyard_form"), ["1"]);
    stores.ask(&name, "INSERT INTO modelyard_form VALUES (2)");
    let told = refused(&settings);
    assert!(told.contains("form 2") && told.contains("reads up to 1"), "{told}");
    stores.ask(&name, "DELETE FROM modelyard_form WHERE form = 2");
    // Once the tables are there, nobody needs the right to make any.
    let role = format!("{name}_user");
    stores.ask(
        &name,
        &format!(
            "CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}"
        ),
    );
    let url = stores.database(&name).replace("modelyard@", &format!("{role}@"));
    let settings = Settings { metadata: Some(url), ..Settings::default() };
    let store = Store::open_with(home.path().join("registry"), home.path().join("unpacked"), &settings).unwrap();
    let by = modelyard_registry::catalog::By { name: "ada".to_owned(), at: modelyard_core::Timestamp(0) };
    assert!(store.register(&modelyard_core::ModelName::new("wine").unwrap(), &by).unwrap());
}
