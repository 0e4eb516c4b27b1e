//! `environments/NAME.toml`: what an environment demands of a package, and which machines it has.
//!
//! Promises: every mistake is reported at once, with its place; unknown keys are refused with a "did you mean"; keys are read here, so that what is
//! kept in the home no longer depends on files elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use miette::NamedSource;
use modelyard_control::environments::{Environment, Place};
use modelyard_control::policy::{Bases, Bound, Origin, Policy, Promoted};
use modelyard_core::machine::{Engine, Login, Machine, default_folder};
use modelyard_core::tracking::Tracking;
use modelyard_core::{Digest, EnvironmentName, MachineName};
use modelyard_registry::catalog::FromPattern;
use modelyard_registry::client::Remote;
use modelyard_registry::trust::VerifyingKey;
use toml::Value;

use crate::exit::Usage;
use crate::service_file::Error;
use crate::service_file::check::{Mistake, read};
use crate::service_file::keys::{Key, Kind, TRACKING, key};

/// The keys of the file.
pub const ENVIRONMENT: &[Key] = &[
    key("name", Kind::Name, "the file's name", "Name of the environment."),
    key(
        "policy",
        Kind::Table(POLICY),
        "nothing is demanded",
        "What a package must fulfil before anything of it starts.",
    ),
    key(
        "machines",
        Kind::Named(MACHINE),
        "none",
        "Machines on which instances of the targets `ssh` (with `host`) and `docker` (with `docker`) run.",
    ),
    key(
        "registry",
        Kind::Table(REGISTRY),
        "the local registry",
        "Where the environment's packages are kept: `env promote` copies there.",
    ),
    key(
        "tracking",
        Kind::Table(TRACKING),
        "nowhere",
        "Where rollouts of its services are tracked while they run, unless a service says otherwise.",
    ),
];

const MACHINE: &[Key] = &[
    key(
        "host",
        Kind::Text,
        "none: then `docker`",
        "Of a machine that is reached by ssh. As ssh takes it: `\"ops@10.0.0.7\"`, or a name of your ssh configuration, which applies.",
    ),
    key(
        "docker",
        Kind::Text,
        "none: then `host`",
        "In place of `host`: where the Docker Engine of this machine listens, `\"unix:///var/run/docker.sock\"` or `\"tcp://127.0.0.1:2375\"`. The other keys are for ssh.",
    ),
    key("port", Kind::Whole(1), "from the ssh configuration", "Port of its sshd."),
    key(
        "identity",
        Kind::Text,
        "from the ssh configuration or agent",
        "File of the private key, relative to this one.",
    ),
    key("config", Kind::Text, "`~/.ssh/config`", "File of an ssh configuration in its place, relative to this one."),
    key(
        "folder",
        Kind::Text,
        "`modelyard`",
        "Folder there for everything of ours; within the home folder of the login when it is relative. Nobody else may use it.",
    ),
];

const REGISTRY: &[Key] = &[
    key("url", Kind::Text, "", "Host and what precedes the model's name: `\"registry.example/prod\"`."),
    key(
        "plain-http",
        Kind::Switch,
        "false",
        "Whether plain HTTP is spoken with a registry that is not on this machine.",
    ),
];

const POLICY: &[Key] = &[
    key(
        "signed-by",
        Kind::List,
        "nobody",
        "Files of public keys, relative to this one. One of them must have signed the package.",
    ),
    key(
        "meanings",
        Kind::Switch,
        "false",
        "Whether the package must say of every input and output what it is (`[inputs.NAME]`, `[outputs.NAME]`).",
    ),
    key("no-risks", Kind::Switch, "false", "Whether a package is refused that reports a risk, such as a pickle."),
    key("samples", Kind::Whole(0), "0", "How many samples the package must carry, at least."),
    key(
        "evaluation",
        Kind::List,
        "none",
        "Bounds of metrics that the package states, such as `\"accuracy >= 0.9\"`; with `>=`, `<=`, `>` or `<`.",
    ),
    key("provenance", Kind::Table(PROVENANCE), "none", "Where the package must come from, by a signed statement."),
    key(
        "promoted-from",
        Kind::Name,
        "any",
        "The environment that the package must have been promoted from (`env promote`), by a record that one of `promotion-keys` signed.",
    ),
    key(
        "promotion-keys",
        Kind::List,
        "",
        "Files of public keys, relative to this one, whose promotions count. Needed with `promoted-from`.",
    ),
    key(
        "bases",
        Kind::List,
        "any",
        "Images that container images may be put on, those that were tested: `\"registry.example/debian:13@sha256:…\"`.",
    ),
    key(
        "base-keys",
        Kind::List,
        "nobody",
        "Files of public keys, relative to this one. One of them must have signed the image that is built on, as cosign signs.",
    ),
    key("registries", Kind::List, "any", "Patterns of where such images may come from: `\"registry.example/*\"`."),
    key(
        "packages-from",
        Kind::List,
        "anywhere",
        "Where packages may come from, by what was noted when they came: patterns such as `\"registry.example/team/*\"`, `\"https://models.example/*\"` and \
         `\"pushed-by:ci*\"`, and `\"built-here\"`, `\"bundle\"`, `\"pushed-without-token\"`; `\"*\"` is whatever was noted.",
    ),
];

