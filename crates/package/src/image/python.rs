//! The layer of a Python function: its dependencies as an environment around the interpreter of the base, and the program of its workers.
//!
//! Promises: what an installer notes about itself (times, paths, scripts that name this machine's interpreter) stays out, so that the same lock gives the
//! same bytes.
//!
//! Source: PEP 405 (`pyvenv.cfg`); PyPA specification "Recording installed projects" (`RECORD`).

use std::path::Path;

use super::error::ImageError;
use super::is_program;
use super::tape::Entries;

/// The environment in the image.
pub const ENVIRONMENT: &str = "/usr/lib/modelyard/python";

/// The home folder in the image, in which the program of the workers lies already.
pub const HOME: &str = "/usr/lib/modelyard/home";

/// What a Python function needs.
#[derive(Clone, Copy, Debug)]
pub struct Dependencies<'a> {
    /// Folder with everything that is imported, as `pip install --target` lays it out.
    pub site: &'a Path,
    /// The interpreter in the base.
    pub interpreter: &'a str,
    /// Its minor version: 12 is Python 3.12.
    pub minor: u32,
    /// The program of the workers: its path below the cache, and its text.
    pub worker: (&'a str, &'a str),
}

/// What installers write beside what they install, which differs from run to run or from machine to machine.
const NOTES: [&str; 4] = ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];

/// What stands in the layer.
pub fn entries(needs: &Dependencies<'_>, moment: u64) -> Result<Entries, ImageError> {
    let (root, minor) = (ENVIRONMENT.trim_start_matches('/'), needs.minor);
    let mut entries = Entries::new(moment);
    let folder = needs.interpreter.rsplit_once('/').map_or("/", |(folder, _)| folder);
    let text = format!("home = {folder}\ninclude-system-site-packages = false\nversion = 3.{minor}\n");
    entries.bytes(&format!("{root}/pyvenv.cfg"), 0o444, text);
    entries.link(&format!("{root}/bin/python"), needs.interpreter);
    let site = format!("{root}/lib/python3.{minor}/site-packages");
    entries.folder(&site, 0o755);
    walk(needs.site, "", &site, &mut entries)?;
    let (path, worker) = needs.worker;
    entries.bytes(&format!("{}/cache/{path}", HOME.trim_start_matches('/')), 0o444, worker);
    Ok(entries)
}

fn walk(folder: &Path, within: &str, site: &str, entries: &mut Entries) -> Result<(), ImageError> {
    let failed = || ImageError::file(folder);
    for entry in std::fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name =
            entry.file_name().into_string().map_err(|_| failed()(std::io::Error::other("a name is no UTF-8")))?;
        let path = if within.is_empty() { name } else { format!("{within}/{name}") };
        if !is_kept(&path) {
            continue;
        }
        let (file, kind) = (entry.path(), entry.file_type().map_err(failed())?);
        if kind.is_dir() {
            walk(&file, &path, site, entries)?;
        } else if path.ends_with(".dist-info/RECORD") {
            let text = std::fs::read_to_string(&file).map_err(ImageError::file(&file))?;
            entries.bytes(&format!("{site}/{path}"), 0o444, record(&text));
        } else {
            let mode = if is_program(&file).map_err(ImageError::file(&file))? { 0o555 } else { 0o444 };
            entries.file(&format!("{site}/{path}"), mode, &file, None).map_err(ImageError::file(&file))?;
        }
    }
    Ok(())
}

/// Whether a file below the folder goes into the image.
fn is_kept(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let is_note = path.contains(".dist-info/") && NOTES.contains(&name);
    let is_script = path == "bin" || path.starts_with("bin/") || path.starts_with("../") || path == ".lock";
    !is_note && !is_script && name != "__pycache__" && !name.ends_with(".pyc")
}

/// A record of what is there, without what is not.
fn record(text: &str) -> String {
    let path = |line: &str| line.split(',').next().unwrap_or_default().trim_matches('"').to_owned();
    let mut lines: Vec<&str> = text.lines().filter(|line| is_kept(&path(line))).collect();
    lines.sort_unstable();
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_installer_notes_of_itself_stays_out() {
        let text = "six.py,sha256=x,1\n../../bin/six,sha256=y,2\nsix-1.dist-info/INSTALLER,,\nsix-1.dist-info/RECORD,,\n\"a,b.py\",sha256=z,3\n";
        assert_eq!(record(text), "\"a,b.py\",sha256=z,3\nsix-1.dist-info/RECORD,,\nsix.py,sha256=x,1\n");
        for (path, kept) in [("bin/six", false), ("a/bin/x.so", true), ("a/__pycache__", false), ("REQUESTED", true)] {
            assert_eq!(is_kept(path), kept, "{path}");
        }
    }
}
