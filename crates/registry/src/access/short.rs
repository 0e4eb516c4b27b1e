//! Short-lived tokens: what a registry gives a client that asks with its lasting one, for the repositories that it is about to use.
//!
//! Promises: none allows more than the token it was made for, and none outlives it: that one is looked up each time. They are kept nowhere; the key
//! that makes them lives as long as the process, and a client whose token is too old gets a new one.
//!
//! Source: Docker registry token specification (scopes, answer); RFC 2104 (HMAC).

use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelyard_core::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::Grant;

/// How long one counts, in seconds.
// 5 minutes: no request of a push is longer under way before it is looked at, and a leaked log is soon worth nothing.
pub const SECONDS: u64 = 300;

/// How long one counts that an engine fetches an image by, in seconds: it cannot ask for another meanwhile.
const OWN_SECONDS: u64 = 1_800;

/// Most scopes of one token.
const MOST: usize = 32;

/// Longest token that is read, in bytes: 32 scopes of the longest names.
const LONGEST: usize = 16 << 10;

/// Access to one repository, or to the list of all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository`, or `registry` for what is about all of them.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `pull`, `push`, `delete`; `*` for everything.
    pub actions: Vec<String>,
}

impl Access {
    /// Reads `repository:team/wine:pull,push`. A class, as in `repository(plugin):…`, is left out.
    fn parse(scope: &str) -> Option<Self> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let kind = kind.split('(').next().unwrap_or(kind);
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
        Some(Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }

    /// What of it a grant allows.
    fn allowed_by(mut self, grant: &Grant) -> Option<Self> {
        let every = self.actions.iter().any(|action| action == "*");
        match self.kind.as_str() {
            "repository" if grant.covers(&self.name) => {
                let may =
                    [("pull", true), ("push", grant.role.may_deploy()), ("delete", grant.role == super::Role::Admin)];
                let asked = |action: &str| every || self.actions.iter().any(|other| other == action);
                let allowed = may.iter().filter(|(action, may)| *may && asked(action));
                self.actions = allowed.map(|(action, _)| (*action).to_owned()).collect();
            }
            "registry" if self.name == "catalog" && grant.covers_every_repository() => {}
            _ => return None,
        }
        (!self.actions.is_empty()).then_some(self)
    }

    /// Whether it is about a repository and allows an action on it.
    pub fn allows(&self, kind: &str, name: &str, action: &str) -> bool {
        self.kind == kind && self.name == name && self.actions.iter().any(|own| own == action || own == "*")
    }
}

/// What a short-lived token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Short {
    /// The lasting token that it was made for; none for whoever showed none.
    pub of: Option<String>,
    /// Made by this process for an engine that it sends here, to read one repository.
    #[serde(default)]
    pub own: bool,
    /// Until when it counts.
    pub end: Timestamp,
    /// To what it gives access.
    pub access: Vec<Access>,
}

/// Makes and reads the short-lived tokens of this process.
#[derive(Clone, Debug, Default)]
pub struct Mint {
    key: Arc<OnceLock<hmac::Key>>,
}

impl Mint {
    fn key(&self) -> Option<&hmac::Key> {
        if self.key.get().is_none() {
            let random = ring::rand::SystemRandom::new();
            let made = hmac::Key::generate(hmac::HMAC_SHA256, &random).ok()?;
            let _ = self.key.set(made); // another thread may have been first
        }
        self.key.get()
    }

