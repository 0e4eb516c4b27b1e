//! Core ML models: the description of an `.mlmodel`, read for inputs, outputs and what its author says.
//!
//! Promises: layers and weights are stepped over; memory is bounded by [`MAX_NOTED_BYTES`].
//! How features become tensors: numbers and texts are scalars; an image is `UINT8` of height, width and colours (`FP16` for half-precision
//! greys); a dictionary is `NAME` (FP64, one per key) and `NAME_labels`, as in ONNX; a sequence has one free axis. States are no inputs: they stay
//! within the model.
//! Source: `Model.proto`, `FeatureTypes.proto` of Core ML.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::model_file::ModelKind;
use modelyard_core::signature::{Datatype, Signature, TensorSpec};
use prost::Message;
use serde_json::json;

use super::{Found, KindError, Source, broken, names_fault, told, wire_error};
use crate::wire::{Content, Wire};

/// Longest description; in memory it takes some ten times as much.
const MAX_NOTED_BYTES: u64 = 4 << 20;
/// Most inputs and outputs, of all functions together.
const MOST_FEATURES: usize = 4_096;
/// Free texts of the author that are kept.
const MOST_TEXTS: usize = 16;

#[derive(Default)]
struct Description {
    own: Function,
    functions: Vec<Function>,
    default_function: String,
    metadata: Metadata,
}

/// Inputs and outputs of a function; the model's own, when it has no functions.
#[derive(Default)]
struct Function {
    name: String,
    input: Vec<Feature>,
    output: Vec<Feature>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    description: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(string, tag = "3")]
    author: String,
    #[prost(string, tag = "4")]
    license: String,
    #[prost(btree_map = "string, string", tag = "100")]
    user_defined: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct Feature {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    r#type: Option<Type>,
}

#[derive(Clone, PartialEq, Message)]
struct Type {
    #[prost(message, optional, tag = "1")]
    int64: Option<Nothing>,
    #[prost(message, optional, tag = "2")]
    double: Option<Nothing>,
    #[prost(message, optional, tag = "3")]
    string: Option<Nothing>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
    #[prost(message, optional, tag = "5")]
    array: Option<Array>,
    #[prost(message, optional, tag = "6")]
    dictionary: Option<Keyed>,
    #[prost(message, optional, tag = "7")]
    sequence: Option<Keyed>,
    #[prost(bool, tag = "1000")]
    optional: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(int64, tag = "1")]
    width: i64,
    #[prost(int64, tag = "2")]
    height: i64,
    #[prost(int32, tag = "3")]
    colour_space: i32,
    #[prost(message, optional, tag = "21")]
    enumerated: Option<Nothing>,
    #[prost(message, optional, tag = "31")]
    range: Option<Nothing>,
}

#[derive(Clone, PartialEq, Message)]
struct Array {
    #[prost(int64, repeated, tag = "1")]
    shape: Vec<i64>,
    #[prost(int32, tag = "2")]
    data_type: i32,
    #[prost(message, optional, tag = "21")]
    enumerated: Option<Shapes>,
    #[prost(message, optional, tag = "31")]
    range: Option<Ranges>,
}

#[derive(Clone, PartialEq, Message)]
struct Shapes {
    #[prost(message, repeated, tag = "1")]
    shapes: Vec<Shape>,
}

#[derive(Clone, PartialEq, Message)]
struct Shape {
    #[prost(int64, repeated, tag = "1")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
struct Ranges {
    #[prost(message, repeated, tag = "1")]
    ranges: Vec<Range>,
}

#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(uint64, tag = "1")]
    least: u64,
    #[prost(int64, tag = "2")]
    most: i64,
}

/// A dictionary by the type of its keys, or a sequence by that of its elements: whole numbers, or (3 in sequences, 2 in dictionaries) texts.
#[derive(Clone, PartialEq, Message)]
struct Keyed {
    #[prost(message, optional, tag = "1")]
    int64: Option<Nothing>,
}

/// Reads the message of `length` bytes.
pub(super) fn read(source: &mut dyn Source, length: u64) -> Result<Found, KindError> {
    let mut walk = Walk { wire: Wire::new(source), features: 0 };
    let (mut version, mut description, mut model) = (0, None, None);
    while let Some((number, content)) = walk.field(length)? {
        match (number, content) {
            (1, Content::Varint(number)) => version = number,
            (2, Content::Until(end)) if walk.wire.left(end) > MAX_NOTED_BYTES => {
                return Err(fault("its description has more than 4 MiB"));
            }
            (2, Content::Until(end)) => description = Some(walk.description(end)?),
            (number, Content::Until(end)) => {
                model = if number >= 200 { Some(number) } else { model };
                walk.skip(end)?;
            }
            _ => {}
        }
    }
    let description = description.ok_or_else(|| fault("it has no description"))?;
    Ok(found(version, model.unwrap_or_default(), &description))
}

fn fault(why: impl Into<String>) -> KindError {
    broken(ModelKind::CoreMl)(why.into())
}

