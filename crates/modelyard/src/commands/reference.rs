//! Generated parts of the reference, for `cargo xtask gen`.

use clap::{Args, ValueEnum};

use crate::context::{Context, print_data};
use crate::exit::Exit;

/// What to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The page of the command line.
    Cli,
    /// JSON Schema of `modelyard.toml`.
    #[value(name = "schema-package", alias = "package")]
    SchemaPackage,
    /// JSON Schema of `service.toml`.
    #[value(name = "schema-service", alias = "service")]
    SchemaService,
    /// JSON Schema of `environments/NAME.toml`.
    SchemaEnvironment,
    /// The page of `service.toml`.
    ServicePage,
}

/// Arguments of `reference`.
#[derive(Debug, Args)]
pub struct Reference {
    /// What to write.
    #[arg(value_enum)]
    what: What,
}

impl Reference {
    /// Writes it on stdout.
    #[expect(clippy::unnecessary_wraps, reason = "every command has this form")]
    pub fn run(self, _context: &Context) -> miette::Result<Exit> {
        print_data(&match self.what {
            What::Cli => crate::reference::command_line(),
            What::SchemaPackage => pretty(&modelyard_package::json_schema()),
            What::SchemaService => pretty(&crate::service_file::schema::json_schema()),
            What::SchemaEnvironment => pretty(&crate::service_file::schema::schema_of(
                "environments/NAME.toml",
                "An environment: its machines, and what it demands of a package.",
                crate::environment_file::ENVIRONMENT,
            )),
            What::ServicePage => crate::service_file::schema::page(),
        });
        Ok(Exit::Done)
    }
}

fn pretty(schema: &serde_json::Value) -> String {
    format!("{schema:#}")
}
