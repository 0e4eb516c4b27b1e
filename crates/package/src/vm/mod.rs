//! The format `vm`: a disk that a machine boots and serves from, made without root, loop devices or network.

pub mod container;
