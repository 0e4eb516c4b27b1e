//! modelyard rehearse.
