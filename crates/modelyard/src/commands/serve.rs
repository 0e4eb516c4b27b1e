//! `modelyard serve REF|DIR`: one model server, nothing else. In a container it is told by variables what to serve, and where.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use modelyard_core::flags::{self, VARIABLE, Values};
use modelyard_core::home::Announcement;
use modelyard_core::image::VARIABLES;
use modelyard_core::package::{DOCUMENT, Package, Runtime};
use modelyard_serve::ServeOptions;
use modelyard_serve::contract::Contracts;
use modelyard_serve::python::Interpreter;
use serde_json::json;

use super::contract::Platform;
use super::first;
use super::flags::given;
use super::up::{address, not_loopback};
use crate::cli::Output;
use crate::context::{Context, print_data};
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::{Busy, Paint, say};

/// ONNX Runtime as it comes in the wheel reports usage to its makers over the network, and leaves a session file in the temporary folder,
/// unless this variable is set before the library is loaded; its API alone does not prevent the file.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

/// Arguments of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// A package (`wine:2.1.0`, `wine@champion`), a model folder, or an ONNX file.
    ///
    /// Default: the folder that MODELYARD_PACKAGE_DIR names, as in container images.
    #[arg(value_name = "REF|DIR")]
    what: Option<String>,
    /// Where callers are listened for, REST and gRPC; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", env = "MODELYARD_HTTP", value_parser = address, default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Let other machines reach it, without TLS and without tokens: for containers, whose network decides who comes in.
    #[arg(long, env = "MODELYARD_REACHABLE")]
    reachable: bool,
    /// Platforms whose contracts are answered too, by commas: sagemaker, vertex, azure, mlflow, or all. Default: what the variables tell that a
    /// platform sets, such as AIP_HTTP_PORT; else none.
    #[arg(long, value_name = "LIST", env = "MODELYARD_CONTRACT")]
    contract: Option<String>,
    /// Where probes are answered, by a thread of its own.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    probe: Option<SocketAddr>,
    /// File that gets the addresses, once it listens.
    #[arg(long, value_name = "FILE")]
    announce: Option<PathBuf>,
    /// Name under which the model answers. Default: its own.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Further name under which the model answers.
    #[arg(long, value_name = "NAME")]
    also: Option<String>,
    /// Value of a flag that the package declares, such as `threshold=0.7`. May be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    flag: Vec<String>,
    /// Values of flags as one JSON object; `--flag` weighs more.
    #[arg(long, value_name = "JSON", env = VARIABLE, hide = true)]
    flags: Option<String>,
    /// Environment variables of a program as one JSON object.
    #[arg(long, value_name = "JSON", env = VARIABLES, hide = true)]
    variables: Option<String>,
    /// Threads that read requests and write answers. Default: one per core.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
    /// Keep the weights of an ONNX model's files of external data as they are, mapped into memory, so that all instances of a machine share one copy.
    #[arg(long, env = "MODELYARD_SHARE_WEIGHTS")]
    share_weights: bool,
    /// Worker processes of a Python function. Default: as many as its package says.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: Option<u16>,
    /// Folder of a package that was laid out before.
    #[arg(long, value_name = "DIR", hide = true, conflicts_with = "what")]
    package_dir: Option<PathBuf>,
}

impl Serve {
    /// Serves until it is asked to end.
    pub fn run(mut self, context: &Context) -> miette::Result<Exit> {
        keep_to_ourselves()?;
        super::log(context, None)?;
        // An instance of a service is asked by its gateway alone, whatever platform is around both.
        let asked = if self.announce.is_some() { Some("none") } else { self.contract.as_deref() };
        let platform = Platform::around(asked)?;
        self.http = platform.address(self.http);
        self.reachable |= platform.is_reachable();
        let open = [Some(self.http), self.probe].into_iter().flatten().find_map(|address| not_loopback(&address));
        if let Some(why) = open.filter(|_| !self.reachable) {
            let help = "use 127.0.0.1; or, where the network around decides who comes in, as in a container, add `--reachable`";
            return Err(Usage::new(why, help).into());
        }
        if let Some(folder) = self.package_dir.clone().or_else(|| self.given_by_variable()) {
            let package = document(&folder)?;
            return self.package(context, platform.contracts, package, folder);
        }
        let brought = platform.model().filter(|_| self.what.is_none());
        if let Some(folder) = brought.as_ref().filter(|folder| folder.join(DOCUMENT).is_file()) {
            return self.package(context, platform.contracts, document(folder)?, folder.clone());
        }
        let brought = brought.as_ref().and_then(|folder| folder.to_str());
        let Some(what) = self.what.as_deref().or(brought) else {
            let help = "name a package, a model folder or a model: `modelyard serve wine:2.1.0`";
            return Err(Usage::new("it is not said what to serve", help).into());
        };
        let laid_out = super::inspect::laid_out(context, what)?;
        self.package(context, platform.contracts, laid_out.package.clone(), laid_out.folder.clone())
    }

