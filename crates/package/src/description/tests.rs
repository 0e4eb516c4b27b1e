//! Descriptions that are right, wrong in many places at once, and hostile.

use super::*;

const RIGHT: &str = "samples = \"s.json\"\n[model]\nname = \"wine\"\nversion = \"1.0.0\"\n[runtime]\nkind = \"onnx\"\nmodel = \"m.onnx\"\n";

fn shown(text: &str) -> Vec<String> {
    let mistakes = Description::parse(text).expect_err("it was accepted");
    mistakes.iter().map(|mistake| format!("{}: {}", mistake.line, mistake.what)).collect()
}

#[test]
fn a_right_file_is_read() {
    let text = format!("{RIGHT}[resources]\nmemory = \"96MiB\"\ncpu = 0.5\n[metrics]\naccuracy = 1\n");
    let read = Description::parse(&text).unwrap();
    assert_eq!(read.resources, Resources { memory_bytes: Some(96 << 20), cpu_millis: Some(500) });
    assert_eq!(read.metrics["accuracy"], 1.0);
    assert_eq!(read.runtime.value, Runtime::Onnx { model: "m.onnx".into() });
    assert_eq!(&text[read.runtime.at.clone()], "\"m.onnx\"");
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let text = "sampels = 1\n[model]\nnmae = \"wine\"\nversion = 3\ncard = \"../card\"\n[runtime]\nkind = \"onxx\"\n\
                [metrics]\na = \"high\"\nb = 1\n[flags.x]\ntype = \"number\"\ndefault = true\n[flags.y]\ntype = \"boolean\"\n\
                defualt = true\n[resources]\nmemory = \"lots\"\ncpu = -1\n[parameters]\nwhen = [1, 2020-01-01]\n";
    let expected = [
        "1: there is no key `sampels` here; did you mean `samples`?",
        "3: there is no key `nmae` in `[model]`; did you mean `name`?",
        "4: `version` is a number: write a text in quotes",
        "5: `card`: the path `../card` is refused: it leaves the folder",
        "7: there is no runtime `onxx`; did you mean \"onnx\"? known are onnx, command, python and none",
        "9: `a` is a text: write a number",
        "13: `default` is true or false: write a number",
        "14: `default` is missing in `[flags.y]`: a flag always has a value",
        "16: there is no key `defualt` in `[flags.y]`; did you mean `default`?",
        "18: `memory`: write a size such as \"96MiB\" or \"2GiB\", or bytes",
        "19: `cpu`: write a number of cores such as 0.5, or thousandths such as \"500m\"",
        "21: `when`: dates are not known here; write a text in quotes",
    ];
    assert_eq!(shown(text), expected);
}

#[test]
fn values_outside_their_limits_are_refused() {
    for (extra, what) in [
        ("[flags.x]\ntype = \"number\"\ndefault = 3.0\nmaximum = 1.0\n", "outside its limits"),
        ("[flags.x]\ntype = \"number\"\ndefault = 1\nminimum = 2\nmaximum = 1\n", "above its `maximum`"),
        ("[flags.x]\ntype = \"string\"\ndefault = \"a\"\none_of = [\"b\"]\n", "not among b"),
        ("[flags.x]\ntype = \"colour\"\ndefault = 1\n", "no type `colour`"),
        ("[flags.\"a b\"]\ntype = \"boolean\"\ndefault = true\n", "no name of a flag"),
        ("[parameters]\nx = inf\n", "no JSON form"),
        ("[parameters]\nx = 99999999999999999999\n", "64 bits"),
        ("[model.extra]\n", "no key `extra` in `[model]`"),
        ("[annotations]\na = 1\n", "`a` is a number"),
        ("files = [\"x\"]\n", "`files` belongs above the first table"),
    ] {
        let shown = shown(&format!("{RIGHT}{extra}"));
        assert!(shown.len() == 1 && shown[0].contains(what), "{shown:?} does not say {what:?}");
    }
}

