//! The store against kills, foreign files and newer forms; and the fold against the live state.

use std::sync::Arc;

use modelyard_core::InstanceId;
use modelyard_core::RevisionNumber;
use modelyard_core::event::Actor;

use super::*;
use crate::ledger::Ledger;
use crate::testing::{RealClock, wine};

fn path(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("deep").join("modelyard.sqlite")
}

fn starting(number: u32) -> EventBody {
    let instance = InstanceId::new(format!("wine-r1-{number}")).unwrap();
    EventBody::InstanceStarting { instance, revision: RevisionNumber(1), machine: None }
}

fn batch(expect: Option<u64>, bodies: Vec<EventBody>) -> Batch {
    Batch { expect, ..Batch::of(&wine(), Timestamp(1), bodies) }
}

async fn append(store: &Store, batch: Batch) -> Result<Vec<Event>, Error> {
    store.append(batch, |_| Ok(()), |_, ()| {}).await
}

#[tokio::test]
async fn batches_are_whole_and_positions_have_no_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&path(&folder)).unwrap();
    append(&store, batch(Some(0), vec![starting(1), starting(2)])).await.unwrap();
    let refused = append(&store, batch(Some(1), vec![starting(3)])).await.unwrap_err();
    assert!(matches!(refused, Error::Conflict { expected: 1, found: 2, .. }), "{refused}");
    let check = |_: &[Event]| -> Result<(), Error> { Err(Error::Closed) };
    store.append(batch(None, vec![starting(3)]), check, |_, ()| panic!("not committed")).await.unwrap_err();
    append(&store, batch(Some(2), vec![starting(3)])).await.unwrap();
    let events = store.read(Query::default()).await.unwrap();
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let query = Query { service: Some(wine()), after: 1, until: Some(2), limit: Some(5), ..Query::default() };
    assert_eq!(store.read(query).await.unwrap(), events[1..2]);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&path(&folder)).unwrap();
    append(&store, batch(None, vec![starting(1)])).await.unwrap();
    // Nothing is closed or flushed: the copy is what a killed process leaves on disk.
    let copy = tempfile::tempdir().unwrap();
    for suffix in ["", "-wal"] {
        let from = format!("{}{suffix}", path(&folder).display());
        std::fs::copy(&from, copy.path().join(format!("modelyard.sqlite{suffix}"))).unwrap();
    }
    let reopened = Store::open(&copy.path().join("modelyard.sqlite")).unwrap();
    assert_eq!(reopened.read(Query::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_store_is_held_by_one_alone() {
    let folder = tempfile::tempdir().unwrap();
    let first = Store::open(&path(&folder)).unwrap();
    assert!(matches!(Store::open(&path(&folder)), Err(Error::Held { .. })));
    drop(first);
    Store::open(&path(&folder)).unwrap();
}

/// What a control plane that is killed leaves behind: a child between fork and exec, which has the lock a moment longer.
#[test]
fn a_lock_that_is_about_to_fall_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let beside = path(&folder).with_extension("lock");
    std::fs::create_dir_all(beside.parent().unwrap()).unwrap();
    let lock = File::create(&beside).unwrap();
    lock.try_lock().unwrap();
    let child = lock.try_clone().unwrap();
    drop(lock);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| Store::open(&path(&folder)).map(drop));
        assert!(!opened.is_finished());
        drop(child);
        opened.join().unwrap().unwrap();
    });
}

#[test]
fn damaged_and_foreign_files_are_refused_with_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let garbage = folder.path().join("garbage.sqlite");
    std::fs::write(&garbage, "this is no database, but long enough to look like one".repeat(50)).unwrap();
    let error = Store::open(&garbage).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("restore"), "{error}");
}

#[tokio::test]
async fn an_event_that_nobody_knows_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&path(&folder)).unwrap();
    append(&store, batch(None, vec![starting(1)])).await.unwrap();
    drop(store);
    let connection = Connection::open(path(&folder)).unwrap();
    let json = r#"{"seq":2,"at":1,"actor":"controller","event":"from-the-future"}"#;
    connection.execute("INSERT INTO events VALUES (2, 1, NULL, NULL, 'from-the-future', ?1, NULL)", [json]).unwrap();
    drop(connection);
    let store = Store::open(&path(&folder)).unwrap();
    let error = Ledger::open(store, Arc::new(RealClock)).err().unwrap();
    assert!(matches!(error, Error::Unreadable { seq: 2, .. }), "{error}");
}

