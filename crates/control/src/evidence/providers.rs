//! Metrics that are kept elsewhere: a Prometheus server, or a web hook, asked per revision.
//!
//! Promises: whoever does not answer, or answers nonsense, is told in the event log (less and less often) and gives no value: never a verdict.
//! Source: Prometheus HTTP API, `/api/v1/query`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use modelyard_core::event::EventBody;
use modelyard_core::metric::{Metric, MetricSource};
use modelyard_core::ports::Clock;
use modelyard_core::url::encoded;
use modelyard_core::{Millis, RevisionNumber, ServiceName, Timestamp};
use serde_json::{Value, json};

use super::Book;
use super::fetch::{Ask, fetch};
use crate::http_client::chain;
use crate::ledger::Ledger;
use crate::store::fold::ServiceState;

/// How often is looked whether something is due.
const LOOK: Duration = Duration::from_millis(500);

/// Asks for the metrics of open rollouts.
pub struct Providers {
    /// Where values go.
    pub book: Arc<Book>,
    /// What is open.
    pub ledger: Arc<Ledger>,
    /// Now.
    pub clock: Arc<dyn Clock>,
}

/// What one metric of one service was asked for last.
#[derive(Default)]
struct Asked {
    at: Timestamp,
    /// Failures in a row.
    failures: u32,
}

/// One question.
#[derive(Clone, Debug)]
struct Question {
    service: ServiceName,
    scope: String,
    metric: Metric,
    /// Whom it is asked about, with the version of the package.
    arms: Vec<(RevisionNumber, String)>,
}

impl Providers {
    /// Runs until dropped.
    pub async fn run(self) {
        let mut asked: HashMap<(ServiceName, String), Asked> = HashMap::new();
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let now = self.clock.now();
            let questions: Vec<Question> = self.ledger.world().present().flat_map(questions).collect();
            asked
                .retain(|(service, name), _| questions.iter().any(|q| q.service == *service && q.metric.name == *name));
            let due: Vec<Question> = questions
                .into_iter()
                .filter(|question| {
                    let key = (question.service.clone(), question.metric.name.clone());
                    asked.get(&key).is_none_or(|asked| now - asked.at >= question.metric.every || now < asked.at)
                })
                .collect();
            let answers = due.iter().map(|question| async move { (question, ask_all(question).await) });
            for (question, result) in futures_util::future::join_all(answers).await {
                let key = (question.service.clone(), question.metric.name.clone());
                let asked = asked.entry(key).or_default();
                asked.at = now;
                match result {
                    Ok(values) => {
                        asked.failures = 0;
                        for (revision, value) in values {
                            self.book.value(&question.service, &question.scope, revision, &question.metric.name, value);
                        }
                    }
                    Err(why) => {
                        asked.failures = asked.failures.saturating_add(1);
                        self.tell(question, why, asked.failures).await;
                    }
                }
            }
        }
    }

    /// The 1st, 2nd, 4th, 8th … failure in a row: a server that is down for a day must not fill the log.
    async fn tell(&self, question: &Question, why: String, attempt: u32) {
        if !attempt.is_power_of_two() {
            return;
        }
        let what = format!("asking for metric `{}`", question.metric.name);
        let event = EventBody::Retried { what, why, attempt };
        if let Err(error) = self.ledger.note(Some(&question.service), vec![event]).await {
            tracing::error!(service = %question.service, error = %chain(&error), "cannot record that a metric cannot be had");
        }
    }
}

/// What the open rollout of a service wants to know.
fn questions(state: &Arc<ServiceState>) -> Vec<Question> {
    let (Some(spec), Some(open)) = (&state.spec, state.watched()) else { return Vec::new() };
    let revisions = state.desired.weights.keys().chain(state.desired.mirrors.keys());
    let arms: Vec<(RevisionNumber, String)> =
        revisions.filter_map(|number| Some((*number, state.revisions.get(number)?.version.to_string()))).collect();
    let elsewhere = |metric: &&Metric| matches!(metric.from, MetricSource::Prometheus | MetricSource::Webhook);
    let question = |metric: &Metric| Question {
        service: state.name.clone(),
        scope: open.id.to_string(),
        metric: metric.clone(),
        arms: arms.clone(),
    };
    spec.metrics.iter().filter(elsewhere).map(question).collect()
}

