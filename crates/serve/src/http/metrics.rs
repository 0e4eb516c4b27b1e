//! Metrics for Prometheus.

use std::fmt::Display;
use std::sync::atomic::Ordering::Relaxed;

use modelyard_core::exposition::{Exposition, duration_bounds};

use crate::server::Shared;
use crate::stats::{CODES, Protocol};

/// All metrics as text.
pub(super) fn text(shared: &Shared) -> String {
    let mut out = Exposition::default();
    let (name, version) = (&shared.name, shared.package.version.as_str());
    let labels: [(&str, &dyn Display); 2] = [("model", name), ("version", &version)];
    requests(&mut out, shared, &labels);
    engine(&mut out, shared, &labels);
    let (ready, live) = (u8::from(shared.health.is_ready()), u8::from(shared.health.is_live()));
    out.family("modelyard_model_ready", "gauge", "Whether the model accepts requests.").sample(&labels, ready);
    out.family("modelyard_model_live", "gauge", "Whether the samples of the package are answered correctly.")
        .sample(&labels, live);
    let build: [(&str, &dyn Display); 1] = [("version", &env!("CARGO_PKG_VERSION"))];
    out.family("modelyard_build_info", "gauge", "Version of the program; always 1.").sample(&build, 1);
    process(&mut out, shared);
    out.finish()
}

fn requests(out: &mut Exposition, shared: &Shared, labels: &[(&str, &dyn Display); 2]) {
    let totals = shared.totals();
    out.family(
        "modelyard_model_requests_total",
        "counter",
        "Inference requests answered, by protocol and HTTP status of the same meaning.",
    );
    for (protocol, codes) in Protocol::ALL.iter().zip(&totals.codes) {
        for (code, &count) in CODES.iter().zip(codes).filter(|&(&code, &count)| count > 0 || code == 200) {
            let name = protocol.name();
            let all: [(&str, &dyn Display); 4] = [labels[0], labels[1], ("protocol", &name), ("code", code)];
            out.sample(&all, count);
        }
    }
    let durations = &totals.durations;
    out.family(
        "modelyard_model_request_duration_seconds",
        "histogram",
        "Time from the head of an inference request to its answer.",
    )
    .histogram(labels, &duration_bounds(durations), durations.count(), durations.sum_micros() as f64 / 1e6);
    out.family("modelyard_model_requests_in_flight", "gauge", "Inference requests being answered right now.")
        .sample(labels, totals.in_flight);
    out.family("modelyard_model_queue_seconds_total", "counter", "Time that answered requests waited for the engine.")
        .sample(labels, totals.queue_ns as f64 / 1e9);
}

fn engine(out: &mut Exposition, shared: &Shared, labels: &[(&str, &dyn Display); 2]) {
    let Some(loaded) = shared.loaded.get() else { return };
    let (mut runs, mut rows, mut busy) = (0, 0, 0);
    for lane in loaded.runs() {
        runs += lane.ended.load(Relaxed);
        rows += lane.rows.load(Relaxed);
        busy += lane.busy_ns.load(Relaxed);
    }
    out.family(
        "modelyard_engine_runs_total",
        "counter",
        "Runs of the engine; one run answers several requests when they are merged.",
    )
    .sample(labels, runs);
    out.family("modelyard_engine_rows_total", "counter", "Rows in all runs of the engine.").sample(labels, rows);
    out.family("modelyard_engine_busy_seconds_total", "counter", "Time that the engine ran.")
        .sample(labels, busy as f64 / 1e9);
    out.family("modelyard_engine_queue_requests", "gauge", "Requests that wait for the engine right now.")
        .sample(labels, loaded.depth());
    out.family("modelyard_model_load_seconds", "gauge", "Time that loading and warming up took.")
        .sample(labels, loaded.load_time.as_secs_f64());
}

fn process(out: &mut Exposition, shared: &Shared) {
    out.family("modelyard_model_connections", "gauge", "Open connections.").sample(&[], shared.connections());
    out.family("process_start_time_seconds", "gauge", "Start of the process since 1970.")
        .sample(&[], shared.started_seconds);
    // Linux only; elsewhere the family is left out.
    if let Some(bytes) = resident_bytes() {
        out.family("process_resident_memory_bytes", "gauge", "Resident memory of the process.").sample(&[], bytes);
    }
}

fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
