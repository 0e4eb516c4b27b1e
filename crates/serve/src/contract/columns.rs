//! A table into inputs: columns by name or in the signature's order, or all columns together as the last axis of the only input.
//!
//! Promises: cells go straight into typed elements, row by row; a cell that does not fit is named by row and column, never by its value.
//!
//! Source of the mapping: MLflow's ONNX flavour, which gives a model with one input the whole table and one with several a column each.

use modelyard_core::signature::TensorSpec;

use crate::codec::json::{self, DataError, Element};
use crate::model::{Inputs, Model, slot};
use crate::refusal::{Refusal, shown};
use crate::tensor::{Data, each};

/// One cell of a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cell<'a> {
    /// A JSON value other than `null`.
    Json(&'a str),
    /// The text of a CSV field.
    Text(&'a str),
    /// A value that is not there.
    Missing,
}

/// Cells on their way into inputs.
pub(super) struct Table<'m> {
    model: &'m Model,
    layout: Layout,
    rows: usize,
}

enum Layout {
    /// Each column is an input of its own.
    Inputs(Vec<Column>),
    /// All columns are the last axis of one input.
    Matrix { input: usize, width: usize, data: Data },
}

struct Column {
    input: usize,
    /// Shape of each cell; known from the first.
    cell: Option<Vec<i64>>,
    data: Data,
}

/// The input that a table or a tensor without a name is for: the only one, or the only one that is required.
pub(super) fn sole(model: &Model) -> Option<(usize, &TensorSpec)> {
    let inputs = &model.signature.inputs;
    let mut required = inputs.iter().enumerate().filter(|(_, spec)| inputs.len() == 1 || !spec.optional);
    required.next().filter(|_| required.next().is_none())
}

impl<'m> Table<'m> {
    /// A table whose columns have names.
    pub(super) fn named<'n>(model: &'m Model, names: impl Iterator<Item = &'n str> + Clone) -> Result<Self, Refusal> {
        let own = |name: &str| model.signature.inputs.iter().position(|spec| spec.name == name);
        let matrix = sole(model).filter(|_| names.clone().all(|name| own(name).is_none()));
        if let Some((input, spec)) = matrix {
            return Self::matrix(model, input, spec, names.count());
        }
        let mut columns: Vec<Column> = Vec::new();
        for name in names {
            // Says which inputs there are, if this is none.
            let (input, spec) = Inputs::new(&model.signature).spec(name)?;
            if columns.iter().any(|column| column.input == input) {
                return Err(Refusal::invalid(format!("there are two columns {}", shown(name))));
            }
            columns.push(Column::new(input, spec));
        }
        Ok(Self { model, layout: Layout::Inputs(columns), rows: 0 })
    }

    /// A table whose columns have no names.
    pub(super) fn unnamed(model: &'m Model, width: usize) -> Result<Self, Refusal> {
        let inputs = &model.signature.inputs;
        match sole(model) {
            Some((input, spec)) => Self::matrix(model, input, spec, width),
            None if width > inputs.len() => Err(Refusal::invalid(format!(
                "the table has {width} columns without names; the model takes {} inputs",
                inputs.len()
            ))),
            None => {
                let columns = inputs.iter().enumerate().take(width).map(|(input, spec)| Column::new(input, spec));
                Ok(Self { model, layout: Layout::Inputs(columns.collect()), rows: 0 })
            }
        }
    }

    fn matrix(model: &'m Model, input: usize, spec: &TensorSpec, width: usize) -> Result<Self, Refusal> {
        let wanted = match spec.shape[..] {
            [_] => 1,
            [_, last] => last,
            _ => {
                let (name, rank) = (&spec.name, spec.shape.len());
                return Err(Refusal::invalid(format!(
                    "input `{name}` has {rank} axes, which no table has; send `inputs` or `instances` with nested lists"
                )));
            }
        };
        if wanted >= 0 && i64::try_from(width) != Ok(wanted) {
            let name = &spec.name;
            return Err(Refusal::invalid(format!(
                "the table has {width} columns; input `{name}` of the model takes {wanted}"
            )));
        }
        Ok(Self {
            model,
            layout: Layout::Matrix { input, width, data: Data::with_capacity(spec.datatype, 0) },
            rows: 0,
        })
    }

    /// How many columns there are.
    pub(super) fn width(&self) -> usize {
        match &self.layout {
            Layout::Inputs(columns) => columns.len(),
            Layout::Matrix { width, .. } => *width,
        }
    }

    /// Takes the cells of a row, which come in the order of the columns, as many as there are.
    pub(super) fn row<'a>(&mut self, cells: impl Iterator<Item = Cell<'a>>) -> Result<(), Refusal> {
        let row = self.rows;
        let named = |column: usize, what: String| {
            Refusal::invalid(format!("row {row} of the table, column {column} (both count from 0): {what}"))
        };
        let mut width = 0;
        for (index, cell) in cells.enumerate() {
            match &mut self.layout {
                Layout::Inputs(columns) => {
                    let Some(column) = columns.get_mut(index) else { return Err(self.ragged()) };
                    column.push(cell).map_err(|what| named(index, what))?;
                }
                Layout::Matrix { data, .. } => scalar(cell, data).map_err(|what| named(index, what))?,
            }
            width += 1;
        }
        self.rows += 1;
        if width == self.width() { Ok(()) } else { Err(self.ragged()) }
    }

    fn ragged(&self) -> Refusal {
        Refusal::invalid(format!(
            "row {} of the table has another number of cells than there are columns: {}",
            self.rows.saturating_sub(1),
            self.width()
        ))
    }

    /// Puts everything in its place; returns the number of rows.
    pub(super) fn finish(self, inputs: &mut Inputs<'m>) -> Result<usize, Refusal> {
        let rows = i64::try_from(self.rows).unwrap_or(i64::MAX);
        let specs = &self.model.signature.inputs;
        let mut place = |input: usize, shape: Vec<i64>, data: Data| -> Result<(), Refusal> {
            let (index, spec) = inputs.spec(&specs[input].name)?;
            let slot = slot(index, spec, &shape)?;
            inputs.fill(slot, shape, data)
        };
        match self.layout {
            Layout::Matrix { input, width, data } => {
                let shape = match specs[input].shape.len() {
                    1 => vec![rows],
                    _ => vec![rows, i64::try_from(width).unwrap_or(i64::MAX)],
                };
                place(input, shape, data)?;
            }
            Layout::Inputs(columns) => {
                for column in columns {
                    let mut shape = vec![rows];
                    shape.extend(column.cell.unwrap_or_default());
                    // A column of scalars is also a table of one column, which is how converters of tables write their inputs.
                    let wanted = &specs[column.input].shape;
                    if shape.len() == 1 && matches!(wanted[..], [_, 1 | -1]) {
                        shape.push(1);
                    }
                    place(column.input, shape, column.data)?;
                }
            }
        }
        Ok(self.rows)
    }
}

