//! Drift: how far what a revision sees and answers has moved from a reference.
//!
//! Counts are kept per field in the bins of the reference (`core::profile`), over a window that slides. What is measured over those bins:
//!
//! | measure | of | source |
//! | --- | --- | --- |
//! | population stability index | numbers, categories | Siddiqi, *Credit Risk Scorecards* (2006); it is the Jeffreys divergence of the two spreads |
//! | Kolmogorov-Smirnov distance | numbers | the largest distance of the two distribution functions, at the ends of the bins: never more than that of the values themselves |
//! | χ² test of homogeneity | numbers, categories | Pearson (1900); bins that are expected to hold fewer than five are taken together (Cochran 1954) |
//! | Jensen-Shannon divergence | numbers, categories | Lin (1991), in bits |
//!
//! Promises: bounded memory and work, whatever the traffic; a value that is missing counts, in a bin of its own; what was not seen is not measured.
//! Absent on purpose: what drift leads to (`modelyard-rollout`, `[quality]`).

mod measures;
mod meter;

pub use measures::{Measures, measure};
pub use meter::{Meter, Rule, Sampler};
