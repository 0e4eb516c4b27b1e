//! Tensor data as JSON text.
//!
//! Numbers are written in the shortest form that reads back to the same value. JSON has no NaN and no infinities: they are
//! written as `null`; ask for binary data where the difference matters.

use crate::tensor::Data;

/// Appends elements `start..end` as a flat list.
pub(crate) fn flat(data: &Data, start: usize, end: usize, out: &mut Vec<u8>) {
    out.push(b'[');
    Writer::new(out).elements(data, start, end);
    out.push(b']');
}

/// Appends elements `start..` of a shape as nested lists; a scalar is a bare value.
pub(crate) fn nested(data: &Data, shape: &[i64], start: usize, out: &mut Vec<u8>) {
    match shape {
        [] => Writer::new(out).elements(data, start, start + 1),
        [length] => flat(data, start, start + usize::try_from(*length).unwrap_or(0), out),
        [length, inner @ ..] => {
            let step = crate::tensor::elements(inner).unwrap_or(0);
            out.push(b'[');
            for index in 0..usize::try_from(*length).unwrap_or(0) {
                if index > 0 {
                    out.push(b',');
                }
                nested(data, inner, start + index * step, out);
            }
            out.push(b']');
        }
    }
}

/// Appends a JSON string.
pub(crate) fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => b"",
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain_from..index]);
        plain_from = index + 1;
        match escape {
            b"" => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            escape => out.extend_from_slice(escape),
        }
    }
    out.extend_from_slice(&bytes[plain_from..]);
    out.push(b'"');
}

/// Appends a whole number.
pub(crate) fn integer(value: impl itoa::Integer, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    floats: zmij::Buffer,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, floats: zmij::Buffer::new() }
    }

    fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        let Some((first, rest)) = list.split_first() else { return };
        write(self, first);
        for value in rest {
            self.out.push(b',');
            write(self, value);
        }
    }

    fn single(&mut self, value: f32) {
        match value.is_finite() {
            true => self.out.extend_from_slice(self.floats.format_finite(value).as_bytes()),
            false => self.out.extend_from_slice(b"null"),
        }
    }

    fn double(&mut self, value: f64) {
        match value.is_finite() {
            true => self.out.extend_from_slice(self.floats.format_finite(value).as_bytes()),
            false => self.out.extend_from_slice(b"null"),
        }
    }

    fn elements(&mut self, data: &Data, start: usize, end: usize) {
        match data {
            Data::Bool(list) => self.list(&list[start..end], |w, &value| {
                w.out.extend_from_slice(if value { b"true" } else { b"false" });
            }),
            Data::Uint8(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Uint16(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Uint32(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Uint64(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Int8(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Int16(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Int32(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Int64(list) => self.list(&list[start..end], |w, &value| integer(value, w.out)),
            Data::Fp16(list) => self.list(&list[start..end], |w, &value| w.single(value.to_f32())),
            Data::Bf16(list) => self.list(&list[start..end], |w, &value| w.single(value.to_f32())),
            Data::Fp32(list) => self.list(&list[start..end], |w, &value| w.single(value)),
            Data::Fp64(list) => self.list(&list[start..end], |w, &value| w.double(value)),
            Data::Bytes(list) => self.list(&list[start..end], |w, text| string(text, w.out)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_are_short_and_what_json_lacks_is_null() {
        let data = Data::Fp32(vec![0.1, 1.0, f32::NAN, f32::INFINITY, 1e-7]);
        let written = text(|out| flat(&data, 0, 5, out));
        let read: Vec<Option<f32>> = serde_json::from_str(&written).unwrap();
        assert_eq!(read, [Some(0.1), Some(1.0), None, None, Some(1e-7)]);
    }

    #[test]
    fn nested_lists_follow_the_shape() {
        let data = Data::Int64((0..7).collect());
        assert_eq!(text(|out| nested(&data, &[3, 2], 1, out)), "[[1,2],[3,4],[5,6]]");
        assert_eq!(text(|out| nested(&data, &[], 3, out)), "3");
        assert_eq!(text(|out| nested(&data, &[2, 0], 0, out)), "[[],[]]");
    }

    #[test]
    fn strings_are_escaped() {
        let hard = "a\"b\\c\n\u{1}é\u{1f600}";
        assert_eq!(serde_json::from_str::<String>(&text(|out| string(hard, out))).unwrap(), hard);
    }
}