impl Column {
    fn new(input: usize, spec: &TensorSpec) -> Self {
        Self { input, cell: None, data: Data::with_capacity(spec.datatype, 0) }
    }

    fn push(&mut self, cell: Cell<'_>) -> Result<(), String> {
        let shape = match cell {
            Cell::Json(text) if text.starts_with('[') => {
                json::outline(text).map_err(|_| "its nested lists do not all have the same length".to_owned())?
            }
            Cell::Json(_) | Cell::Text(_) | Cell::Missing => Vec::new(),
        };
        let known = self.cell.get_or_insert_with(|| shape.clone());
        if *known != shape {
            return Err("it does not have the shape of the cells above it".to_owned());
        }
        match cell {
            Cell::Json(text) if text.starts_with('[') => {
                json::append(text, &mut self.data).map_err(|error| wrong(&error))
            }
            cell => scalar(cell, &mut self.data),
        }
    }
}

fn wrong(error: &DataError) -> String {
    match error {
        DataError::Element { wanted, .. } => format!("it is not {wanted}"),
        DataError::Count { .. } | DataError::Ragged => "its nested lists do not all have the same length".to_owned(),
    }
}

/// Reads one element.
fn scalar(cell: Cell<'_>, data: &mut Data) -> Result<(), String> {
    let missing = |data: &Data| match data {
        Data::Fp16(_) | Data::Bf16(_) | Data::Fp32(_) | Data::Fp64(_) => Ok(&b"null"[..]),
        _ => Err("it is missing, which only floating-point inputs can tell (as NaN)".to_owned()),
    };
    let token = match cell {
        Cell::Missing => missing(data)?,
        Cell::Json(text) => text.as_bytes(),
        Cell::Text(text) => match data {
            Data::Bytes(texts) => {
                texts.push(text.to_owned());
                return Ok(());
            }
            Data::Bool(_) => truth(text),
            _ if is_missing(text) => missing(data)?,
            _ => text.trim().as_bytes(),
        },
    };
    fn push<T: Element>(token: &[u8], list: &mut Vec<T>) -> Result<(), String> {
        list.push(T::read(token).ok_or_else(|| format!("it is not {}", T::WANTED))?);
        Ok(())
    }
    each!(data, list => push(token, list))
}

/// What pandas writes for booleans, as JSON has them.
fn truth(text: &str) -> &[u8] {
    match text.trim() {
        "True" | "TRUE" => b"true",
        "False" | "FALSE" => b"false",
        other => other.as_bytes(),
    }
}

/// Whether pandas reads a field as a value that is not there; the words that people write are enough.
fn is_missing(text: &str) -> bool {
    matches!(text.trim(), "" | "NaN" | "nan" | "NA" | "N/A" | "<NA>" | "null" | "NULL" | "None")
}

/// Whether a JSON value is there.
pub(super) fn cell(text: &str) -> Cell<'_> {
    if text == "null" { Cell::Missing } else { Cell::Json(text) }
}
