//! Telling what happened: sentences for events, activity reports, the control plane's metrics, and log set-up.
//!
//! - [`narrate`](fn@narrate): one plain sentence per event.
//! - [`report`]: the activity report of one rollout, as Markdown and as a page.
//! - [`metrics`]: the control plane's figures for Prometheus.
//! - [`capture`]: requests, answers and feedback as Parquet files.
//! - [`drift`]: how far inputs and outputs have moved from a reference.
//! - [`logging`]: where the processes' own logs go.
//!
//! Promises: what comes from outside (names, log lines, error texts) is escaped in every form it is shown in.
//! Absent on purpose: deciding anything. Everything here is read from events and shown.

pub mod capture;
pub mod drift;
pub mod logging;
pub mod metrics;
mod narrate;
pub mod report;
mod rotate;
mod text;
pub mod time;

pub use narrate::narrate;
pub use report::Report;
