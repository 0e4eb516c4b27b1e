//! The builders of wheels beside ours: `python -m build` with setuptools, and flit, over a package with the same file.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::setup;

const BUILDERS: [(&str, &str, &str); 2] =
    [("wheel and sdist: python -m build", "build", SETUPTOOLS), ("wheel and sdist: flit", "flit", FLIT)];

const SETUPTOOLS: &str = "\
[build-system]
requires = [\"setuptools\"]
build-backend = \"setuptools.build_meta\"
[project]
name = \"wine\"
version = \"1.0.0\"
description = \"Cultivar of a wine\"
[tool.setuptools]
packages = [\"wine\"]
[tool.setuptools.package-data]
wine = [\"*\"]
";

const FLIT: &str = "\
[build-system]
requires = [\"flit_core\"]
build-backend = \"flit_core.buildapi\"
[project]
name = \"wine\"
version = \"1.0.0\"
description = \"Cultivar of a wine\"
";

/// Builds wheel and source distribution with each builder, below `folder`, from the files of `model`; who took how long.
pub fn peers(cache: &Path, model: &Path, folder: &Path) -> Result<Vec<(&'static str, Duration)>> {
    // Not `canonicalize`: an environment's interpreter is a link.
    let python = std::path::absolute(setup::python(cache, "wheels", &setup::scripts().join("wheels.txt"))?)?;
    let mut took = Vec::new();
    for (what, builder, description) in BUILDERS {
        let project = folder.join(builder);
        let package = project.join("wine");
        std::fs::create_dir_all(&package)?;
        std::fs::write(project.join("pyproject.toml"), description)?;
        std::fs::write(package.join("__init__.py"), "")?;
        for name in ["model.onnx", "weights.bin", "samples.json", "MODEL_CARD.md"] {
            std::fs::copy(model.join(name), package.join(name))?;
        }
        let mut command = Command::new(&python);
        command.current_dir(&project).args(["-m", builder]).env("SOURCE_DATE_EPOCH", "1700000000");
        match builder {
            "build" => command.args(["--no-isolation", "."]),
            _ => command.args(["build", "--no-use-vcs"]),
        };
        took.push((what, super::timed(&mut command)?.0));
        std::fs::remove_dir_all(&project)?;
    }
    Ok(took)
}

/// Whether the wheels of all rounds are the same, byte by byte.
pub fn same(folder: &Path, rounds: usize) -> Result<()> {
    let files = |round: usize| -> Result<Vec<(PathBuf, Vec<u8>)>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder.join(format!("wheels-{round}")))? {
            let path = entry?.path();
            files.push((path.file_name().map(PathBuf::from).unwrap_or_default(), std::fs::read(&path)?));
        }
        files.sort();
        Ok(files)
    };
    let first = files(0)?;
    ensure!(first.len() == 2, "{} files were written instead of a wheel and an sdist", first.len());
    for round in 1..rounds {
        ensure!(files(round)? == first, "the wheels of round {round} differ from those of the first");
    }
    Ok(())
}
