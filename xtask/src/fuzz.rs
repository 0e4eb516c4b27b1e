//! `cargo xtask fuzz`: every fuzz target for a few seconds, or one for as long as wanted.

use anyhow::{Context, Result, bail};

use crate::shell::{self, has, root};

/// Runs the target `only`, or each in turn, for `seconds`; what a target found stays in `fuzz/artifacts`.
pub fn run(only: Option<&str>, seconds: &str) -> Result<()> {
    let seconds: u32 = seconds.parse().context("the seconds must be a whole number")?;
    if !has("cargo-fuzz") {
        bail!("cargo-fuzz is missing; install it with `cargo install cargo-fuzz --locked`, then run again");
    }
    let targets = targets()?;
    let chosen: Vec<&String> = targets.iter().filter(|target| only.is_none_or(|only| only == *target)).collect();
    if chosen.is_empty() {
        bail!("there is no fuzz target `{}`; there are {}", only.unwrap_or_default(), targets.join(", "));
    }
    for target in chosen {
        let mut fuzz = shell::cargo(&["fuzz", "run", "--sanitizer", "none", target, "--"]);
        // One second is far more than any parser needs for what fits into 64 KiB.
        fuzz.args([&format!("-max_total_time={seconds}"), "-timeout=5", "-max_len=65536", "-rss_limit_mb=1024"]);
        // Coverage counters are options of a released compiler; cargo-fuzz asks for one option that is not.
        fuzz.env("RUSTC_BOOTSTRAP", "1");
        shell::run(&mut fuzz).with_context(|| format!("the target `{target}` found something; see fuzz/artifacts"))?;
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let folder = root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("could not read {}", folder.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned())).collect();
    names.sort();
    Ok(names)
}