    /// The folder of the package in a container image; what is named on the command line weighs more.
    fn given_by_variable(&self) -> Option<PathBuf> {
        let named = std::env::var_os("MODELYARD_PACKAGE_DIR").filter(|folder| !folder.is_empty());
        named.filter(|_| self.what.is_none()).map(PathBuf::from)
    }

    fn package(
        self,
        context: &Context,
        contracts: Contracts,
        package: Package,
        folder: PathBuf,
    ) -> miette::Result<Exit> {
        let values = self.values(&package)?;
        match &package.runtime {
            Runtime::Onnx { .. } | Runtime::Python { .. } => self.native(context, contracts, package, folder, values),
            Runtime::None {} => Err(super::package::not_run(&package).into()),
            Runtime::Command { command, environment, .. } => {
                let mut environment = environment.clone();
                environment.extend(self.variables()?);
                environment.extend(flags::environment(&values));
                self.command(&package, command, &environment, &folder)
            }
        }
    }

    /// What a service configures, in a container: it weighs more than what the package declares.
    fn variables(&self) -> Result<std::collections::BTreeMap<String, String>, Usage> {
        let Some(text) = &self.variables else { return Ok(Default::default()) };
        let help = "it is set by the target `docker`; leave it alone";
        serde_json::from_str(text).map_err(|error| Usage::new(format!("{VARIABLES} is no JSON object: {error}"), help))
    }

    /// The value of every flag that the package declares.
    fn values(&self, package: &Package) -> miette::Result<Values> {
        let refuse = |what: String| Usage::new(what, "`modelyard inspect` shows the package's flags");
        let mut values: Values = match &self.flags {
            None => Values::new(),
            Some(text) => {
                serde_json::from_str(text).map_err(|error| refuse(format!("{VARIABLE} is no JSON object: {error}")))?
            }
        };
        values.extend(given(package, &self.flag)?);
        Ok(package.flag_values(&values).map_err(|mistakes| refuse(mistakes.join("; ")))?)
    }

    fn native(
        self,
        context: &Context,
        contracts: Contracts,
        package: Package,
        folder: PathBuf,
        flags: Values,
    ) -> miette::Result<Exit> {
        // A Python function needs no engine of ours.
        let library = match &package.runtime {
            Runtime::Onnx { .. } => library(&context.home.cache())?,
            Runtime::Command { .. } | Runtime::Python { .. } | Runtime::None {} => PathBuf::new(),
        };
        let python = python(&package, &folder, &context.home.cache())?;
        let by_hand = self.announce.is_none();
        let mut options = ServeOptions::new(package, folder, library);
        (options.python, options.workers) = (python, self.workers);
        (options.flags, options.also) = (flags, self.also);
        if let Some(name) = self.name {
            options.name = name;
        }
        (options.http, options.probe, options.reachable) = (self.http, self.probe, self.reachable);
        (options.announce, options.threads, options.contracts) = (self.announce, self.threads, contracts);
        options.share_weights = self.share_weights;
        if by_hand {
            let (name, output) = (options.name.clone(), context.output);
            options.on_listening = Some(Box::new(move |listening| tell(&name, listening, output)));
        }
        modelyard_serve::run(options).map_err(|error| {
            Failed::from(error, "the model could not be served", "`modelyard inspect` shows what the package expects")
        })?;
        Ok(Exit::Done)
    }