const PROVENANCE: &[Key] = &[
    key(
        "keys",
        Kind::List,
        "",
        "Files of public keys, relative to this one. One of them must have signed the statement.",
    ),
    key("source", Kind::List, "any", "Patterns of repositories: `\"git+https://git.example/team/*\"`."),
    key("builder", Kind::List, "any", "Patterns of builders: `\"https://git.example/team/models/.ci/release.yml*\"`."),
];

/// Reads the file of an environment.
pub fn environment(path: &Path) -> miette::Result<(EnvironmentName, Environment)> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let (table, mut mistakes) = read(&text, ENVIRONMENT);
    let of = |key: &str| table.get("policy").and_then(|policy| policy.get(key));
    let texts = |key: &str| all(of(key));
    let mut evaluation = Vec::new();
    for given in texts("evaluation") {
        match Bound::try_from(given.clone()) {
            Ok(bound) => evaluation.push(bound),
            Err(what) => {
                let start = text.find(&given).unwrap_or_default();
                mistakes.push(Mistake { what, at: start..start + given.len() });
            }
        }
    }
    let mut packages_from = Vec::new();
    for given in texts("packages-from") {
        match FromPattern::try_from(given.clone()) {
            Ok(pattern) => packages_from.push(pattern),
            Err(error) => mistakes.push(at(&text, &given, format!("`policy.packages-from`: {error}"))),
        }
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let machines = machines(table.get("machines"), folder, &text, &mut mistakes);
    for base in texts("bases") {
        let digest = base.rsplit_once('@').map(|(_, digest)| digest.parse::<Digest>());
        if !matches!(digest, Some(Ok(_))) {
            let start = text.find(&base).unwrap_or_default();
            let what = format!("`{base}` names no exact image; write `registry.example/debian:13@sha256:…`");
            mistakes.push(Mistake { what, at: start..start + base.len() });
        }
    }
    if !mistakes.is_empty() {
        let name = path.display().to_string();
        return Err(Error::Mistakes { source_code: NamedSource::new(&name, text), name, mistakes }.into());
    }
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = table.get("name").and_then(Value::as_str).unwrap_or(stem);
    let name = EnvironmentName::new(name).map_err(|error| {
        Usage::new(
            format!("{} names no environment: {error}", path.display()),
            "add `name = \"prod\"`, or rename the file",
        )
    })?;
    let keys = |files: &[String]| -> miette::Result<Vec<String>> {
        let files: Vec<_> = files.iter().map(|key| folder.join(key)).collect();
        Ok(crate::commands::sign::verifying_keys(&files)?.iter().map(VerifyingKey::to_pem).collect())
    };
    let provenance = match of("provenance") {
        None => None,
        Some(origin) if all(origin.get("keys")).is_empty() => {
            let what = format!(
                "{}: `policy.provenance` names no key in `keys`, and anybody could state anything",
                path.display()
            );
            return Err(Usage::new(what, "name the public keys of those whose statements count").into());
        }
        Some(origin) => Some(Origin {
            keys: keys(&all(origin.get("keys")))?,
            source: all(origin.get("source")),
            builder: all(origin.get("builder")),
        }),
    };
    let promoted = match of("promoted-from").and_then(Value::as_str) {
        None if !texts("promotion-keys").is_empty() => {
            let what = format!("{}: `policy.promotion-keys` is nothing without `policy.promoted-from`", path.display());
            return Err(Usage::new(what, "name the environment before: `promoted-from = \"test\"`").into());
        }
        None => None,
        Some(_) if texts("promotion-keys").is_empty() => {
            let what = format!(
                "{}: `policy.promoted-from` needs `policy.promotion-keys`: without keys anybody could promote",
                path.display()
            );
            return Err(Usage::new(what, "name the public keys of those whose promotions count").into());
        }
        Some(from) => {
            let from = EnvironmentName::new(from).map_err(|error| {
                Usage::new(format!("{}: `policy.promoted-from`: {error}", path.display()), "name an environment")
            })?;
            Some(Promoted { from, keys: keys(&texts("promotion-keys"))? })
        }
    };
    let samples = of("samples").and_then(Value::as_integer).and_then(|count| u64::try_from(count).ok()).unwrap_or(0);
    let signed_by = keys(&texts("signed-by"))?;
    let bases = Bases { images: texts("bases"), keys: keys(&texts("base-keys"))?, registries: texts("registries") };
    let bases = (!bases.is_empty()).then_some(bases);
    let flag = |key: &str| of(key).and_then(Value::as_bool).unwrap_or(false);
    let (meanings, no_risks) = (flag("meanings"), flag("no-risks"));
    let policy =
        Policy { signed_by, samples, evaluation, provenance, promoted, bases, meanings, no_risks, packages_from };
    let registry = table.get("registry").map(|registry| place(registry, path)).transpose()?;
    let tracking = table.get("tracking").map(|tracking| tracked(tracking, path)).transpose()?;
    Ok((name, Environment::new(policy, registry).with_machines(machines).with_tracking(tracking)))
}

