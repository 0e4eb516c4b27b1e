//! What exactly is executed to reach a machine, as values: the OpenSSH client, so that its configuration, agents, known hosts and jump hosts count.
//!
//! One master connection per machine carries everything else over its socket. It is called with the machine's own folder as working folder and the
//! socket by a relative name: the path of a socket has 107 bytes at most, and a home may lie deep.
//!
//! Promises: host keys are checked as the user's configuration says, never less; what is run over the master cannot open a connection of its own; no
//! word that varies reaches the remote shell unquoted.
//! Source: `ssh(1)`, `ssh_config(5)` of OpenSSH 9.

use modelyard_core::machine::Login;

/// Name of the master's socket in the machine's folder.
pub const SOCKET: &str = "ssh";

/// What the master says, in the machine's folder.
pub const LOG: &str = "ssh.log";

/// The far side is taken for dead after three unanswered questions: 9 s.
const ALIVE: [&str; 2] = ["ServerAliveInterval=3", "ServerAliveCountMax=3"];

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

fn options<'o>(options: impl IntoIterator<Item = &'o str>) -> Vec<String> {
    options.into_iter().flat_map(|option| ["-o".to_owned(), option.to_owned()]).collect()
}

/// The master: once it is let in, it goes to the background in a session of its own, and outlives the control plane.
pub fn master(login: &Login) -> Vec<String> {
    let mut all = words(["-f", "-M", "-N", "-T", "-S", SOCKET, "-E", LOG]);
    all.extend(options([
        "BatchMode=yes",
        "ConnectTimeout=10",
        "ControlPersist=no",
        "ExitOnForwardFailure=yes",
        // Of the user's own configuration, what is meant for a person at a terminal.
        "ClearAllForwardings=yes",
        "ForwardAgent=no",
        "ForwardX11=no",
        "PermitLocalCommand=no",
        "RemoteCommand=none",
    ]));
    all.extend(options(ALIVE));
    if let Some(config) = &login.config {
        all.extend(["-F".to_owned(), config.display().to_string()]);
    }
    if let Some(port) = login.port {
        all.extend(["-p".to_owned(), port.to_string()]);
    }
    if let Some(identity) = &login.identity {
        all.extend(options(["IdentitiesOnly=yes"]));
        all.extend(["-i".to_owned(), identity.display().to_string()]);
    }
    all.extend(["--".to_owned(), login.host.clone()]);
    all
}

/// A script over the master, with its arguments as `$1`, `$2`, ….
///
/// Without the master ssh would open a connection of its own, by whatever configuration: it is given none, and a way that leads nowhere.
pub fn over(script: &str, arguments: &[&str]) -> Vec<String> {
    let mut all = words(["-F", "none", "-S", SOCKET, "-T"]);
    all.extend(options(["ControlMaster=no", "ProxyCommand=false", "BatchMode=yes", "LogLevel=ERROR"]));
    all.extend(words(["--", "machine"]));
    let quoted = arguments.iter().map(|argument| format!(" {}", quote(argument)));
    all.push(format!("sh -c {} modelyard{}", quote(script), quoted.collect::<String>()));
    all
}

/// An order to the master itself: `check`, `exit`.
pub fn order(what: &str) -> Vec<String> {
    words(["-F", "none", "-S", SOCKET, "-O", what, "--", "machine"])
}

/// Lets connections to a local port end at an address there (`forward`), or no more (`cancel`).
pub fn forward(what: &str, local: u16, far: std::net::SocketAddr) -> Vec<String> {
    words(["-F", "none", "-S", SOCKET, "-O", what, "-L", &format!("127.0.0.1:{local}:{far}"), "--", "machine"])
}

/// A connection from the machine to an address there, through the master.
pub fn reach(far: &str) -> Vec<String> {
    let mut all = words(["-F", "none", "-S", SOCKET, "-T"]);
    all.extend(options(["ControlMaster=no", "ProxyCommand=false", "BatchMode=yes", "LogLevel=ERROR"]));
    all.extend(words(["-W", far, "--", "machine"]));
    all
}

/// One word for any shell of the Bourne family, and for fish: nothing within single quotes has a meaning to them. The quote itself stands outside.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Login {
        Login {
            host: "ops@10.0.0.7".into(),
            port: Some(2222),
            identity: Some("/keys/alpha".into()),
            config: None,
            folder: "modelyard".into(),
        }
    }

    #[test]
    fn the_master_is_bound_to_the_users_rules_and_to_its_own_socket() {
        let words = master(&machine()).join(" ");
        assert!(words.starts_with("-f -M -N -T -S ssh -E ssh.log -o BatchMode=yes"), "{words}");
        assert!(words.ends_with("-p 2222 -o IdentitiesOnly=yes -i /keys/alpha -- ops@10.0.0.7"), "{words}");
        assert!(
            !words.contains("HostKey") && !words.contains("KnownHosts"),
            "host keys are the user's matter: {words}"
        );
        let other = Login { config: Some("/c".into()), port: None, identity: None, ..machine() };
        assert!(master(&other).join(" ").ends_with("-F /c -- ops@10.0.0.7"));
    }

    #[test]
    fn what_runs_over_the_master_has_no_way_of_its_own() {
        let words = over("echo \"$1\"", &["it's"]);
        assert!(words.join(" ").contains("ProxyCommand=false"), "{words:?}");
        assert_eq!(words.last().unwrap(), r#"sh -c 'echo "$1"' modelyard 'it'\''s'"#);
        let far = "[::1]:80".parse().unwrap();
        assert!(forward("forward", 4711, far).join(" ").contains("-O forward -L 127.0.0.1:4711:[::1]:80"));
    }

    #[test]
    fn quoted_words_reach_a_shell_as_they_are() {
        for word in ["", "a b", "it's", "''", "$(touch /tmp/x)", "`x`", "a\\b", "-n", "*", "!", "\"", "x\ny", "ä€"] {
            let script = format!("printf %s {}", quote(word));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&said.stdout), word);
        }
    }
}
