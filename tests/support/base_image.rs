//! Images that others are put on, made of files of this machine.

use std::process::Command;

use modelyard_core::ModelName;
use modelyard_package::image::ARCHITECTURE;
use modelyard_registry::Store;
use modelyard_registry::client::FoundImage;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::manifest::{Descriptor, MANIFEST};
use serde_json::json;

use super::World;
use super::docker::run;

/// The loader of this machine, and libraries that it finds, as paths below the root.
pub fn libraries(names: &[&str]) -> Vec<String> {
    let loader = match ARCHITECTURE {
        "arm64" => "lib/ld-linux-aarch64.so.1",
        _ => "lib64/ld-linux-x86-64.so.2",
    };
    let folder = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    names.iter().map(|name| format!("{folder}/{name}")).chain([loader.to_owned()]).collect()
}

/// What every image that is built on has.
pub const GLIBC: [&str; 5] = ["libc.so.6", "libm.so.6", "libdl.so.2", "librt.so.1", "libpthread.so.0"];

/// Puts an image with these files of this machine under `debian:13` of a registry; its digest.
pub fn base(world: &World, paths: &[String]) -> String {
    let mut tar = Command::new("tar");
    tar.args(["-chf", "-", "-C", "/", "--exclude=__pycache__", "--exclude=test", "--exclude=config-3*"]);
    // As images have it: every folder before what is in it.
    let folders: std::collections::BTreeSet<&str> =
        paths.iter().flat_map(|path| path.match_indices('/').map(|(at, _)| &path[..at])).collect();
    let packed = tar.arg("--no-recursion").args(folders).arg("--recursion").args(paths).output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    let distribution = distribution(world);
    let put = |kind: &str, bytes: &[u8]| {
        let blob = distribution.store().blobs().put(bytes).unwrap().blob;
        Descriptor::new(kind, blob.digest, blob.size_bytes)
    };
    let layer = put("application/vnd.oci.image.layer.v1.tar", &packed.stdout);
    let config = json!({
        "architecture": ARCHITECTURE, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] }).to_string();
    let found = FoundImage::choose(manifest.into_bytes(), ARCHITECTURE, |why| why, |_| Err("no index".to_owned()));
    let found = found.unwrap();
    distribution.keep_base(&ModelName::new("debian").unwrap(), Some("13"), &found).unwrap();
    found.digest.to_string()
}

/// The registry of a home, opened beside whatever else uses it.
pub fn distribution(world: &World) -> Distribution {
    let home = world.home();
    let store = Store::open(home.join("registry"), home.join("unpacked")).unwrap();
    Distribution::open(&home.join("registry"), store).unwrap()
}

/// Debian's Python of this machine as an image: its minor version.
pub fn python(world: &World) -> u32 {
    let script = "import sys; print(sys.version_info.minor)";
    let minor: u32 = run(Command::new("/usr/bin/python3").args(["-I", "-c", script])).trim().parse().unwrap();
    let names: Vec<&str> = GLIBC.iter().copied().chain(["libz.so.1", "libexpat.so.1"]).collect();
    let mut paths = libraries(&names);
    paths.extend([format!("usr/bin/python3.{minor}"), format!("usr/lib/python3.{minor}")]);
    base(world, &paths);
    minor
}