/// How rollouts of an environment are tracked.
fn tracked(tracking: &Value, path: &Path) -> Result<Tracking, Usage> {
    let help = "write `[tracking]` with `mlflow = \"http://HOST:PORT\"`";
    let wrong = |what: String| Usage::new(format!("{}: {what}", path.display()), help);
    let read: Tracking = tracking.clone().try_into().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    read.fault().map_or(Ok(read), |why| Err(wrong(why)))
}

/// The registry of an environment.
fn place(registry: &Value, path: &Path) -> Result<Place, Usage> {
    let url = registry.get("url").and_then(Value::as_str).unwrap_or_default();
    let url = url.strip_prefix("oci://").unwrap_or(url).trim_end_matches('/').to_owned();
    format!("{url}/model:1").parse::<Remote>().map_err(|error| {
        let what = format!("{}: `registry.url` cannot be a registry: {error}", path.display());
        Usage::new(what, "write the host and what precedes the model's name: `url = \"registry.example/prod\"`")
    })?;
    let plain_http = registry.get("plain-http").and_then(Value::as_bool).unwrap_or(false);
    Ok(Place { url, plain_http })
}

/// The machines, with absolute paths: what is kept in the home must not depend on where the file lay.
fn machines(
    table: Option<&Value>,
    folder: &Path,
    text: &str,
    mistakes: &mut Vec<Mistake>,
) -> BTreeMap<MachineName, Machine> {
    let mut machines = BTreeMap::new();
    for (name, given) in table.and_then(Value::as_table).into_iter().flatten() {
        let word = |key: &str| given.get(key).and_then(Value::as_str).map(str::to_owned);
        let file = |key: &str| word(key).map(|file| folder.join(file)).and_then(|file| std::path::absolute(file).ok());
        let port = given.get("port").and_then(Value::as_integer).map(u16::try_from);
        let (machine, unread) = match (word("host"), word("docker")) {
            (Some(host), None) => {
                let login = Login {
                    host,
                    port: port.and_then(Result::ok),
                    identity: file("identity"),
                    config: file("config"),
                    folder: word("folder").unwrap_or_else(default_folder),
                };
                let missing = [&login.identity, &login.config].into_iter().flatten().find(|file| !file.is_file());
                let unread = matches!(port, Some(Err(_))).then(|| "`port` is from 1 to 65535".to_owned());
                let unread = unread.or_else(|| missing.map(|file| format!("the file {} is not there", file.display())));
                (Machine::Ssh(login), unread)
            }
            (None, Some(docker)) => {
                let of_ssh = ["port", "identity", "config", "folder"].into_iter().find(|&key| given.get(key).is_some());
                let unread = of_ssh.map(|key| format!("`{key}` is for machines that ssh reaches, with `host`"));
                (Machine::Docker(Engine { docker }), unread)
            }
            (Some(_), Some(_)) => {
                mistakes.push(at(
                    text,
                    name,
                    format!("machine `{name}` is reached by `host` or by `docker`, not both"),
                ));
                continue;
            }
            (None, None) => {
                let what = "`host` is missing: how ssh reaches it, or `docker`, where its engine listens";
                mistakes.push(at(text, name, format!("machine `{name}`: {what}")));
                continue;
            }
        };
        let problem = machine.problem().or(unread);
        match (MachineName::new(name), problem) {
            (Ok(name), None) => drop(machines.insert(name, machine)),
            (Err(error), _) => mistakes.push(at(text, name, error.to_string())),
            (_, Some(why)) => mistakes.push(at(text, name, format!("machine `{name}`: {why}"))),
        }
    }
    machines
}

