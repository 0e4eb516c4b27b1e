//! What was probably meant by a word that is not known.

/// Longest word that is compared, in letters: the time grows with the square.
const LONGEST: usize = 64;

/// The known word that is nearest to `given`, if any is near; of equally near ones the first in order of letters.
///
/// Distance counts letters that are wrong, missing, too many or swapped; upper and lower case are one, and so are `_` and `-`. A third of the letters
/// may differ, and two of a short word as long as one is right. Words of more than 64 letters are near to nothing.
pub fn nearest<'k>(given: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let given = plain(given)?;
    let letters = given.chars().count();
    let allowed = (letters / 3).max(2).min(letters.saturating_sub(1));
    let off = |word: &'k str| Some((strsim::osa_distance(&given, &plain(word)?), word));
    known.into_iter().filter_map(off).filter(|(off, _)| *off <= allowed).min().map(|(_, word)| word)
}

/// A word as it is compared; none when it is too long.
fn plain(word: &str) -> Option<String> {
    let is_short = word.chars().take(LONGEST + 1).count() <= LONGEST;
    is_short.then(|| word.to_lowercase().replace('_', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_is_seen_and_another_word_is_not() {
        let known = ["name", "version", "max-surge", "FP32", "FP16", "id"];
        for (given, meant) in [
            ("nmae", Some("name")),
            ("verison", Some("version")),
            ("MAX_SURGE", Some("max-surge")),
            ("fp23", Some("FP32")),
            ("xd", Some("id")),
            ("xy", None),
            ("z", None),
            ("", None),
            ("resources", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
        assert_eq!(nearest("ab", ["ad", "ac"]), Some("ac"), "one answer, whatever the order");
    }

    #[test]
    fn long_words_are_not_compared() {
        let long = "a".repeat(LONGEST);
        assert_eq!(nearest(&long, [long.as_str()]), Some(long.as_str()));
        let longer = format!("{long}a");
        assert_eq!((nearest(&longer, [long.as_str()]), nearest(&long, [longer.as_str()])), (None, None));
    }
}
