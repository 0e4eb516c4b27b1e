//! The page of the command line, written from the same declarations that clap reads.

use clap::{Arg, Command, CommandFactory as _};

use crate::cli::Cli;

const INTRODUCTION: &str = "\
# Commands

Data goes to stdout, talk to stderr. Every command that prints data takes `--output json`. Exit codes: 0 done, 1 failed, 2 wrong usage;
`deploy --wait` adds 3 rolled back and 4 waits for a person. This page is written by `cargo xtask gen`.
";

/// The page, as Markdown.
pub fn command_line() -> String {
    let mut program = Cli::command().term_width(usize::MAX);
    program.build();
    let mut page = String::from(INTRODUCTION);
    page.push_str("\n## Everywhere\n\n");
    let everywhere: Vec<&Arg> = program.get_arguments().filter(|arg| arg.is_global_set()).collect();
    arguments(&mut page, &everywhere);
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        describe(&mut page, command);
    }
    page
}

fn describe(page: &mut String, command: &Command) {
    page.push_str(&format!("\n## `modelyard {}`\n\n", command.get_name()));
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let about = about.to_string();
        let stop = if about.ends_with(['.', '?']) { "" } else { "." };
        page.push_str(&format!("{about}{stop}\n\n"));
    }
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| {
            !arg.is_hide_set() && !arg.is_global_set() && !["help", "version"].contains(&arg.get_id().as_str())
        })
        .collect();
    let positions = own.iter().filter(|arg| arg.is_positional()).map(|arg| format!(" {}", shape(arg)));
    let options = if own.iter().any(|arg| !arg.is_positional()) { " [OPTIONS]" } else { "" };
    page.push_str(&format!(
        "```text\nmodelyard {}{}{options}\n```\n",
        command.get_name(),
        positions.collect::<String>()
    ));
    if !own.is_empty() {
        page.push('\n');
        arguments(page, &own);
    }
}

fn arguments(page: &mut String, arguments: &[&Arg]) {
    page.push_str("| argument | meaning |\n| --- | --- |\n");
    for arg in arguments {
        page.push_str(&format!("| `{}` | {} |\n", shape(arg).replace('|', "\\|"), meaning(arg)));
    }
}

fn shape(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    let value = if arg.get_action().takes_values() { value } else { String::new() };
    match (arg.get_long(), arg.get_short()) {
        (None, None) if arg.is_required_set() => value,
        (None, None) => format!("[{value}]"),
        (Some(long), Some(short)) => format!("-{short}, --{long} {value}").trim_end().to_owned(),
        (Some(long), None) => format!("--{long} {value}").trim_end().to_owned(),
        (None, Some(short)) => format!("-{short} {value}").trim_end().to_owned(),
    }
}

fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    if !text.ends_with(['.', '`', ':']) {
        text.push('.');
    }
    let choices: Vec<String> =
        arg.get_possible_values().iter().filter(|v| !v.is_hide_set()).map(|v| format!("`{}`", v.get_name())).collect();
    if !choices.is_empty() && arg.get_action().takes_values() {
        text.push_str(&format!(" One of {}.", choices.join(", ")));
    }
    let defaults: Vec<String> = arg.get_default_values().iter().map(|v| format!("`{}`", v.to_string_lossy())).collect();
    if !defaults.is_empty() && arg.get_action().takes_values() {
        text.push_str(&format!(" Default: {}.", defaults.join(", ")));
    }
    if let Some(variable) = arg.get_env() {
        text.push_str(&format!(" Environment: `{}`.", variable.to_string_lossy()));
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_tells_of_commands_and_hides_what_is_hidden() {
        let page = super::command_line();
        assert!(page.contains("## `modelyard deploy`") && page.contains("--wait"), "{page}");
        assert!(!page.contains("## `modelyard instance`") && !page.contains("--takeover"), "{page}");
    }
}