/// The values of all arms; those without one are left out.
async fn ask_all(question: &Question) -> Result<Vec<(RevisionNumber, f64)>, String> {
    let mut values = Vec::new();
    for (revision, version) in &question.arms {
        let value = match question.metric.from {
            MetricSource::Prometheus => ask_prometheus(question, *revision).await?,
            _ => ask_hook(question, *revision, version).await?,
        };
        values.extend(value.filter(|value| value.is_finite()).map(|value| (*revision, value)));
    }
    Ok(values)
}

async fn ask_prometheus(question: &Question, revision: RevisionNumber) -> Result<Option<f64>, String> {
    let metric = &question.metric;
    let template = metric
        .query
        .as_deref()
        .ok_or("the metric has no `query`; write PromQL with {service}, {revision} and {window}")?;
    let query = template
        .replace("{service}", question.service.as_str())
        .replace("{revision}", &revision.to_string())
        .replace("{window}", &window(metric.every));
    let answer = fetch(metric, Ask::Get(format!("/api/v1/query?query={}", encoded(&query)))).await?;
    let status = answer.get("status").and_then(Value::as_str).unwrap_or_default();
    if status != "success" {
        let why = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
        return Err(format!("Prometheus refuses the query `{query}`: {why}"));
    }
    single(&answer).map_err(|why| format!("{why}; the query was `{query}`"))
}

/// The one number of an instant query; none when nothing was measured yet.
fn single(answer: &Value) -> Result<Option<f64>, String> {
    let result = answer.pointer("/data/result").ok_or("Prometheus answered without a result")?;
    let point = match answer.pointer("/data/resultType").and_then(Value::as_str) {
        Some("scalar") => result.get(1),
        Some("vector") => match result.as_array().map_or(&[][..], Vec::as_slice) {
            [] => return Ok(None),
            [one] => one.pointer("/value/1"),
            many => {
                return Err(format!(
                    "the query gives {} series; aggregate it to one with sum(), avg() or the like",
                    many.len()
                ));
            }
        },
        other => return Err(format!("the query gives a {}, not a number", other.unwrap_or("nothing"))),
    };
    let text = point.and_then(Value::as_str).ok_or("Prometheus answered without a value")?;
    // `NaN` is its word for a ratio without data.
    text.parse::<f64>()
        .map(Some)
        .map_err(|_| format!("Prometheus answered `{}`", text.chars().take(40).collect::<String>()))
}

async fn ask_hook(question: &Question, revision: RevisionNumber, version: &str) -> Result<Option<f64>, String> {
    let metric = &question.metric;
    let body = json!({
        "service": question.service, "revision": revision, "version": version, "metric": metric.name, "window_ms": metric.every,
    });
    let answer = fetch(metric, Ask::Post(body)).await?;
    match answer.get("value") {
        Some(Value::Null) => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or_else(|| "the web hook's `value` is no number".to_owned()),
        None => {
            Err("the web hook answered without `value`; it answers {\"value\": number}, or null while there is none"
                .into())
        }
    }
}