#[tokio::test]
async fn answers_are_kept_for_a_while() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&path(&folder)).unwrap();
    let answer = |key: &str, at| StoredAnswer {
        key: key.into(),
        request: "f".into(),
        status: 202,
        json: "{}".into(),
        at: Timestamp(at),
    };
    store.keep_answer(answer("a", 5), Timestamp(0)).await.unwrap();
    store.keep_answer(answer("b", 9), Timestamp(6)).await.unwrap();
    assert_eq!(store.answer("a".into()).await.unwrap(), None);
    assert_eq!(store.answer("b".into()).await.unwrap(), Some(answer("b", 9)));
    store.remember("m".into(), "1".into()).await.unwrap();
    store.remember("m".into(), "2".into()).await.unwrap();
    assert_eq!(store.recall("m".into()).await.unwrap().as_deref(), Some("2"));
}

mod chained {
    use super::*;
    use crate::store::chain::walk_file;

    async fn written(folder: &tempfile::TempDir) -> Anchor {
        let store = Store::open(&path(folder)).unwrap();
        for number in 1..=3 {
            append(&store, batch(None, vec![starting(2 * number - 1), starting(2 * number)])).await.unwrap();
        }
        let walked = store.walk(None).await.unwrap();
        assert_eq!((walked.events, &walked.broken), (6, &None));
        Anchor { seq: 6, link: walked.head.unwrap() }
    }

    /// What a walk and a start find after somebody ran `sql` on the file.
    async fn found(sql: &str) -> (u64, Walked, Option<u64>) {
        let folder = tempfile::tempdir().unwrap();
        written(&folder).await;
        let connection = Connection::open(path(&folder)).unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let walked = walk_file(&path(&folder), None).unwrap();
        let broken = walked.broken.as_ref().unwrap_or_else(|| panic!("nobody noticed: {sql}"));
        let ledger = Ledger::open(Store::open(&path(&folder)).unwrap(), Arc::new(RealClock));
        let at_start = ledger.ok().and_then(|ledger| ledger.chain().broken.as_ref().map(|broken| broken.seq));
        (broken.seq, walked, at_start)
    }

    #[tokio::test]
    async fn whatever_is_done_to_a_row_is_found_and_named() {
        for (sql, seq) in [
            ("UPDATE events SET json = replace(json, 'wine-r1-4', 'wine-r1-9') WHERE seq = 4", 4),
            ("UPDATE events SET at = at + 1 WHERE seq = 1", 1),
            ("UPDATE events SET service = 'port' WHERE seq = 6", 6),
            ("UPDATE events SET service = NULL WHERE seq = 2", 2),
            ("UPDATE events SET rollout = 'r' WHERE seq = 2", 2),
            ("UPDATE events SET kind = 'instance-live' WHERE seq = 3", 3),
            ("UPDATE events SET hash = NULL WHERE seq = 5", 5),
            ("UPDATE events SET hash = zeroblob(32) WHERE seq = 5", 5),
            ("DELETE FROM events WHERE seq = 3", 3),
            ("DELETE FROM events WHERE seq = 1", 1),
            ("DELETE FROM events WHERE seq = 6", 6),
            ("DELETE FROM events", 1),
            (
                "UPDATE events SET seq = -2 WHERE seq = 2; UPDATE events SET seq = 2 WHERE seq = 5; UPDATE events SET seq = 5 WHERE seq = -2",
                2,
            ),
            (
                "INSERT INTO events SELECT 7, at, service, rollout, kind, replace(json, '\"seq\":6', '\"seq\":7'), hash FROM events WHERE seq = 6",
                7,
            ),
            ("UPDATE chain SET hash = zeroblob(32)", 6),
            ("DELETE FROM chain", 1),
        ] {
            let (named, walked, at_start) = found(sql).await;
            assert_eq!(named, seq, "{sql}: {walked:?}");
            assert!(at_start.is_none_or(|at_start| at_start == seq), "{sql}: the start names {at_start:?}");
        }
    }

