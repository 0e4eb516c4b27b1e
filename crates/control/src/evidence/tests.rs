//! The spool read, joined and counted, without a gateway: segments are written here.

use std::path::Path;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelyard_core::evidence::{Evidence, Statistic};
use modelyard_core::measure::Histogram;
use modelyard_core::profile::{Builder, Profile, Side, tensors};
use modelyard_core::service::Capture;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{RealClock, wine};

/// A home with a reader that is driven by hand.
struct Desk {
    folder: tempfile::TempDir,
    reader: Reader,
    known: Known,
    counts: Arc<Counts>,
    clock: Arc<AtomicU64>,
    segments: u64,
}

/// A clock that is set by hand; 0 is the real time.
struct Hands(Arc<AtomicU64>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        match self.0.load(Ordering::Relaxed) {
            0 => RealClock.now(),
            now => Timestamp(now),
        }
    }
}

fn reader(folder: &Path, clock: &Arc<AtomicU64>) -> (Reader, Known, Arc<Counts>) {
    let places = Places {
        file: folder.join("evidence.sqlite"),
        spool: folder.join("tap"),
        retention: Retention { age_ms: u64::MAX, ..Retention::default() },
        settle: Duration::ZERO,
        capture: folder.join("capture"),
        capture_span: capture::SPAN,
    };
    let (known, counts) = (Known::default(), Arc::<Counts>::default());
    let connection = schema::open(&places.file).unwrap();
    let aside = Aside::open(places.capture.clone(), places.capture_span).unwrap();
    let reader = Reader::new(
        connection,
        places,
        Arc::new(Hands(Arc::clone(clock))),
        aside,
        Arc::clone(&known),
        Arc::clone(&counts),
    );
    (reader, known, counts)
}

fn metrics() -> Vec<Metric> {
    let metrics = json!([
        {"name": "accuracy", "kind": "accuracy", "from": "feedback"},
        {"name": "reward", "kind": "mean", "from": "reward"},
        {"name": "latency", "kind": "quantile", "from": "latency"},
        {"name": "errors", "kind": "rate", "from": "errors"},
    ]);
    serde_json::from_value(metrics).unwrap()
}

fn following(unit: Unit) -> Following {
    Following {
        scope: "wine-2".into(),
        since: Some(Timestamp(1_000)),
        until: Some(Timestamp(900_000)),
        metrics: metrics(),
        unit,
        drift: None,
        capture: None,
    }
}

impl Desk {
    fn new(unit: Unit) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::default();
        let (mut reader, known, counts) = reader(folder.path(), &clock);
        reader.follow(&wine(), Some(Arc::new(following(unit)))).unwrap();
        Self { folder, reader, known, counts, clock, segments: 0 }
    }

    /// Another control plane takes over what lies there.
    fn restart(&mut self, unit: Unit) {
        // One life ends before the next begins, as processes do: two would make a file of the same stage at once.
        let nowhere = tempfile::tempdir().unwrap();
        drop(std::mem::replace(&mut self.reader, reader(nowhere.path(), &self.clock).0));
        (self.reader, self.known, self.counts) = reader(self.folder.path(), &self.clock);
        self.reader.follow(&wine(), Some(Arc::new(following(unit)))).unwrap();
    }

    fn write(&mut self, bytes: &[u8]) {
        let folder = self.folder.path().join("tap/wine");
        std::fs::create_dir_all(&folder).unwrap();
        self.segments += 1;
        std::fs::write(folder.join(format!("{:020}.jsonl", self.segments)), bytes).unwrap();
    }

    fn tell(&mut self, lines: &[Value]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write(text.as_bytes());
        self.reader.read_spool().unwrap();
        assert!(self.left().is_empty(), "what was read is removed");
    }

    fn left(&self) -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("tap/wine")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    fn evidence(&self) -> Evidence {
        (*lock(&self.known)[&wine()]).clone()
    }

    fn statistic(&self, revision: u32, metric: &str) -> Option<Statistic> {
        self.evidence().arms.get(&RevisionNumber(revision))?.metrics.get(metric).cloned()
    }

    fn count(&self, counter: impl Fn(&Counts) -> &AtomicU64) -> u64 {
        counter(&self.counts).load(Ordering::Relaxed)
    }
}

