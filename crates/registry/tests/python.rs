//! The package index against its specifications: pages, negotiation, uploads, yanking, hostile input.
//!
//! Source: PyPA specification "Simple repository API" 1.1 (PEP 503, 592, 629, 658, 691, 700, 714) and PyPI's upload form.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[allow(dead_code, reason = "the other suites need the rest")]
mod support;

use std::io::Write as _;
use std::time::Duration;

use modelyard_registry::python::publish::{Login, PublishError, publish};
use support::{Reply, Served, digest};

const JSON: &str = "application/vnd.pypi.simple.v1+json";
const HTML: &str = "application/vnd.pypi.simple.v1+html";

fn served() -> (tempfile::TempDir, Served) {
    let home = tempfile::tempdir().unwrap();
    let served = Served::open(home.path());
    (home, served)
}

fn wheel_with(metadata: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    for (path, text) in metadata {
        archive.start_file(*path, options).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn wheel(version: &str, more: &str) -> Vec<u8> {
    let metadata = format!("Metadata-Version: 2.4\nName: Wine.Quality\nVersion: {version}\n{more}\n\n# Card\n");
    let path = format!("wine_quality-{version}.dist-info/METADATA");
    wheel_with(&[("wine_quality/__init__.py", ""), (&path, &metadata)])
}

fn form(fields: &[(&str, &str)], filename: &str, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        write!(body, "--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n").unwrap();
    }
    write!(body, "--B\r\nContent-Disposition: form-data; name=\"content\"; filename=\"{filename}\"\r\n\r\n").unwrap();
    body.extend_from_slice(content);
    body.extend_from_slice(b"\r\n--B--\r\n");
    body
}

fn send(registry: &Served, body: &[u8]) -> Reply {
    registry.call("POST", "/legacy/", &[("content-type", "multipart/form-data; boundary=B")], body)
}

fn upload(registry: &Served, version: &str, content: &[u8]) -> Reply {
    let fields = [
        (":action", "file_upload"),
        ("protocol_version", "1"),
        ("name", "wine-quality"),
        ("version", version),
        ("filetype", "bdist_wheel"),
        ("sha256_digest", &digest(content)[7..]),
    ];
    send(registry, &form(&fields, &format!("wine_quality-{version}-py3-none-any.whl"), content))
}

fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

#[test]
fn what_was_uploaded_is_listed_in_both_forms_and_given() {
    let (_home, registry) = served();
    let bytes = wheel("1.0.0", "Requires-Python: >=3.10,<4");
    upload(&registry, "1.0.0", &bytes).expect(200);

    let root = registry.call("GET", "/simple/", &[("accept", JSON)], b"").expect(200);
    assert_eq!(root.header("content-type"), JSON);
    assert_eq!(
        root.json(),
        serde_json::json!({ "meta": { "api-version": "1.1" }, "projects": [{ "name": "wine-quality" }] })
    );

    let page = registry.call("GET", "/simple/wine-quality/", &[("accept", JSON)], b"").expect(200).json();
    assert_eq!((page["name"].as_str(), page["versions"][0].as_str()), (Some("wine-quality"), Some("1.0.0")));
    let file = &page["files"][0];
    assert_eq!(file["filename"], "wine_quality-1.0.0-py3-none-any.whl");
    assert_eq!(file["hashes"]["sha256"], digest(&bytes)[7..]);
    assert_eq!((file["size"].as_u64(), &file["yanked"]), (Some(bytes.len() as u64), &serde_json::json!(false)));
    assert_eq!(file["requires-python"], ">=3.10,<4");
    assert!(file["upload-time"].as_str().unwrap().ends_with('Z'), "{file}");
    assert_eq!(file["core-metadata"], file["dist-info-metadata"]);

    let html = registry.call("GET", "/simple/wine-quality/", &[("accept", HTML)], b"").expect(200);
    assert_eq!(html.header("content-type"), HTML);
    let html = text(&html);
    let anchor = format!("href=\"../../files/wine_quality-1.0.0-py3-none-any.whl#sha256={}\"", &digest(&bytes)[7..]);
    assert!(html.contains(&anchor) && html.contains("data-requires-python=\"&gt;=3.10,&lt;4\""), "{html}");
    assert!(html.contains("data-core-metadata=\"sha256=") && html.contains("pypi:repository-version"), "{html}");

    let given = registry.get("/files/wine_quality-1.0.0-py3-none-any.whl").expect(200);
    assert_eq!(given.body, bytes);
    let metadata = registry.get("/files/wine_quality-1.0.0-py3-none-any.whl.metadata").expect(200);
    assert!(text(&metadata).starts_with("Metadata-Version: 2.4\nName: Wine.Quality\n"));
    assert_eq!(file["core-metadata"]["sha256"], digest(&metadata.body)[7..]);
    registry.get("/files/wine_quality-1.0.1-py3-none-any.whl").expect(404);
    registry.get("/simple/nothing/").expect(404);
}

#[test]
fn the_form_of_an_answer_is_negotiated() {
    let (_home, registry) = served();
    let kind = |accept: &str| {
        let reply = registry.call("GET", "/simple/", &[("accept", accept)], b"").expect(200);
        assert_eq!(reply.header("vary"), "Accept");
        reply.header("content-type").to_owned()
    };
    assert_eq!(kind("application/vnd.pypi.simple.latest+json"), JSON);
    assert_eq!(kind("application/vnd.pypi.simple.latest+html"), HTML);
    assert_eq!(kind("text/html"), "text/html; charset=utf-8");
    assert_eq!(kind("*/*"), "text/html; charset=utf-8");
    assert_eq!(kind(&format!("text/html;q=0.1, {JSON}")), JSON);
    let refused =
        registry.call("GET", "/simple/", &[("accept", "application/vnd.pypi.simple.v2+json")], b"").expect(406);
    assert!(text(&refused).contains(JSON), "{}", text(&refused));
    let asked = registry.get(&format!("/simple/?format={}", JSON.replace('+', "%2B"))).expect(200);
    assert_eq!(asked.header("content-type"), JSON);
}

#[test]
fn other_spellings_of_a_name_lead_to_the_one() {
    let (_home, registry) = served();
    upload(&registry, "1.0.0", &wheel("1.0.0", "")).expect(200);
    for path in ["/simple/Wine_Quality/", "/simple/wine.quality", "/simple/wine-quality"] {
        let reply = registry.call("GET", path, &[("accept", JSON)], b"").expect(200);
        assert_eq!(reply.json()["name"], "wine-quality", "{path}");
    }
    registry.get("/simple/..%2f..%2fetc/").expect(404);
}

#[test]
fn a_file_name_means_the_same_bytes_for_ever() {
    let (home, registry) = served();
    let bytes = wheel("1.0.0", "");
    upload(&registry, "1.0.0", &bytes).expect(200);
    upload(&registry, "1.0.0", &bytes).expect(200);
    let other = upload(&registry, "1.0.0", &wheel("1.0.0", "Summary: other")).expect(409);
    assert!(text(&other).contains("File already exists"), "twine looks for these words");
    drop(registry);
    let registry = Served::open(home.path());
    assert_eq!(registry.get("/files/wine_quality-1.0.0-py3-none-any.whl").expect(200).body, bytes);
}

#[test]
fn a_yanked_version_says_so_and_why() {
    let (_home, registry) = served();
    upload(&registry, "1.0.0", &wheel("1.0.0", "")).expect(200);
    let yanked = || {
        let page = registry.call("GET", "/simple/wine-quality/", &[("accept", JSON)], b"").expect(200).json();
        page["files"][0]["yanked"].clone()
    };
    let address = "/legacy/Wine.Quality/1.0.0/yank";
    assert_eq!(registry.call("POST", address, &[], b"").expect(200).json()["files"], 1);
    assert_eq!(yanked(), true);
    registry.call("POST", address, &[], br#"{"reason": "answers <wrong>"}"#).expect(200);
    assert_eq!(yanked(), "answers <wrong>");
    let html = text(&registry.get("/simple/wine-quality/").expect(200));
    assert!(html.contains("data-yanked=\"answers &lt;wrong&gt;\""), "{html}");
    registry.call("DELETE", address, &[], b"").expect(200);
    assert_eq!(yanked(), false);
    registry.call("POST", "/legacy/wine-quality/9/yank", &[], b"").expect(404);
    registry.call("POST", address, &[], b"{\"why\": 1}").expect(400);
}

#[test]
fn uploads_that_do_not_agree_with_themselves_are_refused() {
    let (_home, registry) = served();
    let bytes = wheel("1.0.0", "");
    let good = [(":action", "file_upload"), ("name", "wine-quality"), ("version", "1.0.0")];
    let with = |field: (&'static str, &'static str)| {
        let others = good.iter().copied().filter(|(name, _)| *name != field.0);
        others.chain([field]).collect::<Vec<_>>()
    };
    let name = "wine_quality-1.0.0-py3-none-any.whl";
    let refused = |body: &[u8], says: &str| {
        let reply = send(&registry, body).expect(400);
        assert!(text(&reply).contains(says), "{says}: {}", text(&reply));
    };
    refused(&form(&with((":action", "submit")), name, &bytes), "file_upload");
    refused(&form(&with(("name", "other")), name, &bytes), "`name`");
    refused(&form(&with(("version", "2")), name, &bytes), "`version`");
    refused(&form(&with(("filetype", "sdist")), name, &bytes), "`filetype`");
    refused(&form(&with(("sha256_digest", "00")), name, &bytes), "sha256_digest");
    refused(&form(&with(("blake2_256_digest", "00")), name, &bytes), "blake2_256_digest");
    refused(&form(&good[..1], name, &bytes), "no field `name`");
    refused(&form(&good, name, b"no zip"), "no zip archive");
    refused(&form(&good, name, &wheel_with(&[("x/METADATA", "")])), "0 files");
    refused(&form(&good, name, &wheel("1.0.1", "")), "version `1.0.1`");
    for hostile in
        ["../wine_quality-1.0.0-py3-none-any.whl", "/etc/passwd", "wine_quality-1.0.0.exe", "", "a\\b-1.tar.gz"]
    {
        refused(&form(&good, hostile, &bytes), "no file name");
    }
    refused(b"--B\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\ncut off", "cannot be read");
    registry.call("POST", "/legacy/", &[("content-type", "application/json")], b"{}").expect(415);
    let projects = registry.call("GET", "/simple/", &[("accept", JSON)], b"").expect(200).json();
    assert_eq!(projects["projects"], serde_json::json!([]), "nothing of all this is in the index");
}

#[test]
fn a_sweep_leaves_what_the_index_needs() {
    let (_home, registry) = served();
    let bytes = wheel("1.0.0", "");
    upload(&registry, "1.0.0", &bytes).expect(200);
    registry.distribution.sweep_blocking(Duration::ZERO, false).unwrap();
    assert_eq!(registry.get("/files/wine_quality-1.0.0-py3-none-any.whl").expect(200).body, bytes);
    registry.get("/files/wine_quality-1.0.0-py3-none-any.whl.metadata").expect(200);
}

#[test]
fn what_we_publish_is_what_the_index_gives() {
    let (home, registry) = served();
    let path = home.path().join("wine_quality-1.0.0-py3-none-any.whl");
    let bytes = wheel("1.0.0", "Requires-Python: >=3.10");
    std::fs::write(&path, &bytes).unwrap();
    let url = format!("http://{}/legacy/", registry.address);
    let login = Login::Basic { name: "me".to_owned(), secret: "secret".to_owned() };
    let published = publish(&url, Some(&login), &path).unwrap();
    assert_eq!((published.digest.to_string(), published.size_bytes), (digest(&bytes), bytes.len() as u64));
    assert_eq!(registry.get("/files/wine_quality-1.0.0-py3-none-any.whl").expect(200).body, bytes);

    std::fs::write(&path, wheel("1.0.0", "Summary: changed")).unwrap();
    let refused = publish(&url, None, &path).unwrap_err();
    assert!(matches!(refused, PublishError::Refused { status: 409, .. }), "{refused}");
    let wrong = publish(&url, None, &home.path().join("notes.txt")).unwrap_err();
    assert!(matches!(wrong, PublishError::NoPackage { .. }), "{wrong}");
    let nowhere = publish("http://127.0.0.1:9/legacy/", None, &path).unwrap_err();
    assert!(matches!(nowhere, PublishError::Unreachable { .. }), "{nowhere}");
}

/// Everything above once more, with the blobs in an S3-compatible store and the rest in PostgreSQL.
#[test]
#[ignore = "needs the Python peers and PostgreSQL"]
fn all_of_it_over_the_bucket_and_postgresql() {
    support::stores::again(&[], Some(support::stores::Stores::here()));
}
