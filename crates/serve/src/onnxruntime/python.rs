//! ONNX Runtime inside a Python environment: the one that is active, then `python3` and `python` on the path.
//!
//! Promises: no Python code of the package is imported; only the folders of installed packages are asked for and looked into.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The first usable library, and why others were passed over.
pub(super) fn search() -> (Option<PathBuf>, Vec<String>) {
    let mut skipped = Vec::new();
    let active = std::env::var_os("VIRTUAL_ENV").map(PathBuf::from);
    let in_active = active.iter().flat_map(|root| site_packages(root));
    let found =
        in_active.chain(["python3", "python"].into_iter().flat_map(ask)).find_map(|site| in_site(&site, &mut skipped));
    (found, skipped)
}

/// `lib/python3.X/site-packages` of a virtual environment.
fn site_packages(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root.join("lib")).into_iter().flatten().flatten();
    let mut sites: Vec<PathBuf> =
        entries.map(|entry| entry.path().join("site-packages")).filter(|p| p.is_dir()).collect();
    sites.sort();
    sites
}

/// The folders of installed packages of an interpreter; none if it is not there. `-I` keeps the current folder and the
/// user's variables from being imported from.
fn ask(interpreter: &str) -> Vec<PathBuf> {
    const SCRIPT: &str = "import site, sysconfig; print('\\n'.join({sysconfig.get_paths()['platlib'], *site.getsitepackages(), site.getusersitepackages()}))";
    let output =
        Command::new(interpreter).args(["-I", "-c", SCRIPT]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from).collect()
        }
        _ => Vec::new(),
    }
}

/// The newest usable library of one site-packages folder.
fn in_site(site: &Path, skipped: &mut Vec<String>) -> Option<PathBuf> {
    let entries = std::fs::read_dir(site.join("onnxruntime").join("capi")).ok()?.flatten();
    let is_library = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("libonnxruntime.so"))
    };
    let mut libraries: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_library).collect();
    libraries.sort();
    libraries.into_iter().rev().find(|path| match super::too_old(path) {
        Some(reason) => {
            tracing::debug!(%reason, "passed over an ONNX Runtime");
            skipped.push(reason);
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site_with(names: &[&str]) -> tempfile::TempDir {
        let site = tempfile::tempdir().unwrap();
        let capi = site.path().join("onnxruntime/capi");
        std::fs::create_dir_all(&capi).unwrap();
        names.iter().for_each(|name| std::fs::write(capi.join(name), b"").unwrap());
        site
    }

    #[test]
    fn an_old_library_is_passed_over_with_its_reason() {
        let site = site_with(&["libonnxruntime.so.1.2.0", "libonnxruntime_providers_shared.so"]);
        let mut skipped = Vec::new();
        assert_eq!(in_site(site.path(), &mut skipped), None);
        assert!(skipped[0].contains("1.2.0"), "{skipped:?}");
    }

    #[test]
    fn a_usable_library_is_found() {
        let site = site_with(&["libonnxruntime.so.1.32.0"]);
        let found = in_site(site.path(), &mut Vec::new()).unwrap();
        assert!(found.ends_with("onnxruntime/capi/libonnxruntime.so.1.32.0"));
    }

    #[test]
    fn a_virtual_environment_is_looked_into_without_its_interpreter() {
        let root = tempfile::tempdir().unwrap();
        let site = root.path().join("lib/python3.12/site-packages");
        std::fs::create_dir_all(&site).unwrap();
        assert_eq!(site_packages(root.path()), [site]);
    }
}
