//! The profile of a model's reference data: what `[reference]` names is read, and how its values are spread goes into the package.
//!
//! Promises: the data itself is not packaged; it is read row by row, so it may be larger than memory; the same file gives the same profile on any
//! machine; an error names the row, never its data.
//! Absent on purpose: running the model. Outputs have a profile where the data has them.

mod csv;
mod rows;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use modelyard_core::profile::{Builder, Profile, Side, Tensor};
use modelyard_core::signature::{Signature, TensorSpec};

/// Rows below which chance alone moves a spread visibly.
const FEW: u64 = 500;

/// What reference data is held against.
pub(crate) struct Model<'a> {
    pub(crate) signature: &'a Signature,
    /// Outputs whose shape is not known.
    pub(crate) unshaped: &'a std::collections::BTreeSet<String>,
}

/// Reads reference data: `.csv`, `.json` (a list) or `.jsonl` (a row per line). Gives the profile and what is probably not meant.
///
/// # Errors
/// What is wrong with which row, as a sentence for people.
pub(crate) fn read(path: &Path, model: &Model<'_>) -> Result<(Profile, Vec<String>), String> {
    let file = File::open(path).map_err(|error| format!("it cannot be read: {error}"))?;
    let mut gathering = Gathering { model, builder: Builder::new(), warnings: Vec::new() };
    let file = BufReader::new(file);
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => csv::read(file, &mut gathering)?,
        Some("json") => rows::list(file, &mut gathering)?,
        Some("jsonl" | "ndjson") => rows::lines(file, &mut gathering)?,
        _ => return Err("write a .csv, .json or .jsonl file, and name it so".to_owned()),
    }
    gathering.finish()
}

/// Rows that are looked at.
struct Gathering<'a> {
    model: &'a Model<'a>,
    builder: Builder,
    warnings: Vec<String>,
}

impl Gathering<'_> {
    fn specs(&self, side: Side) -> &[TensorSpec] {
        match side {
            Side::Input => &self.model.signature.inputs,
            Side::Output => &self.model.signature.outputs,
        }
    }

    /// Elements of a row that the signature fixes; none when an axis is free or the shape is not known.
    fn width(&self, spec: &TensorSpec) -> Option<usize> {
        if self.model.unshaped.contains(&spec.name) {
            return None;
        }
        spec.shape.iter().skip(1).try_fold(1_usize, |width, &axis| width.checked_mul(usize::try_from(axis).ok()?))
    }

    /// Takes in a row, in the order of the signature so that the order of columns and keys does not matter.
    fn take(&mut self, side: Side, mut tensors: Vec<Tensor<'_>>) -> Result<usize, String> {
        for tensor in &mut tensors {
            let specs = self.specs(side);
            if specs.is_empty() {
                continue; // a program says nothing of what it takes
            }
            let Some(spec) = specs.iter().find(|spec| spec.name == tensor.name) else {
                return Err(unknown(side, tensor.name, specs));
            };
            if let Some(width) = self.width(spec).filter(|&width| width != tensor.width) {
                let (side, name) = (side.name(), &spec.name);
                return Err(format!("{side} `{name}` has {} values a row, and the model has {width}", tensor.width));
            }
            tensor.datatype = Some(spec.datatype);
        }
        let place = |tensor: &Tensor<'_>| self.specs(side).iter().position(|spec| spec.name == tensor.name);
        tensors.sort_by_key(place);
        self.builder.observe(side, &tensors);
        Ok(tensors.iter().map(Tensor::rows).max().unwrap_or(0))
    }

    /// Takes in what was asked and answered.
    fn row(&mut self, inputs: Vec<Tensor<'_>>, outputs: Vec<Tensor<'_>>) -> Result<(), String> {
        if inputs.is_empty() {
            return Err("it has no inputs".to_owned());
        }
        let rows = self.take(Side::Input, inputs)?;
        self.take(Side::Output, outputs)?;
        (0..rows).for_each(|_| self.builder.row());
        Ok(())
    }

    fn finish(mut self) -> Result<(Profile, Vec<String>), String> {
        let rows = self.builder.rows();
        if rows == 0 {
            return Err("it has no rows".to_owned());
        }
        let profile = self.builder.build();
        if rows < FEW {
            self.warnings.push(format!(
                "the reference has {rows} rows: chance alone may look like drift; some thousand are better"
            ));
        }
        let inputs = &self.model.signature.inputs;
        let is_there = |spec: &&TensorSpec| profile.fields.iter().any(|field| field.name == spec.name);
        let missing: Vec<String> =
            inputs.iter().filter(|spec| !is_there(spec)).map(|spec| format!("`{}`", spec.name)).collect();
        if !missing.is_empty() {
            self.warnings.push(format!("the profile has no room or no data for {}", missing.join(", ")));
        }
        Ok((profile, self.warnings))
    }
}

fn unknown(side: Side, name: &str, specs: &[TensorSpec]) -> String {
    let names: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    let name: String = name.escape_debug().take(80).collect();
    format!("the model has no {} `{name}`; it has {}", side.name(), names.join(", "))
}
