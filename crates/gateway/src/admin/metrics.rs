//! The gateway's figures for Prometheus.
//!
//! Promises: `promtool check metrics` accepts the text without a word. Absent on purpose: labels without bound (ids, paths, callers).

use std::fmt::Display;

use modelyard_core::exposition::{Exposition, duration_bounds};
use modelyard_core::measure::{PoolReport, ServiceReport};
use modelyard_core::mirror::Comparison;

use super::tally::Tally;

/// Everything as text.
pub fn render(tally: &Tally, generation: u64) -> String {
    let mut out = Exposition::default();
    out.family("modelyard_build_info", "gauge", "What runs; always 1.")
        .sample(&[("component", &"gateway"), ("version", &env!("CARGO_PKG_VERSION"))], 1);
    out.family("modelyard_route_table_generation", "gauge", "Generation of the route table that is applied.")
        .sample(&[], generation);
    out.family("modelyard_connections", "gauge", "Open connections of callers.").sample(&[], tally.connections);
    services(&mut out, tally);
    answers(&mut out, tally);
    pools(&mut out, tally);
    instances(&mut out, tally);
    shadows(&mut out, tally);
    taps(&mut out, tally);
    out.finish()
}

/// A family's name, kind, help, and the figure that it shows of each service.
type ServiceFigure = (&'static str, &'static str, &'static str, fn(&ServiceReport) -> u64);
/// A counter's name, help, and the figure that it shows of each pool.
type PoolCounter = (&'static str, &'static str, fn(&PoolReport) -> u64);

fn services(out: &mut Exposition, tally: &Tally) {
    let figures: [ServiceFigure; 3] = [
        ("modelyard_service_requests_total", "counter", "Requests from callers.", |service| service.requests),
        ("modelyard_service_failed_total", "counter", "Requests that callers saw fail.", |service| service.failed),
        ("modelyard_parked_requests", "gauge", "Requests that wait until something can serve them.", |service| {
            service.parked
        }),
    ];
    for (name, kind, help, figure) in figures {
        out.family(name, kind, help);
        for (service, report) in &tally.services {
            out.sample(&[("service", service)], figure(report));
        }
    }
}

fn answers(out: &mut Exposition, tally: &Tally) {
    out.family(
        "modelyard_requests_total",
        "counter",
        "Answers of instances by revision and status code, retried ones included.",
    );
    for ((service, revision), pool) in &tally.pools {
        for (code, count) in &pool.codes {
            let labels: [(&str, &dyn Display); 4] =
                [("service", service), ("revision", revision), ("version", &pool.version), ("code", code)];
            out.sample(&labels, count);
        }
    }
}

fn pools(out: &mut Exposition, tally: &Tally) {
    out.family("modelyard_request_duration_seconds", "histogram", "Time from forwarding to the answer's head.");
    each(tally, |labels, report| {
        let latency = &report.counters.latency;
        let sum = latency.sum_micros() as f64 / 1e6;
        out.histogram(labels, &duration_bounds(latency), latency.count(), sum);
    });
    let counters: [PoolCounter; 4] = [
        ("modelyard_attempts_total", "Attempts sent to instances, retries included.", |pool| pool.counters.requests),
        ("modelyard_errors_total", "Attempts that failed by the model's fault.", |pool| pool.counters.errors),
        ("modelyard_refused_total", "Attempts that failed by the caller's fault.", |pool| pool.counters.refused),
        ("modelyard_retried_total", "Failed attempts that another instance answered.", |pool| pool.counters.retried),
    ];
    for (name, help, figure) in counters {
        out.family(name, "counter", help);
        each(tally, |labels, report| {
            out.sample(labels, figure(report));
        });
    }
    out.family("modelyard_inflight_requests", "gauge", "Requests being answered.");
    each(tally, |labels, report| {
        out.sample(labels, report.in_flight());
    });
    out.family("modelyard_arm_weight_ratio", "gauge", "Share of live traffic, 0 to 1.");
    each(tally, |labels, report| {
        out.sample(labels, f64::from(report.weight.basis_points()) / 10_000.0);
    });
}

fn instances(out: &mut Exposition, tally: &Tally) {
    out.family("modelyard_instances", "gauge", "Instances that requests are sent to, by whether they are ejected.");
    each(tally, |labels, report| {
        for ejected in [false, true] {
            let count = report.instances.values().filter(|instance| instance.ejected == ejected).count();
            let mut labels = labels.to_vec();
            labels.push(("ejected", &ejected));
            out.sample(&labels, count);
        }
    });
}

fn shadows(out: &mut Exposition, tally: &Tally) {
    out.family(
        "modelyard_shadow_copies_total",
        "counter",
        "Copies of requests for shadows: sent, shed before they were sent, and of the sent ones those that failed.",
    );
    each_shadow(tally, |labels, shadow| {
        let counts = [("sent", shadow.sent), ("shed", shadow.shed), ("failed", shadow.failed)];
        results(out, labels, &counts);
    });
    out.family(
        "modelyard_shadow_comparisons_total",
        "counter",
        "Answers of shadows beside the callers': exact, agreed within tolerance, differed, incomparable.",
    );
    each_shadow(tally, |labels, shadow| {
        let counts = [
            ("exact", shadow.exact),
            ("agreed", shadow.agreed.saturating_sub(shadow.exact)),
            ("differed", shadow.compared.saturating_sub(shadow.agreed)),
            ("incomparable", shadow.incomparable),
        ];
        results(out, labels, &counts);
    });
    out.family(
        "modelyard_shadow_duration_seconds",
        "histogram",
        "Time from sending a copy to the head of the shadow's answer.",
    );
    each_shadow(tally, |labels, shadow| {
        let sum = shadow.latency.sum_micros() as f64 / 1e6;
        out.histogram(labels, &duration_bounds(&shadow.latency), shadow.latency.count(), sum);
    });
}

fn results(out: &mut Exposition, labels: &[(&str, &dyn Display)], counts: &[(&str, u64)]) {
    for (result, count) in counts {
        let mut labels = labels.to_vec();
        labels.push(("result", result));
        out.sample(&labels, count);
    }
}

/// Calls `show` for each shadow with its labels.
fn each_shadow(tally: &Tally, mut show: impl FnMut(&[(&str, &dyn Display)], &Comparison)) {
    for (service, report) in &tally.services {
        for (revision, shadow) in &report.mirrors {
            show(&[("service", service), ("revision", revision), ("arm", &"shadow")], shadow);
        }
    }
}

fn taps(out: &mut Exposition, tally: &Tally) {
    out.family("modelyard_tap_lines_total", "counter", "Answers and feedback told to the control plane, or shed.");
    for (service, report) in &tally.services {
        results(out, &[("service", service)], &[("told", report.tap.told), ("shed", report.tap.shed)]);
    }
}

/// Calls `show` for each pool with its labels.
fn each(tally: &Tally, mut show: impl FnMut(&[(&str, &dyn Display)], &PoolReport)) {
    for ((service, revision), pool) in &tally.pools {
        let report = tally.services.get(service).and_then(|service| service.pools.get(revision));
        if let Some(report) = report {
            show(&[("service", service), ("revision", revision), ("version", &pool.version)], report);
        }
    }
}
