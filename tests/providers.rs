//! Metrics that are kept elsewhere, from `service.toml` to a verdict: a real Prometheus that scrapes the gateway, and a web hook over HTTPS.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use support::alarm::{Callers, fixture, service};
use support::{World, until};

/// A server that ends with its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A canary that a threshold on one metric guards.
fn guarded(metric: &str) -> String {
    format!(
        "[strategy]\nkind = \"canary\"\nsteps = [\"20%\", \"100%\"]\nbake = \"10m\"\n\n[judge]\nkind = \"threshold\"\n\n[[metrics]]\n{metric}"
    )
}

#[test]
#[ignore = "needs prometheus"]
fn a_query_of_prometheus_holds_a_candidate() {
    let world = World::up();
    let folder = world.scratch("prometheus");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let scrape = format!(
        "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: gateway\n    static_configs: [ {{ targets: ['{}'] }} ]\n",
        world.gateway
    );
    let configuration = folder.join("prometheus.yml");
    std::fs::write(&configuration, scrape).unwrap();
    let prometheus = Server(
        Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap(),
    );
    until("Prometheus is ready", 60, || ureq::get(format!("http://127.0.0.1:{port}/-/ready")).call());

    // What an operator would ask: how much a revision was used. The limit is what makes this candidate fail for certain.
    let metric = format!(
        "name = \"answers\"\nkind = \"mean\"\nfrom = \"prometheus\"\nurl = \"http://127.0.0.1:{port}\"\nevery = \"1s\"\nmaximum = 40\n\
         query = 'sum(modelyard_requests_total{{service=\"{{service}}\",revision=\"{{revision}}\",code=\"200\"}})'\n"
    );
    let file = service(&world, &guarded(&metric));
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let callers = Callers::start(&world, None, |mean| mean);
    let held =
        world.run(&["deploy", &file, "--flag", "threshold=0.7", "--wait", "--timeout", "2m", "--output", "json"]);
    let held = held.ended(4).json();
    assert_eq!(held["cause"], "quality", "{held}");
    let told = held["evidence"].to_string();
    assert!(told.contains("`answers` is") && told.contains("at most 40"), "{told}");
    world.run(&["abort", "alarm"]).ended(0);
    let answers = callers.finish();
    assert!(answers.iter().filter(|answer| answer.revision == 2).count() > 40, "Prometheus counted what callers saw");
    drop(prometheus);
    world.down();
}

#[test]
fn a_web_hook_over_https_is_believed_once_it_takes_the_token() {
    let world = World::up();
    let tls = |name: &str| format!("{}/{name}", fixture("tls"));
    let mut hook = Server(
        Command::new("python3")
            .arg(format!("{}/serve.py", fixture("hook")))
            .args([tls("server.pem"), tls("server.key"), "s3cret".to_owned()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut port = String::new();
    BufReader::new(hook.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let token = world.scratch("hook").join("token");
    std::fs::write(&token, "a-stale-one\n").unwrap();
    let metric = format!(
        "name = \"gain\"\nkind = \"mean\"\nfrom = \"webhook\"\nurl = \"https://localhost:{}/gain\"\nca = {:?}\ntoken = \"file:{}\"\nevery = \"1s\"\nminimum = 0.9\nrequired = true\n",
        port.trim(),
        tls("ca.pem"),
        token.display()
    );
    let file = service(&world, &guarded(&metric));
    world.run(&["deploy", &file, "--wait"]).ended(0);
    let callers = Callers::start(&world, None, |mean| mean);
    let rollout = world.json(&["deploy", &file, "--flag", "threshold=0.7"]);
    let rollout = rollout["rollout"].as_str().unwrap();
    let refused = until("the refusal is told", 60, || {
        let events = world.events("alarm");
        let told = events.iter().find(|event| event["event"] == "retried").cloned();
        told.ok_or_else(|| format!("{} events", events.len()))
    });
    let why = refused["why"].as_str().unwrap();
    assert!(why.contains("401") && why.contains("env:NAME") && !why.contains("a-stale-one"), "{why}");
    let stands = world.api(&format!("/api/rollouts/{rollout}")).unwrap();
    assert_eq!(stands["outcome"], "running", "whoever does not answer decides nothing: {stands}");

    // The token is replaced while the rollout waits.
    std::fs::write(&token, "s3cret\n").unwrap();
    let held = world.rollout_until(rollout, 60, |stands| stands["outcome"] == "waiting");
    assert_eq!(held["cause"], "quality", "{held}");
    assert!(held["evidence"].to_string().contains("`gain` is 0.6000 (at least 0.9)"), "{held}");
    callers.finish();
    world.run(&["abort", "alarm"]).ended(0);
    world.down();
}