/// A desk where drift is looked at and everything is captured.
fn desk_with(following: Following) -> Desk {
    let mut desk = Desk::new(Unit::Request);
    desk.reader.follow(&wine(), Some(Arc::new(following))).unwrap();
    desk
}

/// An answer that predicts `class`.
fn answer(id: &str, revision: u32, class: u32) -> Value {
    let response = json!({"outputs": [{"name": "y", "data": [class]}]}).to_string();
    let response = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, response);
    json!({
        "line": "answer", "id": id, "at_ms": 5_000, "revision": revision, "status": 200, "micros": 1_500, "path": "/v2/models/wine/infer",
        "content_type": "application/json", "response": response,
    })
}

fn with(mut line: Value, key: &str, value: impl Into<Value>) -> Value {
    line[key] = value.into();
    line
}

fn label(id: &str, label: u32) -> Value {
    json!({"line": "feedback", "id": id, "at_ms": 6_000, "body": {"id": id, "label": label}})
}

fn accuracy(units: u64, hits: u64) -> Option<Statistic> {
    Some(Statistic::Proportion { units, hits })
}

#[test]
fn labels_join_late_early_and_once() {
    let mut desk = Desk::new(Unit::Request);
    desk.tell(&[answer("a", 1, 3), answer("b", 2, 3)]);
    desk.tell(&[label("a", 3), label("c", 1), label("never", 1)]);
    assert_eq!((desk.statistic(1, "accuracy"), desk.statistic(2, "accuracy")), (accuracy(1, 1), None));
    assert_eq!((desk.evidence().orphaned_feedback, desk.count(|c| &c.orphaned), desk.count(|c| &c.joined)), (2, 2, 1));
    // `c` is answered after its label was posted; everything comes a second time.
    desk.tell(&[answer("c", 2, 4), label("b", 3)]);
    desk.tell(&[answer("a", 1, 3), answer("c", 2, 4), label("a", 3), label("a", 9), label("c", 1), label("b", 3)]);
    assert_eq!((desk.statistic(1, "accuracy"), desk.statistic(2, "accuracy")), (accuracy(1, 1), accuracy(2, 1)));
    let evidence = desk.evidence();
    assert_eq!((evidence.orphaned_feedback, evidence.excluded_units), (1, 0));
    let arms: Vec<_> = evidence.arms.values().map(|arm| (arm.units, arm.answers)).collect();
    assert_eq!(arms, [(1, 1), (2, 2)]);
    assert_eq!((desk.count(|c| &c.read), desk.count(|c| &c.repeated), desk.count(|c| &c.joined)), (13, 2, 4));
    // Another field of the feedback is another metric.
    desk.tell(&[json!({"line": "feedback", "id": "a", "at_ms": 9, "body": {"id": "a", "reward": 0.5}})]);
    assert_eq!(desk.statistic(1, "reward").unwrap().estimate(0.5), Some(0.5));
}

#[test]
fn latency_and_errors_come_from_the_answers_alone() {
    let mut desk = Desk::new(Unit::Request);
    let broken = |id: &str, status: u16| with(answer(id, 1, 0), "status", status);
    desk.tell(&[answer("a", 1, 0), broken("b", 500), broken("c", 0), broken("d", 404)]);
    assert_eq!(
        desk.statistic(1, "errors"),
        Some(Statistic::Proportion { units: 3, hits: 2 }),
        "404 is the caller's fault"
    );
    let mut one = Histogram::default();
    one.record(1_500);
    assert_eq!(desk.statistic(1, "latency"), Some(Statistic::Histogram(one)));
    assert_eq!(desk.evidence().arms[&RevisionNumber(1)].units, 4);
}

