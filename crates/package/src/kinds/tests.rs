//! Model files as their own libraries wrote them, cut, flipped, and made up with bad intent.

use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::signature::TensorSpec;
use proptest::prelude::*;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/kinds").join(name)
}

fn of(name: &str) -> Found {
    read(&fs::read(fixture(name)).unwrap(), name).unwrap().unwrap_or_else(|| panic!("{name} was not recognised"))
}

/// The bytes under a name that says nothing.
fn nameless(bytes: &[u8]) -> Result<Option<Found>, KindError> {
    read(bytes, "blob")
}

fn shown(found: &Found) -> Vec<String> {
    let signature = found.signature.as_ref().unwrap();
    let show = |spec: &TensorSpec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape);
    signature.inputs.iter().chain(&signature.outputs).map(show).collect()
}

const ALL: [&str; 14] = [
    "bad.pkl",
    "dense.mlmodel",
    "exported.pt2",
    "linear.safetensors",
    "objects.npy",
    "old.pkl",
    "packed.joblib",
    "plain.joblib",
    "relu.mlpackage/Data/com.apple.CoreML/model.mlmodel",
    "relu.mlpackage/Manifest.json",
    "script.pt",
    "state.pt",
    "tiny.gguf",
    "wine_tf/saved_model.pb",
];

#[test]
fn files_are_recognised_by_content_whatever_they_are_called() {
    use ModelKind::*;
    for (name, kind, risky) in [
        ("bad.pkl", Pickle, true),
        ("dense.mlmodel", CoreMl, false),
        ("exported.pt2", TorchExport, true),
        ("linear.safetensors", Safetensors, false),
        ("objects.npy", Pickle, true),
        ("old.pkl", Pickle, true),
        ("packed.joblib", Pickle, true),
        ("plain.joblib", Pickle, true),
        ("relu.mlpackage/Data/com.apple.CoreML/model.mlmodel", CoreMl, false),
        ("script.pt", TorchScript, true),
        ("state.pt", Torch, true),
        ("tiny.gguf", Gguf, false),
        ("wine_tf/saved_model.pb", SavedModel, false),
        ("../../../examples/wine/v1/model.onnx", Onnx, false),
    ] {
        let found = nameless(&fs::read(fixture(name)).unwrap()).unwrap();
        let found = found.unwrap_or_else(|| panic!("{name} was not recognised"));
        assert_eq!((found.file.kind, found.risk.is_some()), (kind, risky), "{name}: {found:?}");
    }
    for name in
        ["numbers.npy", "wine_tf/variables/variables.index", "wine_tf/fingerprint.pb", "relu.mlpackage/Manifest.json"]
    {
        assert_eq!(nameless(&fs::read(fixture(name)).unwrap()), Ok(None), "{name}");
    }
    for text in ["", "N.", "comment\nfoo\nRun\n", "S\n.", "import os\n", "{\"a\": 1}", "(dp0\n."] {
        assert_eq!(nameless(text.as_bytes()), Ok(None), "{text:?}");
    }
}

#[test]
fn signatures_are_read_from_savedmodel_and_core_ml() {
    let wine = of("wine_tf/saved_model.pb");
    assert_eq!(shown(&wine), ["features FP32 [-1, 4]", "label INT64 [-1]", "scores FP32 [-1, 3]"]);
    assert_eq!(wine.file.facts["tags"], json!(["serve"]));
    assert_eq!(wine.file.facts["signatures"], json!(["serving_default"]));
    assert_eq!(wine.file.facts["tensorflow"], "2.21.0");
    assert!(wine.needs_variables);
    let dense = of("dense.mlmodel");
    assert_eq!(shown(&dense), ["x FP64 [4]", "y FP64 [2]"]);
    let facts = &dense.file.facts;
    assert_eq!((&facts["model"], &facts["author"]), (&json!("neuralNetwork"), &json!("Modelyard")));
    let relu = of("relu.mlpackage/Data/com.apple.CoreML/model.mlmodel");
    assert_eq!(
        (shown(&relu), &relu.file.facts["model"]),
        (vec!["x FP32 [1, 4]".into(), "y FP32 [1, 4]".into()], &json!("mlProgram"))
    );
}

