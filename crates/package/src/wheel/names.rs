//! What a model is called in Python: project, module, version.

use modelyard_core::package::Package;
use modelyard_registry::python::{normalise, normalise_version};

use super::WheelError;

/// Words of the language, and modules that a model of that name would hide from everybody.
const TAKEN: &str = " and as assert async await break class continue def del elif else except finally for from global if import in is lambda \
nonlocal not or pass raise return try while with yield match case type abc argparse array ast asyncio base64 bisect builtins calendar cmath \
cmd code codecs collections colorsys compileall copy csv ctypes curses datetime decimal difflib dis email enum errno faulthandler filecmp \
fractions ftplib functools gc getpass gettext glob graphlib gzip hashlib heapq hmac html http imaplib importlib inspect io ipaddress \
itertools json keyword linecache locale logging mailbox marshal math mimetypes mmap numbers onnx onnxruntime numpy pandas operator os pathlib \
pickle pip pkgutil platform plistlib poplib posix pprint profile queue quopri random re readline resource runpy sched secrets select \
selectors setuptools shelve shlex shutil signal site smtplib socket sqlite3 ssl stat statistics string struct subprocess symtable sys \
sysconfig syslog tarfile tempfile test textwrap threading time timeit token tokenize tomllib trace traceback turtle types typing unittest \
urllib uuid venv warnings wave weakref webbrowser wheel winreg wsgiref xml zipapp zipfile zipimport zlib zoneinfo ";

/// What a model is called in Python.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Project: `wine-quality`.
    pub project: String,
    /// Project in file names: `wine_quality`.
    pub file: String,
    /// What is imported.
    pub module: String,
    /// Version as Python writes it.
    pub version: String,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Names {
    /// The names of a package.
    ///
    /// # Errors
    /// [`WheelError::Version`] when the version is none that Python knows.
    pub fn of(package: &Package) -> Result<Self, WheelError> {
        let refuse = || WheelError::Version(package.version.to_string());
        // Every name of a model is one of a project.
        let project = normalise(package.name.as_str()).ok_or_else(refuse)?;
        let version = normalise_version(package.version.as_str()).ok_or_else(refuse)?;
        let file = project.replace('-', "_");
        let taken = TAKEN.contains(&format!(" {file} "));
        let module = if taken { format!("{file}_model") } else { file.clone() };
        let mut notes = Vec::new();
        if version != package.version.as_str() {
            notes.push(format!("Python writes the version {} as {version}", package.version));
        }
        if taken {
            notes.push(format!("`{file}` means something else in Python: import it as `{module}`"));
        }
        Ok(Self { project, file, module, version, notes })
    }

    /// `wine_quality-1.0.0`.
    pub fn stem(&self) -> String {
        format!("{}-{}", self.file, self.version)
    }
}