#[test]
fn a_session_met_in_two_arms_counts_in_none() {
    let mut desk = Desk::new(Unit::Session);
    let of = |id: &str, revision, session: &str| with(answer(id, revision, 1), "unit", session);
    desk.tell(&[of("a", 1, "s1"), of("b", 1, "s1"), of("c", 2, "s2"), answer("d", 1, 1)]);
    desk.tell(&[label("a", 1), label("b", 2), label("c", 1), label("d", 1)]);
    let ratio = |desk: &Desk, revision| match desk.statistic(revision, "accuracy") {
        Some(Statistic::Ratio(moments)) => (moments.units, moments.numerator, moments.denominator),
        other => panic!("{other:?}"),
    };
    assert_eq!((ratio(&desk, 1), ratio(&desk, 2)), ((1, 1.0, 2.0), (1, 1.0, 1.0)));
    // Now s1 is answered by the other arm; its labels of before and after count no more.
    desk.tell(&[of("e", 2, "s1"), of("f", 1, "s3"), of("g", 1, "s1"), label("e", 1), label("f", 1)]);
    let evidence = desk.evidence();
    assert_eq!(evidence.excluded_units, 1);
    assert_eq!((ratio(&desk, 1), ratio(&desk, 2)), ((1, 1.0, 1.0), (1, 1.0, 1.0)));
    let units: Vec<_> = evidence.arms.values().map(|arm| (arm.units, arm.answers)).collect();
    assert_eq!(units, [(1, 5), (1, 2)]);
    assert_eq!(desk.statistic(1, "errors"), Some(ratio_of(1, 0.0, 1.0)));
}

fn ratio_of(units: u64, numerator: f64, denominator: f64) -> Statistic {
    Statistic::Ratio(modelyard_core::evidence::RatioMoments {
        units,
        numerator,
        denominator,
        numerator_squares: numerator * numerator,
        denominator_squares: denominator * denominator,
        products: numerator * denominator,
    })
}

#[test]
fn a_request_met_in_two_arms_counts_in_none() {
    let mut desk = Desk::new(Unit::Request);
    desk.tell(&[answer("a", 1, 1), answer("b", 1, 1), label("a", 1), label("b", 1)]);
    desk.tell(&[answer("a", 2, 1), answer("a", 3, 1)]);
    let evidence = desk.evidence();
    assert_eq!((evidence.excluded_units, desk.statistic(1, "accuracy")), (1, accuracy(1, 1)));
    assert_eq!((desk.statistic(2, "accuracy"), desk.statistic(3, "accuracy")), (None, None));
}

#[test]
fn a_shadow_s_answers_are_judged_by_the_same_labels() {
    let mut desk = Desk::new(Unit::Request);
    let shadow = |id: &str, class| with(answer(id, 7, class), "shadow", true);
    desk.tell(&[answer("a", 1, 1), shadow("a", 2), label("a", 2), shadow("b", 1), label("b", 1), answer("b", 1, 1)]);
    assert_eq!((desk.statistic(1, "accuracy"), desk.statistic(7, "accuracy")), (accuracy(2, 1), accuracy(2, 2)));
    assert_eq!(desk.evidence().excluded_units, 0, "a copy is no second assignment");
}