#[test]
fn tensors_and_metadata_are_described() {
    let facts = of("linear.safetensors").file.facts;
    assert_eq!((&facts["tensors"], &facts["parameters"]), (&json!(2), &json!(15)));
    assert_eq!((&facts["datatypes"], &facts["metadata"]), (&json!({"F16": 1, "F32": 1}), &json!({"format": "np"})));
    let facts = of("tiny.gguf").file.facts;
    assert_eq!((&facts["version"], &facts["tensors"], &facts["parameters"]), (&json!(3), &json!(2), &json!(192)));
    assert_eq!(facts["metadata"]["general.architecture"], "llama");
    assert_eq!(
        (&facts["metadata"]["llama.context_length"], &facts["types"]),
        (&json!(32), &json!({"F16": 1, "F32": 1}))
    );
}

#[test]
fn pickles_tell_what_they_would_run() {
    for (name, names) in [
        ("bad.pkl", vec!["posix.system"]),
        ("old.pkl", vec!["posix.system"]),
        ("plain.joblib", vec!["joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype", "numpy.ndarray"]),
        ("packed.joblib", vec!["joblib.numpy_pickle.NumpyArrayWrapper", "numpy.dtype", "numpy.ndarray"]),
        ("state.pt", vec!["collections.OrderedDict", "torch.FloatStorage", "torch._utils._rebuild_tensor_v2"]),
    ] {
        let found = of(name);
        assert_eq!(found.file.facts["names"], json!(names), "{name}");
        assert!(found.risk.as_ref().unwrap().contains(names[0]), "{name}: {:?}", found.risk);
    }
    // What runs runs before the end is missed.
    let cut = b"cposix\nsystem\n(S'true'\ntR";
    assert_eq!(nameless(cut).unwrap().unwrap().file.facts["names"], json!(["posix.system"]));
    // Names that are looked up by their number.
    let by_number = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94NN0h\x00h\x01\x93\x94.";
    assert_eq!(nameless(by_number).unwrap().unwrap().file.facts["names"], json!(["posix.system"]));
    assert!(read(b"BZh91AY", "model.joblib").unwrap().unwrap().risk.unwrap().contains("called like a pickle"));
}

#[test]
fn torch_archives_are_described_and_their_pickles_are_risks() {
    let script = of("script.pt");
    assert_eq!((&script.file.facts["code_files"], &script.file.facts["tensors"]), (&json!(1), &json!(2)));
    assert!(script.risk.unwrap().contains("with code and 2 pickles"));
    let exported = of("exported.pt2");
    assert_eq!((&exported.file.facts["tensors"], &exported.file.facts["byte_order"]), (&json!(2), &json!("little")));
    assert!(exported.risk.unwrap().contains("a pickle in it"));
    assert_eq!(of("state.pt").file.facts["tensors"], json!(2));
}

#[test]
fn broken_files_are_refused_when_they_certainly_are_of_a_kind() {
    let whole = fs::read(fixture("linear.safetensors")).unwrap();
    for (bytes, name, why) in [
        (whole[..whole.len() - 1].to_vec(), "x.safetensors", "and 53 are there"),
        ([&whole[..], b"more"].concat(), "x.safetensors", "and 58 are there"),
        (b"version https://git-lfs.github.com/spec/v1\n".to_vec(), "x.safetensors", "git lfs pull"),
        (b"<html>".to_vec(), "a/saved_model.pb", "a web page"),
        (vec![0; 9], "x.gguf", "nothing in it"),
        (b"not one".to_vec(), "x.mlmodel", "nothing in it"),
        (fs::read(fixture("tiny.gguf")).unwrap()[..600].to_vec(), "blob", "GGUF"),
    ] {
        let error = read(&bytes, name).unwrap_err().to_string();
        assert!(error.contains(why), "{name}: {error} does not say {why:?}");
    }
    // Of unknown name it is just some file.
    assert_eq!(nameless(&whole[..whole.len() - 1]), Ok(None));
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
}

#[test]
fn safetensors_may_begin_like_anything() {
    let header = r#"{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}"#;
    // As a pickle of protocol 4 or 5, as a page of the web, as compressed by gzip.
    for length in [0x480, 0x580, 0x13c, 0x8b1f] {
        let found = read(&safetensors(&format!("{header:length$}"), 8), "x.safetensors").unwrap().unwrap();
        assert_eq!((found.file.kind, &found.file.facts["parameters"]), (ModelKind::Safetensors, &json!(8)), "{length}");
    }
}

#[test]
fn a_compressed_pickle_that_is_cut_off_is_a_risk_by_its_name() {
    let whole = fs::read(fixture("packed.joblib")).unwrap();
    for length in [whole.len() / 2, whole.len() - 1] {
        let found = read(&whole[..length], "packed.joblib").unwrap().unwrap();
        assert_eq!(found.file.kind, ModelKind::Pickle, "{length}");
    }
}

