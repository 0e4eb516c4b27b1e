//! Packages built from the examples: the same on any machine, refused early when something is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use modelyard_package::{BuildOptions, Built, Error, Named, build, build_model, is_model, package_of_model};
use modelyard_registry::Store;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

fn build_in(home: &Path, folder: &Path) -> Result<Built, Error> {
    build(folder, &store(home), &BuildOptions::default())
}

/// A copy of an example, written in another order, with other times and modes.
fn messy_copy(from: &Path, to: &Path) {
    let mut names: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    fs::create_dir_all(to).unwrap();
    for name in names.iter().rev() {
        let path = to.join(name);
        fs::write(&path, fs::read(from.join(name)).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn the_digest_does_not_depend_on_the_machine() {
    let home = tempfile::tempdir().unwrap();
    let tidy = build_in(&home.path().join("a"), &example("wine/v1")).unwrap();
    messy_copy(&example("wine/v1"), &home.path().join("elsewhere"));
    let messy = build_in(&home.path().join("b"), &home.path().join("elsewhere")).unwrap();
    assert_eq!(tidy.digest, messy.digest);
    // A change here is a change of the format: say so in the changelog.
    let golden = build_in(&home.path().join("c"), &fixture("command")).unwrap();
    assert_eq!(golden.digest.to_string(), include_str!("fixtures/command.digest").trim());
    let golden = build_in(&home.path().join("c"), &fixture("onnx")).unwrap();
    assert_eq!(golden.digest.to_string(), include_str!("fixtures/onnx.digest").trim());
}

#[test]
fn packages_have_the_media_types_of_the_model_specification() {
    let home = tempfile::tempdir().unwrap();
    let layers = |name: &str| {
        let built = build_in(home.path(), &fixture(name)).unwrap();
        let store = store(home.path());
        let bytes = fs::read(store.blobs().path(&built.digest)).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(manifest["mediaType"], "application/vnd.oci.image.manifest.v1+json");
        assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.cncf.model.config.v1+json");
        let layers = manifest["layers"].as_array().unwrap().clone();
        // Each layer is the file as it is, neither packed nor compressed.
        for layer in &layers {
            let path = layer["annotations"]["org.cncf.model.filepath"].as_str().unwrap();
            let digest = layer["digest"].as_str().unwrap().parse().unwrap();
            let blob = fs::read(store.blobs().path(&digest)).unwrap();
            assert_eq!(layer["size"], blob.len());
            assert!(path == "modelyard.json" || blob == fs::read(fixture(name).join(path)).unwrap(), "{path}");
        }
        let kind = |layer: &serde_json::Value| {
            let kind = layer["mediaType"].as_str().unwrap().strip_prefix("application/vnd.cncf.model.").unwrap();
            (layer["annotations"]["org.cncf.model.filepath"].as_str().unwrap().to_owned(), kind.to_owned())
        };
        layers.iter().map(kind).collect::<Vec<_>>()
    };
    let expected =
        |list: &[(&str, &str)]| list.iter().map(|&(path, kind)| (path.into(), kind.into())).collect::<Vec<_>>();
    let onnx = [
        ("modelyard.json", "weight.config.v1.raw"),
        ("MODEL_CARD.md", "doc.v1.raw"),
        ("labels.json", "weight.config.v1.raw"),
        ("model.onnx", "weight.v1.raw"),
    ];
    assert_eq!(layers("onnx"), expected(&onnx));
    let command =
        [("modelyard.json", "weight.config.v1.raw"), ("MODEL_CARD.md", "doc.v1.raw"), ("serve.py", "code.v1.raw")];
    assert_eq!(layers("command"), expected(&command));
}

#[test]
fn source_date_epoch_is_stamped_and_changes_the_digest() {
    let home = tempfile::tempdir().unwrap();
    let options = BuildOptions::from_source_date_epoch(Some("1700000000")).unwrap();
    let stamped = build(&example("wine/v1"), &store(&home.path().join("a")), &options).unwrap();
    let again = build(&example("wine/v1"), &store(&home.path().join("b")), &options).unwrap();
    let plain = build_in(&home.path().join("c"), &example("wine/v1")).unwrap();
    assert_eq!(stamped.digest, again.digest);
    assert_ne!(stamped.digest, plain.digest);
    let manifest = store(&home.path().join("a")).manifest(&stamped.digest).unwrap();
    assert_eq!(manifest.annotations["org.opencontainers.image.created"], "2023-11-14T22:13:20Z");
    for bad in ["yesterday", "", " 1", "+1", "-1", "1.5", "99999999999999999999", "253402300800"] {
        assert!(BuildOptions::from_source_date_epoch(Some(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn every_example_packages_with_samples_that_fit() {
    let home = tempfile::tempdir().unwrap();
    let mut built = 0;
    for model in ["wine", "breast-cancer", "digits", "iris", "diabetes", "fastapi", "language"] {
        for entry in fs::read_dir(example(model)).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("modelyard.toml").is_file() {
                let done =
                    build_in(home.path(), &folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
                assert!(!done.package.samples.is_empty() && done.size_bytes > 0);
                built += 1;
            }
        }
    }
    assert!(built >= 17, "only {built} examples were found");
}

#[test]
fn a_version_names_one_package_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    messy_copy(&example("wine/v1"), &folder);
    let first = build_in(home.path(), &folder).unwrap();
    assert_eq!(build_in(home.path(), &folder).unwrap().digest, first.digest);
    fs::write(folder.join("MODEL_CARD.md"), "other words").unwrap();
    let error = build_in(home.path(), &folder).unwrap_err().to_string();
    assert!(error.contains("`wine:1.0.0` is sha256:"), "{error}");
}

#[test]
fn wrong_folders_are_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    messy_copy(&example("wine/v1"), &folder);
    let toml = fs::read_to_string(folder.join("modelyard.toml")).unwrap();
    let try_with = |toml: &str| {
        fs::write(folder.join("modelyard.toml"), toml).unwrap();
        build_in(home.path(), &folder).unwrap_err().to_string()
    };
    assert!(try_with(&toml.replace("model.onnx", "missing.onnx")).contains("missing.onnx"));
    assert!(try_with(&toml.replace("model.onnx", "../../etc/passwd")).contains("refused"));
    assert!(try_with(&toml.replace("version =", "verison =")).contains("did you mean `version`?"));
    assert!(try_with(&toml.replace("\"model.onnx\"", "\"MODEL_CARD.md\"")).contains("cannot be packaged"));
    assert!(try_with(&toml.replace("model.onnx", "modle.onnx")).contains("did you mean `model.onnx`?"));
    let several = toml
        .replace("model.onnx", "none.onnx")
        .replace("MODEL_CARD.md", "none.md")
        .replace("samples.json", "none.json");
    let shown = try_with(&format!("files = [\"*.csv\", \"data/x\"]\n{several}"));
    assert!(shown.contains("has 5 mistakes") && shown.contains("line 1: no file matches `*.csv`"), "{shown}");
    let bad_sample = toml.replace("\"samples.json\"", "[{inputs = {features = [[1.0]]}, outputs = {label = [1]}}]");
    assert!(
        try_with(&bad_sample).contains("has the shape [1, 1], the model has [-1, 13]"),
        "{}",
        try_with(&bad_sample)
    );
    assert!(matches!(build_in(home.path(), &home.path().join("nowhere")), Err(Error::NoDescription(_))));
}

#[test]
fn unpacking_checks_every_byte() {
    let home = tempfile::tempdir().unwrap();
    let built = build_in(home.path(), &example("wine/v1")).unwrap();
    let store = store(home.path());
    let folder = store.unpack(&built.digest).unwrap();
    assert_eq!(fs::read(folder.join("model.onnx")).unwrap(), fs::read(example("wine/v1/model.onnx")).unwrap());
    assert!(folder.join("modelyard.json").is_file());

    fs::remove_dir_all(&folder).unwrap();
    let blob = store.blobs().path(&built.package.files["model.onnx"].digest);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    let error = store.unpack(&built.digest).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert!(!folder.exists(), "a damaged package was laid out");
}

#[test]
fn many_builders_and_readers_at_once_agree() {
    let home = tempfile::tempdir().unwrap();
    let digests: Vec<_> = std::thread::scope(|scope| {
        let run = |_| {
            scope.spawn(|| {
                let built = build_in(home.path(), &example("digits/v1")).unwrap();
                store(home.path()).unpack(&built.digest).unwrap();
                built.digest
            })
        };
        let handles: Vec<_> = (0..8).map(run).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(store(home.path()).list().unwrap().len(), 1);
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_the_registry() {
    let home = tempfile::tempdir().unwrap();
    let built = build_in(home.path(), &example("wine/v1")).unwrap();
    let source = format!("oci:{}:wine:1.0.0", home.path().join("registry").display());
    let copy = format!("dir:{}", home.path().join("copy").display());
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("skopeo").args(arguments).output().unwrap();
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let raw = run(&["inspect", "--raw", &source]);
    assert_eq!(modelyard_registry::blob::digest_of(raw.as_bytes()), built.digest);
    run(&["--insecure-policy", "copy", &source, &copy]);
}

#[test]
fn an_unchanged_folder_is_not_stored_again_and_mends_what_was_damaged() {
    let home = tempfile::tempdir().unwrap();
    let first = build_in(home.path(), &example("wine/v1")).unwrap();
    assert_eq!((first.reused, first.package.files.len()), (0, 2));
    assert_eq!(build_in(home.path(), &example("wine/v1")).unwrap().reused, 2);
    let store = store(home.path());
    let folder = store.unpack(&first.digest).unwrap();
    let model = first.package.files["model.onnx"].digest;
    let blob = store.blobs().path(&model);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"damaged").unwrap();
    let again = build_in(home.path(), &example("wine/v1")).unwrap();
    assert_eq!((again.digest, again.reused), (first.digest, 1));
    assert_eq!(store.blobs().verify(&model).unwrap(), first.package.files["model.onnx"].size_bytes);
    assert_eq!(store.unpack(&again.digest).unwrap(), folder);
}

/// `examples/wine/v1` as a program with the given command and files.
fn program(folder: &Path, head: &str, command: &str) {
    let text = format!(
        "{head}\n[model]\nname = \"p\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\nhealth = \"/\"\ncommand = {command}\n"
    );
    fs::create_dir_all(folder.join("lib/__pycache__")).unwrap();
    fs::write(folder.join("modelyard.toml"), text).unwrap();
    for name in ["main.py", "lib/util.py", "lib/__pycache__/util.pyc", ".env", "samples.json"] {
        fs::write(folder.join(name), "[]").unwrap();
    }
    fs::write(folder.join("start"), "#!/bin/sh\nexec true\n").unwrap();
}

#[test]
fn a_program_holds_what_it_needs_and_can_be_started() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("program");
    program(&folder, "samples = \"samples.json\"", "[\"./start\", \"main.py\"]");
    let built = build_in(home.path(), &folder).unwrap();
    assert_eq!(built.package.files.keys().collect::<Vec<_>>(), ["lib/util.py", "main.py", "start"]);
    let laid_out = store(home.path()).unpack(&built.digest).unwrap();
    assert!(std::process::Command::new(laid_out.join("start")).status().unwrap().success());
}

/// A model folder whose function is `predict:answer`.
fn function(folder: &Path, head: &str, runtime: &str) {
    let text = format!(
        "{head}\n[model]\nname = \"double\"\nversion = \"1\"\n[runtime]\nkind = \"python\"\n{runtime}\n[signature]\n\
         inputs = [{{name = \"x\", datatype = \"FP32\", shape = [-1, 2]}}, {{name = \"scale\", datatype = \"FP32\", shape = []}}]\n\
         outputs = [{{name = \"y\", datatype = \"FP32\", shape = [-1, 2]}}]\n\
         [flags.scale]\ntype = \"number\"\ndefault = 2.0\ninput = \"scale\"\n"
    );
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("modelyard.toml"), text).unwrap();
    fs::write(folder.join("predict.py"), "def answer(inputs):\n    return {'y': inputs['x'] * inputs['scale']}\n")
        .unwrap();
}

#[test]
fn a_python_function_is_packaged_with_its_signature() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("double");
    let sample = "samples = [{inputs = {x = [[1, 2]]}, outputs = {y = [[2, 4]]}}]";
    function(&folder, sample, "entry = \"predict:answer\"\nbatch = true");
    fs::write(folder.join("weights.pkl"), b"\x80\x04N.").unwrap();
    let built = build_in(home.path(), &folder).unwrap();
    assert_eq!(built.package.runtime.name(), "python");
    assert_eq!(built.package.files.keys().collect::<Vec<_>>(), ["predict.py", "weights.pkl"]);
    assert!(built.package.signature.inputs[1].optional, "a flag fills it");
    assert_eq!(built.package.samples[0].request["inputs"][0]["shape"], serde_json::json!([1, 2]));
    assert!(built.warnings.iter().any(|warning| warning.contains("`weights.pkl` is a pickle")), "{:?}", built.warnings);
    let read = store(home.path()).package(&built.digest).unwrap();
    assert_eq!(read, built.package, "the registry gives it back");
}

#[test]
fn a_python_package_that_cannot_run_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let right = "entry = \"predict:answer\"";
    for (head, runtime, what) in [
        ("", "entry = \"predikt:answer\"", "did you mean `predict.py`?"),
        ("", "entry = \"mlflow:model\"", "no folder `model`"),
        ("", "entry = \"predict:answer\"\nrequirements = \"r.txt\"", "no file `r.txt`"),
        ("files = [\"other.py\"]", right, "not in `files`"),
        ("samples = [{inputs = {x = [[1, 2, 3]]}, outputs = {y = [[2, 4, 6]]}}]", right, "shape"),
        ("samples = [{inputs = {z = [[1, 2]]}, outputs = {y = [[2, 4]]}}]", right, "no input `z`"),
    ] {
        let folder = tempfile::tempdir_in(home.path()).unwrap();
        function(folder.path(), head, runtime);
        fs::write(folder.path().join("other.py"), "").unwrap();
        let error = build_in(home.path(), folder.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error} does not say {what}");
    }
}

#[test]
fn a_python_package_without_a_complete_lock_is_refused_unless_told_otherwise() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("double");
    function(&folder, "", "entry = \"predict:answer\"\nrequirements = \"needs.txt\"");
    fs::write(folder.join("needs.txt"), "six>=1\n").unwrap();
    let refused = |what: &str| {
        let error = build_in(home.path(), &folder).unwrap_err().to_string();
        assert!(error.contains("not locked") && error.contains(what), "{error} does not say {what}");
    };
    refused("there is no `modelyard.lock`");
    let heading = modelyard_package::lock::heading(b"six>=1\n", ">=3.9");
    let right = format!("{heading}six==1.17.0 --hash=sha256:{}\n", "ab".repeat(32));
    // Tampered with: the hash is gone, or the version is open.
    for (text, what) in [
        (format!("{heading}six==1.17.0\n"), "`six` has no hash"),
        (right.replace("==1.17.0", ">=1.17.0"), "not pinned"),
        (right.replace("six==", "seven=="), "`six` is not in it"),
    ] {
        fs::write(folder.join("modelyard.lock"), text).unwrap();
        refused(what);
    }
    fs::write(folder.join("modelyard.lock"), &right).unwrap();
    let locked = build_in(home.path(), &folder).unwrap();
    assert!(locked.package.files.contains_key("modelyard.lock"));
    assert!(matches!(locked.package.runtime, modelyard_core::package::Runtime::Python { locked: true, .. }));
    fs::write(folder.join("needs.txt"), "six>=1.17\n").unwrap();
    refused("other requirements");
    let options = BuildOptions { allow_unlocked: true, ..BuildOptions::default() };
    let told = build(&folder, &store(&home.path().join("other")), &options).unwrap();
    assert!(told.warnings.iter().any(|warning| warning.contains("not locked")), "{:?}", told.warnings);
    assert!(matches!(told.package.runtime, modelyard_core::package::Runtime::Python { locked: false, .. }));
}

#[test]
fn a_program_whose_files_are_left_out_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("program");
    for (head, command, why) in [
        ("files = [\"lib\"]", "[\"python3\", \"main.py\"]", "not in `files`"),
        ("files = [\"main.py\"]", "[\"./start\"]", "not in `files`"),
        ("", "[\"python3\", \"man.py\"]", "did you mean `main.py`?"),
        ("", "[\"bin/start\"]", "no folder `bin`"),
    ] {
        program(&folder, head, command);
        let error = build_in(home.path(), &folder).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    }
    program(&folder, "", "[\"/usr/bin/python3\", \"-m\", \"main\", \"--reload\", \"main:app\"]");
    assert!(build_in(home.path(), &folder).unwrap().warnings.iter().any(|warning| warning.contains("every machine")));
}

/// A model whose one weight lies in `location`, 16 bytes long.
fn model_with_weights_elsewhere(location: &str) -> Vec<u8> {
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let entry = |key: &str, value: &str| field(13, &[field(1, key.as_bytes()), field(2, value.as_bytes())].concat());
    let kind = field(1, &[&[1 << 3, 1][..], &field(2, &field(1, &[1 << 3, 4]))].concat());
    let value = |name: &str| [field(1, name.as_bytes()), field(2, &kind)].concat();
    let weight = [field(8, b"w"), entry("location", location), entry("length", "16"), vec![14 << 3, 1]].concat();
    let graph = [field(5, &weight), field(11, &value("x")), field(12, &value("y"))].concat();
    [vec![1 << 3, 9], field(7, &graph)].concat()
}

#[test]
fn weights_in_files_beside_the_model_belong_to_the_package() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    fs::create_dir_all(folder.join("onnx")).unwrap();
    let toml = "[model]\nname = \"m\"\nversion = \"1\"\n[runtime]\nkind = \"onnx\"\nmodel = \"onnx/m.onnx\"\n";
    fs::write(folder.join("modelyard.toml"), toml).unwrap();
    fs::write(folder.join("secret"), [0; 16]).unwrap();
    for (location, why) in [
        ("../secret", "leaves the folder"),
        ("/etc/passwd", "empty part"),
        ("w.bin", "no file `onnx/w.bin`"),
        ("*", "no file"),
        (".", "is refused"),
    ] {
        fs::write(folder.join("onnx/m.onnx"), model_with_weights_elsewhere(location)).unwrap();
        let error = build_in(home.path(), &folder).unwrap_err().to_string();
        assert!(error.contains("keeps weights in another file") && error.contains(why), "{error} does not say {why:?}");
    }
    fs::write(folder.join("onnx/m.onnx"), model_with_weights_elsewhere("w.bin")).unwrap();
    fs::write(folder.join("onnx/w.bin"), [0; 15]).unwrap();
    assert!(build_in(home.path(), &folder).unwrap_err().to_string().contains("has 15 bytes"));
    fs::write(folder.join("onnx/w.bin"), [0; 16]).unwrap();
    let built = build_in(home.path(), &folder).unwrap();
    assert_eq!(built.package.files.keys().collect::<Vec<_>>(), ["onnx/m.onnx", "onnx/w.bin"]);

    let bare = modelyard_package::package_of_model(&folder.join("onnx/m.onnx")).unwrap();
    assert_eq!((bare.name.as_str(), bare.signature), ("m", built.package.signature));
    let named = Named::after(&folder.join("onnx/m.onnx")).unwrap();
    let store = store(&home.path().join("bare"));
    let alone = build_model(&folder.join("onnx/m.onnx"), &named, &store, &BuildOptions::default()).unwrap();
    assert_eq!(alone.package.files.keys().collect::<Vec<_>>(), ["m.onnx", "w.bin"]);
    let copy = home.path().join("copy");
    modelyard_package::scaffold(&copy, Some(&folder.join("onnx/m.onnx"))).unwrap();
    let files = build_in(home.path(), &copy).unwrap().package.files;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["MODEL_CARD.md", "model.onnx", "w.bin"]);
    fs::remove_file(folder.join("onnx/w.bin")).unwrap();
    assert!(modelyard_package::package_of_model(&folder.join("onnx/m.onnx")).is_err());
}

