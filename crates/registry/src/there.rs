//! What is there instead of a version or an alias that is not: a few words for whoever asked.

use modelyard_core::{AliasName, nearest};

use crate::store::Listed;

/// Versions or aliases that are told, at most: more is a list, for which there is `modelyard versions`.
const MOST: usize = 5;

/// The versions of a model for one that asked for `wanted`: the nearest, then those with an alias, then the newest, then those that were withdrawn.
pub(crate) fn versions(wanted: &str, listed: &[Listed]) -> String {
    let near = nearest(wanted, listed.iter().map(|one| one.version.as_str()));
    let mut all: Vec<&Listed> = listed.iter().rev().collect();
    all.sort_by_key(|one| (near != Some(one.version.as_str()), one.aliases.is_empty(), one.yanked.is_some()));
    let told = |one: &&Listed| {
        let aliases = one.aliases.iter().map(|alias| format!("@{alias}")).take(MOST);
        let said: Vec<String> = aliases.chain(one.yanked.iter().map(|_| "withdrawn".to_owned())).collect();
        let said = if said.is_empty() { String::new() } else { format!(" ({})", said.join(", ")) };
        format!("`{}`{said}", one.version)
    };
    few(all.iter().map(told), listed.len())
}

/// The aliases of a model for one that asked for `wanted`: the nearest first.
pub(crate) fn aliases(wanted: &AliasName, listed: &[Listed]) -> String {
    let of =
        |one: &'_ Listed| one.aliases.iter().map(|alias| (alias.to_string(), one.version.clone())).collect::<Vec<_>>();
    let mut all: Vec<_> = listed.iter().flat_map(of).collect();
    let near = nearest(wanted.as_str(), all.iter().map(|(alias, _)| alias.as_str())).map(str::to_owned);
    all.sort_by_key(|(alias, _)| near.as_ref() != Some(alias));
    few(all.iter().map(|(alias, version)| format!("`{alias}` ({version})")), all.len())
}

fn few(told: impl Iterator<Item = String>, all: usize) -> String {
    let first: Vec<String> = told.take(MOST).collect();
    match all.saturating_sub(first.len()) {
        _ if first.is_empty() => "none".to_owned(),
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
