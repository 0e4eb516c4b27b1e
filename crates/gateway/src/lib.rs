//! modelyard gateway.
