//! Packaging from outside: whatever the environment, the same folder gives the same digest.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use serde_json::Value;
use support::{World, examples};

/// Packages an example in a home of its own, through a shell with this umask and these variables.
fn digest(umask: &str, variables: &[(&str, &str)]) -> Result<String, String> {
    let world = World::default();
    let modelyard = world.command(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &format!("umask {umask}; exec \"$0\" package \"$1\" --output json")]);
    shell.arg(modelyard.get_program()).arg(examples().join("iris/v1"));
    shell.env_remove("SOURCE_DATE_EPOCH");
    shell.env("MODELYARD_HOME", world.home()).envs(variables.iter().copied());
    let output = shell.output().unwrap();
    match output.status.success() {
        true => {
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            Ok(told["digest"].as_str().unwrap().to_owned())
        }
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn umask_locale_and_time_zone_do_not_change_the_digest() {
    let plain = digest("022", &[]).unwrap();
    for (umask, variables) in [
        ("077", vec![("LC_ALL", "tr_TR.UTF-8"), ("LANG", "tr_TR.UTF-8")]),
        ("000", vec![("TZ", "Asia/Kathmandu"), ("LC_ALL", "C")]),
        ("027", vec![("TZ", "America/St_Johns"), ("LC_NUMERIC", "de_DE.UTF-8"), ("COLUMNS", "20")]),
    ] {
        assert_eq!(digest(umask, &variables).as_ref(), Ok(&plain), "umask {umask}, {variables:?}");
    }
}

#[test]
fn a_stated_time_is_honoured_and_nonsense_is_refused() {
    let plain = digest("022", &[]).unwrap();
    let stated = digest("022", &[("SOURCE_DATE_EPOCH", "1700000000"), ("TZ", "UTC")]).unwrap();
    let elsewhere = digest("077", &[("SOURCE_DATE_EPOCH", "1700000000"), ("TZ", "Asia/Kathmandu")]).unwrap();
    assert_eq!(stated, elsewhere);
    assert_ne!(stated, plain);
    for nonsense in ["yesterday", "1.5", "-1", ""] {
        let refused = digest("022", &[("SOURCE_DATE_EPOCH", nonsense)]).unwrap_err();
        assert!(refused.contains("SOURCE_DATE_EPOCH") && refused.contains("git log"), "{nonsense:?}: {refused}");
    }
}