#[test]
fn hostile_and_torn_lines_are_skipped_and_counted() {
    let mut desk = Desk::new(Unit::Request);
    let good = answer("a", 1, 1).to_string();
    let mut text =
        format!("{good}\nnot json\n[]\n{{\"line\":\"answer\"}}\n{{\"line\":\"other\",\"id\":\"x\"}}\n\n").into_bytes();
    text.extend([0xff, 0xfe, b'\n']);
    text.extend(with(answer("b", 1, 1), "response", "no base64!").to_string().as_bytes());
    text.push(b'\n');
    text.extend(with(answer("c", 1, 1), "header_length", u64::MAX).to_string().as_bytes());
    text.push(b'\n');
    text.extend(&good.as_bytes()[..40]);
    desk.write(&text);
    desk.reader.read_spool().unwrap();
    assert_eq!((desk.count(|c| &c.read), desk.count(|c| &c.skipped)), (3, 6));
    assert_eq!(desk.evidence().arms[&RevisionNumber(1)].units, 3);
    assert!(desk.left().is_empty());
    // What is not complete is left alone.
    std::fs::write(desk.folder.path().join("tap/wine/00000000000000000009.open"), &good).unwrap();
    desk.reader.read_spool().unwrap();
    assert_eq!(desk.left().len(), 1);
}

#[test]
fn nothing_counts_twice_or_is_lost_over_a_kill() {
    let mut desk = Desk::new(Unit::Session);
    let lines = [with(answer("a", 1, 1), "unit", "s1"), with(answer("b", 2, 1), "unit", "s2"), label("a", 1)];
    desk.tell(&lines);
    let before = desk.evidence();
    // Killed after the transaction and before the segment was removed: it is there again. Another came meanwhile.
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    desk.write(text.as_bytes());
    desk.write(format!("{}\n{}\n", with(answer("c", 2, 1), "unit", "s2"), label("b", 1)).as_bytes());
    desk.restart(Unit::Session);
    desk.reader.read_spool().unwrap();
    let after = desk.evidence();
    assert_eq!(after.arms[&RevisionNumber(1)], before.arms[&RevisionNumber(1)]);
    let arm = &after.arms[&RevisionNumber(2)];
    assert_eq!((arm.units, arm.answers, desk.statistic(2, "accuracy")), (1, 2, Some(ratio_of(1, 1.0, 1.0))));
    assert_eq!(desk.count(|c| &c.repeated), 2);
}

#[test]
fn only_what_was_answered_within_the_split_counts() {
    let mut desk = Desk::new(Unit::Request);
    let at = |id: &str, at: u64| with(answer(id, 1, 1), "at_ms", at);
    desk.tell(&[at("early", 999), at("first", 1_000), at("last", 899_999), at("late", 900_000)]);
    desk.tell(&[label("early", 1), label("last", 1), label("late", 1)]);
    assert_eq!(desk.evidence().arms[&RevisionNumber(1)].units, 2);
    assert_eq!(desk.statistic(1, "accuracy"), accuracy(1, 1));
    assert_eq!(desk.count(|c| &c.joined), 3, "what does not count is known all the same");
    // The next rollout begins from nothing, and an old answer's label does not count in it.
    let next = Following { scope: "wine-3".into(), ..following(Unit::Request) };
    desk.reader.follow(&wine(), Some(Arc::new(next))).unwrap();
    desk.tell(&[label("first", 1)]);
    assert_eq!(desk.evidence().arms.len(), 0);
    desk.reader.follow(&wine(), None).unwrap();
    assert!(lock(&desk.known).is_empty());
}

#[test]
fn values_of_others_are_kept_beside() {
    let mut desk = Desk::new(Unit::Request);
    let mut metrics = metrics();
    let gain = json!({"name": "gain", "kind": "mean", "from": "prometheus", "url": "http://x", "query": "y"});
    metrics.push(serde_json::from_value(gain).unwrap());
    let following = Following { metrics, until: None, ..following(Unit::Request) };
    desk.reader.follow(&wine(), Some(Arc::new(following))).unwrap();
    for value in [1.0, f64::NAN, 3.0] {
        desk.reader.value(&wine(), "wine-2", RevisionNumber(2), "gain", value).unwrap();
    }
    desk.reader.value(&wine(), "wine-1", RevisionNumber(2), "gain", 9.0).unwrap();
    let Some(Statistic::Value { last, all }) = desk.statistic(2, "gain") else { panic!("a value") };
    assert_eq!((last, all.count, all.mean), (3.0, 2, 2.0));
}

