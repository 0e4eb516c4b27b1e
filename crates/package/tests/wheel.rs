//! Python packages made from the examples: the same bytes everywhere, refused where Python could not use them.
//!
//! Whether Python's own tools take them is tried by `tests/peers/test_wheel.py`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use modelyard_package::wheel::{Exported, WheelError, export};
use modelyard_package::{BuildOptions, build};
use modelyard_registry::Store;

/// A copy of the wine example whose `modelyard.toml` went through `edit`, exported into `out`.
fn exported(home: &Path, edit: impl Fn(String) -> String, options: &BuildOptions) -> Result<Exported, WheelError> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/wine/v1");
    let folder = home.join("model");
    fs::create_dir_all(&folder).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::write(folder.join(path.file_name().unwrap()), fs::read(&path).unwrap()).unwrap();
    }
    let description = folder.join("modelyard.toml");
    fs::write(&description, edit(fs::read_to_string(&description).unwrap())).unwrap();
    let store = Store::open(home.join("registry"), home.join("unpacked")).unwrap();
    let built = build(&folder, &store, options).unwrap();
    export(&built.package, &store.unpack(&built.digest).unwrap(), &home.join("dist"), options)
}

/// A Python function as a package: `text` is its description from `[runtime]` on, `files` lie beside it.
fn function(home: &Path, text: &str, files: &[(&str, &str)], unlocked: bool) -> Result<Exported, WheelError> {
    let folder = home.join("function");
    fs::create_dir_all(&folder).unwrap();
    let head = "[model]\nname = \"half\"\nversion = \"1\"\n[signature]\n\
        inputs = [{name = \"x\", datatype = \"FP32\", shape = [-1]}]\noutputs = [{name = \"y\", datatype = \"FP32\", shape = [-1]}]\n";
    fs::write(folder.join("modelyard.toml"), format!("{head}{text}")).unwrap();
    fs::write(folder.join("predict.py"), "def predict(inputs):\n    return [x / 2 for x in inputs['x']]\n").unwrap();
    files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    let options = BuildOptions { allow_unlocked: unlocked, ..BuildOptions::default() };
    let store = Store::open(home.join("registry"), home.join("unpacked")).unwrap();
    let built = build(&folder, &store, &options).unwrap();
    export(&built.package, &store.unpack(&built.digest).unwrap(), &home.join("dist"), &options)
}

fn plain(edit: impl Fn(String) -> String) -> (tempfile::TempDir, Result<Exported, WheelError>) {
    let home = tempfile::tempdir().unwrap();
    let done = exported(home.path(), edit, &BuildOptions::default());
    (home, done)
}

fn path_of(exported: &Exported, format: &str) -> PathBuf {
    exported.files.iter().find(|file| file.format == format).unwrap().path.clone()
}

fn in_wheel(exported: &Exported, ends: &str) -> String {
    let mut archive = zip::ZipArchive::new(fs::File::open(path_of(exported, "wheel")).unwrap()).unwrap();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).unwrap();
        if entry.name().unwrap().ends_with(ends) {
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            return text;
        }
    }
    panic!("the wheel has no {ends}");
}