struct Walk<'a> {
    wire: Wire<&'a mut dyn Source>,
    features: usize,
}

impl Walk<'_> {
    fn field(&mut self, end: u64) -> Result<Option<(u64, Content)>, KindError> {
        self.wire.field(end).map_err(wire_error(ModelKind::CoreMl))
    }

    fn skip(&mut self, end: u64) -> Result<(), KindError> {
        self.wire.skip(end).map_err(wire_error(ModelKind::CoreMl))
    }

    fn note<M: Message + Default>(&mut self, end: u64) -> Result<M, KindError> {
        let bytes = self.wire.bytes(end).map_err(wire_error(ModelKind::CoreMl))?;
        M::decode(&*bytes).map_err(|error| fault(error.to_string()))
    }

    fn text(&mut self, end: u64) -> Result<String, KindError> {
        let bytes = self.wire.bytes(end).map_err(wire_error(ModelKind::CoreMl))?;
        String::from_utf8(bytes).map_err(|_| fault("a name is not UTF-8"))
    }

    fn feature(&mut self, end: u64) -> Result<Feature, KindError> {
        self.features += 1;
        if self.features > MOST_FEATURES {
            return Err(fault("it has more than 4096 inputs and outputs"));
        }
        self.note(end)
    }

    fn description(&mut self, end: u64) -> Result<Description, KindError> {
        let mut read = Description::default();
        while let Some((number, content)) = self.field(end)? {
            let Content::Until(end) = content else { continue };
            match number {
                1 => read.own.input.push(self.feature(end)?),
                10 => read.own.output.push(self.feature(end)?),
                20 if read.functions.len() < MOST_FEATURES => read.functions.push(self.function(end)?),
                21 => read.default_function = self.text(end)?,
                100 => read.metadata = self.note(end)?,
                _ => self.skip(end)?,
            }
        }
        Ok(read)
    }

    fn function(&mut self, end: u64) -> Result<Function, KindError> {
        let mut read = Function::default();
        while let Some((number, content)) = self.field(end)? {
            let Content::Until(end) = content else { continue };
            match number {
                1 => read.name = self.text(end)?,
                2 => read.input.push(self.feature(end)?),
                3 => read.output.push(self.feature(end)?),
                _ => self.skip(end)?,
            }
        }
        Ok(read)
    }
}

fn found(version: u64, model: u64, description: &Description) -> Found {
    let words = &description.metadata;
    let texts = words.user_defined.iter().filter(|(key, _)| key.len() <= 64).take(MOST_TEXTS);
    let texts: BTreeMap<&String, _> = texts.map(|(key, text)| (key, told(text))).collect();
    let functions: Vec<_> = description.functions.iter().take(64).map(|function| told(&function.name)).collect();
    let facts = [
        ("specification_version", json!(version)),
        ("model", json!(model_name(model))),
        ("functions", json!(functions)),
        ("description", told(&words.description)),
        ("version", told(&words.version)),
        ("author", told(&words.author)),
        ("license", told(&words.license)),
        ("metadata", json!(texts)),
    ];
    let mut found = Found::new(ModelKind::CoreMl, facts);
    let (inputs, outputs) = features(description);
    found.signature = signature(inputs, outputs, &mut found.unshaped);
    // Its layers are code of the app that loads it.
    if model_name(model) == "customModel" {
        found.risk = Some("a Core ML model that needs code of the app that loads it".to_owned());
    }
    found
}

/// Inputs and outputs: those of its default function, or the model's own.
fn features(description: &Description) -> (&[Feature], &[Feature]) {
    let default = &description.default_function;
    let function = description.functions.iter().find(|function| function.name == *default);
    let function = function.or(description.functions.first()).unwrap_or(&description.own);
    (&function.input, &function.output)
}

fn signature(inputs: &[Feature], outputs: &[Feature], unshaped: &mut BTreeSet<String>) -> Result<Signature, String> {
    let mut read = Signature::default();
    for feature in inputs {
        let (specs, shaped) = tensors("input", feature)?;
        if !shaped {
            let name: String = feature.name.escape_debug().take(80).collect();
            return Err(format!("input `{name}` has no shape"));
        }
        read.inputs.extend(specs);
    }
    for feature in outputs {
        let (specs, shaped) = tensors("output", feature)?;
        if !shaped {
            unshaped.insert(feature.name.clone());
        }
        read.outputs.extend(specs);
    }
    match (read.inputs.is_empty(), read.outputs.is_empty(), names_fault(&read)) {
        (_, _, Some(why)) => Err(why),
        (false, false, None) => Ok(read),
        _ => Err("the Core ML model has no input or no output".to_owned()),
    }
}

