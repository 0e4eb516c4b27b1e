//! JSON bodies of the contracts.
//!
//! Promises: one pass finds the parts, without a tree; a table's cells go from the text into typed elements; a body never takes more memory
//! than a few times its own size, whatever names its records have.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Route;
use super::columns::{Cell, Table, cell, sole};
use super::predictions::Form;
use crate::body::plain::{Named, take};
use crate::body::{not_json, plain};
use crate::codec::json::outline;
use crate::model::{Inputs, Model, Question, Wanted};
use crate::refusal::{Refusal, shown};

#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with one of `inputs`, `instances`, `dataframe_split` and `dataframe_records`")]
struct Envelope<'a> {
    #[serde(borrow, default)]
    inputs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    instances: Option<&'a RawValue>,
    #[serde(borrow, default)]
    dataframe_split: Option<&'a RawValue>,
    #[serde(borrow, default)]
    dataframe_records: Option<&'a RawValue>,
    /// Azure ML's name for any of them.
    #[serde(borrow, default)]
    input_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    /// Vertex AI's name of `params`.
    #[serde(borrow, default)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow, default)]
    signature_name: Option<&'a RawValue>,
}

/// Reads a request for predictions.
pub(super) fn read(model: &Model, route: Route, body: &[u8]) -> Result<(Question, Form), Refusal> {
    // A list would be read as the fields of the envelope, one after the other.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(Refusal::invalid("the request body must be an object; it is a list"));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body).map_err(|error| not_json(&error))?;
    let mut reader = Reader { model, inputs: Inputs::new(&model.signature) };
    if envelope.signature_name.is_some() {
        return Err(Refusal::invalid("`signature_name` is not supported: a model has one signature"));
    }
    let form = match route {
        Route::Predict => match (envelope.instances, envelope.inputs) {
            (Some(instances), None) => Form::Rows { rows: reader.instances(instances.get())? },
            // The plain form goes on to be answered where it always was, also through raw predictions.
            (None, Some(_)) => return Ok((plain::read(model, body)?, Form::Plain)),
            _ => return Err(Refusal::invalid("the request body must hold `instances`, a list")),
        },
        Route::Score if envelope.input_data.is_some() => {
            let given = [&envelope.inputs, &envelope.instances, &envelope.dataframe_split, &envelope.dataframe_records];
            if given.iter().any(|given| given.is_some()) {
                return Err(Refusal::invalid("beside `input_data` no other data may stand in the request body"));
            }
            reader.input_data(envelope.input_data.map_or("", RawValue::get))?
        }
        _ => reader.one_of(&envelope)?,
    };
    for params in [envelope.params, envelope.parameters].into_iter().flatten() {
        reader.params(params.get())?;
    }
    let question = Question { inputs: reader.inputs.finish()?, wanted: Wanted::all(model, None, false) };
    Ok((question, form))
}

struct Reader<'m> {
    model: &'m Model,
    inputs: Inputs<'m>,
}

impl<'m> Reader<'m> {
    fn one_of(&mut self, envelope: &Envelope<'_>) -> Result<Form, Refusal> {
        let wrapped = true;
        match (envelope.inputs, envelope.instances, envelope.dataframe_split, envelope.dataframe_records) {
            (Some(inputs), None, None, None) => self.tensors(inputs.get()).map(|()| Form::Tensors { wrapped }),
            (None, Some(instances), None, None) => self.instances(instances.get()).map(|_| Form::Tensors { wrapped }),
            (None, None, Some(split), None) => Ok(Form::Records { rows: self.split(split.get())?, wrapped }),
            (None, None, None, Some(records)) => Ok(Form::Records { rows: self.records(records.get())?, wrapped }),
            _ => Err(Refusal::invalid(
                "the request body must hold exactly one of `inputs`, `instances`, `dataframe_split` and `dataframe_records`",
            )),
        }
    }

