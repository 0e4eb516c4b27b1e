//! modelyard targets.
