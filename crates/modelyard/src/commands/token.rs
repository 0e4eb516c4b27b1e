//! `modelyard token`: who may do what. Works on the home's own file, or on a control plane elsewhere with `--control`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use clap::{Args, Subcommand};
use modelyard_core::{EnvironmentName, Millis, Timestamp};
use modelyard_registry::access::{Grant, Role, Scope, Tokens, now};
use serde_json::{Value, json};

use super::history::when;
use crate::cli::{Connect, span};
use crate::context::{Context, person};
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Paint, columns, say, table};

/// Arguments of `token`.
#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a token. It is shown once; only a hash of it is kept.
    Create(Create),
    /// List every token that was ever made.
    List(Only),
    /// Revoke a token, at once.
    Revoke(Revoke),
    /// Tell who was given a token, lost one or was refused, as the control plane's log has it.
    History(Only),
    /// Let anybody read repositories and Python projects of these names; without any, nobody.
    Anonymous(Anonymous),
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
struct Create {
    /// What its holder may do: viewer (look, pull), deployer (push, deploy, steer), approver (look, decide), admin.
    #[arg(long)]
    role: Role,
    /// Whose it is: the name that stands in events. Default: you.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The environment in which it counts. Default: every one.
    #[arg(long, value_name = "E")]
    environment: Option<EnvironmentName>,
    /// Pattern of repositories and Python projects, such as `wine*`. May be repeated. Default: every one.
    #[arg(long, value_name = "PATTERN")]
    repository: Vec<String>,
    /// After which time it no longer counts, such as `30d`. Default: never.
    #[arg(long, value_name = "SPAN", value_parser = span)]
    expires: Option<Millis>,
    /// Keep it in the home folder too, readable by you alone: commands of this home show it from then on.
    #[arg(long)]
    save: bool,
    #[command(flatten)]
    connect: Connect,
}

/// Nothing but where.
#[derive(Debug, Args)]
struct Only {
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `token revoke`.
#[derive(Debug, Args)]
struct Revoke {
    /// Id of the token, as `token list` shows it.
    id: String,
    #[command(flatten)]
    connect: Connect,
}

/// Arguments of `token anonymous`.
#[derive(Debug, Args)]
struct Anonymous {
    /// Patterns such as `public/*`.
    #[arg(value_name = "PATTERN")]
    patterns: Vec<String>,
}

impl Token {
    /// Does it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self.what {
            What::Create(create) => create.run(context),
            What::List(Only { connect }) => list(context, &connect),
            What::Revoke(revoke) => revoke.run(context),
            What::History(Only { connect }) => history(context, &connect),
            What::Anonymous(Anonymous { patterns }) => {
                tokens(context).set_anonymous(patterns.clone())?;
                context.print(&json!({ "anonymous": patterns }), || match patterns.is_empty() {
                    true => "nothing may be read without a token".to_owned(),
                    false => format!("anybody may read {}", patterns.join(", ")),
                })?;
                Ok(Exit::Done)
            }
        }
    }
}

fn tokens(context: &Context) -> Tokens {
    Tokens::at(context.home.tokens())
}

impl Create {
    fn run(self, context: &Context) -> miette::Result<Exit> {
        let grant = Grant {
            name: self.name.unwrap_or_else(person),
            role: self.role,
            scope: Scope { environment: self.environment, repositories: self.repository },
            expires: self.expires.map(|span| Timestamp(now().0.saturating_add(span.0))),
        };
        if !grant.has_name() {
            return Err(
                Usage::new("the token has no name that can be shown", "`--name` takes 1 to 100 characters").into()
            );
        }
        let answer = if self.connect.control.is_some() {
            let body = json!({
                "name": grant.name, "role": grant.role, "environment": grant.scope.environment,
                "repositories": grant.scope.repositories, "expires": grant.expires,
            });
            context.client(&self.connect)?.post::<Value>("/api/tokens", &body)?
        } else {
            let is_first = tokens(context).list()?.is_empty();
            let (entry, secret) = tokens(context).create(grant, now())?;
            if is_first {
                say(
                    "this is the first token of this home: from now on everything but /api/health demands one, also on loopback",
                );
            }
            let mut answer = entry.document(now());
            answer["token"] = json!(secret);
            answer
        };
        let secret = answer["token"].as_str().unwrap_or_default().to_owned();
        if self.save {
            save(context, &secret)?;
        }
        context.print(&answer, || {
            say("it is shown this once; set MODELYARD_TOKEN to it, or use it as the password for docker, skopeo and twine");
            secret
        })?;
        Ok(Exit::Done)
    }
}

