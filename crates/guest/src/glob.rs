//! Patterns of kernel modules over what devices say of themselves.
//!
//! Promises: `*`, `?`, `[abc]`, `[a-f]`, `[!…]` as `fnmatch` has them; time is bounded by the product of both lengths; a broken pattern
//! matches nothing. Outside of brackets `-` and `_` are the same, as for modprobe.
//! Source: `man 7 glob`; kmod, `shared/util.c`, for the dashes.

/// Whether all of `text` matches the pattern.
pub fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // The last star: where the pattern goes on behind it, and how much of the text it swallowed.
    let mut star: Option<(usize, usize)> = None;
    while read < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, read));
            at += 1;
        } else if let Some(width) = one(&pattern[at.min(pattern.len())..], text[read]) {
            at += width;
            read += 1;
        } else if let Some((behind, swallowed)) = star {
            // Nothing before the last star needs to be tried again: this one can swallow whatever an earlier one could.
            star = Some((behind, swallowed + 1));
            (at, read) = (behind, swallowed + 1);
        } else {
            return false;
        }
    }
    pattern[at.min(pattern.len())..].iter().all(|&byte| byte == b'*')
}

/// How much of the pattern stands for this one byte; `None` if it does not match.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'[' => {
            let end = 2 + pattern.get(2..)?.iter().position(|&byte| byte == b']')?;
            let (negated, set) = match pattern[1] {
                b'!' | b'^' => (true, &pattern[2..end]),
                _ => (false, &pattern[1..end]),
            };
            (within(set, byte) != negated).then_some(end + 1)
        }
        plain => (plain == byte || (is_dash(plain) && is_dash(byte))).then_some(1),
    }
}

fn is_dash(byte: u8) -> bool {
    matches!(byte, b'-' | b'_')
}

fn within(mut set: &[u8], byte: u8) -> bool {
    loop {
        match *set {
            [] => return false,
            [from, b'-', to, ..] => {
                if (from..=to).contains(&byte) {
                    return true;
                }
                set = &set[3..];
            }
            [single, ..] => {
                if single == byte {
                    return true;
                }
                set = &set[1..];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::matches;

    #[test]
    fn patterns_of_drivers_find_their_devices() {
        let network = "virtio:d00000001v00001AF4";
        assert!(matches("virtio:d00000001v*", network));
        assert!(!matches("virtio:d00000002v*", network));
        let pci = "pci:v00001AF4d00001041sv00001AF4sd00001100bc02sc00i00";
        assert!(matches("pci:v00001AF4d*sv*sd*bc*sc*i*", pci));
        assert!(!matches("pci:v00008086d*sv*sd*bc*sc*i*", pci));
        assert!(matches("acpi*:LNXPWRBN:*", "acpi:LNXPWRBN:"));
        assert!(matches("usb:v*p*d*dc*dsc*dp*ic0[78]isc?*", "usb:v1p2d3dc0dsc0dp0ic08isc06"));
        assert!(matches("platform:rtc_efi", "platform:rtc-efi"));
    }

    #[test]
    fn sets_and_broken_patterns() {
        assert!(matches("[a-f]", "c") && !matches("[a-f]", "g"));
        assert!(matches("[!a-f]", "g") && !matches("[!a-f]", "c"));
        assert!(matches("[a-]", "-") && matches("[]]", "]") && matches("[-a]x", "-x"));
        for broken in ["[", "[a", "[!", "[]", "a["] {
            assert!(!matches(broken, "a"), "{broken}");
        }
        assert!(matches("", "") && matches("***", "") && !matches("?", "") && !matches("", "a"));
    }

    #[test]
    fn many_stars_take_no_time() {
        assert!(!matches(&"*a".repeat(2_000), &"a".repeat(1_999)));
        assert!(!matches(&format!("{}b", "*a".repeat(500)), &"a".repeat(20_000)));
    }

    /// The same by definition, without a thought for time.
    fn slow(pattern: &[char], text: &[char]) -> bool {
        match (pattern, text) {
            ([], text) => text.is_empty(),
            (['*', rest @ ..], text) => (0..=text.len()).any(|taken| slow(rest, &text[taken..])),
            (['?', rest @ ..], [_, text @ ..]) => slow(rest, text),
            ([plain, rest @ ..], [first, text @ ..]) => plain == first && slow(rest, text),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn stars_and_marks_are_as_defined(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(matches(&pattern, &text), slow(&characters(&pattern), &characters(&text)));
        }

        #[test]
        fn nothing_panics(pattern in ".{0,40}", text in ".{0,40}") {
            let _ = matches(&pattern, &text);
        }
    }
}
