//! Building packages and wheels: a large package against SHA-256 of the same file, the same again, and a wheel beside `python -m build` and flit.
//!
//! Promises: what is built has the same digest in every round, and wheels of one builder are compared byte by byte.

mod wheels;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::machine;
use crate::report::{self, Spread, Table, show};

/// Building packages and wheels.
#[derive(Args)]
pub struct Options {
    /// Size of the file that is packaged, in MiB.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Size of the file in the wheel, in MiB.
    #[arg(long, default_value_t = 50)]
    wheel: usize,
    /// Rounds.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// Folder for the peers' environments.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    cache: PathBuf,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One duration of one round.
#[derive(Serialize)]
struct Figure {
    what: &'static str,
    seconds: f64,
}

/// An unchanged file is known once it is older than the coarsest clock of a file system.
const SETTLED: Duration = Duration::from_millis(2_500);

/// Runs the rounds and prints the medians.
pub fn run(options: &Options) -> Result<()> {
    let binary = machine::modelyard(options.modelyard.as_deref())?.canonicalize()?;
    let folder = tempfile::tempdir()?;
    let model = folder.path().join("model");
    make_model(&model, options.size)?;
    let small = folder.path().join("small");
    make_model(&small, options.wheel)?;
    let mut figures = Vec::new();
    let mut digests = Vec::new();
    for round in 0..options.rounds {
        let mut time = |what, done: Duration| figures.push(Figure { what, seconds: done.as_secs_f64() });
        time("SHA-256 of the file", hash(&model.join("weights.bin"))?);
        let home = folder.path().join(format!("home-{round}"));
        for what in ["package", "the same again"] {
            let (took, answer) = modelyard(&binary, &home, &model, &[])?;
            time(what, took);
            digests.push(answer["digest"].as_str().context("no digest")?.to_owned());
        }
        std::fs::remove_dir_all(&home)?;
        let out = folder.path().join(format!("wheels-{round}"));
        let args = ["--format", "wheel", "--out", out.to_str().context("the folder's name is not UTF-8")?];
        time("wheel and sdist: modelyard", modelyard(&binary, &home, &small, &args)?.0);
        std::fs::remove_dir_all(&home)?;
        for (what, took) in wheels::peers(&options.cache, &small, &folder.path().join(format!("peers-{round}")))? {
            time(what, took);
        }
        eprintln!("build: round {} of {} done", round + 1, options.rounds);
    }
    ensure!(digests.windows(2).all(|pair| pair[0] == pair[1]), "one folder has several digests: {digests:?}");
    wheels::same(folder.path(), options.rounds)?;
    report::print(&render(options, &figures))?;
    report::save(options.json.as_deref(), &serde_json::json!({ "machine": machine::describe(), "figures": figures }))
}

/// The wine example with a large file beside its model.
fn make_model(folder: &Path, mebibytes: usize) -> Result<()> {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/wine/v1");
    std::fs::create_dir_all(folder)?;
    for name in ["model.onnx", "samples.json", "MODEL_CARD.md"] {
        std::fs::copy(example.join(name), folder.join(name))?;
    }
    let description = std::fs::read_to_string(example.join("modelyard.toml"))?;
    std::fs::write(folder.join("modelyard.toml"), format!("files = [\"weights.bin\"]\n{description}"))?;
    let mut random = fastrand::Rng::with_seed(5);
    let filler: Vec<u8> = std::iter::repeat_with(|| random.u64(..).to_le_bytes()).flatten().take(1 << 20).collect();
    let path = folder.join("weights.bin");
    let mut file = std::fs::File::create(&path)?;
    for number in 0..mebibytes {
        file.write_all(&number.to_le_bytes())?;
        file.write_all(&filler[size_of::<usize>()..])?;
    }
    file.sync_all()?;
    let written = file.metadata()?.modified()?;
    while SystemTime::now().duration_since(written).unwrap_or_default() < SETTLED {
        std::thread::sleep(SETTLED / 10);
    }
    Ok(())
}

fn hash(path: &Path) -> Result<Duration> {
    let (start, mut file, mut hash) = (Instant::now(), std::fs::File::open(path)?, Sha256::new());
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece)? {
            0 => break,
            length => hash.update(&piece[..length]),
        }
    }
    std::hint::black_box(hash.finalize());
    Ok(start.elapsed())
}

/// Packages a folder with the whole program; how long it took, and what it said.
fn modelyard(binary: &Path, home: &Path, folder: &Path, args: &[&str]) -> Result<(Duration, serde_json::Value)> {
    let mut command = Command::new(binary);
    command.args(["package", "--output", "json", "--home"]).arg(home).arg(folder).args(args);
    let (took, output) = timed(&mut command)?;
    Ok((took, serde_json::from_slice(&output)?))
}

/// Runs a command to its good end; how long it took, and what it printed.
fn timed(command: &mut Command) -> Result<(Duration, Vec<u8>)> {
    let start = Instant::now();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("could not run {command:?}"))?;
    let took = start.elapsed();
    if !output.status.success() {
        bail!("{command:?} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok((took, output.stdout))
}

fn render(options: &Options, figures: &[Figure]) -> String {
    let of = |what: &str| figures.iter().filter(|figure| figure.what == what).map(|figure| figure.seconds).collect();
    let mut seen: Vec<&str> = Vec::new();
    for figure in figures {
        if !seen.contains(&figure.what) {
            seen.push(figure.what);
        }
    }
    let mut table = Table::new(["what", "seconds", "× SHA-256 or modelyard"].map(str::to_owned));
    for what in seen {
        let seconds: Vec<f64> = of(what);
        let base: Vec<f64> =
            of(if what.starts_with("wheel") { "wheel and sdist: modelyard" } else { "SHA-256 of the file" });
        let ratio = Spread::of(seconds.iter().zip(&base).map(|(seconds, base)| seconds / base));
        table.row(vec![what.to_owned(), show(Spread::of(seconds), 3), show(ratio, 2)]);
    }
    format!(
        "{}\n\nA package with a file of {} MiB, a wheel with one of {} MiB.\n\n{}",
        machine::describe(),
        options.size,
        options.wheel,
        table.render()
    )
}
