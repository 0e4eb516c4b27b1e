//! Reference data as CSV: a header that names inputs and outputs, and a line per row.
//!
//! A column is called as its tensor (`age`), or as its tensor and place in it (`features[3]`). Empty cells, `NA`, `NaN` and `null` are missing values.
//! Source: RFC 4180, with any line ending.

use std::collections::BTreeMap;
use std::io::BufRead;

use modelyard_core::nearest;
use modelyard_core::profile::{Scalar, Side, Tensor};
use modelyard_core::signature::{Datatype, TensorSpec};

use super::Gathering;

/// Longest record in bytes.
const RECORD: usize = 16 << 20;

/// A tensor and the columns that hold its elements, in their order.
struct Group {
    side: Side,
    name: String,
    datatype: Option<Datatype>,
    columns: Vec<usize>,
}

/// Reads a table.
pub(super) fn read(file: impl BufRead, into: &mut Gathering<'_>) -> Result<(), String> {
    let mut records = Records { file, line: 0 };
    let Some((_, header)) = records.next()? else { return Err("it is empty".to_owned()) };
    let groups = groups(&header, into)?;
    while let Some((line, fields)) = records.next()? {
        if fields.len() != header.len() {
            return Err(format!("line {line} has {} fields where the header names {}", fields.len(), header.len()));
        }
        let of = |side: Side| -> Result<Vec<Tensor<'_>>, String> {
            let groups = groups.iter().filter(|group| group.side == side);
            groups.map(|group| group.tensor(&header, &fields).map_err(|why| format!("line {line}: {why}"))).collect()
        };
        into.row(of(Side::Input)?, of(Side::Output)?).map_err(|why| format!("line {line}: {why}"))?;
    }
    Ok(())
}

/// Which columns make which tensors.
fn groups(header: &[String], into: &mut Gathering<'_>) -> Result<Vec<Group>, String> {
    let mut places: BTreeMap<(Side, String), BTreeMap<usize, usize>> = BTreeMap::new();
    let mut strange = Vec::new();
    for (column, title) in header.iter().enumerate() {
        let (name, at) = element(title);
        // Names may hold brackets themselves.
        let whole = side_of(into, title).map(|side| (side, title.to_owned(), 0));
        let Some((side, name, at)) = whole.or_else(|| Some((side_of(into, name)?, name.to_owned(), at))) else {
            strange.push(title.as_str());
            continue;
        };
        if places.entry((side, name)).or_default().insert(at, column).is_some() {
            return Err(format!("its header names `{}` twice", shown(title)));
        }
    }
    if !places.keys().any(|(side, _)| *side == Side::Input) {
        let names: Vec<String> = into.specs(Side::Input).iter().map(|spec| format!("`{}`", spec.name)).collect();
        return Err(format!("its header names none of the inputs {}", names.join(", ")));
    }
    warn(&strange, into);
    let mut groups = Vec::new();
    for ((side, name), columns) in places {
        let spec = into.specs(side).iter().find(|spec| spec.name == name);
        let width = spec.and_then(|spec| into.width(spec)).unwrap_or(columns.len());
        if let Some(missing) = (0..width).find(|at| !columns.contains_key(at)) {
            return Err(format!("its header has no column `{}[{missing}]`", shown(&name)));
        }
        let datatype = spec.map(|spec| spec.datatype);
        groups.push(Group { side, name, datatype, columns: columns.into_values().collect() });
    }
    Ok(groups)
}

/// A program says nothing of what it takes: everything is an input then.
fn side_of(into: &Gathering<'_>, name: &str) -> Option<Side> {
    let has = |specs: &[TensorSpec]| specs.iter().any(|spec| spec.name == name);
    let is_undescribed = into.specs(Side::Input).is_empty() && into.specs(Side::Output).is_empty();
    match (is_undescribed || has(into.specs(Side::Input)), has(into.specs(Side::Output))) {
        (true, _) => Some(Side::Input),
        (false, true) => Some(Side::Output),
        (false, false) => None,
    }
}

fn warn(strange: &[&str], into: &mut Gathering<'_>) {
    let Some(first) = strange.first() else { return };
    let names: Vec<String> = [Side::Input, Side::Output]
        .iter()
        .flat_map(|side| into.specs(*side).iter().map(|spec| spec.name.clone()))
        .collect();
    let hint = nearest(element(first).0, names.iter().map(String::as_str));
    let hint = hint.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let count = if strange.len() > 1 { format!(" and {} more", strange.len() - 1) } else { String::new() };
    into.warnings.push(format!(
        "the reference's column `{}`{count} is neither input nor output, and is left out{hint}",
        shown(first)
    ));
}

fn shown(name: &str) -> String {
    name.escape_debug().take(80).collect()
}

/// `features[3]` is the place 3 of `features`.
fn element(title: &str) -> (&str, usize) {
    let place = || {
        let (name, rest) = title.split_once('[')?;
        Some((name, rest.strip_suffix(']')?.parse().ok()?))
    };
    place().unwrap_or((title, 0))
}

