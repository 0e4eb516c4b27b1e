//! Drift: its measures against what SciPy says of the same counts, and the meter that counts.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::collections::BTreeMap;
use std::sync::Arc;

use modelyard_core::evidence::Drift;
use modelyard_core::profile::{Builder, Profile, Side, tensors};
use modelyard_core::strategy::Reference;
use modelyard_core::{RevisionNumber, Timestamp};
use modelyard_monitor::drift::{Meter, Rule, Sampler, measure};
use serde_json::{Value, json};

fn close(one: f64, two: f64) -> bool {
    (one - two).abs() <= 1e-9 * two.abs().max(1e-3)
}

/// Constants: SciPy 1.17.1. psi = entropy(p, q) + entropy(q, p) with half a value added per bin that is in use; ks = ks_2samp of the bins' numbers;
/// p = chi2_contingency(correction=False), bins with an expected count below 5 taken together; js = jensenshannon(p, q, base=2)².
#[test]
fn measures_agree_with_scipy() {
    let deciles = [100, 100, 100, 100, 100, 100, 100, 100, 100, 100, 0];
    let shifted = [40, 60, 80, 90, 100, 110, 120, 130, 140, 180, 0];
    let cases: [(&[u64], &[u64], [f64; 4]); 5] = [
        (&deciles, &shifted, [0.14635562014711545, 0.14761904761904762, 3.886535467864649e-12, 0.02612899011608671]),
        (
            &[50, 60, 70, 20, 0],
            &[3, 9, 12, 16, 0],
            [0.6062529620442492, 0.3, 1.2027227913289307e-05, 0.11063982008160379],
        ),
        (
            &[500, 300, 200, 0, 0],
            &[40, 35, 20, 5, 0],
            [0.28084371408325387, 0.1, 2.2331697316564026e-11, 0.03040435114519925],
        ),
        (&[10, 20, 30, 0], &[100, 200, 300, 0], [0.00010560890466362405, 0.0, 1.0, 0.0]),
        // Values go missing: the numbers themselves are spread as before.
        (
            &[250, 250, 250, 250, 0],
            &[80, 80, 80, 80, 80],
            [1.2402206685456092, 0.0, 9.291669165256435e-45, 0.10803154614560004],
        ),
    ];
    for (reference, seen, [psi, ks, p, js]) in cases {
        let measures = measure(reference, seen, true).unwrap();
        let (own_ks, own_p) = (measures.ks.unwrap(), measures.chi_square_p.unwrap());
        assert!(close(measures.psi, psi) && close(own_ks, ks), "{seen:?}: {measures:?}");
        assert!((own_p / p - 1.0).abs() < 1e-8 && close(measures.jensen_shannon, js), "{seen:?}: {measures:?}");
        assert_eq!(measure(reference, seen, false).unwrap().ks, None, "categories have no order");
    }
}

#[test]
fn edges_have_an_answer() {
    assert_eq!(measure(&[0, 0, 0], &[1, 2, 0], true), None, "an empty reference");
    assert_eq!(measure(&[1, 2, 0], &[0, 0, 0], true), None, "nothing seen");
    assert_eq!(measure(&[], &[], true), None);
    let constant = measure(&[0, 40, 0, 0], &[0, 900, 0, 0], true).unwrap();
    assert!(
        constant.psi == 0.0 && constant.jensen_shannon == 0.0 && constant.chi_square_p == Some(1.0),
        "{constant:?}"
    );
    let moved = measure(&[0, 40, 0, 0], &[0, 0, 900, 0], true).unwrap();
    assert!(moved.psi > 5.0 && moved.ks == Some(1.0) && close(moved.jensen_shannon, 1.0), "{moved:?}");
    let all_missing = measure(&[10, 10, 0], &[0, 0, 30], true).unwrap();
    assert!(all_missing.ks.is_none() && all_missing.psi > 1.0 && all_missing.psi.is_finite(), "{all_missing:?}");
    let tiny = measure(&[1, 0, 0], &[0, 1, 0], true).unwrap();
    assert!(tiny.chi_square_p.is_none() && tiny.psi.is_finite(), "too little for a test: {tiny:?}");
    let huge = measure(&[u64::MAX, u64::MAX, 0], &[u64::MAX, 1, 0], true).unwrap();
    assert!(huge.psi.is_finite() && huge.chi_square_p == Some(0.0), "{huge:?}");
}

