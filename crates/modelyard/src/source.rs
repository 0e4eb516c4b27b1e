//! The commit that a folder stands at, as `git` tells it.
//!
//! Promises: a folder whose tracked files were changed since its commit is refused; a password in the address of a remote is never passed on.
//! Absent on purpose: other version control, and reading git's files ourselves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use modelyard_registry::trust::Source;

use crate::exit::Failed;

/// What git prints; none when it fails, which it does outside of repositories.
fn git(folder: &Path, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new("git").arg("-C").arg(folder).args(arguments).env("GIT_OPTIONAL_LOCKS", "0").output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout).ok()).flatten()?;
    Some(text.trim_end_matches(['\n', '\0']).to_owned())
}

/// The commit that `folder` stands at; none outside of repositories. `address` is where the repository is, else its remote `origin`.
pub fn source(folder: &Path, address: Option<&str>) -> Result<Option<Source>, Failed> {
    let Some(commit) = git(folder, &["rev-parse", "--verify", "HEAD^{commit}"]) else { return Ok(None) };
    let failed =
        |what: &str| Failed::new(format!("git did not tell {what} of {}", folder.display()), "see `git status`");
    let changed = git(folder, &["status", "--porcelain=v1", "--untracked-files=no", "--", "."]);
    let changed = changed.ok_or_else(|| failed("the state"))?;
    if !changed.is_empty() {
        let files: Vec<&str> = changed.lines().take(8).filter_map(|line| line.get(3..)).collect();
        let what = format!("{} is not what commit {commit} says: {} changed since", folder.display(), files.join(", "));
        return Err(Failed::new(what, "commit the changes, package again, then attest; nothing was signed"));
    }
    let tracked = git(folder, &["ls-files", "-z", "--", "."]).ok_or_else(|| failed("the files"))?;
    let tracked: BTreeSet<String> = tracked.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    let own = || git(folder, &["remote", "get-url", "origin"]);
    let Some(address) = address.map(str::to_owned).or_else(own) else {
        let what = format!("the repository of {} has no remote `origin`", folder.display());
        return Err(Failed::new(what, "say where others find it: `--source https://git.example/team/models`"));
    };
    let prefix = git(folder, &["rev-parse", "--show-prefix"]).unwrap_or_default();
    Ok(Some(Source {
        uri: uri(&address),
        reference: git(folder, &["symbolic-ref", "--quiet", "HEAD"]),
        commit,
        folder: prefix.trim_end_matches('/').to_owned(),
        tracked,
    }))
}

/// Address of a repository as a URI: `git+https://host/team/models`. Source: SPDX download locations, which SLSA follows.
fn uri(address: &str) -> String {
    let address = address.strip_prefix("git+").unwrap_or(address);
    let url = match address.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            // What stands before the host may be a secret over HTTP, and is a user name, perhaps with a password, over SSH.
            match user.split(':').next().filter(|name| !name.is_empty() && !scheme.starts_with("http")) {
                Some(name) => format!("{scheme}://{name}@{host}/{path}"),
                None => format!("{scheme}://{host}/{path}"),
            }
        }
        None => match address.split_once(':') {
            Some((host, path)) if !host.contains('/') => format!("ssh://{host}/{path}"),
            _ => format!("file://{address}"),
        },
    };
    format!("git+{}", url.trim_end_matches('/').trim_end_matches(".git"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_uris_without_secrets() {
        for (address, wanted) in [
            ("https://user:secret@git.example/team/models.git", "git+https://git.example/team/models"),
            ("https://git.example/team/models/", "git+https://git.example/team/models"),
            ("git+https://git.example/a", "git+https://git.example/a"),
            ("git@git.example:team/models.git", "git+ssh://git@git.example/team/models"),
            ("ssh://git@git.example/a.git", "git+ssh://git@git.example/a"),
            ("ssh://git:secret@git.example/a", "git+ssh://git@git.example/a"),
            ("file:///srv/git/a", "git+file:///srv/git/a"),
            ("/srv/git/a.git", "git+file:///srv/git/a"),
        ] {
            assert_eq!(uri(address), wanted);
        }
    }
}
