//! modelyard package.