/// Numbers that look drawn at random, evenly spread over [0, 1).
fn draw(n: u64) -> f64 {
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 11) as f64 / (1_u64 << 53) as f64
}

fn request(n: u64, shift: f64) -> Value {
    let data = [draw(n) + shift, draw(n + 1_000_000)];
    json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": data}]})
}

fn response(n: u64) -> Value {
    json!({"outputs": [{"name": "label", "datatype": "INT64", "shape": [1], "data": [n % 3]}]})
}

fn profile(rows: u64) -> Arc<Profile> {
    let mut builder = Builder::new();
    for n in 0..rows {
        builder.row();
        builder.observe(Side::Input, &tensors(Side::Input, &request(n + 50_000, 0.0)));
        builder.observe(Side::Output, &tensors(Side::Output, &response(n)));
    }
    Arc::new(builder.build())
}

const STABLE: RevisionNumber = RevisionNumber(1);
const CANDIDATE: RevisionNumber = RevisionNumber(2);
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn meter(reference: Reference, profiles: &[(RevisionNumber, Arc<Profile>)]) -> Meter {
    let mut meter = Meter::default();
    meter.follow(Rule { reference, stable: Some(STABLE), profiles: profiles.iter().cloned().collect() });
    meter
}

fn feed(meter: &mut Meter, revision: RevisionNumber, at: Timestamp, rows: u64, shift: f64) {
    for n in 0..rows {
        meter.observe(revision, at, Some(&request(n, shift)), Some(&response(n)));
    }
}

fn by_field(drift: &BTreeMap<RevisionNumber, Vec<Drift>>, revision: RevisionNumber) -> BTreeMap<String, Drift> {
    drift.get(&revision).into_iter().flatten().map(|drift| (drift.field.clone(), drift.clone())).collect()
}

#[test]
fn an_input_that_moved_stands_first_and_the_others_stay() {
    let mut meter = meter(Reference::Package, &[(STABLE, profile(2_000)), (CANDIDATE, profile(2_000))]);
    feed(&mut meter, STABLE, NOW, 1_000, 0.0);
    feed(&mut meter, CANDIDATE, NOW, 1_000, 0.3);
    let drift = meter.drift(NOW);
    let worst = &drift[&CANDIDATE][0];
    assert_eq!((worst.field.as_str(), worst.seen, worst.reference.as_str()), ("input x[0]", 1_000, "package"));
    assert!(worst.psi > 0.2 && worst.ks.unwrap() > 0.25 && worst.chi_square_p.unwrap() < 1e-9, "{worst:?}");
    for (revision, field) in [(CANDIDATE, "input x[1]"), (CANDIDATE, "output label"), (STABLE, "input x[0]")] {
        let drift = &by_field(&drift, revision)[field];
        assert!(drift.psi < 0.05 && drift.jensen_shannon < 0.01, "{drift:?}");
        assert!(drift.chi_square_p.unwrap() > 1e-3, "{drift:?}");
    }
    assert_eq!(by_field(&drift, CANDIDATE)["output label"].ks, None);
}

#[test]
fn without_a_profile_stable_is_the_reference() {
    for profiles in [vec![], vec![(STABLE, profile(2_000))]] {
        let mut meter = meter(Reference::Package, &profiles);
        // Without any profile the first rows of stable give the bins.
        feed(&mut meter, CANDIDATE, NOW, 10, 0.3);
        feed(&mut meter, STABLE, NOW, 500, 0.0);
        feed(&mut meter, STABLE, NOW, 1_000, 0.0);
        feed(&mut meter, CANDIDATE, NOW, 1_000, 0.3);
        let drift = meter.drift(NOW);
        let worst = &drift[&CANDIDATE][0];
        assert_eq!((worst.field.as_str(), worst.reference.as_str()), ("input x[0]", "stable"));
        assert!(worst.psi > 0.2, "{worst:?}");
        assert_eq!(drift.contains_key(&STABLE), !profiles.is_empty(), "stable is held against its own package alone");
    }
    let mut meter = meter(Reference::Stable, &[(STABLE, profile(2_000)), (CANDIDATE, profile(2_000))]);
    feed(&mut meter, STABLE, NOW, 1_000, 0.3);
    feed(&mut meter, CANDIDATE, NOW, 1_000, 0.3);
    let drift = meter.drift(NOW);
    assert!(drift[&CANDIDATE].iter().all(|field| field.psi < 0.05 && field.reference == "stable"), "{drift:?}");
    assert!(!drift.contains_key(&STABLE), "both moved alike, and stable is no reference of its own");
}

