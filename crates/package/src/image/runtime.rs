//! The layer that every package of one runtime shares: Modelyard itself, the engine, and what they are linked against.

use std::path::{Path, PathBuf};

use modelyard_core::package::Runtime;

use super::documents::ENGINE;
use super::elf::{self, Closure};
use super::error::ImageError;
use super::tape::Entries;
use super::{Base, Ingredients, is_script};

/// Who the server is in an image without a base. The number is one that no base uses for somebody.
const PASSWD: &str = "root:x:0:0:root:/:/nonexistent\nmodelyard:x:65532:65532:modelyard:/nonexistent:/nonexistent\n";
const GROUP: &str = "root:x:0:\nmodelyard:x:65532:\n";

/// What stands in the layer.
pub fn entries(made_of: &Ingredients<'_>, moment: u64, notes: &mut Vec<String>) -> Result<Entries, ImageError> {
    let own = program_of_package(made_of, notes)?;
    let roots: Vec<&Path> = [made_of.program].into_iter().chain(made_of.engine).chain(own.as_deref()).collect();
    let needed = elf::closure(&roots)?;
    let mut entries = Entries::new(moment);
    let mut put = |path: &str, mode: u32, file: &Path| {
        entries.file(path.trim_start_matches('/'), mode, file, None).map_err(ImageError::file(file))
    };
    put("modelyard", 0o755, made_of.program)?;
    if let Some(engine) = made_of.engine {
        put(ENGINE, 0o644, engine)?;
    }
    let folder = needed.folder.as_deref().unwrap_or("/lib");
    match made_of.base {
        None => {
            if let Some(loader) = &needed.interpreter {
                put(loader, 0o755, Path::new(loader))?;
            }
            for (library, file) in &needed.libraries {
                put(&format!("{folder}/{library}"), 0o644, file)?;
            }
        }
        Some(base) => {
            fits(base, &needed)?;
            for (library, file) in needed.libraries.iter().filter(|(library, _)| !base.libraries.contains(*library)) {
                put(&format!("{folder}/{library}"), 0o644, file)?;
            }
        }
    }
    if made_of.base.is_none() {
        entries.bytes("etc/passwd", 0o644, PASSWD);
        entries.bytes("etc/group", 0o644, GROUP);
        entries.folder("tmp", 0o1777);
    }
    Ok(entries)
}

/// Whether a base has the C library that is needed.
fn fits(base: &Base, needed: &Closure) -> Result<(), ImageError> {
    let refuse = |why: String| ImageError::Base {
        name: base.name.clone(),
        why,
        help: "choose a base with the GNU C library, such as Debian's, of the age of this machine's or newer; or none",
    };
    let loader = needed.interpreter.as_deref().and_then(|path| path.rsplit('/').next());
    if let Some(loader) = loader.filter(|loader| !base.libraries.contains(*loader)) {
        return Err(refuse(format!("it has no {loader}, which Modelyard is started by")));
    }
    if let Some(lacking) = needed.libraries.keys().find(|one| elf::is_of_glibc(one) && !base.libraries.contains(*one)) {
        return Err(refuse(format!("it has no {lacking}")));
    }
    match (needed.glibc, base.glibc) {
        (Some(needed), Some(offered)) if offered < needed => {
            let told = |(major, minor)| format!("{major}.{minor}");
            let (offered, needed) = (told(offered), told(needed));
            Err(refuse(format!("its C library is {offered}, and this build of Modelyard needs {needed}")))
        }
        _ => Ok(()),
    }
}

/// The program that a package brings along for itself, if it is one that is linked against libraries.
fn program_of_package(made_of: &Ingredients<'_>, notes: &mut Vec<String>) -> Result<Option<PathBuf>, ImageError> {
    let Runtime::Command { command, .. } = &made_of.package.runtime else { return Ok(None) };
    let Some(program) = command.first() else { return Ok(None) };
    let file = made_of.folder.join(program);
    if !file.is_file() {
        if made_of.base.is_none() {
            notes.push(format!(
                "the package starts `{program}`, which it does not hold: without a base (`--base REF`) there is no such program in the image"
            ));
        }
        return Ok(None);
    }
    if is_script(&file).map_err(ImageError::file(&file))? && made_of.base.is_none() {
        notes.push(format!(
            "`{program}` is a script: without a base (`--base REF`) there is nothing in the image that interprets it"
        ));
    }
    Ok(elf::is_elf(&file).map_err(ImageError::file(&file))?.then_some(file))
}
