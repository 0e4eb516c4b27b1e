//! modelyard registry.