/// A span as PromQL has it.
fn window(span: Millis) -> String {
    format!("{}ms", span.0.max(1))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::ledger::lock;

    /// A server that answers each request with the same body and remembers what it was asked.
    async fn server(status: &'static str, body: &'static str) -> (String, Arc<Mutex<Vec<String>>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let told = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 8_192];
                let mut length = 0;
                // Small requests; those with a body say `}` at their end.
                while let Ok(read) = stream.read(&mut request[length..]).await {
                    length += read;
                    let text = String::from_utf8_lossy(&request[..length]).into_owned();
                    let whole = text.contains("\r\n\r\n") && (text.starts_with("GET") || text.ends_with('}'));
                    if read == 0 || whole {
                        lock(&told).push(text);
                        break;
                    }
                }
                let answer =
                    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (format!("http://{address}"), asked)
    }

    fn question(from: &str, url: String, query: Option<&str>) -> Question {
        let mut metric = json!({"name": "gain", "kind": "mean", "from": from, "url": url, "every": "30s"});
        if let Some(query) = query {
            metric["query"] = query.into();
        }
        Question {
            service: ServiceName::new("wine").unwrap(),
            scope: "wine-1".into(),
            metric: serde_json::from_value(metric).unwrap(),
            arms: vec![(RevisionNumber(3), "1.2.0".into())],
        }
    }

    #[tokio::test]
    async fn prometheus_is_asked_per_revision() {
        let body = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1,"0.93"]}]}}"#;
        let (url, asked) = server("200 OK", body).await;
        let query = r#"avg(rate(gain{service="{service}",revision="{revision}"}[{window}]))"#;
        let values = ask_all(&question("prometheus", url, Some(query))).await.unwrap();
        assert_eq!(values, [(RevisionNumber(3), 0.93)]);
        let line = lock(&asked)[0].lines().next().unwrap().to_owned();
        assert!(line.starts_with("GET /api/v1/query?query=avg%28rate%28gain%7Bservice%3D%22wine%22"), "{line}");
        assert!(line.contains("revision%3D%223%22") && line.contains("%5B30000ms%5D"), "{line}");
    }

    #[tokio::test]
    async fn what_is_no_number_gives_no_value_or_says_why() {
        let empty = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        let (url, _) = server("200 OK", empty).await;
        assert_eq!(ask_all(&question("prometheus", url, Some("x"))).await, Ok(vec![]));
        let nan = r#"{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}"#;
        let (url, _) = server("200 OK", nan).await;
        assert_eq!(ask_all(&question("prometheus", url, Some("x"))).await, Ok(vec![]), "no data is no value");
        let two =
            r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"1"]},{"value":[1,"2"]}]}}"#;
        for (status, body, part) in [
            ("200 OK", two, "2 series"),
            ("400 Bad Request", r#"{"status":"error","error":"parse error at 1"}"#, "parse error"),
            ("500 Internal Server Error", "oops", "answered 500"),
            ("200 OK", "oops", "no JSON"),
        ] {
            let (url, _) = server(status, body).await;
            let why = ask_all(&question("prometheus", url, Some("x"))).await.unwrap_err();
            assert!(why.contains(part), "{why}");
        }
        let nobody = question("prometheus", "http://127.0.0.1:1".into(), Some("x"));
        assert!(ask_all(&nobody).await.unwrap_err().contains("cannot be asked"));
        let elsewhere = question("prometheus", "ftp://metrics.example".into(), Some("x"));
        assert!(ask_all(&elsewhere).await.unwrap_err().contains("https://HOST:PORT"));
    }

    #[tokio::test]
    async fn a_token_goes_to_whom_it_is_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "s3cret\n").unwrap();
        let (url, asked) = server("200 OK", r#"{"value": 1}"#).await;
        let mut mine = question("webhook", url, None);
        mine.metric.token = Some(format!("file:{}", path.display()));
        assert_eq!(ask_all(&mine).await.unwrap(), [(RevisionNumber(3), 1.0)]);
        assert!(lock(&asked)[0].to_ascii_lowercase().contains("authorization: bearer s3cret\r\n"));

        mine.metric.url = Some("http://metrics.example/".into());
        assert!(ask_all(&mine).await.unwrap_err().contains("in the clear"));
        mine.metric.url = Some("http://127.0.0.1:1/".into());
        for (token, part) in [
            ("env:MODELYARD_NO_SUCH_TOKEN", "is not set"),
            ("file:/nowhere/token", "cannot be read"),
            ("s3cret", "neither"),
        ] {
            mine.metric.token = Some(token.into());
            let why = ask_all(&mine).await.unwrap_err();
            assert!(why.contains(part) && !why.contains("s3cret"), "{why}");
        }
        std::fs::write(&path, "two\nlines").unwrap();
        mine.metric.token = Some(format!("file:{}", path.display()));
        assert!(ask_all(&mine).await.unwrap_err().contains("no token"));
    }

    #[tokio::test]
    async fn a_web_hook_is_told_whom_it_is_about() {
        let (url, asked) = server("200 OK", r#"{"value": 12.5}"#).await;
        let values = ask_all(&question("webhook", format!("{url}/gain?x=1"), None)).await.unwrap();
        assert_eq!(values, [(RevisionNumber(3), 12.5)]);
        let request = lock(&asked)[0].clone();
        assert!(request.starts_with("POST /gain?x=1 "), "{request}");
        let body: Value = serde_json::from_str(request.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(
            body,
            json!({"service": "wine", "revision": 3, "version": "1.2.0", "metric": "gain", "window_ms": 30_000})
        );
        let (url, _) = server("200 OK", r#"{"value": null}"#).await;
        assert_eq!(ask_all(&question("webhook", url, None)).await, Ok(vec![]));
        let (url, _) = server("200 OK", r#"{"gain": 1}"#).await;
        assert!(ask_all(&question("webhook", url, None)).await.unwrap_err().contains("without `value`"));
    }
}
