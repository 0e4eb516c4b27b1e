//! The prober against real listeners: what is asked, what is believed, and that nobody waits for anybody.

use modelyard_core::Timestamp;
use modelyard_core::sample::Sample;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::ask::{Check, Reply, ask};
use super::*;

/// A program that answers each path with a status and a body; an empty body for the path means silence.
async fn program(answers: &'static [(&'static str, u16, &'static str)]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap();
                let head = String::from_utf8_lossy(&head[..length]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or("");
                let Some((_, status, body)) = answers.iter().find(|(known, ..)| *known == path) else { return };
                let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(text.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

async fn native(answers: &'static [(&'static str, u16, &'static str)]) -> Reply {
    ask(&Check::Native { probe: program(answers).await }, true).await
}

#[tokio::test]
async fn the_native_server_is_read_as_it_says() {
    assert_eq!(native(&[("/v2/health/ready", 200, "{}"), ("/v2/health/live", 200, "{}")]).await, Reply::Live);
    let starting = native(&[("/v2/health/ready", 503, "{\"ready\":false}")]).await;
    assert_eq!(starting, Reply::NotReady("/v2/health/ready answered 503: {\"ready\":false}".into()));
    let wrong = "{\"live\":false,\"cause\":\"wrong-answers\",\"error\":\"sample `a` is off\"}";
    let wrong: &'static str = Box::leak(wrong.to_owned().into_boxed_str());
    let answers = Box::leak(Box::new([("/v2/health/ready", 200, "{}"), ("/v2/health/live", 503, wrong)]));
    assert_eq!(native(answers).await, Reply::Wrong("sample `a` is off".into()));
    assert!(matches!(native(&[("/elsewhere", 200, "")]).await, Reply::Silent(_)));
}

#[tokio::test]
async fn a_program_is_asked_its_samples() {
    let sample = Sample {
        name: "first row".into(),
        path: Some("/score".into()),
        request: json!({"x": [1.0]}),
        response: json!({"y": 2.0}),
        tolerance: Default::default(),
        flags: Default::default(),
    };
    let check = |address| Check::Command { address, health: "/healthz".into(), samples: vec![sample.clone()].into() };
    let good = program(&[("/healthz", 200, "ok"), ("/score", 200, "{\"y\": 2.00000001, \"id\": 7}")]).await;
    assert_eq!(ask(&check(good), true).await, Reply::Live);
    let off = program(&[("/healthz", 200, "ok"), ("/score", 200, "{\"y\": 3}")]).await;
    let Reply::Wrong(why) = ask(&check(off), true).await else { panic!("a wrong answer was taken for right") };
    assert_eq!(why, "sample `first row`: at `/y`: expected 2, got 3");
    assert_eq!(ask(&check(off), false).await, Reply::Live, "a shallow probe asks only whether it is ready");
    let broken = program(&[("/healthz", 200, "ok"), ("/score", 500, "boom")]).await;
    assert!(matches!(ask(&check(broken), true).await, Reply::Wrong(why) if why.contains("/score answered 500: boom")));
}

#[tokio::test]
async fn nobody_at_the_address_is_silence() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    assert!(matches!(ask(&Check::Native { probe: address }, true).await, Reply::Silent(_)));
}

struct Fixed;
impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp(1)
    }
}

struct Counting(std::sync::atomic::AtomicU32);
impl Asker for Counting {
    fn ask<'a>(&'a self, id: &'a InstanceId, _: &'a Check, _: bool) -> PortFuture<'a, Reply> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stuck = id.as_str() == "stuck";
        Box::pin(async move {
            if stuck {
                std::future::pending::<()>().await;
            }
            Reply::Live
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_stuck_instance_holds_up_no_other() {
    let asker = Arc::new(Counting(Default::default()));
    let prober = Prober::new(asker.clone(), Arc::new(Fixed));
    let waker = Arc::new(Notify::new());
    let check = || Check::Native { probe: "127.0.0.1:1".parse().unwrap() };
    let (stuck, well) = (InstanceId::new("stuck").unwrap(), InstanceId::new("well").unwrap());
    prober.follow(&stuck, &waker, check);
    prober.follow(&well, &waker, check);
    waker.notified().await;
    assert!(prober.health(&well).unwrap().live);
    assert_eq!(prober.health(&stuck), Some(Health::default()));
    prober.leave(&well);
    let asked = asker.0.load(std::sync::atomic::Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(asker.0.load(std::sync::atomic::Ordering::Relaxed), asked, "who is left is asked no more");
    assert_eq!(prober.health(&well), None);
}