    /// Any program that listens on `$PORT`: it takes this process over.
    fn command(
        self,
        package: &Package,
        command: &[String],
        environment: &std::collections::BTreeMap<String, String>,
        folder: &Path,
    ) -> miette::Result<Exit> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(Usage::new("the package's command is empty", "name a program in `modelyard.toml`").into());
        };
        if self.http.port() == 0 {
            let help = "name a port, for example `--http 127.0.0.1:8080`; `modelyard deploy` picks one by itself";
            return Err(Usage::new("a package with the runtime `command` is told its port", help).into());
        }
        say(&format!("{} on {}", command.join(" "), self.http));
        let beside = folder.join(program);
        let file = if beside.is_file() { beside } else { PathBuf::from(program) };
        let mut process = std::process::Command::new(file);
        process.args(arguments).current_dir(folder).envs(environment).env("PORT", self.http.port().to_string());
        process.env("MODELYARD_SERVICE", self.name.as_deref().unwrap_or(package.name.as_str()));
        process.env("MODELYARD_PACKAGE_DIR", folder);
        if first::is_first() {
            match first::run(&mut process)? {}
        }
        let error = process.exec();
        Err(Failed::from(error, format!("could not run `{program}`"), "install it, or put it into the package").into())
    }
}

/// Starts this process over with [`NO_TELEMETRY`] set, unless it is. A program cannot safely change its own environment once it runs.
fn keep_to_ourselves() -> Result<(), Failed> {
    if std::env::var_os(NO_TELEMETRY).is_some() {
        return Ok(());
    }
    let mut same = std::process::Command::new(super::up::program()?);
    let error = same.args(std::env::args_os().skip(1)).env(NO_TELEMETRY, "1").exec();
    Err(Failed::from(error, "could not start the model server", format!("set {NO_TELEMETRY}=1 by hand")))
}

fn document(folder: &Path) -> Result<Package, Failed> {
    let path = folder.join(DOCUMENT);
    let told = |what: String| (what, "lay the package out again: `modelyard serve REF` does");
    let bytes = std::fs::read(&path).map_err(|error| {
        let (what, help) = told(format!("could not read {}", path.display()));
        Failed::from(error, what, help)
    })?;
    serde_json::from_slice(&bytes).map_err(|error| {
        let (what, help) = told(format!("{} is no package document", path.display()));
        Failed::from(error, what, help)
    })
}

fn tell(name: &str, listening: &Announcement, output: Output) {
    let address = listening.address;
    match output {
        Output::Json => {
            let document = json!({ "name": name, "address": address.to_string(), "probe": listening.probe });
            print_data(&document.to_string());
        }
        Output::Text => {
            let paint = Paint::stdout();
            print_data(&format!("{}  http://{address}/v2/models/{name}", paint.bold(name)));
            say(&paint.dim(&format!(
                "plain form: POST http://{address}/predict   description: http://{address}/openapi.json"
            )));
        }
    }
}

/// The interpreter of a Python function, with everything that its lock names; made if need be. `None` for other runtimes.
pub fn python(package: &Package, folder: &Path, cache: &Path) -> miette::Result<Option<Interpreter>> {
    if !matches!(package.runtime, Runtime::Python { .. }) {
        return Ok(None);
    }
    let _busy = Busy::with("making the package's Python environment; it is made once for each lock");
    let made = modelyard_serve::python::prepare(package, folder, cache).map_err(|error| {
        let help = "uv and pip take indexes and proxies from their own settings; `modelyard inspect` shows what the package needs";
        Failed::from(error, "there is no environment to run the function in", help)
    })?;
    Ok(Some(made))
}

/// The ONNX Runtime library, fetched if need be.
pub fn library(cache: &Path) -> miette::Result<PathBuf> {
    let _busy = Busy::with("looking for ONNX Runtime; it is fetched once if there is none");
    let found = modelyard_serve::onnxruntime::locate(cache);
    Ok(found.map_err(|error| {
        let help = "set MODELYARD_ONNXRUNTIME to a libonnxruntime shared library, or install Python's onnxruntime";
        Failed::from(error, "there is no ONNX Runtime to run the model with", help)
    })?)
}