    /// A token for what of the scopes a grant allows; without a grant for nothing, which lets a caller read what anybody may.
    ///
    /// None when the operating system gives no randomness.
    pub fn issue<'a>(
        &self,
        holder: Option<(&str, &Grant)>,
        scopes: impl Iterator<Item = &'a str>,
        now: Timestamp,
    ) -> Option<(String, Vec<Access>)> {
        let asked = scopes.flat_map(|scope| scope.split(' ')).filter_map(Access::parse).take(MOST);
        let access: Vec<Access> = match holder {
            Some((_, grant)) => asked.filter_map(|access| access.allowed_by(grant)).collect(),
            None => Vec::new(),
        };
        let of = holder.map(|(id, _)| id.to_owned());
        let short = Short { of, own: false, end: Timestamp(now.0.saturating_add(SECONDS * 1_000)), access };
        Some((self.sign(&short)?, short.access))
    }

    /// A token by which one repository is read, for whoever this process itself sends there.
    ///
    /// None when the operating system gives no randomness.
    pub fn own(&self, repository: &str, now: Timestamp) -> Option<String> {
        let access =
            Access { kind: "repository".to_owned(), name: repository.to_owned(), actions: vec!["pull".to_owned()] };
        let end = Timestamp(now.0.saturating_add(OWN_SECONDS * 1_000));
        self.sign(&Short { of: None, own: true, end, access: vec![access] })
    }

    fn sign(&self, short: &Short) -> Option<String> {
        let said = URL_SAFE_NO_PAD.encode(serde_json::to_vec(short).ok()?);
        let tag = hmac::sign(self.key()?, said.as_bytes());
        Some(format!("{said}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())))
    }

    /// What a token says, if this process made it and it still counts.
    pub fn read(&self, token: &str, now: Timestamp) -> Option<Short> {
        if token.len() > LONGEST {
            return None;
        }
        let (said, tag) = token.split_once('.')?;
        hmac::verify(self.key.get()?, said.as_bytes(), &URL_SAFE_NO_PAD.decode(tag).ok()?).ok()?;
        let short: Short = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(said).ok()?).ok()?;
        (now < short.end).then_some(short)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Role, Scope};
    use super::*;

    fn grant(role: Role, repositories: &[&str]) -> Grant {
        let repositories = repositories.iter().map(|&name| name.to_owned()).collect();
        Grant { name: "ci".into(), role, scope: Scope { environment: None, repositories }, expires: None }
    }

    fn actions(grant: &Grant, scope: &str) -> String {
        let allowed = Access::parse(scope).and_then(|access| access.allowed_by(grant));
        allowed.map(|access| access.actions.join(",")).unwrap_or_default()
    }

    #[test]
    fn a_pass_of_our_own_reads_one_repository_for_half_an_hour() {
        let mint = Mint::default();
        let pass = mint.own("wine", Timestamp(1_000)).unwrap();
        let read = mint.read(&pass, Timestamp(2_000)).unwrap();
        let [access] = &read.access[..] else { panic!("{read:?}") };
        assert!(
            read.own && access.allows("repository", "wine", "pull") && !access.allows("repository", "wine", "push")
        );
        assert!(!access.allows("repository", "other", "pull"));
        assert_eq!(mint.read(&pass, Timestamp(1_000 + OWN_SECONDS * 1_000)), None);
        assert_eq!(Mint::default().read(&pass, Timestamp(2_000)), None, "of another process");
    }

    #[test]
    fn a_scope_is_cut_to_what_the_grant_allows() {
        let (viewer, deployer, admin) =
            (grant(Role::Viewer, &[]), grant(Role::Deployer, &["team/*"]), grant(Role::Admin, &[]));
        assert_eq!(actions(&viewer, "repository:wine:pull,push"), "pull");
        assert_eq!(actions(&deployer, "repository:team/a:push,pull"), "pull,push");
        assert_eq!(actions(&deployer, "repository:wine:pull"), "");
        assert_eq!(actions(&deployer, "registry:catalog:*"), "");
        assert_eq!(actions(&admin, "registry:catalog:*"), "*");
        assert_eq!(actions(&admin, "repository(plugin):host:5000/wine:*"), "pull,push,delete");
        assert_eq!(actions(&viewer, "repository:wine:delete"), "");
        assert_eq!(actions(&admin, "host:wine:pull"), "");
    }

    #[test]
    fn only_what_this_process_made_and_only_in_its_time_is_read() {
        let (mint, other, deployer) = (Mint::default(), Mint::default(), grant(Role::Deployer, &[]));
        let scopes = || ["repository:a:pull repository:b:push"].into_iter();
        let (token, access) = mint.issue(Some(("id", &deployer)), scopes(), Timestamp(1_000)).unwrap();
        let short = mint.read(&token, Timestamp(1_000)).unwrap();
        assert_eq!((short.of.as_deref(), short.access.len()), (Some("id"), 2));
        assert!(access[0].allows("repository", "a", "pull") && !access[0].allows("repository", "a", "push"));
        assert_eq!(mint.read(&token, Timestamp(1_000 + SECONDS * 1_000)), None, "its time is over");
        other.issue(None, scopes(), Timestamp(1)).unwrap();
        assert_eq!(other.read(&token, Timestamp(1_000)), None, "another process");
        for place in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last letter of base64 has bits without meaning, which are refused too.
            assert_eq!(mint.read(&changed, Timestamp(1_000)), None, "letter {place}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,80}", scope in "[a-z:*,() ]{0,40}") {
            let mint = Mint::default();
            let admin = grant(Role::Admin, &[]);
            proptest::prop_assert!(mint.issue(Some(("id", &admin)), [&*scope].into_iter(), Timestamp(0)).is_some());
            proptest::prop_assert_eq!(mint.read(&text, Timestamp(0)), None);
        }
    }
}