/// Keeps the token that commands of this home show.
fn save(context: &Context, secret: &str) -> Result<(), Failed> {
    let path = context.home.credentials();
    let write = || {
        // A file of the former token may have other rights: it is made anew.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(json!({ "token": secret }).to_string().as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| {
        let help = "the token counts all the same: keep it where only you can read it";
        Failed::from(error, format!("could not write {}", path.display()), help)
    })
}

/// The token that was saved in this home, if its file is readable by its owner alone.
pub fn saved(context: &Context) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = context.home.credentials();
    let mode = fs::metadata(&path).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        say(&format!("{} can be read by others and is not used: `chmod 600` it", path.display()));
        return None;
    }
    let document: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
    document["token"].as_str().map(str::to_owned)
}

fn list(context: &Context, connect: &Connect) -> miette::Result<Exit> {
    let all: Vec<Value> = match connect.control {
        Some(_) => context.client(connect)?.get("/api/tokens")?,
        None => tokens(context).list()?.iter().map(|entry| entry.document(now())).collect(),
    };
    context.print(&all, || {
        let text = |value: &Value| value.as_str().unwrap_or("all").to_owned();
        let row = |token: &Value| {
            let of: Vec<String> = token["repositories"].as_array().into_iter().flatten().map(text).collect();
            let of = if of.is_empty() { "all".to_owned() } else { of.join(" ") };
            let stands = match (&token["revoked"], &token["valid"]) {
                (Value::Null, Value::Bool(true)) => "valid",
                (Value::Null, _) => "expired",
                _ => "revoked",
            };
            vec![
                text(&token["id"]),
                text(&token["name"]),
                text(&token["role"]),
                text(&token["environment"]),
                of,
                stands.to_owned(),
            ]
        };
        let heading = ["id", "name", "role", "environment", "repositories", "state"];
        table(&heading, all.iter().map(row).collect(), Paint::stdout())
    })?;
    Ok(Exit::Done)
}

fn history(context: &Context, connect: &Connect) -> miette::Result<Exit> {
    let all: Vec<Value> = context.client(connect)?.get("/api/tokens/history")?;
    context.print(&all, || {
        let row = |one: &Value| {
            let at = one["event"]["at"].as_u64().map_or_else(|| "–".to_owned(), |at| when(Timestamp(at)));
            vec![at, one["told"].as_str().unwrap_or_default().to_owned()]
        };
        columns(&all.iter().map(row).collect::<Vec<_>>()).join("\n")
    })?;
    Ok(Exit::Done)
}

impl Revoke {
    fn run(self, context: &Context) -> miette::Result<Exit> {
        let revoked: Value = if self.connect.control.is_some() {
            context.client(&self.connect)?.delete(&format!("/api/tokens/{}", self.id))?
        } else {
            let revoked = tokens(context).revoke(&self.id, now())?;
            let none = || {
                Failed::new(
                    format!("there is no token `{}` that still counts", self.id),
                    "`modelyard token list` shows them",
                )
            };
            revoked.ok_or_else(none)?.document(now())
        };
        context.print(&revoked, || format!("revoked {}", self.id))?;
        Ok(Exit::Done)
    }
}
