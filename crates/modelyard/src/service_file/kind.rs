//! What a key of a file is, and what its value may be.

/// What a key's value may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A reference to a package, or a folder.
    Package,
    /// A name of lower-case letters, digits and `-`, `_`, `.` between them.
    Name,
    /// Such names, in order.
    Names,
    /// True or false.
    Switch,
    /// A whole number, at least this.
    Whole(u64),
    /// A number within limits, both included.
    Number(f64, f64),
    /// A span of time: `"250ms"`, `"1.5s"`, `"10m"`.
    Span,
    /// A day: `"2027-03-01"`.
    Day,
    /// A size: `"96MiB"`, or bytes.
    Size,
    /// A number of cores: `0.5`, `2`.
    Cores,
    /// Growing shares of traffic: `["10%", "50%", "100%"]`, or basis points.
    Steps,
    /// One share of traffic: `"50%"`, or basis points.
    Share,
    /// Any value.
    Any,
    /// Any text.
    Text,
    /// Texts, in order.
    List,
    /// A list of some of these words.
    Choices(&'static [&'static str]),
    /// Smallest and largest value: `[0, 1]`.
    Limits,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Texts by name.
    Texts,
    /// Values of any kind by name.
    Values,
    /// Numbers by name.
    Numbers,
    /// A table of keys.
    Table(&'static [Key]),
    /// Tables of keys by name.
    Named(&'static [Key]),
    /// A list of tables of keys.
    Tables(&'static [Key]),
    /// The strategy: further keys depend on `kind`.
    Strategy,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it is when left out, for people; empty when it must be given.
    pub default: &'static str,
    /// What it means.
    pub words: &'static str,
}

/// A key of a file.
pub const fn key(name: &'static str, kind: Kind, default: &'static str, words: &'static str) -> Key {
    Key { name, kind, default, words }
}
