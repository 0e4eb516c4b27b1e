//! The registry behind its tokens, as container clients and Python's meet it.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

#[allow(dead_code, reason = "other tests use the rest")]
mod support;

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_registry::access::{Grant, Role, Scope, Tokens, now};
use serde_json::json;
use support::{Reply, Served};
use tempfile::TempDir;

/// A registry with the image `wine:1`, and its tokens; the first has been made.
struct Guarded {
    home: TempDir,
    tokens: Tokens,
    registry: Served,
}

impl Guarded {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let tokens = Tokens::at(home.path().join("tokens.json"));
        let registry = Served::behind(Some(tokens.clone()), home.path(), &support::stores::settings_for(home.path()));
        registry.image("wine", "1", b"weights", &json!({}));
        Self { home, tokens, registry }
    }

    /// Id and secret of a new token.
    fn token(&self, role: Role, repositories: &[&str]) -> (String, String) {
        let repositories = repositories.iter().map(|&name| name.to_owned()).collect();
        let scope = Scope { environment: None, repositories };
        let grant = Grant { name: "ci".to_owned(), role, scope, expires: None };
        let (entry, secret) = self.tokens.create(grant, now()).unwrap();
        (entry.id, secret)
    }

    /// A short-lived token for a lasting one, as Docker asks for it.
    fn short(&self, secret: Option<&str>, scopes: &[&str]) -> Reply {
        let scopes: Vec<String> = scopes.iter().map(|scope| format!("&scope={}", scope.replace(':', "%3A"))).collect();
        let path = format!("/token?service=modelyard&client_id=docker{}", scopes.concat());
        match secret {
            Some(secret) => self.registry.call("GET", &path, &[("authorization", &basic(secret))], b""),
            None => self.registry.get(&path),
        }
    }

    fn bearer(&self, method: &str, path: &str, token: &str) -> Reply {
        self.registry.call(method, path, &[("authorization", &format!("Bearer {token}"))], b"")
    }
}

fn basic(secret: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("anyone:{secret}")))
}

fn text(reply: &Reply) -> String {
    reply.json()["token"].as_str().unwrap().to_owned()
}

#[test]
fn a_lasting_token_is_changed_for_short_lived_ones_by_scope() {
    let guarded = Guarded::new();
    let (id, deployer) = guarded.token(Role::Deployer, &["wine*"]);
    let (_, admin) = guarded.token(Role::Admin, &[]);
    let challenge = guarded.registry.get("/v2/wine/manifests/1").expect(401).header("www-authenticate").to_owned();
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"modelyard\"", guarded.registry.address);
    assert_eq!(challenge, format!("{realm},scope=\"repository:wine:pull\""));
    let uploads = guarded.registry.call("POST", "/v2/wine/blobs/uploads/?from=vine&mount=sha256:0", &[], b"");
    let wanted = "scope=\"repository:wine:pull,push repository:vine:pull\"";
    assert!(uploads.expect(401).header("www-authenticate").contains(wanted));

    // `docker login`: no scope at all.
    let login = guarded.short(Some(&deployer), &[]).expect(200);
    assert_eq!((login.header("cache-control"), &login.json()["expires_in"]), ("no-store", &json!(300)));
    let issued: jiff::Timestamp = login.json()["issued_at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(issued).as_secs() < 60);
    guarded.bearer("GET", "/v2/", &text(&login)).expect(200);
    let more = guarded.bearer("GET", "/v2/wine/manifests/1", &text(&login)).expect(401);
    assert!(more.header("www-authenticate").ends_with("scope=\"repository:wine:pull\",error=\"insufficient_scope\""));

    let pull = text(&guarded.short(Some(&deployer), &["repository:wine:pull"]).expect(200));
    guarded.bearer("GET", "/v2/wine/manifests/1", &pull).expect(200);
    guarded.bearer("POST", "/v2/wine/blobs/uploads/", &pull).expect(401);
    let push = text(&guarded.short(Some(&deployer), &["repository:wine:pull,push", "repository:vine:pull"]));
    guarded.bearer("POST", "/v2/wine/blobs/uploads/", &push).expect(202);
    guarded.bearer("DELETE", "/v2/wine/manifests/1", &push).refused(403, "DENIED");
    // What the lasting token does not allow, a short-lived one does not either.
    let other = text(&guarded.short(Some(&deployer), &["repository:vine:pull", "registry:catalog:*"]).expect(200));
    guarded.bearer("GET", "/v2/vine/manifests/1", &other).refused(403, "DENIED");
    guarded.bearer("GET", "/v2/_catalog", &other).refused(403, "DENIED");
    let catalog = text(&guarded.short(Some(&admin), &["registry:catalog:*"]).expect(200));
    guarded.bearer("GET", "/v2/_catalog", &catalog).expect(200);
    // It is for containers alone.
    let index = guarded.bearer("GET", "/simple/", &catalog).expect(401);
    assert!(index.header("www-authenticate").starts_with("Basic "));

    assert!(guarded.tokens.revoke(&id, now()).unwrap().is_some());
    let revoked = guarded.bearer("GET", "/v2/wine/manifests/1", &pull).expect(401);
    assert!(revoked.header("www-authenticate").contains("error=\"invalid_token\""), "revoked at once");
    guarded.short(Some(&deployer), &[]).expect(401);
    // Any token works as it is, too.
    guarded.registry.call("GET", "/v2/_catalog", &[("authorization", &basic(&admin))], b"").expect(200);
}

