//! Benchmarks beside real peers.
fn main() {}