#[test]
fn safetensors_headers_are_checked_entirely() {
    let one = |body: &str| format!("{{\"a\":{body}}}");
    let tensor = |dtype: &str, shape: &str, begin: u64, end: u64| {
        format!("{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
    };
    let two = |first: (u64, u64), second: (u64, u64), names: [&str; 2]| {
        let [one, other] = [first, second].map(|(begin, end)| tensor("U8", &format!("[{}]", end - begin), begin, end));
        format!("{{\"{}\":{one},\"{}\":{other}}}", names[0], names[1])
    };
    for (header, data, why) in [
        (one(&tensor("F99", "[1]", 0, 4)), 4, "unknown type `F99`"),
        (one(&tensor("F32", "[2]", 0, 4)), 4, "as its shape says"),
        (one(&tensor("F4", "[3]", 0, 1)), 1, "as its shape says"),
        (one(&tensor("F32", "[4294967296, 4294967296]", 0, 0)), 0, "as its shape says"),
        (one(&tensor("U8", "[]", 4, 3)), 4, "as its shape says"),
        (one(&tensor("U8", "[1]", 1, 2)), 2, "bytes 0 to 1 are of no tensor"),
        (two((0, 4), (3, 7), ["a", "b"]), 7, "share the byte 3"),
        (two((0, 4), (4, 8), ["a", "a"]), 8, "the same name"),
        (one(&tensor("U8", "[1]", 0, 1)), 2, "2 are there"),
        (one("7"), 0, "its header"),
        ("{\"a\":".to_owned() + &"[".repeat(10_000), 0, "its header"),
    ] {
        let error = read(&safetensors(&header, data), "x.safetensors").unwrap_err().to_string();
        assert!(error.contains(why), "{header:.80}: {error} does not say {why:?}");
    }
    let fits = two((4, 8), (0, 4), ["a", "b"]);
    assert_eq!(nameless(&safetensors(&fits, 8)).unwrap().unwrap().file.facts["parameters"], json!(8));
    assert_eq!(nameless(&safetensors(&(fits + "   "), 8)).unwrap().unwrap().file.kind, ModelKind::Safetensors);
    let endless = [&99_999_999_u64.to_le_bytes()[..], b"{\"a\":"].concat();
    assert!(read(&endless, "x.safetensors").unwrap_err().to_string().contains("its header has 99999999 bytes"));
}

/// A GGUF file of these counts and this rest.
fn gguf(version: u32, tensors: u64, keys: u64, rest: &[u8]) -> Vec<u8> {
    [b"GGUF", &version.to_le_bytes()[..], &tensors.to_le_bytes(), &keys.to_le_bytes(), rest].concat()
}

#[test]
fn gguf_files_are_checked_to_their_end() {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let entry = |key: &str, kind: u32, value: &[u8]| [&text(key)[..], &kind.to_le_bytes(), value].concat();
    let tensor = |axes: &[u64], kind: u32, offset: u64| {
        let axes: Vec<u8> = [
            &(axes.len() as u32).to_le_bytes()[..],
            &axes.iter().flat_map(|axis| axis.to_le_bytes()).collect::<Vec<_>>(),
        ]
        .concat();
        [&text("w")[..], &axes, &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
    };
    let nested = |depth: usize| {
        let mut value = Vec::new();
        for _ in 0..depth {
            value.extend([&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat());
        }
        entry("a", 9, &value)
    };
    for (bytes, why) in [
        (gguf(1, 0, 0, b""), "the version 1"),
        (gguf(3, u64::MAX, 0, b""), "more than any model"),
        (gguf(3, 0, u64::MAX, b""), "more than any model"),
        (gguf(3, 0, 1, &u64::MAX.to_le_bytes()), "are allowed"),
        (gguf(3, 0, 1, &entry("a", 99, b"")), "the unknown type 99"),
        (gguf(3, 0, 1, &entry("a", 7, &[2])), "is 2"),
        (gguf(3, 0, 1, &entry("a", 8, &u64::MAX.to_le_bytes())), "in the middle of its header"),
        (gguf(3, 0, 1, &entry("a", 9, &[&8_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat())), "in the middle"),
        (
            gguf(3, 0, 1, &entry("a", 9, &[&12_u32.to_le_bytes()[..], &u64::MAX.to_le_bytes()].concat())),
            "longer than any",
        ),
        (gguf(3, 0, 1, &nested(9)), "too deep"),
        (gguf(3, 0, 1, &entry("general.alignment", 4, &7_u32.to_le_bytes())), "power of two"),
        (gguf(3, 1, 0, &tensor(&[1; 5], 0, 0)), "5 axes"),
        (gguf(3, 1, 0, &tensor(&[u64::MAX, 3], 0, 0)), "larger than any file"),
        (gguf(3, 1, 0, &tensor(&[31], 2, 0)), "no whole blocks of Q4_0"),
        (gguf(3, 1, 0, &tensor(&[4], 0, 0)), "ends behind them"),
        (gguf(3, 1, 0, &[&tensor(&[4], 0, 1)[..], &[0; 200]].concat()), "where none may begin"),
        (gguf(3, 2, 0, &[&tensor(&[16], 0, 0)[..], &tensor(&[4], 0, 32), &[0; 400]].concat()), "where none may begin"),
    ] {
        let error = nameless(&bytes).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    }
    // The same file as a big-endian machine writes it.
    let big = [b"GGUF", &3_u32.to_be_bytes()[..], &0_u64.to_be_bytes(), &0_u64.to_be_bytes()].concat();
    assert_eq!(nameless(&big).unwrap().unwrap().file.facts["byte_order"], "big");
}

/// A field with bytes, as Protocol Buffers write it.
fn field(number: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(number << 3 | 2, &mut out);
    prost::encoding::encode_varint(content.len() as u64, &mut out);
    [out, content.to_vec()].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(field << 3, &mut out);
    prost::encoding::encode_varint(value, &mut out);
    out
}

fn named(name: &str, content: &[u8]) -> Vec<u8> {
    [field(1, name.as_bytes()), field(2, content)].concat()
}

/// A SavedModel of these signatures, each with its inputs and outputs, and operators.
fn saved(signatures: &[(&str, &[Vec<u8>])], operators: &[&str]) -> Vec<u8> {
    let nodes: Vec<u8> = operators.iter().flat_map(|operator| field(1, &field(2, operator.as_bytes()))).collect();
    let signatures = signatures.iter().flat_map(|(name, parts)| field(5, &named(name, &parts.concat())));
    [number(1, 1), field(2, &[field(1, &field(4, b"serve")), field(2, &nodes), signatures.collect()].concat())].concat()
}

fn info(datatype: u64, shape: &[u8]) -> Vec<u8> {
    [number(2, datatype), field(3, shape)].concat()
}

#[test]
fn a_savedmodel_without_a_usable_signature_says_why() {
    let axes = [field(2, &number(1, u64::MAX)), field(2, &number(1, 4))].concat();
    let x = |info: &[u8]| field(1, &named("x", info));
    let y = |info: &[u8]| field(2, &named("y", info));
    let right = [x(&info(1, &axes)), y(&info(9, &axes))];
    let of = |signatures: &[(&str, &[Vec<u8>])]| nameless(&saved(signatures, &[])).unwrap().unwrap();
    assert_eq!(shown(&of(&[("other", &right), ("__saved_model_init_op", &[])])), ["x FP32 [-1, 4]", "y INT64 [-1, 4]"]);
    for (signatures, why) in [
        (vec![], "has no signature"),
        (vec![("a", &right[..]), ("b", &right[..])], "none of them is called `serving_default`"),
        (vec![("a", &right[..1])], "no output"),
        (vec![("a", &[x(&info(8, &axes)), right[1].clone()][..])], "type 8"),
        (vec![("a", &[x(&info(1, &number(3, 1))), right[1].clone()][..])], "input `x` has no shape"),
        (vec![("a", &[x(&field(4, b"")), right[1].clone()][..])], "no plain tensor"),
    ] {
        let found = of(&signatures);
        let told = found.signature.unwrap_err();
        assert!(told.contains(why), "{told} does not say {why:?}");
    }
    let loose = of(&[("a", &[right[0].clone(), y(&info(1, &number(3, 1)))])]);
    assert_eq!(loose.unshaped, BTreeSet::from(["y".to_owned()]));
    let optional = field(4, &named("x", b""));
    let found = of(&[("a", &[right[0].clone(), right[1].clone(), optional])]);
    assert!(found.signature.unwrap().inputs[0].optional);
    let reaching = nameless(&saved(&[("a", &right)], &["MatMul", "ReadFile", "VarHandleOp"])).unwrap().unwrap();
    assert!(reaching.needs_variables && reaching.risk.unwrap().contains("ReadFile"));
}

/// A Core ML model of these features.
fn core_ml(features: &[Vec<u8>], model: u64) -> Vec<u8> {
    [number(1, 4), field(2, &features.concat()), field(model, b"")].concat()
}

#[test]
fn every_core_ml_feature_has_its_tensor() {
    let feature = |direction: u64, name: &str, kind: &[u8]| {
        field(direction, &[field(1, name.as_bytes()), field(3, kind)].concat())
    };
    let image = |colours: u64, more: &[u8]| {
        field(4, &[number(1, 20), number(2, 10), number(3, colours), more.to_vec()].concat())
    };
    let array = |more: &[u8]| field(5, &[field(1, &[3, 4]), number(2, 65_568), more.to_vec()].concat());
    let shapes = field(21, &[field(1, &field(1, &[3, 4])), field(1, &field(1, &[3, 8]))].concat());
    let ranges = field(
        31,
        &[field(1, &[number(1, 2), number(2, 2)].concat()), field(1, &[number(1, 1), number(2, u64::MAX)].concat())]
            .concat(),
    );
    let model = core_ml(
        &[
            feature(1, "whole", &field(1, b"")),
            feature(1, "real", &[field(2, b""), number(1000, 1)].concat()),
            feature(1, "text", &field(3, b"")),
            feature(1, "picture", &image(20, b"")),
            feature(1, "grey", &image(40, &field(31, b""))),
            feature(1, "several", &array(&shapes)),
            feature(1, "range", &array(&ranges)),
            feature(10, "scores", &field(6, &field(2, b""))),
            feature(10, "words", &field(7, &field(3, b""))),
        ],
        400,
    );
    let found = nameless(&model).unwrap().unwrap();
    assert_eq!(
        shown(&found),
        [
            "whole INT64 []",
            "real FP64 []",
            "text BYTES []",
            "picture UINT8 [10, 20, 3]",
            "grey FP16 [-1, -1]",
            "several FP32 [3, -1]",
            "range FP32 [2, -1]",
            "scores FP64 [-1]",
            "scores_labels BYTES [-1]",
            "words BYTES [-1]",
        ]
    );
    assert!(found.signature.unwrap().inputs[1].optional);
    let y = feature(10, "y", &field(1, b""));
    for (features, why) in [
        (vec![y.clone()], "no input"),
        (vec![feature(1, "x", b""), y.clone()], "of a kind that is not known"),
        (vec![feature(1, "x", &field(5, b"")), y.clone()], "an array of an unknown type"),
        (vec![feature(1, "x", &image(99, b"")), y.clone()], "colour space"),
        (vec![feature(1, "x", &field(1, b"")), y.clone(), y.clone()], "the name of another"),
    ] {
        let told = nameless(&core_ml(&features, 500)).unwrap().unwrap().signature.unwrap_err();
        assert!(told.contains(why), "{told} does not say {why:?}");
    }
    let custom = nameless(&core_ml(&[feature(1, "x", &field(1, b"")), y], 555)).unwrap().unwrap();
    assert!(custom.risk.unwrap().contains("code of the app"));
}

#[test]
fn hostile_messages_are_refused_without_harm() {
    let many = core_ml(&[field(1, b"").repeat(5_000)], 500);
    assert!(read(&many, "x.mlmodel").unwrap_err().to_string().contains("more than 4096"));
    let long = core_ml(&[field(100, &field(1, &vec![b'a'; 5 << 20]))], 500);
    assert!(read(&long, "x.mlmodel").unwrap_err().to_string().contains("more than 4 MiB"));
    let name = "n".repeat(3 << 20);
    let long = saved(&[(&name, &[])], &[]);
    assert!(read(&long, "saved_model.pb").unwrap_err().to_string().contains("more than 2 MiB"));
    assert_eq!(nameless(&[number(1, 1), field(2, b"")].concat()), Ok(None), "a graph without a graph");
    assert_eq!(nameless(&number(1, 1).repeat(200_000)), Ok(None));
}

#[test]
fn every_cut_and_every_flipped_bit_gives_an_error_or_a_description() {
    for name in ALL {
        let whole = fs::read(fixture(name)).unwrap();
        for at in 0..whole.len() {
            let _ = read(&whole[..at], name);
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            let _ = read(&bytes, name);
        }
    }
}

proptest! {
    #[test]
    fn no_noise_makes_it_panic(
        noise in prop::collection::vec(any::<u8>(), 0..400),
        start in prop::sample::select(vec![&b""[..], b"GGUF\x03\0\0\0", b"PK\x03\x04", b"\x80\x04", b"\x93NUMPY\x01\0", b"\x08\x01\x12", b"\x78\x9c"]),
    ) {
        let _ = nameless(&[start, &noise].concat());
        let _ = nameless(&safetensors(&String::from_utf8_lossy(&noise), 8));
        let _ = nameless(&core_ml(std::slice::from_ref(&noise), 500));
    }
}
