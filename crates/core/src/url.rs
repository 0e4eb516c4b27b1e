//! Parts of addresses.

/// A text as one segment of a path, or one value of a query: everything but letters and digits of ASCII and `-._~` percent-encoded.
///
/// Source: RFC 3986, sections 2.1 and 2.3.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::encoded;

    #[test]
    fn what_an_address_would_read_otherwise_is_encoded() {
        for (text, wanted) in [
            ("refs/pr/1", "refs%2Fpr%2F1"),
            ("ü ?#", "%C3%BC%20%3F%23"),
            ("a/b c\u{e4}", "a%2Fb%20c%C3%A4"),
            ("a b/ä{\"x\"}", "a%20b%2F%C3%A4%7B%22x%22%7D"),
            ("A-z_0.9~", "A-z_0.9~"),
        ] {
            assert_eq!(encoded(text), wanted);
        }
    }
}