/// A profile of values that are spread evenly over 0 to 1.
fn even() -> Arc<Profile> {
    let mut builder = Builder::new();
    for n in 0..1_000 {
        let body =
            json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [f64::from(n) / 1_000.0]}]});
        builder.row();
        builder.observe(Side::Input, &tensors(Side::Input, &body));
    }
    Arc::new(builder.build())
}

/// An answer to a request with the value `x`, told in the second `second`.
fn asked(n: u32, revision: u32, x: f64) -> Value {
    let request = json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [x]}]}).to_string();
    let line = with(answer(&format!("r{revision}-{n}"), revision, 1), "request", STANDARD.encode(request));
    with(line, "at_ms", 1_000_000 + u64::from(n / 50) * 1_000)
}

#[test]
fn drift_of_each_arm_is_evidence_and_counts_each_answer_once() {
    let profiles = BTreeMap::from([(RevisionNumber(1), even()), (RevisionNumber(2), even())]);
    let rule = drift::Rule { stable: Some(RevisionNumber(1)), profiles, ..drift::Rule::default() };
    let mut desk = desk_with(Following { drift: Some(rule), ..following(Unit::Request) });
    desk.clock.store(1_100_000, Ordering::Relaxed);
    let lines: Vec<Value> = (0..600)
        .flat_map(|n| {
            [asked(n, 1, f64::from(n * 7 % 600) / 600.0), asked(n, 2, f64::from(n * 7 % 600) / 1_200.0 + 0.5)]
        })
        .collect();
    desk.tell(&lines);
    let failed = with(asked(9_000, 2, 5.0), "status", 500);
    desk.tell(&[lines[0].clone(), lines[1].clone(), failed]);
    let drift = desk.evidence().drift;
    let (stable, candidate) = (&drift[&RevisionNumber(1)][0], &drift[&RevisionNumber(2)][0]);
    assert_eq!((candidate.field.as_str(), candidate.seen, candidate.reference.as_str()), ("input x", 600, "package"));
    assert!(candidate.psi > 1.0 && candidate.ks.is_some_and(|ks| (ks - 0.5).abs() < 0.02), "{candidate:?}");
    assert!(stable.seen == 600 && stable.psi < 0.01, "{stable:?}");
    desk.reader.follow(&wine(), Some(Arc::new(following(Unit::Request)))).unwrap();
    desk.tell(&[asked(9_001, 1, 0.5)]);
    assert!(desk.evidence().drift.is_empty(), "nobody asks any more");
}

#[test]
fn what_is_captured_becomes_files_once() {
    let versions = BTreeMap::from([(RevisionNumber(1), "1.0.0".to_owned())]);
    let rule = capture::Rule { capture: Capture::default(), keep: 1.0, versions, rollout: None };
    let following = Following { capture: Some(rule), ..following(Unit::Request) };
    let mut desk = desk_with(following.clone());
    desk.tell(&[asked(1, 1, 0.5), label("r1-1", 1)]);
    let items = [Feedback { id: "r1-1".into(), body: json!({"id": "r1-1", "reward": 2}) }];
    desk.reader.feedback(&wine(), &items).unwrap();
    let open = desk.folder.path().join("capture/wine/.open");
    let stage = std::fs::read_dir(&open).unwrap().next().unwrap().unwrap().path();
    let lines = std::fs::read_to_string(stage).unwrap();
    assert_eq!((lines.matches("{\"answer\"").count(), lines.matches("{\"feedback\"").count()), (1, 2), "{lines}");
    desk.reader.follow(&wine(), None).unwrap();
    desk.restart(Unit::Request);
    let files = |folder: &Path| -> Vec<String> {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        names
    };
    let service = desk.folder.path().join("capture/wine");
    let day = files(&service);
    let made = files(&service.join(&day[0]));
    assert!(day.len() == 1 && made.len() == 2 && made[1].starts_with("feedback-"), "{day:?} {made:?}");
}