    /// Azure ML's form: a table split, tensors by name, or one tensor.
    fn input_data(&mut self, text: &str) -> Result<Form, Refusal> {
        let wrapped = false;
        let is_split = text.starts_with('{') && {
            let Named(pairs) = parse(text)?;
            let name = |name: &str| pairs.iter().any(|(key, _)| key == name);
            name("data") && (name("columns") || name("index") || self.model.signature.input("data").is_none())
        };
        match is_split {
            true => Ok(Form::Records { rows: self.split(text)?, wrapped }),
            false => self.tensors(text).map(|()| Form::Tensors { wrapped }),
        }
    }

    /// An object of tensors by name, or the tensor of the only input.
    fn tensors(&mut self, text: &str) -> Result<(), Refusal> {
        if !text.starts_with('{') {
            return self.tensor(text).map(|_| ());
        }
        let Named(pairs) = parse(text)?;
        for (name, value) in pairs {
            let spec = self.inputs.spec(&name)?;
            take(&mut self.inputs, spec, value.get())?;
        }
        Ok(())
    }

    /// A tensor without a name; returns its rows.
    fn tensor(&mut self, text: &str) -> Result<usize, Refusal> {
        let Some((_, spec)) = sole(self.model) else {
            return Err(Refusal::invalid(format!(
                "the model takes {} inputs, so each must be named: send an object with a nested list for each",
                self.model.signature.inputs.len()
            )));
        };
        let named = self.inputs.spec(&spec.name)?;
        take(&mut self.inputs, named, text)?;
        let rows = outline(text).ok().and_then(|shape| shape.first().copied());
        Ok(rows.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(1))
    }

    /// A list of instances: objects, or whatever the only input takes, or rows in the signature's order.
    fn instances(&mut self, text: &str) -> Result<usize, Refusal> {
        let first = text.strip_prefix('[').map(str::trim_start);
        match first {
            Some(first) if first.starts_with(['{', ']']) => self.records(text),
            Some(_) if sole(self.model).is_some() => self.tensor(text),
            Some(_) => self.rows(None, text),
            // MLflow takes an object of columns as well.
            None if text.starts_with('{') => self.tensors(text).map(|()| 1),
            None => Err(Refusal::invalid("`instances` must be a list")),
        }
    }

    /// `{"columns": […], "index": […], "data": [[…], …]}`
    fn split(&mut self, text: &str) -> Result<usize, Refusal> {
        if !text.starts_with('{') {
            return Err(Refusal::invalid(
                "a table split must be an object with `data`, and perhaps `columns` and `index`",
            ));
        }
        let split: Split<'_> = parse(text)?;
        let names = split.columns.map(|Names(names)| names);
        self.rows(names.as_deref(), split.data.get())
    }