    #[tokio::test]
    async fn a_break_stays_when_the_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        written(&folder).await;
        Connection::open(path(&folder)).unwrap().execute("DELETE FROM events WHERE seq = 6", []).unwrap();
        let store = Store::open(&path(&folder)).unwrap();
        append(&store, batch(None, vec![starting(7)])).await.unwrap();
        assert_eq!(store.walk(None).await.unwrap().broken.unwrap().seq, 6);
    }

    #[tokio::test]
    async fn a_chain_that_was_computed_anew_does_not_fit_what_was_written_down() {
        let folder = tempfile::tempdir().unwrap();
        let anchor = written(&folder).await;
        assert_eq!(walk_file(&path(&folder), Some(anchor)).unwrap().broken, None);
        let mut connection = Connection::open(path(&folder)).unwrap();
        connection.execute("UPDATE events SET at = 9 WHERE seq = 2", []).unwrap();
        let transaction = connection.transaction().unwrap();
        chain::link_all(&transaction).unwrap();
        transaction.commit().unwrap();
        drop(connection);
        assert_eq!(walk_file(&path(&folder), None).unwrap().broken, None, "it looks sound by itself");
        assert_eq!(walk_file(&path(&folder), Some(anchor)).unwrap().broken.unwrap().seq, 6);
        let later = Anchor { seq: 9, ..anchor };
        assert_eq!(walk_file(&path(&folder), Some(later)).unwrap().broken.unwrap().seq, 7);
    }

    #[tokio::test]
    async fn a_log_from_before_the_chain_is_linked_and_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        let anchor = written(&folder).await;
        let mut connection = Connection::open(path(&folder)).unwrap();
        schema::migrate(&mut connection, schema::CHAINED - 1).unwrap();
        assert!(matches!(walk_file(&path(&folder), None), Err(Error::Unchained)));
        connection.execute("SELECT hash FROM events", []).unwrap_err();
        drop(connection);
        let store = Store::open(&path(&folder)).unwrap();
        let walked = store.walk(Some(anchor)).await.unwrap();
        assert_eq!((walked.events, walked.head, walked.broken), (6, Some(anchor.link), None));
        append(&store, batch(None, vec![starting(7)])).await.unwrap();
        assert_eq!(store.walk(None).await.unwrap().events, 7);
    }
}

mod folding {
    use modelyard_core::failure::{Cause, Failure};
    use proptest::prelude::*;

    use super::*;
    use crate::store::fold::World;

    fn body() -> impl Strategy<Value = EventBody> {
        let revision = RevisionNumber(1);
        let instance = |n: u32| InstanceId::new(format!("wine-r1-{n}")).unwrap();
        prop_oneof![
            (1..9_u32).prop_map(starting),
            (1..9_u32).prop_map(move |n| EventBody::InstanceLive { instance: instance(n), revision, after_ms: 3 }),
            (1..9_u32).prop_map(move |n| EventBody::InstanceDraining { instance: instance(n), revision }),
            (1..9_u32).prop_map(move |n| EventBody::InstanceStopped {
                instance: instance(n),
                revision,
                how: "x".into()
            }),
            (1..9_u32).prop_map(move |n| {
                let (cause, at, detail) = (Cause::Crash, Timestamp(2), "gone".to_owned());
                let failure = Failure { cause, revision, instance: Some(instance(n)), at, detail, evidence: vec![] };
                EventBody::Failed { failure: Box::new(failure) }
            }),
            any::<bool>()
                .prop_map(|set| EventBody::FlagsSet { definition: set.then(|| serde_json::json!({"flags": {}})) }),
            any::<bool>().prop_map(|bars| match bars {
                true => EventBody::Frozen { why: "audit".into() },
                false => EventBody::Unfrozen,
            }),
            Just(EventBody::ServiceRemoved),
            Just(EventBody::ControlStopped),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// What the running ledger holds is what a restart folds from disk, whatever happened in whatever batches.
        #[test]
        fn the_ledger_equals_the_fold_of_its_log(batches in prop::collection::vec(prop::collection::vec(body(), 1..5), 1..12)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let folder = tempfile::tempdir().unwrap();
            runtime.block_on(async {
                let ledger = Ledger::open(Store::open(&path(&folder)).unwrap(), Arc::new(RealClock)).unwrap();
                for bodies in &batches {
                    let seen = ledger.service(&wine());
                    ledger.commit(&seen, Actor::Controller, bodies.clone()).await.unwrap();
                    let late = ledger.commit(&seen, Actor::Controller, bodies.clone()).await;
                    let conflict = matches!(late, Err(Error::Conflict { .. }));
                    prop_assert!(conflict, "a second commit on the same sight must lose");
                }
                let incremental = ledger.world();
                let mut folded = World::default();
                ledger.read(Query::default()).await.unwrap().iter().try_for_each(|event| folded.apply(event)).unwrap();
                prop_assert_eq!(&folded, &*incremental);
                drop(ledger);
                let again = Ledger::open(Store::open(&path(&folder)).unwrap(), Arc::new(RealClock)).unwrap();
                prop_assert_eq!(&*again.world(), &*incremental);
                Ok(())
            })?;
        }
    }
}
