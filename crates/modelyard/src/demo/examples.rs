//! Where the examples are.

use std::path::{Path, PathBuf};

use crate::exit::Failed;

/// The folder `examples`: as asked, beneath the working folder, beside the program, or where this program was built.
pub fn find(asked: Option<PathBuf>) -> Result<PathBuf, Failed> {
    let here = |folder: &Path| folder.join("wine/v1/modelyard.toml").is_file();
    if let Some(folder) = asked {
        return match here(&folder) {
            true => Ok(folder),
            false => Err(Failed::new(
                format!("{} holds no examples: there is no wine/v1/modelyard.toml", folder.display()),
                "pass the folder `examples` of Modelyard's repository",
            )),
        };
    }
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().map(|folder| folder.join("../share/modelyard/examples"));
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let places = [Some(PathBuf::from("examples")), beside, Some(built)];
    let found = places.into_iter().flatten().find(|folder| here(folder));
    found.and_then(|folder| folder.canonicalize().ok()).ok_or_else(|| {
        Failed::new(
            "the examples are not here",
            "run `modelyard demo` in Modelyard's repository, or pass its folder with `--examples DIR`",
        )
    })
}