fn fields(exported: &Exported) -> BTreeMap<String, Vec<String>> {
    let metadata = in_wheel(exported, ".dist-info/METADATA");
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in metadata.split("\n\n").next().unwrap().lines() {
        let (name, value) = line.split_once(": ").unwrap();
        fields.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    fields
}

#[test]
fn two_builds_have_the_same_bytes_and_time_comes_from_outside() {
    let (_one, first) = plain(|text| text);
    let (_two, second) = plain(|text| text);
    let (first, second) = (first.unwrap(), second.unwrap());
    let home = tempfile::tempdir().unwrap();
    let stamp = BuildOptions::from_source_date_epoch(Some("1700000000")).unwrap();
    let stamped = exported(home.path(), |text| text, &stamp).unwrap();
    for format in ["wheel", "sdist"] {
        let bytes = fs::read(path_of(&first, format)).unwrap();
        assert_eq!(bytes, fs::read(path_of(&second, format)).unwrap(), "{format}");
        assert_ne!(bytes, fs::read(path_of(&stamped, format)).unwrap(), "{format}");
        let told = first.files.iter().find(|file| file.format == format).unwrap();
        assert_eq!(told.digest, modelyard_registry::blob::digest_of(&bytes));
        assert_eq!(told.size_bytes, bytes.len() as u64);
    }
    let left: Vec<_> =
        fs::read_dir(home.path().join("dist")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "nothing else is left behind: {left:?}");
}

#[test]
fn the_metadata_says_what_the_package_says() {
    let (_home, done) = plain(|text| {
        text.replace("onnxruntime = \"1.32.0\"", "onnxruntime = \"1.32.0\"\nNumPy = \">=2,<3\"\nPandas = \"2.3.3\"")
            + "\n[python]\nrequires = \">=3.11,<3.14\"\n[annotations]\nkeywords = \"wine,chemistry\"\n"
    });
    let fields = fields(&done.unwrap());
    assert_eq!(fields["Requires-Python"], [">=3.11,<3.14"]);
    assert_eq!(fields["Requires-Dist"], ["onnxruntime==1.32.0", "numpy>=2,<3", "pandas==2.3.3; extra == \"pandas\""]);
    assert_eq!(
        (&fields["License-Expression"][..], &fields["Keywords"][..]),
        (&["Apache-2.0".to_owned()][..], &["wine,chemistry".to_owned()][..])
    );
}

#[test]
fn the_description_says_what_inputs_and_outputs_mean() {
    let (_home, done) = plain(|text| {
        text + "\n[outputs.label]\ndescription = \"Cultivar\"\nvalues = { 0 = \"Barolo\" }\n\n[inputs.features]\nunit = \"g|l\"\n"
    });
    let metadata = in_wheel(&done.unwrap(), ".dist-info/METADATA");
    for line in
        ["\n## Inputs and outputs\n", "\n- input `features`: in g l\n", "\n- output `label`: Cultivar; 0 = Barolo\n"]
    {
        assert!(metadata.contains(line), "{line}: {metadata}");
    }
}

#[test]
fn a_model_is_tied_to_the_engine_that_it_was_checked_with() {
    let unsaid = |text: String| text.replace("onnxruntime = \"1.32.0\"\n", "");
    let (_home, done) = plain(unsaid);
    let done = done.unwrap();
    let unstated = fields(&done);
    assert_eq!(unstated["Requires-Python"], [">=3.11,<3.15"]);
    assert_eq!(unstated["Requires-Dist"], ["onnxruntime==1.32.0", "numpy>=1.24,<3", "pandas; extra == \"pandas\""]);
    assert!(done.notes.is_empty(), "{:?}", done.notes);

    let (_home, done) = plain(|text| text.replace("onnxruntime = \"1.32.0\"", "onnxruntime-gpu = \">=1.20, <2\""));
    let done = done.unwrap();
    assert_eq!(fields(&done)["Requires-Dist"][0], "onnxruntime-gpu>=1.20,<2");
    assert!(done.notes[0].contains("name one version"), "what is looser than it should be is told: {:?}", done.notes);
}

#[test]
fn a_function_asks_for_exactly_what_its_lock_pins() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/language/v1");
    let built = build(&example, &store, &BuildOptions::default()).unwrap();
    let folder = store.unpack(&built.digest).unwrap();
    let done = export(&built.package, &folder, &home.path().join("dist"), &BuildOptions::default()).unwrap();
    let lock = modelyard_package::lock::Lock::parse(&fs::read_to_string(example.join("modelyard.lock")).unwrap());
    let mut wanted: Vec<String> = Vec::new();
    for pin in lock.unwrap().pins {
        wanted.push(format!("{}=={}; {}", pin.name, pin.version, pin.marker));
    }
    assert!(wanted.iter().all(|one| one.starts_with("numpy==2.")), "{wanted:?}");
    wanted.push("pandas; extra == \"pandas\"".to_owned());
    let fields = fields(&done);
    assert_eq!((&fields["Requires-Dist"], &fields["Requires-Python"][0][..]), (&wanted, ">=3.11,<3.15"));
    assert!(in_wheel(&done, "_engine.py").contains("\n_LISTS = False\n"));
    assert!(in_wheel(&done, "package/modelyard.lock").contains("--hash=sha256:"), "the hashes come along");
    assert!(done.notes.is_empty(), "{:?}", done.notes);
}