#[test]
fn files_that_differ_in_case_only_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("program");
    program(&folder, "", "[\"./start\"]");
    fs::write(folder.join("MAIN.py"), "x").unwrap();
    assert!(build_in(home.path(), &folder).unwrap_err().to_string().contains("upper and lower case"));
}

/// A model file or folder of another framework, as its own library wrote it.
fn kinds(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/kinds").join(name)
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        fs::read_dir(from).unwrap().for_each(|entry| {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        });
    } else {
        fs::copy(from, to).unwrap();
    }
}

#[test]
fn bare_models_of_every_kind_are_packages_and_say_what_they_are() {
    let home = tempfile::tempdir().unwrap();
    for (name, called, kind, inputs, risky) in [
        ("wine_tf", "wine_tf", "saved-model", 1, false),
        ("relu.mlpackage", "relu", "core-ml", 1, false),
        ("dense.mlmodel", "dense", "core-ml", 1, false),
        ("linear.safetensors", "linear", "safetensors", 0, false),
        ("tiny.gguf", "tiny", "gguf", 0, false),
        ("script.pt", "script", "torch-script", 0, true),
        ("exported.pt2", "exported", "torch-export", 0, true),
        ("state.pt", "state", "torch", 0, true),
        ("bad.pkl", "bad", "pickle", 0, true),
    ] {
        let path = kinds(name);
        assert!(is_model(&path), "{name}");
        let built =
            build_model(&path, &Named::after(&path).unwrap(), &store(home.path()), &BuildOptions::default()).unwrap();
        let package = &built.package;
        assert_eq!((package.name.as_str(), package.runtime.name()), (called, "none"), "{name}");
        assert_eq!(serde_json::json!(package.models[name].kind), kind, "{name}");
        assert_eq!((package.signature.inputs.len(), package.risks.contains_key(name)), (inputs, risky), "{name}");
        assert_eq!(package.model.as_deref(), (inputs > 0).then_some(name), "{name}");
        assert!(built.warnings.iter().any(|warning| warning.contains("nothing runs this package")));
        let read = store(home.path()).package(&built.digest).unwrap();
        assert_eq!(read, *package, "the registry gives it back");
        assert_eq!(package_of_model(&path).unwrap().models, package.models);
        // Weights are told from code and texts.
        let manifest = store(home.path()).manifest(&built.digest).unwrap();
        assert!(manifest.layers.iter().any(|layer| layer.media_type.ends_with("model.weight.v1.raw")), "{name}");
    }
    for name in ["numbers.npy", "wine_tf/fingerprint.pb"] {
        assert!(!is_model(&kinds(name)), "{name}");
    }
    assert!(!is_model(&example("wine/v1")) && !is_model(&example("wine/v1/modelyard.toml")));
}