#[tokio::test]
async fn the_book_takes_feedback_in_bulk_and_reads_on_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let places = Places {
        file: folder.path().join("e.sqlite"),
        spool: folder.path().join("tap"),
        retention: Retention::default(),
        settle: Duration::from_millis(50),
        capture: folder.path().join("capture"),
        capture_span: capture::SPAN,
    };
    let book = Book::open(places, Arc::new(RealClock)).unwrap();
    let now = modelyard_core::ports::Clock::now(&RealClock);
    book.follow(&wine(), Some(Following { since: Some(Timestamp(0)), until: None, ..following(Unit::Request) }));
    let spool = folder.path().join("tap/wine");
    std::fs::create_dir_all(&spool).unwrap();
    let line = with(answer("a", 1, 1), "at_ms", now.0);
    std::fs::write(spool.join("00000000000000000001.open"), format!("{line}\n")).unwrap();
    std::fs::rename(spool.join("00000000000000000001.open"), spool.join("00000000000000000001.jsonl")).unwrap();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while book.evidence(&wine()).is_none_or(|evidence| evidence.arms.is_empty()) {
        assert!(tokio::time::Instant::now() < deadline, "the segment was never read");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let items = csv::parse("id,label\na,1\nb,2\n").unwrap();
    let receipt = book.feedback(&wine(), items).await.unwrap();
    assert_eq!(receipt, Receipt { accepted: 2, joined: 1, orphaned: 1 });
    assert_eq!(book.evidence(&wine()).unwrap().orphaned_feedback, 1);
    let past = book.of_scope(&wine(), "wine-2").await.unwrap().unwrap();
    assert_eq!(past.arms[&RevisionNumber(1)].metrics["accuracy"], accuracy(1, 1).unwrap());
    assert_eq!(book.of_scope(&wine(), "wine-9").await.unwrap(), None);
}

/// Reads 100 000 lines; run it in release for the figure that docs name.
#[test]
fn a_hundred_thousand_lines_are_read_in_segments() {
    let mut desk = Desk::new(Unit::Session);
    let lines = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    for segment in 0..lines / 2_000 {
        let text: String = (segment * 1_000..(segment + 1) * 1_000)
            .map(|n| {
                let id =
                    format!("{:032x}", u128::from(n as u32).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
                let session = format!("{:016x}", n % 5_000);
                let told = with(answer(&id, 1 + (n % 5_000 % 2) as u32, (n % 3) as u32), "unit", session);
                format!("{told}\n{}\n", label(&id, 1))
            })
            .collect();
        desk.write(text.as_bytes());
    }
    let begun = Instant::now();
    desk.reader.read_spool().unwrap();
    let spent = begun.elapsed();
    let evidence = desk.evidence();
    let answers: u64 = evidence.arms.values().map(|arm| arm.answers).sum();
    assert_eq!((answers, desk.count(|c| &c.joined), evidence.excluded_units), (lines / 2, lines / 2, 0));
    eprintln!("{lines} lines in {spent:?}: {:?} a line", spent / lines as u32);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn order_and_repetition_change_nothing(order in Just((0..24usize).collect::<Vec<_>>()).prop_shuffle(), again in prop::collection::vec(0..24usize, 0..12)) {
        let lines: Vec<Value> = (0..12u32)
            .flat_map(|n| {
                let told = with(answer(&format!("r{n}"), 1 + n % 2, n % 3), "unit", format!("s{}", n % 4));
                [told, label(&format!("r{n}"), n % 2)]
            })
            .collect();
        let mut straight = Desk::new(Unit::Session);
        straight.tell(&lines);
        let mut shuffled = Desk::new(Unit::Session);
        let mixed: Vec<Value> = order.iter().chain(&again).map(|&at| lines[at].clone()).collect();
        mixed.chunks(5).for_each(|part| shuffled.tell(part));
        prop_assert_eq!(straight.evidence(), shuffled.evidence());
    }
}