impl Group {
    fn tensor<'a>(&'a self, header: &[String], fields: &'a [String]) -> Result<Tensor<'a>, String> {
        let element = |&column: &usize| {
            let value = scalar(self.datatype, &fields[column]);
            value.ok_or_else(|| {
                let datatype = self.datatype.map_or("value", Datatype::name);
                format!("column `{}` holds no {datatype}", shown(&header[column]))
            })
        };
        let elements = self.columns.iter().map(element).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor { name: &self.name, datatype: self.datatype, width: self.columns.len(), elements })
    }
}

/// A cell as that datatype; without one, what it looks like.
fn scalar(datatype: Option<Datatype>, cell: &str) -> Option<Scalar<'_>> {
    let text = cell.trim();
    if text.is_empty() || ["na", "nan", "null", "none"].iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return Some(Scalar::Missing);
    }
    let number = || text.parse::<f64>().ok().map(Scalar::Number);
    let truth = || {
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        let truth = if is("true") || is("1") { Some(true) } else { None };
        truth.or(if is("false") || is("0") { Some(false) } else { None }).map(Scalar::Bool)
    };
    match datatype {
        Some(Datatype::Bytes) => Some(Scalar::Text(cell)),
        Some(Datatype::Bool) => truth(),
        Some(_) => number(),
        None => number().or(Some(Scalar::Text(cell))),
    }
}

/// Records with the line that they begin at; blank lines are left out.
struct Records<R> {
    file: R,
    line: usize,
}

impl<R: BufRead> Records<R> {
    fn next(&mut self) -> Result<Option<(usize, Vec<String>)>, String> {
        loop {
            let (first, mut record) = (self.line + 1, Vec::new());
            // A record goes on while a quote is open: line breaks may stand in quotes.
            loop {
                let before = record.len();
                let room = RECORD.saturating_sub(before) as u64;
                let line = std::io::Read::take(&mut self.file, room).read_until(b'\n', &mut record);
                line.map_err(|error| error.to_string())?;
                if record.len() == before {
                    break;
                }
                self.line += 1;
                if record.iter().filter(|byte| **byte == b'"').count().is_multiple_of(2) {
                    break;
                }
            }
            if record.is_empty() {
                return Ok(None);
            }
            if record.len() >= RECORD {
                return Err(format!(
                    "line {first}: the record is longer than {RECORD} bytes, or a quote is never closed"
                ));
            }
            let text = String::from_utf8(record).map_err(|_| format!("line {first} is not UTF-8"))?;
            let text = text.trim_start_matches('\u{feff}').trim_end_matches(['\r', '\n']);
            if !text.is_empty() {
                return fields(text).map(|fields| Some((first, fields))).ok_or_else(|| {
                    format!("line {first}: a quote is never closed, or something stands behind a closed one")
                });
            }
        }
    }
}

fn fields(mut rest: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    loop {
        let field;
        (field, rest) = match rest.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        fields.push(field);
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return rest.is_empty().then_some(fields),
        }
    }
}

fn unquote(mut rest: &str) -> Option<(String, &str)> {
    let mut field = String::new();
    loop {
        let (before, after) = rest.split_once('"')?;
        field.push_str(before);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Some((field, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_people_write_them() {
        let text = "\u{feff}a,\"b,c\",d\r\n\r\n1,\"two\nlines\",\"say \"\"x\"\"\"\n,,\n";
        let mut records = Records { file: text.as_bytes(), line: 0 };
        let mut all = Vec::new();
        while let Some(record) = records.next().unwrap() {
            all.push(record);
        }
        assert_eq!(all[0], (1, vec!["a".into(), "b,c".into(), "d".into()]));
        assert_eq!(all[1], (3, vec!["1".into(), "two\nlines".into(), "say \"x\"".into()]));
        assert_eq!(all[2], (5, vec![String::new(); 3]));
        for broken in ["\"a", "\"a\"b,c", "a,\"b\"\"", "\u{0}\"\n"] {
            let mut records = Records { file: broken.as_bytes(), line: 0 };
            let read = records.next();
            assert!(read.is_err() || broken.starts_with('\u{0}'), "{broken:?}: {read:?}");
        }
    }

    #[test]
    fn cells_are_values_of_their_type_or_nothing() {
        for (datatype, cell, value) in [
            (Some(Datatype::Fp32), " 1.5 ", Some(Scalar::Number(1.5))),
            (Some(Datatype::Int64), "x", None),
            (Some(Datatype::Fp32), "NaN", Some(Scalar::Missing)),
            (Some(Datatype::Bool), "True", Some(Scalar::Bool(true))),
            (Some(Datatype::Bool), "yes", None),
            (Some(Datatype::Bytes), "12", Some(Scalar::Text("12"))),
            (Some(Datatype::Bytes), "", Some(Scalar::Missing)),
            (None, "12", Some(Scalar::Number(12.0))),
            (None, "red", Some(Scalar::Text("red"))),
        ] {
            assert_eq!(scalar(datatype, cell), value, "{datatype:?} {cell:?}");
        }
        assert_eq!((element("x[12]"), element("x"), element("x[y]")), (("x", 12), ("x", 0), ("x[y]", 0)));
    }
}
