//! CSV bodies: a table with a header or without.
//!
//! Source: RFC 4180; `pandas.read_csv` for what a missing value looks like.

use super::columns::{Cell, Table};
use super::predictions::Form;
use crate::model::{Inputs, Model, Question, Wanted};
use crate::refusal::Refusal;

/// Reads a table. `headed` says whether its first line names the columns.
pub(super) fn read(model: &Model, headed: bool, body: &[u8]) -> Result<(Question, Form), Refusal> {
    let mut lines = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(body);
    let mut line = csv::StringRecord::new();
    let mut next = |line: &mut csv::StringRecord| {
        lines
            .read_record(line)
            .map_err(|error| Refusal::invalid(format!("the request body is no CSV: {}", reason(&error))))
    };
    if !next(&mut line)? {
        return Err(Refusal::invalid("the request body is empty"));
    }
    let mut table = match headed {
        true => Table::named(model, line.iter().map(str::trim))?,
        false => Table::unnamed(model, line.len())?,
    };
    if !headed {
        table.row(line.iter().map(Cell::Text))?;
    }
    while next(&mut line)? {
        table.row(line.iter().map(Cell::Text))?;
    }
    let mut inputs = Inputs::new(&model.signature);
    let rows = table.finish(&mut inputs)?;
    let question = Question { inputs: inputs.finish()?, wanted: Wanted::all(model, None, false) };
    Ok((question, Form::Records { rows, wrapped: true }))
}

/// The kind of an error, without anything of the data.
fn reason(error: &csv::Error) -> &'static str {
    match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "it is not UTF-8",
        _ => "its fields cannot be told apart",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;
    use crate::tensor::Data;
    use modelyard_core::signature::{Datatype, Signature, TensorSpec};

    fn several() -> Model {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.to_vec(),
            optional: false,
        };
        let inputs = vec![
            spec("wide", Datatype::Fp64, &[-1, 1]),
            spec("count", Datatype::Int32, &[-1]),
            spec("sure", Datatype::Bool, &[-1]),
            spec("who", Datatype::Bytes, &[-1, 1]),
        ];
        Model::new("m", "1", Signature { inputs, outputs: vec![] })
    }

    fn refused(model: &Model, headed: bool, body: &str) -> String {
        read(model, headed, body.as_bytes()).unwrap_err().message
    }

    #[test]
    fn the_only_required_input_takes_the_whole_table() {
        for (headed, body) in [(true, "a,b,c,d\n1,2,3,4\r\n5,,NaN,8\n"), (false, "1,2,3,4\n5,,NaN,8")] {
            let (question, form) = read(&model(), headed, body.as_bytes()).unwrap();
            let tensor = question.inputs[0].as_ref().unwrap();
            assert_eq!((&tensor.shape[..], form), (&[2, 4][..], Form::Records { rows: 2, wrapped: true }));
            let Data::Fp32(values) = &tensor.data else { panic!() };
            assert!(values[5].is_nan() && values[6].is_nan() && values[7] == 8.0);
        }
        assert_eq!(refused(&model(), true, "a,b\n1,2\n"), "the table has 2 columns; input `x` of the model takes 4");
        assert!(refused(&model(), false, "1,2,3,4\n1,2,3\n").contains("row 1 of the table"));
        assert!(refused(&model(), false, "1,2,3,4\n1,2,3,4,5\n").contains("another number of cells"));
    }

    #[test]
    fn columns_find_their_inputs_and_quotes_are_read() {
        let body = "who,sure,count,wide\n\"ada, \"\"a\"\"\",True,-3,1e300\n,0,+,\n";
        assert!(refused(&several(), true, body).ends_with("it is not a whole number from -2^31 to 2^31-1"));
        let body = body.replace(",+,", ",7,");
        let (question, _) = read(&several(), true, body.as_bytes()).unwrap();
        let data: Vec<_> = question.inputs.into_iter().map(|tensor| tensor.unwrap()).collect();
        assert_eq!((&data[1].data, &data[1].shape[..]), (&Data::Int32(vec![-3, 7]), &[2][..]));
        assert_eq!(data[2].data, Data::Bool(vec![true, false]));
        assert_eq!(
            (&data[3].data, &data[3].shape[..]),
            (&Data::Bytes(vec!["ada, \"a\"".into(), String::new()]), &[2, 1][..])
        );
    }

    #[test]
    fn hostile_fields_are_no_numbers_and_are_not_echoed() {
        for field in ["\"1],[2\"", "\"1,2\"", "secret", "inf", "0x1", "1_000", "[1]", "{}", "\"\"\"1\"\"\""] {
            let text = refused(&model(), false, &format!("1,2,3,{field}\n"));
            assert!(text.contains("column 3") && !text.contains("secret"), "{field}: {text}");
        }
        assert!(refused(&several(), false, "1,,true,x\n").contains("only floating-point inputs"));
        assert!(refused(&several(), true, "wide,wide\n1,1\n").contains("two columns"));
        assert!(refused(&several(), true, "wide,other\n1,1\n").contains("no input `other`"));
        assert!(refused(&several(), true, "wide\n1\n").contains("`count` is missing"));
        assert!(refused(&several(), false, "1,1,1,1,1\n").contains("5 columns without names"));
        assert!(refused(&model(), true, "").contains("empty"));
        assert!(refused(&model(), true, "a,b,c,d\n").contains("no rows"));
        assert!(read(&model(), false, b"1,2,3,\xff\n").unwrap_err().message.contains("UTF-8"));
    }
}