    fn rows(&mut self, names: Option<&[Cow<'_, str>]>, text: &str) -> Result<usize, Refusal> {
        let model = self.model;
        let table = names.map(|names| Table::named(model, names.iter().map(|name| &**name))).transpose()?;
        let table = feed(text, Rows { model, table, failed: None })?;
        let table = table.map_or_else(|| Table::unnamed(model, 0), Ok)?;
        table.finish(&mut self.inputs)
    }

    fn records(&mut self, text: &str) -> Result<usize, Refusal> {
        let records = Records { model: self.model, names: HashMap::new(), table: None, failed: None, room: text.len() };
        match feed(text, records)? {
            Some(table) => table.finish(&mut self.inputs),
            None => Err(Refusal::invalid("there are no rows: the list of records is empty")),
        }
    }

    /// Parameters of one request: values of optional inputs, such as those that flags fill.
    fn params(&mut self, text: &str) -> Result<(), Refusal> {
        let Named(pairs) = parse(text)?;
        for (name, value) in pairs {
            let known = self.model.signature.inputs.iter().any(|spec| spec.optional && spec.name == name);
            if !known {
                let name = shown(&name);
                return Err(Refusal::invalid(format!(
                    "there is no parameter {name}: parameters are inputs that may be left out"
                )));
            }
            let (index, spec) = self.inputs.spec(&name)?;
            let rank = spec.shape.len();
            // One value for a shape of ones, which is how flags are declared in graphs.
            let lifted = !value.get().starts_with('[') && spec.shape.iter().all(|&axis| matches!(axis, 1 | -1));
            let text: Cow<'_, str> = match lifted {
                true => format!("{}{}{}", "[".repeat(rank), value.get(), "]".repeat(rank)).into(),
                false => value.get().into(),
            };
            take(&mut self.inputs, (index, spec), &text)?;
        }
        Ok(())
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Refusal> {
    serde_json::from_str(text).map_err(|error| not_json(&error))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object with `data`, and perhaps `columns` and `index`")]
struct Split<'a> {
    #[serde(borrow, default)]
    columns: Option<Names<'a>>,
    #[serde(rename = "index", default)]
    _index: Option<serde::de::IgnoredAny>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Names of columns; pandas numbers them where they have none.
struct Names<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Names<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Vec<&'de RawValue> = Deserialize::deserialize(deserializer)?;
        let name = |raw: &&'de RawValue| match raw.get().as_bytes().first() {
            Some(b'"') => serde_json::from_str::<Text<'de>>(raw.get()).map(|text| text.0).map_err(D::Error::custom),
            Some(b'0'..=b'9' | b'-') => Ok(Cow::Borrowed(raw.get())),
            _ => Err(D::Error::custom("the name of a column must be a text or a number")),
        };
        raw.iter().map(name).collect::<Result<_, _>>().map(Names)
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Something that takes the elements of a list one by one.
trait Feed<'de> {
    /// One element.
    type Item: Deserialize<'de>;
    /// What is left in the end.
    type Done;

    fn take(&mut self, item: Self::Item) -> Result<(), Refusal>;
    /// Keeps why the list is refused: a parser's errors carry text only.
    fn fail(&mut self, refusal: Refusal);
    fn done(self) -> Result<Self::Done, Refusal>;
}

/// Feeds the elements of the list `text`.
fn feed<'de, F: Feed<'de>>(text: &'de str, mut to: F) -> Result<F::Done, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = Feeding(&mut to).deserialize(&mut deserializer);
    match (to.done(), read) {
        (Ok(done), Ok(())) => Ok(done),
        (Err(refusal), _) => Err(refusal),
        (Ok(_), Err(error)) => Err(not_json(&error)),
    }
}

struct Feeding<'f, F>(&'f mut F);

