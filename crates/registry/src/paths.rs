//! Which paths a package may hold. Used when a package is made and again when it is laid out: who made it may be anybody.

use std::collections::BTreeMap;

use modelyard_core::package::DOCUMENT;

/// Why the path may not stand in a package, if so: it must be relative, with `/`, without empty, `.` or `..` parts.
pub fn fault(path: &str) -> Option<&'static str> {
    if path.is_empty() {
        return Some("it is empty");
    }
    if path.starts_with('/') {
        return Some("it is absolute");
    }
    if path.contains('\\') || path.chars().any(char::is_control) {
        return Some("it holds a backslash or a control character");
    }
    if path.split('/').any(|part| part == "..") {
        return Some("it leaves the folder");
    }
    if path.split('/').any(|part| part.is_empty() || part == ".") {
        return Some("it has an empty part or `.`");
    }
    if path.len() > 1_024 || path.split('/').any(|part| part.len() > 255) {
        return Some("it is too long: 255 bytes a part, 1024 in all");
    }
    (path == DOCUMENT).then_some("that name is taken by the package document")
}

/// The first path that cannot stand beside the others: one that is also a folder of another, or that another equals but for
/// upper and lower case (they would be one file on many machines).
pub fn clash<'a>(paths: impl Iterator<Item = &'a str>) -> Option<(&'a str, &'static str)> {
    let mut seen: BTreeMap<String, &'a str> = BTreeMap::new();
    for path in paths {
        if seen.insert(path.to_lowercase(), path).is_some() {
            return Some((path, "another file's path differs from it in upper and lower case only"));
        }
    }
    let is_folder_of_another = |lower: &str| {
        let below = format!("{lower}/");
        seen.range(below.clone()..).next().is_some_and(|(next, _)| next.starts_with(&below))
    };
    let clash = seen.iter().find(|(lower, _)| is_folder_of_another(lower));
    clash.map(|(_, path)| (*path, "it is also a folder that holds another file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        let long = "x".repeat(300);
        let deep = "x/".repeat(600) + "x";
        for bad in
            ["", "/a", "../a", "a/../b", "a/..", "a//b", "./a", "a\\b", "a\0b", "a/", "a\nb", DOCUMENT, &long, &deep]
        {
            assert!(fault(bad).is_some(), "{bad:?} was accepted");
        }
        for good in ["model.onnx", "data/weights.bin", ".hidden", "a b/ü.txt", "sub/modelyard.json", "..."] {
            assert_eq!(fault(good), None, "{good:?}");
        }
    }

    #[test]
    fn paths_that_stand_in_each_others_way_are_found() {
        let clash = |paths: &[&'static str]| clash(paths.iter().copied()).map(|(path, _)| path);
        assert_eq!(clash(&["a", "b/c", "b/d"]), None);
        assert_eq!(clash(&["a", "a-b", "ab/c", "a.txt"]), None);
        assert_eq!(clash(&["Readme", "README"]), Some("README"));
        assert_eq!(clash(&["a", "a!", "a/b"]), Some("a"));
        assert_eq!(clash(&["Data", "data/x"]), Some("Data"));
    }

    proptest::proptest! {
        #[test]
        fn what_is_accepted_stays_within(path in "[a-b./\\\\\0~-]{0,20}") {
            if fault(&path).is_none() {
                let joined = std::path::Path::new("/folder").join(&path);
                let normal = |part: std::path::Component<'_>| !matches!(part, std::path::Component::ParentDir);
                proptest::prop_assert!(joined.starts_with("/folder") && joined.components().all(normal));
            }
        }
    }
}
