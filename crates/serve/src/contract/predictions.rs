//! Answers in the forms of the contracts.
//!
//! Source of the forms: MLflow's scoring server (a table is answered with records, tensors with an object of tensors, a Python flavour's answer by
//! what it gave); TensorFlow Serving's row format, which Vertex AI took over (one prediction per instance, bare where there is one output, else an
//! object).

use crate::batch::Slice;
use crate::body::plain;
use crate::codec::write;
use crate::engine::Scored;
use crate::model::{Model, Wanted};
use crate::refusal::Refusal;
use crate::tensor::elements;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The plain form: `{"outputs": {name: nested list}}`.
    Plain,
    /// An object with a nested list for each output.
    Tensors { wrapped: bool },
    /// A list with an object for each row; an output with one column stands bare in it.
    Records { rows: usize, wrapped: bool },
    /// A list with a prediction for each row.
    Rows { rows: usize },
}

/// Writes an answer.
///
/// # Errors
/// [`Refusal`] if rows are asked for and an output has none.
pub(crate) fn write(model: &Model, wanted: &Wanted, slice: &Slice, form: Form) -> Result<Vec<u8>, Refusal> {
    let mut out = Vec::with_capacity(256);
    let wrapped = match form {
        Form::Plain => return Ok(plain::write(model, wanted, slice)),
        Form::Tensors { wrapped } | Form::Records { wrapped, .. } => wrapped,
        Form::Rows { .. } => true,
    };
    if wrapped {
        out.extend_from_slice(b"{\"predictions\":");
    }
    match (form, given(wanted, slice)) {
        (Form::Plain, _)
        | (Form::Tensors { .. }, None)
        | (Form::Tensors { .. } | Form::Records { .. }, Some(Scored::Value)) => {
            plain::named(model, wanted, slice, &mut out);
        }
        (Form::Tensors { .. } | Form::Records { .. }, Some(form)) => as_given(model, wanted, slice, form, &mut out)?,
        (Form::Records { rows, .. }, None) => {
            list(model, wanted, slice, rows, Row { around: Around::Object, flat: true }, &mut out)?;
        }
        (Form::Rows { rows }, _) => {
            let around = if wanted.outputs.len() == 1 { Around::Nothing } else { Around::Object };
            list(model, wanted, slice, rows, Row { around, flat: false }, &mut out)?;
        }
    }
    if wrapped {
        out.push(b'}');
    }
    Ok(out)
}

/// How MLflow would write what its model gave.
fn given<'s>(wanted: &Wanted, slice: &'s Slice) -> Option<&'s Scored> {
    wanted.outputs.first().and_then(|&(index, _)| slice.form(index))
}

/// Writes what an MLflow model gave as its own server does: an array bare, a table in records, whatever form was asked in.
fn as_given(model: &Model, wanted: &Wanted, slice: &Slice, form: &Scored, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let Some(&(first, _)) = wanted.outputs.first() else { return Ok(()) };
    let part = slice.output(first);
    if *form == Scored::List && wanted.outputs.len() == 1 {
        write::nested(part.data, &part.shape, part.start, out);
        return Ok(());
    }
    let rows = part.shape.first().and_then(|&rows| usize::try_from(rows).ok()).unwrap_or(0);
    let around = if *form == Scored::List { Around::List } else { Around::Object };
    list(model, wanted, slice, rows, Row { around, flat: true }, out)
}

/// What stands around the values of a row.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Around {
    /// An object, with their names.
    Object,
    List,
    Nothing,
}

impl Around {
    const fn brackets(self) -> (&'static [u8], &'static [u8]) {
        match self {
            Self::Object => (b"{", b"}"),
            Self::List => (b"[", b"]"),
            Self::Nothing => (b"", b""),
        }
    }
}

/// How a row is written.
#[derive(Clone, Copy)]
struct Row {
    around: Around,
    /// One element as itself instead of a list of one.
    flat: bool,
}

fn list(
    model: &Model,
    wanted: &Wanted,
    slice: &Slice,
    rows: usize,
    how: Row,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let mut parts = Vec::with_capacity(wanted.outputs.len());
    for &(index, _) in &wanted.outputs {
        let part = slice.output(index);
        let name = &model.signature.outputs[index].name;
        if part.shape.first().and_then(|&axis| usize::try_from(axis).ok()) != Some(rows) {
            return Err(Refusal::invalid(format!(
                "output `{name}` has no element for each of the {rows} rows; send `inputs`, which are answered whole, or ask /predict"
            )));
        }
        let mut inner = part.shape[1..].to_vec();
        let step = elements(&inner).unwrap_or(0);
        if how.flat && inner == [1] {
            inner.clear();
        }
        let mut key = Vec::new();
        if how.around == Around::Object {
            let called = match slice.form(index) {
                Some(Scored::Column(called)) if how.flat => called,
                _ => name,
            };
            write::string(called, &mut key);
            key.push(b':');
        }
        parts.push((key, part, inner, step));
    }
    let (before, after) = how.around.brackets();
    out.push(b'[');
    for row in 0..rows {
        out.extend_from_slice(if row > 0 { b"," } else { b"" });
        out.extend_from_slice(before);
        for (position, (key, part, inner, step)) in parts.iter().enumerate() {
            out.extend_from_slice(if position > 0 { b"," } else { b"" });
            out.extend_from_slice(key);
            write::nested(part.data, inner, part.start + row * step, out);
        }
        out.extend_from_slice(after);
    }
    out.push(b']');
    Ok(())
}