#[test]
fn a_function_gets_what_it_gets_behind_the_server() {
    let home = tempfile::tempdir().unwrap();
    let done = function(home.path(), "[runtime]\nkind = \"python\"\nentry = \"predict:predict\"\n", &[], false);
    let done = done.unwrap();
    assert!(in_wheel(&done, "_engine.py").contains("\n_LISTS = True\n"), "no NumPy of its own: nested lists");
    let read = fields(&done);
    assert_eq!(read["Requires-Dist"], ["numpy>=1.24,<3", "pandas; extra == \"pandas\""]);
    assert_eq!(read["Requires-Python"], [">=3.9"]);

    let home = tempfile::tempdir().unwrap();
    let runtime = "[runtime]\nkind = \"python\"\nentry = \"predict:predict\"\nrequirements = \"requirements.txt\"\n";
    let loose = [("requirements.txt", "scikit-learn[alldeps] >=1.5 ; python_version < '3.13'\nSix\n")];
    let done = function(home.path(), runtime, &loose, true).unwrap();
    let unlocked = ["scikit-learn[alldeps] >=1.5 ; python_version < '3.13'", "six"];
    assert_eq!(fields(&done)["Requires-Dist"][..2], unlocked);
    assert!(done.notes[0].contains("not locked"), "{:?}", done.notes);
    let home = tempfile::tempdir().unwrap();
    let refused = function(home.path(), runtime, &[("requirements.txt", "-r other.txt\n")], true).unwrap_err();
    assert!(matches!(&refused, WheelError::Requirements(why) if why.contains("line 1")), "{refused:?}");
}

#[test]
fn names_and_versions_become_those_of_python() {
    let (_home, done) =
        plain(|text| text.replace("\"wine\"", "\"red.wine-quality\"").replace("1.0.0\"\ndesc", "1.0.0-rc1\"\ndesc"));
    let done = done.unwrap();
    assert_eq!(done.module, "red_wine_quality");
    assert!(path_of(&done, "wheel").ends_with("red_wine_quality-1.0.0rc1-py3-none-any.whl"));
    assert!(path_of(&done, "sdist").ends_with("red_wine_quality-1.0.0rc1.tar.gz"));
    assert!(done.notes[0].contains("1.0.0rc1"), "{:?}", done.notes);
    assert_eq!(fields(&done)["Name"], ["red-wine-quality"]);

    let (_home, done) = plain(|text| text.replace("\"wine\"", "\"json\""));
    let done = done.unwrap();
    assert_eq!(done.module, "json_model");
    assert!(done.notes[0].contains("import it as `json_model`"), "{:?}", done.notes);
    assert!(in_wheel(&done, "entry_points.txt").contains("json-predict = json_model.__main__:answer"));
}

#[test]
fn what_python_could_not_use_is_refused() {
    let (home, done) = plain(|text| text.replace("1.0.0\"\ndesc", "spring\"\ndesc"));
    assert!(matches!(done.unwrap_err(), WheelError::Version(version) if version == "spring"));
    assert!(!home.path().join("dist").exists(), "a refusal leaves nothing behind");
    let (_home, done) = plain(|text| text.replace("\"1.32.0\"", "\"the newest\""));
    assert!(matches!(done.unwrap_err(), WheelError::Dependency { name, .. } if name == "onnxruntime"));

    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path().join("registry"), home.path().join("unpacked")).unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/command");
    let built = build(&fixture, &store, &BuildOptions::default()).unwrap();
    let refused = export(&built.package, &fixture, &home.path().join("dist"), &BuildOptions::default());
    assert!(matches!(refused.unwrap_err(), WheelError::Runtime("command")));
}

#[test]
fn an_author_cannot_begin_a_field() {
    let (_home, done) =
        plain(|text| text.replace("\"The Modelyard authors\"", "\"\"\"me\nRequires-Dist: evil\n\nbody\"\"\""));
    let fields = fields(&done.unwrap());
    assert_eq!(fields["Author"], ["me Requires-Dist: evil body"]);
    assert!(fields["Requires-Dist"].iter().all(|needed| needed != "evil"), "{fields:?}");
}

#[test]
fn a_range_of_python_versions_is_checked_when_it_is_read() {
    let description = |more: &str| {
        let text = "[model]\nname = \"m\"\nversion = \"1\"\n[runtime]\nkind = \"onnx\"\nmodel = \"m.onnx\"\n";
        modelyard_package::Description::parse(&format!("{text}{more}"))
    };
    let read = description("[python]\nrequires = \">=3.12\"\n").unwrap();
    assert_eq!(read.annotations, BTreeMap::from([("python.requires".to_owned(), ">=3.12".to_owned())]));
    assert!(description("").unwrap().annotations.is_empty());
    for wrong in ["requires = \"3.12\"", "requires = \"\"", "require = \">=3\"", "requires = 3"] {
        let mistakes = description(&format!("[python]\n{wrong}\n")).unwrap_err();
        assert_eq!((mistakes.len(), mistakes[0].line), (1, 8), "{wrong}: {mistakes:?}");
    }
    let both = description("[python]\nrequires = \">=3\"\n[annotations]\n\"python.requires\" = \">=3\"\n").unwrap_err();
    assert!(both[0].what.contains("[annotations]"), "{both:?}");
}
