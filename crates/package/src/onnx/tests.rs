//! ONNX files: real, broken, hostile, and with weights elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Seek, SeekFrom};

use proptest::prelude::*;

use super::*;

const WINE: &[u8] = include_bytes!("../../../../examples/wine/v1/model.onnx");

/// A field with bytes, as Protocol Buffers write it.
fn bytes(number: u64, content: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(content.len() as u64), content.to_vec()].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn tensor_type(element: u64, axes: Option<&[u64]>) -> Vec<u8> {
    let axis = |&axis: &u64| bytes(1, &if axis == 0 { bytes(2, b"N") } else { number(1, axis) });
    let shape = axes.map(|axes| bytes(2, &axes.iter().flat_map(axis).collect::<Vec<_>>()));
    bytes(1, &[number(1, element), shape.unwrap_or_default()].concat())
}

fn value(name: &str, kind: &[u8]) -> Vec<u8> {
    [bytes(1, name.as_bytes()), bytes(2, kind)].concat()
}

fn model(ir_version: u64, graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, ir_version), bytes(7, &graph.concat()), bytes(8, &number(2, 21))].concat()
}

fn input(name: &str, kind: &[u8]) -> Vec<u8> {
    bytes(11, &value(name, kind))
}

fn output(name: &str, kind: &[u8]) -> Vec<u8> {
    bytes(12, &value(name, kind))
}

fn float_row() -> Vec<u8> {
    tensor_type(1, Some(&[0, 4]))
}

fn shown(facts: &Facts) -> Vec<String> {
    let specs = facts.signature.inputs.iter().chain(&facts.signature.outputs);
    specs.map(|spec| format!("{} {} {:?}", spec.name, spec.datatype, spec.shape)).collect()
}

#[test]
fn the_signature_is_read_from_the_graph() {
    let facts = read(WINE).unwrap();
    assert_eq!(shown(&facts), ["features FP32 [-1, 13]", "label INT64 [-1]", "probabilities FP32 [-1, 3]"]);
    assert!(facts.graph.producer.starts_with("skl2onnx"), "{:?}", facts.graph);
    assert!(facts.graph.opsets.contains_key("ai.onnx.ml") && facts.graph.operators > 0, "{:?}", facts.graph);
}

#[test]
fn maps_and_sequences_become_tensors() {
    let map = bytes(5, &[number(1, 8), bytes(2, &tensor_type(1, None))].concat());
    let maps = bytes(4, &bytes(1, &map));
    let tensors = bytes(4, &bytes(1, &tensor_type(11, Some(&[3]))));
    let graph = [input("x", &float_row()), output("p", &maps), output("q", &map), output("r", &tensors)];
    assert_eq!(
        shown(&read(&model(9, &graph)).unwrap()),
        [
            "x FP32 [-1, 4]",
            "p FP32 [-1, -1]",
            "p_labels BYTES [-1]",
            "q FP32 [-1]",
            "q_labels BYTES [-1]",
            "r FP64 [-1, 3]"
        ]
    );
}

#[test]
fn an_input_with_a_default_is_optional_and_once_was_a_weight() {
    let weight = bytes(5, &[bytes(8, b"w"), bytes(9, &[0; 16])].concat());
    let graph = [input("x", &float_row()), input("w", &float_row()), weight, output("y", &float_row())];
    let newer = read(&model(9, &graph)).unwrap().signature.inputs;
    assert_eq!(
        newer.iter().map(|spec| (spec.name.as_str(), spec.optional)).collect::<Vec<_>>(),
        [("x", false), ("w", true)]
    );
    assert_eq!(read(&model(3, &graph)).unwrap().signature.inputs.len(), 1);
}

#[test]
fn an_output_without_a_shape_is_noted_and_such_an_input_refused() {
    let loose = tensor_type(1, None);
    let facts = read(&model(9, &[input("x", &float_row()), output("y", &loose)])).unwrap();
    assert_eq!(facts.unshaped, BTreeSet::from(["y".to_owned()]));
    let error = read(&model(9, &[input("x", &loose), output("y", &loose)])).unwrap_err().to_string();
    assert!(error.contains("input `x` has no shape"), "{error}");
}