#[test]
fn the_window_slides() {
    let mut meter = meter(Reference::Package, &[(STABLE, profile(2_000))]);
    let after = |minutes: u64| Timestamp(NOW.0 + minutes * 60_000);
    feed(&mut meter, STABLE, NOW, 600, 0.4);
    feed(&mut meter, STABLE, after(30), 400, 0.0);
    assert_eq!(meter.drift(after(30))[&STABLE][0].seen, 1_000);
    feed(&mut meter, STABLE, Timestamp(NOW.0 - 7_200_000), 50, 0.4);
    feed(&mut meter, STABLE, after(66), 100, 0.0);
    let drift = meter.drift(after(66));
    assert!(drift[&STABLE].iter().all(|field| field.seen == 500 && field.psi < 0.1), "{drift:?}");
    assert_eq!(meter.drift(after(300)), BTreeMap::new(), "nothing was seen for hours");
}

#[test]
fn other_forms_and_nonsense_do_not_disturb() {
    let mut meter = meter(Reference::Package, &[(STABLE, profile(2_000))]);
    feed(&mut meter, STABLE, NOW, 100, 0.0);
    let before = meter.drift(NOW);
    for body in [
        json!(null),
        json!({"inputs": []}),
        json!({"inputs": [{"name": "x", "shape": [1, 3], "data": [1, 2, 3]}]}),
        json!({"inputs": {"other": [[1, 2]]}, "outputs": [{"name": "label", "data": {}}]}),
        json!([[[1]]]),
    ] {
        meter.observe(STABLE, NOW, Some(&body), None);
    }
    meter.observe(STABLE, NOW, None, None);
    assert_eq!(meter.drift(NOW), before);
    meter.observe(STABLE, NOW, Some(&json!({"inputs": {"x": [[0.5, 0.5], [null, "text"]]}})), Some(&response(7)));
    assert_eq!(by_field(&meter.drift(NOW), STABLE)["input x[1]"].seen, 102, "what is missing is seen as missing");
}

#[test]
fn a_profile_that_is_none_is_not_used() {
    let mut broken = (*profile(100)).clone();
    let Some(field) = broken.fields.first_mut() else { panic!("fields") };
    field.values = serde_json::from_value(json!({"of": "numbers", "edges": [3.0, 1.0], "counts": []})).unwrap();
    let mut meter = meter(Reference::Package, &[(STABLE, Arc::new(broken))]);
    feed(&mut meter, STABLE, NOW, 1_000, 0.0);
    assert_eq!(meter.drift(NOW), BTreeMap::new());
}

#[test]
fn a_new_stable_keeps_what_was_counted_in_its_own_bins() {
    let profiles = BTreeMap::from([(STABLE, profile(2_000)), (CANDIDATE, profile(1_000))]);
    let mut meter = Meter::default();
    let rule = |stable| Rule { reference: Reference::Package, stable: Some(stable), profiles: profiles.clone() };
    meter.follow(rule(STABLE));
    feed(&mut meter, CANDIDATE, NOW, 700, 0.0);
    meter.follow(rule(CANDIDATE));
    assert_eq!(meter.drift(NOW)[&CANDIDATE][0].seen, 700);
}

#[test]
fn only_so_many_answers_are_looked_at() {
    let mut sampler = Sampler::default();
    let taken = |sampler: &mut Sampler, at| (0..1_000).filter(|_| sampler.takes(STABLE, at)).count();
    assert_eq!(taken(&mut sampler, NOW), 100);
    assert!(sampler.takes(CANDIDATE, NOW), "each revision has its own share");
    assert_eq!(taken(&mut sampler, Timestamp(NOW.0 + 1_000)), 100);
}
