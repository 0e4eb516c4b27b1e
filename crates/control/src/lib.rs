//! modelyard control.