#[test]
fn operators_and_weights_elsewhere_are_found_at_any_depth() {
    let entry = |key: &str, value: &str| bytes(13, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat());
    let away = |offset: &str| {
        let place = [entry("location", "./big.bin"), entry("offset", offset), entry("length", "10"), number(14, 1)];
        [bytes(8, b"w"), place.concat()].concat()
    };
    let inner = [bytes(1, b""), bytes(5, &away("4096"))].concat();
    let branch = bytes(1, &bytes(5, &[bytes(6, &inner), bytes(5, &away("0"))].concat()));
    let function = bytes(25, &bytes(7, b""));
    let whole = model(9, &[input("x", &float_row()), output("y", &float_row()), branch, bytes(5, &away("8"))]);
    let facts = read(&[whole, function].concat()).unwrap();
    assert_eq!((facts.graph.operators, facts.external), (3, BTreeMap::from([("big.bin".to_owned(), 4_106)])));
    let nowhere = bytes(5, &number(14, 1));
    assert!(matches!(read(&model(9, &[nowhere])), Err(OnnxError::Broken(why)) if why.contains("not named")));
}

#[test]
fn what_cannot_be_served_is_named() {
    let x = || input("x", &float_row());
    for (graph, why) in [
        (vec![x()], "no output"),
        (vec![output("y", &float_row())], "no input"),
        (vec![x(), output("y", &tensor_type(14, Some(&[1])))], "output `y` has elements of COMPLEX64"),
        (vec![input("x", &bytes(4, &bytes(1, &float_row()))), output("y", &float_row())], "input `x` is a sequence"),
        (vec![x(), output("y", &bytes(9, &bytes(1, &float_row())))], "output `y` is an optional value"),
        (vec![x(), x(), output("y", &float_row())], "has the name of another"),
        (vec![input("", &float_row()), output("y", &float_row())], "no request can hold"),
        (vec![input("a\nb", &float_row()), output("y", &float_row())], "input `a\\nb`"),
        (vec![x(), bytes(12, &bytes(1, b"y"))], "output `y` has no type"),
    ] {
        let error = read(&model(9, &graph)).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    }
}

#[test]
fn broken_and_foreign_files_are_refused() {
    assert!(matches!(read(b"not a model"), Err(OnnxError::Broken(_))));
    assert_eq!(read(b""), Err(OnnxError::Empty("graph")));
    let cut = read(&WINE[..WINE.len() / 2]).unwrap_err().to_string();
    assert!(cut.contains("are left"), "{cut}");
    for (start, what) in
        [(&b"version https://git-lfs.github.com/spec/v1"[..], "git lfs pull"), (b"PK\x03\x04...", "zip")]
    {
        assert!(read(start).unwrap_err().to_string().contains(what));
    }
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let mut deep = bytes(1, b"");
    for _ in 0..200 {
        deep = bytes(1, &bytes(5, &bytes(6, &deep)));
    }
    let many = input("x", &float_row()).repeat(1 << 20);
    let endless = [varint(7 << 3 | 2), varint(u64::MAX)].concat();
    let forever = [varint(7 << 3 | 2), vec![0xff; 20]].concat();
    for (hostile, why) in [
        (model(9, &[deep]), "too deep"),
        (model(9, &[many]), "more than 8 MiB"),
        (endless, "are left"),
        (forever, "too long"),
        (vec![0x0b], "no field"),
    ] {
        let error = read(&hostile).unwrap_err().to_string();
        assert!(error.contains(why), "{error} does not say {why:?}");
    }
    assert!(matches!(read_from(Cursor::new([]), 3 << 30), Err(OnnxError::TooLarge(_))));
    assert!(matches!(read_from(Cursor::new(b"\x3a"), 100), Err(OnnxError::Unreadable(_))), "the file shrank");
}

/// Counts what is read.
struct Counted<'a>(Cursor<&'a [u8]>, &'a std::cell::Cell<usize>);

impl Read for Counted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(into)?;
        self.1.set(self.1.get() + length);
        Ok(length)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn weights_are_not_read() {
    let weight = bytes(5, &[bytes(8, b"w"), bytes(9, &vec![7; 32 << 20])].concat());
    let whole = model(9, &[input("x", &float_row()), weight.clone(), weight, output("y", &float_row())]);
    let count = std::cell::Cell::new(0);
    read_from(Counted(Cursor::new(&whole), &count), whole.len() as u64).unwrap();
    assert!(count.get() < 1 << 20, "{} bytes of {} were read", count.get(), whole.len());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((0..WINE.len(), any::<u8>()), 1..8), cut in 0..WINE.len()) {
        let mut bytes = WINE.to_vec();
        changes.iter().for_each(|&(at, byte)| bytes[at] = byte);
        let _ = read(&bytes);
        let _ = read(&bytes[..cut]);
    }

    #[test]
    fn no_noise_makes_it_panic(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&noise);
        let _ = read(&model(9, &[noise]));
    }
}
