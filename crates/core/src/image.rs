//! What every container image of a package has, whoever runs it: an engine, a Kubernetes, or a machine whose root it is.
//!
//! `modelyard-package` makes images; `modelyard serve` is what runs in them.

/// Label: digest of the package.
pub const PACKAGE: &str = "io.modelyard.package.digest";

/// Where the package stands.
pub const PACKAGE_DIR: &str = "/package";

/// Modelyard itself, which is what is started.
pub const PROGRAM: &str = "/modelyard";

/// Who serves, user and group: nobody's number, as the distroless images have it.
pub const USER: &str = "65532:65532";

/// Where it listens.
pub const PORT: u16 = 8080;

/// Variables of a `command` as one JSON object: what a service configures weighs more than what its package declares.
pub const VARIABLES: &str = "MODELYARD_VARIABLES";
