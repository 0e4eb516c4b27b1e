//! What exactly is executed for an instance, as a value.
//!
//! Promises: the environment is clean. An instance sees what its revision says, ids, and [`PASSED_ON`]; never the control plane's secrets.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use modelyard_core::instance::InstanceSpec;
use modelyard_core::package::Runtime;
use serde::{Deserialize, Serialize};

use super::folder::{Asked, Folder};

/// Variables of the control plane's own environment that an instance may see: where programs, the user's folder and temporary files are, and the language.
pub(crate) const PASSED_ON: [&str; 5] = ["PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"];

/// Marks every process of an instance, so that they are found even after they left its process group.
pub(crate) const MARK: &str = "MODELYARD_INSTANCE_DIR";

/// Path of the ONNX Runtime library.
pub(crate) const ONNXRUNTIME: &str = "MODELYARD_ONNXRUNTIME";

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Launch {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: BTreeMap<String, String>,
    /// Its working folder.
    pub folder: PathBuf,
    /// Process that it must not outlive.
    pub supervisor: u32,
    /// Control groups to join.
    pub groups: Vec<PathBuf>,
    /// Limit of its data segment in bytes, where no control group limits its memory.
    pub data_bytes: Option<u64>,
}

/// Why nothing can be executed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("the package's command is empty; name a program in `modelyard.toml` under [runtime] and package it again")]
    Empty,
    #[error(
        "cannot find the program `{program}`: it is neither an executable file in the package's folder {} nor on PATH ({path}); \
         install it, put it into the package, or correct the command in `modelyard.toml`",
        package.display()
    )]
    Missing { program: String, package: PathBuf, path: String },
}

/// The launch of an instance. `own` is Modelyard's own binary, `port` the port of a program that is told one, `base` the
/// environment to start from.
pub(crate) fn plan(
    asked: &Asked,
    folder: &Folder,
    own: &Path,
    port: Option<u16>,
    base: BTreeMap<String, String>,
) -> Result<Launch, LaunchError> {
    let spec = &asked.spec;
    let mut environment: BTreeMap<String, String> =
        base.into_iter().filter(|(name, _)| PASSED_ON.contains(&name.as_str())).collect();
    if let Runtime::Command { environment: declared, .. } = &spec.runtime {
        // A log that comes late explains nothing; a package's folder is not to be written to.
        environment.extend(
            [("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1")]
                .map(|(name, value)| (name.into(), value.into())),
        );
        environment.extend(declared.clone());
    }
    environment.extend(spec.environment.clone());
    environment.extend(identifiers(spec, folder));
    let (program, arguments, cwd) = match &spec.runtime {
        Runtime::Onnx { .. } | Runtime::Python { .. } => {
            environment.insert("MODELYARD_HOME".into(), asked.home.display().to_string());
            // The engine's own telemetry client; set here, `serve` need not start itself over to be without it.
            environment.insert("ORT_DISABLE_TELEMETRY".into(), "1".into());
            if let Some(library) = &asked.onnxruntime {
                environment.insert(ONNXRUNTIME.into(), library.display().to_string());
            }
            (own.to_owned(), serve_arguments(spec, folder), folder.path().to_owned())
        }
        Runtime::Command { command, .. } => {
            environment.extend(port.map(|port| ("PORT".into(), port.to_string())));
            let (name, arguments) = command.split_first().ok_or(LaunchError::Empty)?;
            let path = environment.get("PATH").map_or("", String::as_str);
            (find(name, &spec.package_dir, path)?, arguments.to_vec(), spec.package_dir.clone())
        }
        Runtime::None {} => return Err(LaunchError::Empty),
    };
    Ok(Launch {
        program,
        arguments,
        environment,
        folder: cwd,
        supervisor: std::process::id(),
        groups: Vec::new(),
        data_bytes: None,
    })
}

