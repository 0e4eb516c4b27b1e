//! What a machine image (format `vm`) tells its first process: which drivers there are, where the root is, what is to be run.
//!
//! `modelyard-package` writes it into the initial RAM file system, `modelyard-guest` reads it there.
//!
//! Promises: a document of another version is refused, not half understood.

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Where the document stands in the initial RAM file system.
pub const DOCUMENT: &str = "/boot.json";

/// The version that is written and read.
pub const VERSION: u32 = 1;

/// The file in the initial RAM file system that the kernel starts: Modelyard itself.
pub const INIT: &str = "/init";

/// Where the container image that the root was made of has Modelyard. The root holds an empty file there, over which [`INIT`] is mounted.
pub use crate::image::PROGRAM;

/// The document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Boot {
    /// [`VERSION`].
    pub version: u32,
    /// The package: `wine:2.1.0`.
    pub name: String,
    /// Its digest.
    pub package: Digest,
    /// What the machine is called until somebody says otherwise.
    pub hostname: String,
    /// Drivers that can be loaded; what they need stands before them.
    pub modules: Vec<Module>,
    /// Name of the partition, in the partition table, that holds the root: a squashfs.
    pub root: String,
    /// What is run.
    pub program: Program,
}

/// A kernel module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Module {
    /// Its name, with underscores: `virtio_blk`.
    pub name: String,
    /// Its file in the initial RAM file system, not compressed.
    pub path: String,
    /// Devices that it drives, as patterns over what `modalias` files say (`*`, `?`, `[a-f]`). It is loaded when one of them is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Loaded on every machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub always: bool,
    /// Names of modules that must be loaded before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
}

/// A program and how it is started, as the configuration of a container image says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Program {
    /// Program and arguments.
    pub arguments: Vec<String>,
    /// Variables: `NAME=value`.
    pub environment: Vec<String>,
    /// Its working folder.
    pub folder: String,
    /// Number of the user that it runs as.
    pub user: u32,
    /// Number of the group.
    pub group: u32,
}

impl Boot {
    /// Reads the document.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let boot: Self =
            serde_json::from_slice(bytes).map_err(|error| format!("{DOCUMENT} cannot be read: {error}"))?;
        match boot.version {
            VERSION => Ok(boot),
            other => Err(format!("{DOCUMENT} has version {other}, and this program reads {VERSION}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(version: u32) -> Boot {
        let module = Module {
            name: "virtio_blk".into(),
            path: "/lib/modules/virtio_blk.ko".into(),
            aliases: vec!["virtio:d00000002v*".into()],
            always: false,
            needs: Vec::new(),
        };
        Boot {
            version,
            name: "wine:1".into(),
            package: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
            hostname: "wine".into(),
            modules: vec![module],
            root: "modelyard-root".into(),
            program: Program {
                arguments: vec![PROGRAM.into(), "serve".into()],
                environment: Vec::new(),
                folder: "/".into(),
                user: 65532,
                group: 65532,
            },
        }
    }

    #[test]
    fn another_version_is_refused() {
        let bytes = |version| serde_json::to_vec(&boot(version)).unwrap();
        assert_eq!(Boot::parse(&bytes(VERSION)), Ok(boot(VERSION)));
        assert!(Boot::parse(&bytes(2)).unwrap_err().contains("version 2"));
        assert!(Boot::parse(b"{}").unwrap_err().contains("cannot be read"));
    }
}