#[test]
fn parts_that_are_missing_are_named() {
    let home = tempfile::tempdir().unwrap();
    let refused = |from: &str, gone: &str, with: Option<&str>| {
        let path = home.path().join(from);
        copy(&kinds(from), &path);
        match with {
            None => fs::remove_file(path.join(gone)).unwrap(),
            Some(text) => fs::write(path.join(gone), text).unwrap(),
        }
        let error = build_model(&path, &Named::after(&path).unwrap(), &store(home.path()), &BuildOptions::default());
        fs::remove_dir_all(&path).unwrap();
        let error = error.unwrap_err();
        format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
    };
    let model = "Data/com.apple.CoreML/model.mlmodel";
    for (told, why) in [
        (refused("wine_tf", "variables/variables.index", None), "its variables are missing"),
        (refused("relu.mlpackage", "Manifest.json", None), "without `Manifest.json`"),
        (refused("relu.mlpackage", "Manifest.json", Some("{}")), "is no manifest"),
        (refused("relu.mlpackage", model, None), "is no model of a kind that is known"),
        (refused("relu.mlpackage", model, Some("<html>")), "a web page"),
    ] {
        assert!(told.contains(why), "{told} does not say {why:?}");
    }
}

#[test]
fn the_signature_of_a_named_model_is_the_package_s() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("wine");
    copy(&kinds("wine_tf"), &folder.join("wine_tf"));
    copy(&kinds("bad.pkl"), &folder.join("notes.bin"));
    fs::write(folder.join("serve.py"), "").unwrap();
    fs::write(folder.join("answer.py"), "def answer(inputs): ...").unwrap();
    let build = |runtime: &str, samples: &str| {
        let head = format!("samples = {samples}\n[model]\nname = \"wine\"\nversion = \"1\"\n[runtime]\n{runtime}\n");
        fs::write(folder.join("modelyard.toml"), head).unwrap();
        // A version names one package for ever, so that each has a registry of its own.
        build_in(tempfile::tempdir_in(home.path()).unwrap().path(), &folder)
    };
    let program = "kind = \"command\"\ncommand = [\"python3\", \"serve.py\"]\nhealth = \"/\"\nmodel = \"wine_tf\"";
    let right = "{path = \"/infer\", inputs = {features = [[1, 2, 3, 4]]}, outputs = {label = [0]}}";
    let built = build(program, &format!("[{right}]")).unwrap();
    let package = &built.package;
    assert_eq!((package.signature.inputs[0].name.as_str(), package.model.as_deref()), ("features", Some("wine_tf")));
    assert_eq!(
        (package.samples[0].path.as_deref(), &package.samples[0].request["inputs"][0]["datatype"]),
        (Some("/infer"), &serde_json::json!("FP32"))
    );
    assert!(package.risks["notes.bin"].contains("posix.system"), "{:?}", package.risks);
    assert!(
        built.warnings.iter().any(|warning| warning.starts_with("`notes.bin` is a pickle")),
        "{:?}",
        built.warnings
    );

    let function = "kind = \"python\"\nentry = \"answer:answer\"\nmodel = \"wine_tf\"";
    let built = build(function, &format!("[{}]", right.replace("path = \"/infer\", ", ""))).unwrap();
    assert_eq!(built.package.signature.outputs.len(), 2);
    for (runtime, samples, why) in [
        (program, right.replace("[[1, 2, 3, 4]]", "[[1]]"), "has the shape [1, 1], the model has [-1, 4]"),
        (program, right.replace("path = \"/infer\", ", ""), "needs `path`"),
        (program, right.replace("features", "feature"), "has no input `feature`; it has `features`"),
        (
            &program.replace("\"wine_tf\"", "\"serve.py\""),
            right.to_owned(),
            "`serve.py` is no model of a kind that is known; those found are `notes.bin`, `wine_tf`",
        ),
        (
            &program.replace("\"wine_tf\"", "\"notes.bin\""),
            right.to_owned(),
            "does not say what its model takes and gives",
        ),
        (&program.replace("\"wine_tf\"", "\"wine_ft\""), right.to_owned(), "did you mean `wine_tf`?"),
        ("kind = \"none\"", right.to_owned(), "nothing to be held against"),
    ] {
        let error = build(runtime, &format!("[{samples}]")).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    }
}