#[test]
fn anybody_reads_what_is_open_through_a_token_for_nobody() {
    let guarded = Guarded::new();
    guarded.token(Role::Admin, &[]);
    let nobody = text(&guarded.short(None, &["repository:wine:pull,push"]).expect(200));
    guarded.bearer("GET", "/v2/wine/manifests/1", &nobody).expect(401);
    guarded.tokens.set_anonymous(vec!["wine".to_owned()]).unwrap();
    guarded.bearer("GET", "/v2/wine/manifests/1", &nobody).expect(200);
    guarded.bearer("POST", "/v2/wine/blobs/uploads/", &nobody).expect(401);
    guarded.bearer("GET", "/v2/", &nobody).expect(401);
    guarded.short(Some("mdy_none"), &[]).expect(401);
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_logs_in_copies_and_logs_out() {
    let guarded = Guarded::new();
    let (_, deployer) = guarded.token(Role::Deployer, &["wine*"]);
    let (_, admin) = guarded.token(Role::Admin, &[]);
    let address = guarded.registry.address.to_string();
    let (file, path) = (guarded.home.path().join("auth.json"), guarded.home.path().display().to_string());
    let skopeo = |arguments: &[&str]| {
        let (before, rest) = arguments.split_at(1);
        let mut command = Command::new("skopeo");
        command.arg("--insecure-policy").args(before).args(rest).env("REGISTRY_AUTH_FILE", &file).env("HOME", &path);
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let login =
        |secret: &str| skopeo(&["login", "--tls-verify=false", "--username", "ci", "--password", secret, &address]);
    let (done, told) = login("mdy_none");
    assert!(!done, "{told}");
    let (done, told) = login(&deployer);
    assert!(done && told.contains("Login Succeeded"), "{told}");
    let remote = |name: &str| format!("docker://{address}/{name}");
    let copy = |to: &str| {
        skopeo(&["copy", "--src-tls-verify=false", "--dest-tls-verify=false", &remote("wine:1"), &remote(to)])
    };
    let (done, told) = copy("wine-copy:1");
    assert!(done, "{told}");
    let (done, told) = copy("other:1");
    assert!(!done && told.contains("403"), "{told}");
    assert!(!skopeo(&["delete", "--tls-verify=false", &remote("wine-copy:1")]).0, "a deployer removes nothing");
    assert!(login(&admin).0);
    let (done, told) = skopeo(&["delete", "--tls-verify=false", &remote("wine-copy:1")]);
    assert!(done, "{told}");
    assert!(skopeo(&["logout", &address]).0);
    assert!(!copy("wine-copy:2").0, "nobody is logged in");
}

/// A wheel with next to nothing in it, made by Python.
const WHEEL: &str = r#"
import sys, zipfile
name = "wine_quality-1.0.dist-info"
with zipfile.ZipFile(sys.argv[1], "w") as wheel:
    wheel.writestr("wine_quality.py", "")
    wheel.writestr(f"{name}/METADATA", "Metadata-Version: 2.1\nName: wine-quality\nVersion: 1.0\n")
    wheel.writestr(f"{name}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{name}/RECORD", f"wine_quality.py,,\n{name}/METADATA,,\n{name}/WHEEL,,\n{name}/RECORD,,\n")
"#;

#[test]
#[ignore = "needs the Python peers"]
fn twine_uploads_with_a_token_as_password() {
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let guarded = Guarded::new();
    let (_, deployer) = guarded.token(Role::Deployer, &["wine-*"]);
    let (_, viewer) = guarded.token(Role::Viewer, &[]);
    let wheel = guarded.home.path().join("wine_quality-1.0-py3-none-any.whl");
    run(Command::new(&python).arg("-c").arg(WHEEL).arg(&wheel)).unwrap();
    let index = format!("http://{}/legacy/", guarded.registry.address);
    let upload = |secret: &str, wheel: &Path| {
        let mut twine = Command::new(&python);
        twine.args([
            "-m",
            "twine",
            "upload",
            "--non-interactive",
            "--disable-progress-bar",
            "--repository-url",
            &index,
        ]);
        run(twine.args(["--username", "__token__", "--password", secret]).arg(wheel).env("HOME", guarded.home.path()))
    };
    assert!(upload(&viewer, &wheel).unwrap_err().contains("403"));
    assert!(upload("mdy_none", &wheel).unwrap_err().contains("401"));
    upload(&deployer, &wheel).unwrap();
    let listed = guarded.registry.call("GET", "/simple/wine-quality/", &[("authorization", &basic(&viewer))], b"");
    assert!(String::from_utf8(listed.expect(200).body).unwrap().contains("wine_quality-1.0-py3-none-any.whl"));
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(told) }
}