/// A mistake where the text first says the word.
fn at(text: &str, word: &str, what: String) -> Mistake {
    let start = text.find(word).unwrap_or_default();
    Mistake { what, at: start..(start + word.len()).min(text.len()) }
}

/// The texts of a list.
fn all(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_told_at_once_with_what_to_write_instead() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prod.toml");
        std::fs::write(&path, "[policy]\nsined-by = []\nsamples = -1\nevaluation = [\"accuracy\"]\n").unwrap();
        let told = environment(&path).unwrap_err().to_string();
        for word in ["did you mean `signed-by`", "samples", "write `accuracy >= 0.9`"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        std::fs::write(&path, "[policy]\nsamples = 2\nevaluation = [\"accuracy >= 0.9\"]\n").unwrap();
        let (name, Environment { policy, registry, .. }) = environment(&path).unwrap();
        assert_eq!((name.as_str(), policy.samples, policy.evaluation.len(), registry), ("prod", 2, 1, None));
        std::fs::write(&path, "[registry]\nurl = \"registry.example/prod/\"\n").unwrap();
        assert_eq!(environment(&path).unwrap().1.registry.unwrap().url, "registry.example/prod");
        for (text, word) in [
            ("[registry]\nurl = \"prod\"\n", "registry.url"),
            ("[policy]\npromoted-from = \"test\"\n", "needs `policy.promotion-keys`"),
            ("[policy]\npromotion-keys = [\"a.pub\"]\n", "without `policy.promoted-from`"),
            ("[policy]\npackages-from = [\"*.example/x\"]\n", "other hosts, too"),
            ("[policy]\npackages-from = [\"registry.example\"]\n", "write `registry.example/*`"),
        ] {
            std::fs::write(&path, text).unwrap();
            let told = environment(&path).unwrap_err().to_string();
            assert!(told.contains(word), "{word}: {told}");
        }
    }

    #[test]
    fn machines_are_read_with_their_files_beside_and_each_mistake_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prod.toml");
        std::fs::write(folder.path().join("alpha.key"), "").unwrap();
        let good = "[machines.alpha]\nhost = \"ops@10.0.0.7\"\nport = 2222\nidentity = \"alpha.key\"\n[machines.beta]\nhost = \"beta\"\n";
        std::fs::write(&path, good).unwrap();
        let machines = environment(&path).unwrap().1.machines;
        let (Machine::Ssh(alpha), Machine::Ssh(beta)) = (&machines["alpha"], &machines["beta"]) else {
            panic!("{machines:?}")
        };
        assert_eq!(
            (alpha.port, alpha.identity.as_deref()),
            (Some(2222), Some(folder.path().join("alpha.key").as_path()))
        );
        assert_eq!((beta.folder.as_str(), beta.port), ("modelyard", None));
        let bad = "[machines.A]\nhost = \"a\"\n[machines.b]\nhots = \"b\"\n[machines.c]\nhost = \"-oX\"\n\
                   [machines.f]\nhost = \"a\"\ndocker = \"unix:///d.sock\"\n[machines.g]\ndocker = \"d.sock\"\n\
                   [machines.h]\ndocker = \"unix:///d.sock\"\nport = 7\n[machines.d]\nhost = \"d\"\nport = 70000\n[machines.e]\nhost = \"e\"\nidentity = \"nowhere\"\n";
        std::fs::write(&path, bad).unwrap();
        let told = environment(&path).unwrap_err().to_string();
        for word in [
            "`A` is not a machine name",
            "did you mean `host`",
            "`host` is missing",
            "`c`: `host`",
            "65535",
            "`f` is reached by `host` or by `docker`, not both",
            "`g`: `docker` is",
            "`h`: `port` is for machines that ssh reaches",
            "nowhere is not there",
        ] {
            assert!(told.contains(word), "{word}: {told}");
        }
        std::fs::write(&path, "[machines.box]\ndocker = \"unix:///var/run/docker.sock\"\n").unwrap();
        let engine = Engine { docker: "unix:///var/run/docker.sock".to_owned() };
        assert_eq!(environment(&path).unwrap().1.machines["box"], Machine::Docker(engine));
    }
}