#[test]
fn a_command_is_checked() {
    let with =
        |lines: &str| format!("[model]\nname = \"m\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\n{lines}\n");
    for (lines, what) in [
        ("health = \"/\"", "`command` is empty"),
        ("health = \"/\"\ncommand = []", "`command` is empty"),
        ("health = \"/\"\ncommand = \"python3\"", "write a list"),
        ("command = [\"x\"]", "`health` is missing"),
        ("command = [\"x\"]\nhealth = \"/a b\"", "no path"),
        ("command = [\"x\"]\nhealth = \"/\"\nentry = \"m:f\"", "no meaning for the runtime `command`"),
        ("command = [\"x\"]\nhealth = \"/\"\nmodel = \"../m.onnx\"", "leaves the folder"),
        ("command = [\"x\"]\nhealth = \"/\"\nenvironment = {PORT = \"1\"}", "set by Modelyard"),
        ("command = [\"x\"]\nhealth = \"/\"\nenvironment = {\"A=B\" = \"1\"}", "no name of a variable"),
        ("command = [\"x\", \"a\\u0000\"]\nhealth = \"/\"", "NUL"),
    ] {
        let shown = shown(&with(lines));
        assert!(shown.iter().any(|line| line.contains(what)), "{shown:?} does not say {what:?}");
    }
    assert!(Description::parse(&with("command = [\"./x\", \"\"]\nhealth = \"/\"\nenvironment = {A_1 = \"\"}")).is_ok());
}

const PYTHON: &str = "[model]\nname = \"m\"\nversion = \"1\"\n[runtime]\nkind = \"python\"\n";
const TAKES: &str = "[signature]\ninputs = [{name = \"x\", datatype = \"FP32\", shape = [-1, 4]}]\n\
                     outputs = [{name = \"y\", datatype = \"INT64\", shape = []}]\n";

#[test]
fn a_python_function_is_read_with_its_signature() {
    let text =
        format!("{PYTHON}entry = \"predict:answer\"\nrequirements = \"r.txt\"\nbatch = true\nworkers = 2\n{TAKES}");
    let read = Description::parse(&text).unwrap();
    let Runtime::Python { entry, requirements, locked, batch, workers, timeout_seconds } = read.runtime.value else {
        panic!("{:?}", read.runtime)
    };
    assert_eq!((entry.to_string().as_str(), requirements.as_deref()), ("predict:answer", Some("r.txt")));
    assert_eq!((locked, batch, workers, timeout_seconds), (false, true, 2, 30));
    let signature = read.signature.unwrap().value;
    assert_eq!((signature.inputs[0].name.as_str(), signature.inputs[0].shape.as_slice()), ("x", &[-1, 4][..]));
    assert_eq!((signature.outputs[0].datatype.name(), signature.outputs[0].shape.len()), ("INT64", 0));
}

