//! The machine that measures: which core is whose, what it is, where the program under test lies.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The core of whatever is measured.
pub const SERVER_CORE: Option<usize> = Some(0);

/// The core of the load, and of upstreams.
pub const LOAD_CORE: Option<usize> = Some(1);

/// Processor, cores, memory and system, in one line.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':').or_else(|| line.split_once('='))?.1.trim().trim_matches('"').to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let memory: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .and_then(|text| text.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let system = field(&read("/etc/os-release"), "PRETTY_NAME").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("{processor}, {cores} cores, {:.0} GiB, {system}", memory as f64 / f64::from(1 << 20))
}

/// The modelyard binary: as given, else the one beside this program.
pub fn modelyard(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe()?.with_file_name("modelyard"),
    };
    if !path.is_file() {
        bail!("{} is not there: build it with `cargo build --release`, or pass --modelyard FILE", path.display());
    }
    Ok(path)
}

/// Refuses to compare anything on a machine where load and server would share their only core.
pub fn ensure_two_cores() -> Result<()> {
    if std::thread::available_parallelism()?.get() < 2 {
        bail!("comparisons need two cores: one for what is measured, one for the load");
    }
    Ok(())
}
