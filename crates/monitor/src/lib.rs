//! modelyard monitor.
