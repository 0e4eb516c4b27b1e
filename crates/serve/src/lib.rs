//! modelyard serve.