impl<'de, F: Feed<'de>> DeserializeSeed<'de> for Feeding<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: Feed<'de>> Visitor<'de> for Feeding<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of rows")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element()? {
            if let Err(refusal) = self.0.take(item) {
                self.0.fail(refusal);
                return Err(A::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// Rows as lists.
struct Rows<'m> {
    model: &'m Model,
    table: Option<Table<'m>>,
    failed: Option<Refusal>,
}

impl<'m, 'de> Feed<'de> for Rows<'m> {
    type Item = Vec<&'de RawValue>;
    type Done = Option<Table<'m>>;

    fn take(&mut self, row: Vec<&'de RawValue>) -> Result<(), Refusal> {
        if self.table.is_none() {
            self.table = Some(Table::unnamed(self.model, row.len())?);
        }
        let Some(table) = &mut self.table else { return Ok(()) };
        table.row(row.into_iter().map(|value| cell(value.get())))
    }

    fn fail(&mut self, refusal: Refusal) {
        self.failed = Some(refusal);
    }

    fn done(self) -> Result<Self::Done, Refusal> {
        self.failed.map_or(Ok(self.table), Err)
    }
}

/// Rows as objects, whose keys may stand in any order. The first one says which columns there are.
struct Records<'m, 'de> {
    model: &'m Model,
    names: HashMap<Cow<'de, str>, usize>,
    table: Option<Table<'m>>,
    failed: Option<Refusal>,
    /// Cells that may still come: a value takes more than a byte, so more cells than bytes are mostly missing ones.
    room: usize,
}

impl<'m, 'de> Feed<'de> for Records<'m, 'de> {
    type Item = Named<'de>;
    type Done = Option<Table<'m>>;

    fn take(&mut self, Named(pairs): Named<'de>) -> Result<(), Refusal> {
        let twice = |name: &str| Refusal::invalid(format!("a record has {} twice", shown(name)));
        if self.table.is_none() {
            self.table = Some(Table::named(self.model, pairs.iter().map(|(name, _)| &**name))?);
            for (position, (name, _)) in pairs.iter().enumerate() {
                if self.names.insert(name.clone(), position).is_some() {
                    return Err(twice(name));
                }
            }
        }
        let Some(table) = &mut self.table else { return Ok(()) };
        self.room = self
            .room
            .checked_sub(self.names.len())
            .ok_or_else(|| Refusal::invalid("most values of the records are missing; send the rows that have them"))?;
        let mut cells = vec![None; self.names.len()];
        for (name, value) in &pairs {
            let Some(&index) = self.names.get(name) else {
                return Err(Refusal::invalid(format!("a record has {}, which the first record has not", shown(name))));
            };
            if cells[index].replace(cell(value.get())).is_some() {
                return Err(twice(name));
            }
        }
        table.row(cells.into_iter().map(|cell| cell.unwrap_or(Cell::Missing)))
    }

    fn fail(&mut self, refusal: Refusal) {
        self.failed = Some(refusal);
    }

    fn done(self) -> Result<Self::Done, Refusal> {
        self.failed.map_or(Ok(self.table), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;
    use crate::tensor::{Data, Tensor};
    use modelyard_core::signature::{Datatype, Signature, TensorSpec};

    fn several() -> Model {
        let spec = |name: &str, datatype, shape: &[i64], optional| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional,
        };
        let inputs = vec![
            spec("wide", Datatype::Fp64, &[-1, 1], false),
            spec("count", Datatype::Int64, &[-1], false),
            spec("pair", Datatype::Fp32, &[-1, 2], false),
            spec("threshold", Datatype::Fp32, &[1], true),
        ];
        Model::new("m", "1", Signature { inputs, outputs: vec![] })
    }

    fn asked(model: &Model, route: Route, body: &str) -> Result<(Vec<Option<Tensor>>, Form), String> {
        let read = read(model, route, body.as_bytes());
        read.map(|(question, form)| (question.inputs, form)).map_err(|refusal| refusal.message)
    }

    fn refused(model: &Model, body: &str) -> String {
        asked(model, Route::Invocations, body).unwrap_err()
    }

    #[test]
    fn every_form_gives_the_same_tensor() {
        let model = model();
        let (tensors, records) = (Form::Tensors { wrapped: true }, Form::Records { rows: 2, wrapped: true });
        for (body, wanted) in [
            (r#"{"inputs":[[1,2,3,4],[5,6,7,8]]}"#, tensors),
            (r#" {"inputs":{"x":[[1,2,3,4],[5,6,7,8]]},"params":null}"#, tensors),
            (r#"{"instances":[[1,2,3,4],[5,6,7,8]]}"#, tensors),
            (r#"{"instances":[{"x":[1,2,3,4]},{"x":[5,6,7,8]}]}"#, tensors),
            (
                r#"{"dataframe_split":{"columns":["a","b","c","d"],"index":[7,8],"data":[[1,2,3,4],[5,6,7,8]]}}"#,
                records,
            ),
            (r#"{"dataframe_split":{"data":[[1,2,3,4],[5,6,7,8]],"columns":[0,1,2,3]}}"#, records),
            (r#"{"dataframe_split":{"data":[[1,2,3,4],[5,6,7,8]]}}"#, records),
            (r#"{"dataframe_split":{"data":[[[1,2,3,4]],[[5,6,7,8]]],"columns":["x"]}}"#, records),
            (r#"{"dataframe_records":[{"a":1,"b":2,"c":3,"d":4},{"d":8,"c":7,"b":6,"a":5}]}"#, records),
        ] {
            let (inputs, form) = asked(&model, Route::Invocations, body).unwrap();
            let tensor = Tensor { shape: vec![2, 4], data: Data::Fp32((1..=8).map(|v| v as f32).collect()) };
            assert_eq!((inputs[0].as_ref(), form), (Some(&tensor), wanted), "{body}");
        }
    }

    #[test]
    fn columns_find_their_inputs_by_name_and_without_names_by_their_order() {
        let model = several();
        for body in [
            r#"{"dataframe_records":[{"count":1,"wide":0.5,"pair":[1,2]},{"pair":[3,4],"count":-2,"wide":null}]}"#,
            r#"{"dataframe_records":[{"count":1,"wide":0.5,"pair":[1,2]},{"pair":[3,4],"count":-2}]}"#,
            r#"{"dataframe_split":{"data":[[0.5,1,[1,2]],[null,-2,[3,4]]]}}"#,
            r#"{"instances":[[0.5,1,[1,2]],[null,-2,[3,4]]]}"#,
        ] {
            let (inputs, _) = asked(&model, Route::Invocations, body).unwrap();
            let Data::Fp64(wide) = &inputs[0].as_ref().unwrap().data else { panic!() };
            assert!(wide[0] == 0.5 && wide[1].is_nan(), "{body}");
            assert_eq!(inputs[1], Some(Tensor { shape: vec![2], data: Data::Int64(vec![1, -2]) }));
            assert_eq!(inputs[2], Some(Tensor { shape: vec![2, 2], data: Data::Fp32(vec![1.0, 2.0, 3.0, 4.0]) }));
            assert_eq!(inputs[3], None);
        }
    }

    #[test]
    fn parameters_are_optional_inputs() {
        let data = r#""inputs":{"wide":[[1]],"count":[1],"pair":[[1,2]]}"#;
        let (inputs, _) =
            asked(&several(), Route::Invocations, &format!(r#"{{"params":{{"threshold":0.5}},{data}}}"#)).unwrap();
        assert_eq!(inputs[3], Some(Tensor { shape: vec![1], data: Data::Fp32(vec![0.5]) }));
        for (name, says) in [("temperature", "no parameter `temperature`"), ("count", "no parameter `count`")] {
            assert!(refused(&several(), &format!(r#"{{"params":{{"{name}":0.5}},{data}}}"#)).contains(says));
        }
    }

    #[test]
    fn each_platform_has_its_own_envelope() {
        let model = model();
        let rows = r#"[[1,2,3,4]]"#;
        let form = |route, body: String| asked(&model, route, &body).map(|(_, form)| form);
        assert_eq!(
            form(Route::Predict, format!(r#"{{"instances":{rows},"parameters":{{}}}}"#)),
            Ok(Form::Rows { rows: 1 })
        );
        assert_eq!(form(Route::Predict, format!(r#"{{"inputs":{{"x":{rows}}}}}"#)), Ok(Form::Plain));
        assert!(form(Route::Predict, format!(r#"{{"dataframe_split":{{"data":{rows}}}}}"#)).is_err());
        let bare = Form::Tensors { wrapped: false };
        assert_eq!(form(Route::Score, format!(r#"{{"input_data":{rows}}}"#)), Ok(bare));
        assert_eq!(form(Route::Score, format!(r#"{{"input_data":{{"x":{rows}}}}}"#)), Ok(bare));
        let records = Form::Records { rows: 1, wrapped: false };
        let split = format!(r#"{{"input_data":{{"columns":["a","b","c","d"],"index":[0],"data":{rows}}}}}"#);
        assert_eq!(form(Route::Score, split.clone()), Ok(records));
        assert_eq!(form(Route::Score, format!(r#"{{"instances":{rows}}}"#)), Ok(Form::Tensors { wrapped: true }));
        assert!(form(Route::Invocations, split).unwrap_err().contains("exactly one"), "only Azure ML has that word");
    }

    #[test]
    fn hostile_bodies_are_refused_with_the_reason_and_without_their_data() {
        let model = model();
        for (body, says) in [
            ("", "EOF"),
            ("[[1,2,3,4]]", "it is a list"),
            ("3", "expected an object"),
            ("{}", "exactly one"),
            (r#"{"messages":[]}"#, "exactly one"),
            (r#"{"inputs":[[1,2,3,4]],"instances":[[1,2,3,4]]}"#, "exactly one"),
            (r#"{"inputs":[[1,2,3,4]],"inputs":[[1,2,3,4]]}"#, "duplicate field"),
            (r#"{"inputs":[[1,2,3,4]],"signature_name":"s"}"#, "signature_name"),
            (r#"{"inputs":"secret"}"#, "has the shape []"),
            (r#"{"inputs":{"secret":[[1,2,3,4]],"x":[[1,2,3,4]]}}"#, "no input `secret`"),
            (r#"{"instances":7}"#, "must be a list"),
            (r#"{"instances":[]}"#, "no rows"),
            (r#"{"dataframe_records":[]}"#, "no rows"),
            (r#"{"dataframe_records":[[1]]}"#, "expected an object"),
            (r#"{"dataframe_records":{"a":[1]}}"#, "expected a list of rows"),
            (r#"{"dataframe_records":[{"a":1,"a":2,"b":3,"c":4}]}"#, "`a` twice"),
            (r#"{"dataframe_records":[{"a":1,"b":2,"c":3,"d":4},{"e":1}]}"#, "`e`, which the first record has not"),
            (r#"{"dataframe_records":[{"a":1,"b":2,"c":3,"d":"secret"}]}"#, "row 0 of the table, column 3"),
            (r#"{"dataframe_split":[[1,2,3,4]]}"#, "must be an object"),
            (r#"{"dataframe_split":{"columns":["a"]}}"#, "missing field `data`"),
            (r#"{"dataframe_split":{"data":[[1,2,3,4]],"secret":1}}"#, "expected one of `columns`"),
            (r#"{"dataframe_split":{"data":[[1,2,3,4],[1,2,3]]}}"#, "another number of cells"),
            (r#"{"dataframe_split":{"data":[[1,2,3,[4]]]}}"#, "it is not a number"),
            (r#"{"dataframe_split":{"columns":[[]],"data":[[1,2,3,4]]}}"#, "must be a text or a number"),
            (r#"{"dataframe_split":{"columns":["x","x"],"data":[[[1,2,3,4],[1,2,3,4]]]}}"#, "two columns `x`"),
            (r#"{"dataframe_split":{"columns":["x"],"data":[[[1,2,3,4]],[[1,2,3]]]}}"#, "shape of the cells above"),
            (r#"{"dataframe_split":{"columns":["x"],"data":[[[1,2,[3],4]]]}}"#, "same length"),
        ] {
            let text = refused(&model, body);
            assert!(text.contains(says), "{body}: {text}");
        }
        assert!(refused(&several(), r#"{"inputs":[[1]]}"#).contains("each must be named"));
        let ints = r#"{"dataframe_split":{"data":[[0.5,1.5,[1,2]]]}}"#;
        assert!(refused(&several(), ints).contains("column 1 (both count from 0): it is not a whole number"));
    }

    #[test]
    fn records_that_are_mostly_holes_take_no_memory() {
        let spec = TensorSpec { name: "x".into(), datatype: Datatype::Fp64, shape: vec![-1, -1], optional: false };
        let model = Model::new("m", "1", Signature { inputs: vec![spec], outputs: vec![] });
        let wide: Vec<String> = (0..2_000).map(|index| format!("\"c{index}\":1")).collect();
        let holes = ",{}".repeat(50_000);
        let body = format!("{{\"dataframe_records\":[{{{}}}{holes}]}}", wide.join(","));
        assert!(refused(&model, &body).contains("most values"));
    }
}