fn identifiers(spec: &InstanceSpec, folder: &Folder) -> [(String, String); 5] {
    [
        ("MODELYARD_SERVICE", spec.service.to_string()),
        ("MODELYARD_REVISION", spec.revision.to_string()),
        ("MODELYARD_INSTANCE", spec.id.to_string()),
        ("MODELYARD_PACKAGE_DIR", spec.package_dir.display().to_string()),
        (MARK, folder.path().display().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
}

/// The native model server: it picks its own ports and announces them itself.
fn serve_arguments(spec: &InstanceSpec, folder: &Folder) -> Vec<String> {
    let (package, announce) = (spec.package_dir.display().to_string(), folder.announce().display().to_string());
    let words = ["serve", "--package-dir", &package, "--http", "127.0.0.1:0", "--probe", "127.0.0.1:0"];
    let rest = ["--announce", &announce, "--name", spec.known_as.as_ref().unwrap_or(&spec.service).as_str()];
    let also = spec.known_as.iter().flat_map(|_| ["--also", spec.service.as_str()]);
    words.into_iter().chain(rest).chain(also).map(str::to_owned).collect()
}

/// The program's path: in the package's folder first, then as a shell would find it.
fn find(name: &str, package: &Path, path: &str) -> Result<PathBuf, LaunchError> {
    let mut candidates = vec![package.join(name)]; // an absolute `name` replaces the folder
    if !name.contains('/') {
        candidates
            .extend(std::env::split_paths(OsStr::new(path)).filter(|dir| dir.is_absolute()).map(|dir| dir.join(name)));
    }
    candidates.into_iter().find(|file| is_executable(file)).ok_or_else(|| LaunchError::Missing {
        program: name.chars().take(200).collect(),
        package: package.to_owned(),
        path: path.to_owned(),
    })
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use modelyard_core::{Digest, InstanceId, RevisionNumber, ServiceName, Timestamp};

    use super::*;

    fn asked(runtime: Runtime, package: &Path) -> Asked {
        let spec = InstanceSpec {
            id: InstanceId::new("wine-r2-7").unwrap(),
            service: ServiceName::new("wine").unwrap(),
            known_as: None,
            revision: RevisionNumber(2),
            package: Digest::from_sha256([7; 32]),
            image: None,
            package_dir: package.to_owned(),
            runtime,
            environment: [
                ("THRESHOLD".to_owned(), "0.5".to_owned()),
                ("MODELYARD_INSTANCE".to_owned(), "forged".to_owned()),
            ]
            .into(),
            resources: Default::default(),
            generation: 1,
            machine: None,
        };
        Asked { at: Timestamp(1), onnxruntime: Some("/lib/onnx.so".into()), home: "/home/m".into(), spec }
    }

    fn secret() -> BTreeMap<String, String> {
        [
            ("PATH", "/usr/bin:/bin"),
            ("MODELYARD_TOKEN", "secret"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("LANG", "C.UTF-8"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    #[test]
    fn the_native_server_is_told_everything_it_needs() {
        let asked = asked(Runtime::Onnx { model: "model.onnx".into() }, Path::new("/p"));
        let launch = plan(&asked, &Folder::new("/i/wine-r2-7"), Path::new("/bin/modelyard"), None, secret()).unwrap();
        assert_eq!(launch.program, Path::new("/bin/modelyard"));
        assert_eq!(
            launch.arguments.join(" "),
            "serve --package-dir /p --http 127.0.0.1:0 --probe 127.0.0.1:0 --announce /i/wine-r2-7/announce.json --name wine"
        );
        let names: Vec<&str> = launch.environment.keys().map(String::as_str).collect();
        let expected = [
            "LANG",
            "MODELYARD_HOME",
            "MODELYARD_INSTANCE",
            MARK,
            ONNXRUNTIME,
            "MODELYARD_PACKAGE_DIR",
            "MODELYARD_REVISION",
            "MODELYARD_SERVICE",
            "ORT_DISABLE_TELEMETRY",
            "PATH",
            "THRESHOLD",
        ];
        assert_eq!(names, expected, "no secret is passed on");
        assert_eq!(launch.environment["MODELYARD_INSTANCE"], "wine-r2-7", "an id cannot be forged");
    }

    #[test]
    fn a_program_of_the_package_comes_before_one_of_the_system() {
        let package = tempfile::tempdir().unwrap();
        let command = |words: &[&str]| Runtime::Command {
            command: words.iter().map(|&word| word.to_owned()).collect(),
            health: "/".into(),
            environment: BTreeMap::new(),
        };
        let launch = |words: &[&str]| {
            let asked = asked(command(words), package.path());
            plan(&asked, &Folder::new("/i/x"), Path::new("/bin/modelyard"), Some(4711), secret())
        };
        let found = launch(&["true", "--flag"]).unwrap();
        assert!(found.program.is_absolute() && found.program.ends_with("true"), "{:?}", found.program);
        assert_eq!((found.environment["PORT"].as_str(), found.folder.as_path()), ("4711", package.path()));

        std::fs::write(package.path().join("true"), "#!/bin/sh\n").unwrap();
        assert_ne!(launch(&["true"]).unwrap().program, package.path().join("true"), "not executable");
        std::fs::set_permissions(package.path().join("true"), std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(launch(&["true"]).unwrap().program, package.path().join("true"));

        let missing = launch(&["no-such-program"]).unwrap_err().to_string();
        assert!(missing.contains("`no-such-program`") && missing.contains("modelyard.toml"), "{missing}");
        assert!(matches!(launch(&[]), Err(LaunchError::Empty)));
    }
}
