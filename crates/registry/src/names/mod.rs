//! Names of repositories and tags, as the distribution specification allows them; and those of Python projects and files.

pub mod python;

/// Longest name of a repository: with the host, clients allow 255 characters.
const LONGEST: usize = 255;

/// Whether the text is the name of a repository: parts of lower-case letters and digits, joined by `.`, `_`, `__` or dashes, between slashes.
///
/// Source: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`.
pub fn is_repository(text: &str) -> bool {
    text.len() <= LONGEST && !text.is_empty() && text.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut rest = part.as_bytes();
    loop {
        let letters = rest.iter().take_while(|&&byte| word(byte)).count();
        if letters == 0 {
            return false;
        }
        rest = &rest[letters..];
        if rest.is_empty() {
            return true;
        }
        let joint = rest.iter().take_while(|&&byte| !word(byte)).count();
        match &rest[..joint] {
            b"." | b"_" | b"__" => {}
            dashes if dashes.iter().all(|&byte| byte == b'-') => {}
            _ => return false,
        }
        rest = &rest[joint..];
    }
}

/// Whether the text is a tag: at most 128 letters, digits, `_`, `.` and `-`, not beginning with one of the last two.
pub fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    (1..=128).contains(&bytes.len())
        && word(bytes[0])
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_of_the_specification_is_kept() {
        for name in ["wine", "a/b/c", "a.b_c__d-e--f/g0", "0"] {
            assert!(is_repository(name), "{name}");
        }
        let long = "a".repeat(256);
        for name in ["", "Wine", "a//b", "/a", "a/", "a..b", "a___b", "a.-b", "-a", "a-", "../a", "a b", "é", &long] {
            assert!(!is_repository(name), "{name}");
        }
        for tag in ["latest", "1.0.0", "_x", "A-b.c"] {
            assert!(is_tag(tag), "{tag}");
        }
        for tag in ["", ".a", "-a", "a/b", "a b", "é", &"a".repeat(129)] {
            assert!(!is_tag(tag), "{tag}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_leaves_its_folder(text in ".{0,80}") {
            if is_repository(&text) {
                proptest::prop_assert!(!text.contains("..") && !text.starts_with('/') && !text.contains('\\'));
            }
        }
    }
}