#[test]
fn a_python_function_is_checked() {
    let right = "entry = \"m:f\"\n";
    for (lines, takes, what) in [
        ("", TAKES, "`entry` is missing"),
        ("entry = \"m.f\"", TAKES, "names no function"),
        ("entry = \"mlflow:../x\"", TAKES, "names no function"),
        ("entry = \"m:f\"\nmodel = \"m.onnx\"", TAKES, "`[signature]` and `model` say the same thing"),
        ("entry = \"m:f\"\nhealth = \"/\"", TAKES, "`health` has no meaning"),
        ("entry = \"m:f\"\nworkers = 0", TAKES, "from 1 to 64"),
        ("entry = \"m:f\"\nworkers = 1.5", TAKES, "from 1 to 64"),
        ("entry = \"m:f\"\ntimeout_seconds = 4000", TAKES, "from 1 to 3600"),
        ("entry = \"m:f\"\nbatch = 1", TAKES, "true or false"),
        ("entry = \"m:f\"\nrequirements = \"../r.txt\"", TAKES, "is refused"),
        (right, "", "`[signature]` is missing"),
        (right, "[signature]\ninputs = []\noutputs = []", "write a list"),
        (right, "[signature]\noutputs = [{name = \"y\", datatype = \"FP32\", shape = []}]", "`inputs` is missing"),
        (right, &TAKES.replace("FP32", "float32"), "no datatype `float32`"),
        (right, &TAKES.replace("FP32", "BF16"), "no datatype `BF16`"),
        (right, &TAKES.replace("FP32", "FP23"), "did you mean \"FP32\"?"),
        (right, &TAKES.replace("[-1, 4]", "[-2]"), "where -1 is free"),
        (right, &TAKES.replace("shape = []", "shape = [], optional = true"), "no key `optional`"),
        (right, &TAKES.replace("shape = []}", "shape = []}, {name = \"y\", datatype = \"FP32\", shape = []}"), "twice"),
    ] {
        let shown = shown(&format!("{PYTHON}{lines}\n{takes}"));
        assert!(shown.iter().any(|line| line.contains(what)), "{shown:?} does not say {what:?}");
    }
    assert!(shown(&format!("{RIGHT}{TAKES}"))[0].contains("read from the model"));
    let named = Description::parse(&format!("{PYTHON}{right}model = \"wine_tf\"\n")).unwrap();
    assert_eq!((named.signature, named.model_file.unwrap().value.as_str()), (None, "wine_tf"));
}

#[test]
fn what_nothing_runs_names_only_its_model() {
    let none = PYTHON.replace("python", "none");
    let read = Description::parse(&format!("{none}model = \"m.gguf\"\n")).unwrap();
    assert_eq!((read.runtime.value, read.model_file.unwrap().value.as_str()), (Runtime::None {}, "m.gguf"));
    assert!(Description::parse(&none).is_ok());
    for (lines, what) in [("health = \"/\"", "`health` has no meaning"), (TAKES, "nothing runs the package")] {
        assert!(shown(&format!("{none}{lines}\n"))[0].contains(what), "{lines}");
    }
}

#[test]
fn text_that_is_no_toml_is_refused_with_its_lines() {
    let shown = shown("[model\nname = \"a\n= 3\n");
    assert!(shown.len() > 1 && shown[0].starts_with("1:"), "{shown:?}");
}

/// The editor's schema and the parser know the same keys.
#[test]
fn the_schema_has_the_keys_that_are_read() {
    let schema = crate::json_schema();
    let keys = |pointer: &str| {
        let table = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer} in {schema:#}"));
        table.as_object().unwrap().keys().cloned().collect::<std::collections::BTreeSet<_>>()
    };
    let own = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect();
    assert_eq!(keys("/properties"), own(&KEYS));
    assert_eq!(keys("/$defs/Model/properties"), own(&MODEL));
    assert_eq!(keys("/$defs/Resources/properties"), own(&tables::RESOURCES));
    let mut runtime = keys("/$defs/Runtime/oneOf/0/properties");
    runtime.extend(keys("/$defs/Runtime/oneOf/1/properties"));
    runtime.extend(keys("/$defs/Runtime/oneOf/2/properties"));
    assert_eq!(keys("/$defs/Signature/properties"), own(&signature::SIGNATURE));
    assert_eq!(keys("/$defs/Tensor/properties"), own(&signature::TENSOR));
    assert_eq!(runtime, own(&tables::RUNTIME));
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,300}") {
        let _ = Description::parse(&text);
    }

    #[test]
    fn no_change_makes_it_panic(at in 0..RIGHT.len(), with in "\\PC{0,4}", table in "\\[(flags|runtime|model|metrics)\\.?[a-z\"]{0,3}\\]\n[a-z]{1,4} = (1|\"x\"|\\[\\]|\\{\\})") {
        let mut text = format!("{RIGHT}{table}");
        text.replace_range(at..at + 1, &with);
        if let Err(mistakes) = Description::parse(&text) {
            proptest::prop_assert!(!mistakes.is_empty());
        }
    }
}
