//! Whether a share is past its limit, beyond chance.