/// The tensors that one feature becomes, and whether their shape is stated.
fn tensors(direction: &str, feature: &Feature) -> Result<(Vec<TensorSpec>, bool), String> {
    let shown: String = feature.name.escape_debug().take(80).collect();
    let refuse = |what: &str| Err(format!("{direction} `{shown}` {what}, which no protocol carries"));
    let Some(kind) = &feature.r#type else { return refuse("has no type") };
    let spec = |name: &str, datatype, shape| {
        let optional = kind.optional && direction == "input";
        TensorSpec { name: name.to_owned(), datatype, shape, optional }
    };
    let one = |datatype, shape| Ok((vec![spec(&feature.name, datatype, shape)], true));
    let labels = |keyed: &Keyed| if keyed.int64.is_some() { Datatype::Int64 } else { Datatype::Bytes };
    match kind {
        Type { int64: Some(_), .. } => one(Datatype::Int64, Vec::new()),
        Type { double: Some(_), .. } => one(Datatype::Fp64, Vec::new()),
        Type { string: Some(_), .. } => one(Datatype::Bytes, Vec::new()),
        Type { image: Some(image), .. } => match image_tensor(image) {
            Some((datatype, shape)) => one(datatype, shape),
            None => refuse("is an image of an unknown colour space"),
        },
        Type { array: Some(array), .. } => {
            let Some(datatype) = array_type(array.data_type) else { return refuse("is an array of an unknown type") };
            let shape = array_shape(array);
            let shaped = !shape.is_empty() || array.range.is_some();
            Ok((vec![spec(&feature.name, datatype, shape)], shaped))
        }
        Type { dictionary: Some(keyed), .. } => {
            let names = spec(&format!("{}_labels", feature.name), labels(keyed), vec![-1]);
            Ok((vec![spec(&feature.name, Datatype::Fp64, vec![-1]), names], true))
        }
        Type { sequence: Some(keyed), .. } => one(labels(keyed), vec![-1]),
        _ => refuse("is of a kind that is not known"),
    }
}

/// Source: `ArrayFeatureType.ArrayDataType`.
fn array_type(number: i32) -> Option<Datatype> {
    Some(match number {
        65_568 => Datatype::Fp32,
        65_600 => Datatype::Fp64,
        65_552 => Datatype::Fp16,
        131_104 => Datatype::Int32,
        131_080 => Datatype::Int8,
        _ => return None,
    })
}

/// The shape, with −1 where several lengths are allowed.
fn array_shape(array: &Array) -> Vec<i64> {
    if let Some(ranges) = array.range.as_ref().filter(|ranges| !ranges.ranges.is_empty()) {
        let axis = |range: &Range| match u64::try_from(range.most) == Ok(range.least) {
            true => range.most,
            false => -1,
        };
        return ranges.ranges.iter().map(axis).collect();
    }
    let others = array.enumerated.iter().flat_map(|enumerated| &enumerated.shapes);
    let mut shape = array.shape.clone();
    for other in others.filter(|other| other.shape.len() == array.shape.len()) {
        shape.iter_mut().zip(&other.shape).filter(|(one, other)| one != other).for_each(|(one, _)| *one = -1);
    }
    shape.into_iter().map(|axis| axis.max(-1)).collect()
}

fn image_tensor(image: &Image) -> Option<(Datatype, Vec<i64>)> {
    let is_free = image.enumerated.is_some() || image.range.is_some();
    let axis = |length: i64| if is_free || length <= 0 { -1 } else { length };
    let (height, width) = (axis(image.height), axis(image.width));
    Some(match image.colour_space {
        10 => (Datatype::Uint8, vec![height, width]),
        20 | 30 => (Datatype::Uint8, vec![height, width, 3]),
        40 => (Datatype::Fp16, vec![height, width]),
        _ => return None,
    })
}

/// The name of the field that holds the model.
fn model_name(number: u64) -> String {
    let known = match number {
        200 => "pipelineClassifier",
        201 => "pipelineRegressor",
        202 => "pipeline",
        300 => "glmRegressor",
        301 => "supportVectorRegressor",
        302 => "treeEnsembleRegressor",
        303 => "neuralNetworkRegressor",
        304 => "bayesianProbitRegressor",
        400 => "glmClassifier",
        401 => "supportVectorClassifier",
        402 => "treeEnsembleClassifier",
        403 => "neuralNetworkClassifier",
        404 => "kNearestNeighborsClassifier",
        500 => "neuralNetwork",
        501 => "itemSimilarityRecommender",
        502 => "mlProgram",
        555 => "customModel",
        556 => "linkedModel",
        560 => "classConfidenceThresholding",
        600 => "oneHotEncoder",
        601 => "imputer",
        602 => "featureVectorizer",
        603 => "dictVectorizer",
        604 => "scaler",
        606 => "categoricalMapping",
        607 => "normalizer",
        609 => "arrayFeatureExtractor",
        610 => "nonMaximumSuppression",
        900 => "identity",
        2000 => "textClassifier",
        2001 => "wordTagger",
        2002 => "visionFeaturePrint",
        2003 => "soundAnalysisPreprocessing",
        2004 => "gazetteer",
        2005 => "wordEmbedding",
        2006 => "audioFeaturePrint",
        3000 => "serializedModel",
        other => return format!("field {other}"),
    };
    known.to_owned()
}
