//! From the command line, the environment and a configuration file to [`Args`].
//!
//! Invariants: a flag wins over its environment variable, and that over the file; every flag of
//! every verb has the variable `LOOKBOOK_` and its name, because it is given here and nowhere else.

use std::{
    collections::BTreeSet,
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use anyhow::{Result, anyhow};
use clap::{
    Arg, ArgAction, Command, CommandFactory, Error, FromArgMatches,
    builder::BoolishValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    args::Args,
    config::{self, Setting},
    messages,
};

const PREFIX: &str = "LOOKBOOK_";
/// Of every verb.
pub const EXIT_CODES: &str =
    "0 all done, 1 error, 2 partial (photos rejected, no index, or interrupted).";
pub const RULE: &str =
    "Every flag is an environment variable, too: --max-error-rate is LOOKBOOK_MAX_ERROR_RATE.";

/// What the user asked for.
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Args> {
    let argv: Vec<OsString> = argv.into_iter().collect();
    let mut command = short(command());
    let mut settings = Vec::new();
    if let Some(file) = config_file(&argv) {
        (command, settings) = config::apply(command, &file)?;
    }
    let matches = with_answers(command)
        .try_get_matches_from(&argv)
        .map_err(|error| blame(error, &argv, &settings))?;
    Ok(Args::from_arg_matches(&matches)?)
}

/// The command line with an environment variable for every flag.
pub fn command() -> Command {
    with_variables(Args::command())
}

/// Help that states the rule of the variables' names once.
fn short(command: Command) -> Command {
    command
        .after_help(format!("Exit codes: {EXIT_CODES}\n{RULE}"))
        .mut_args(|arg| arg.hide_env(true))
        .mut_subcommands(short)
}

fn with_variables(command: Command) -> Command {
    command
        .mut_args(with_variable)
        .mut_subcommands(with_variables)
}

fn with_variable(arg: Arg) -> Arg {
    let Some(variable) = variable(&arg) else {
        return arg;
    };
    let arg = match arg.get_action() {
        // LOOKBOOK_NO_INDEX=1, yes or true.
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    // An empty variable counts as none: compose files pass them so.
    if env::var_os(&variable).is_some_and(|value| value.is_empty()) {
        return arg;
    }
    // A URL may hold a password, and help is shown to others.
    let is_secret = matches!(arg.get_long(), Some("database" | "from-database"));
    arg.env(variable).hide_env_values(is_secret)
}

/// Lets `--no-index=no` undo what the environment or the file says.
fn with_answers(command: Command) -> Command {
    let answered = |arg: Arg| match arg.get_action() {
        ArgAction::SetTrue => {
            let is_set = !arg.get_default_values().is_empty();
            let arg = if is_set {
                arg
            } else {
                arg.default_value("false")
            };
            arg.action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .value_name("yes|no")
                .hide_default_value(true)
                .hide_possible_values(true)
        }
        _ => arg,
    };
    command.mut_args(answered).mut_subcommands(with_answers)
}

/// Variables that are one slip away from a flag's, and do nothing.
pub fn warn_of_slips() {
    let mut known = BTreeSet::new();
    variables(&command(), &mut known);
    for (name, _) in env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else {
            continue;
        };
        if let Some(meant) = slip(name, &known) {
            messages::warn(format_args!(
                "the environment variable {name} is of no flag: did you mean {meant}?"
            ));
        }
    }
}

fn variables(command: &Command, known: &mut BTreeSet<String>) {
    known.extend(command.get_arguments().filter_map(variable));
    for verb in command.get_subcommands() {
        variables(verb, known);
    }
}

/// The variable that was meant. Scripts around the loader have variables of their own, so only a near miss counts: one
/// letter in five.
fn slip<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let distance = |known: &&String| strsim::osa_distance(name, known);
    let nearest = known.iter().min_by_key(distance)?;
    let letters = name.len() - PREFIX.len();
    (1..=letters / 5)
        .contains(&distance(&nearest))
        .then_some(nearest)
}

/// The environment variable of a flag; of positions only SOURCE has one, which a run of every night has from there.
fn variable(arg: &Arg) -> Option<String> {
    let name = match arg.get_long() {
        Some(long) => long.to_owned(),
        None if arg.get_id() == "source" => arg.get_id().to_string(),
        None => arg.get_short()?.to_string(),
    };
    Some(format!("{PREFIX}{}", name.replace('-', "_").to_uppercase()))
}

/// `--config FILE`, else `LOOKBOOK_CONFIG`. Looked for before anything is parsed, since the file says
/// what need not be given.
fn config_file(argv: &[OsString]) -> Option<PathBuf> {
    let given = argv.iter().skip(1).take_while(|arg| *arg != "--");
    let mut given = given.peekable();
    while let Some(arg) = given.next() {
        if arg == "--config" {
            return given.peek().map(PathBuf::from);
        }
        let joined = arg.to_str().and_then(|arg| arg.strip_prefix("--config="));
        if let Some(file) = joined {
            return Some(PathBuf::from(file));
        }
    }
    env::var_os("LOOKBOOK_CONFIG")
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
}

/// Says where a wrong value came from, when it was not the command line.
fn blame(error: Error, argv: &[OsString], settings: &[Setting]) -> anyhow::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };
    let (arg, value) = (
        text(ContextKind::InvalidArg),
        text(ContextKind::InvalidValue),
    );
    let is_value = matches!(
        error.kind(),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation
    );
    let flag = arg.split([' ', '=']).next().unwrap_or_default();
    let is_given = argv.iter().filter_map(|arg| arg.to_str()).any(|arg| {
        arg == flag
            || arg
                .strip_prefix(flag)
                .is_some_and(|rest| rest.starts_with('='))
    });
    if !is_value || is_given || flag.is_empty() {
        return error.into();
    }
    let name = flag.trim_start_matches('-');
    let variable = format!("{PREFIX}{}", name.replace('-', "_").to_uppercase());
    let reason = error.to_string();
    let reason = reason.lines().next().unwrap_or_default();
    let reason = reason.trim_start_matches("error: ");
    if env::var_os(&variable).as_deref() == Some(OsStr::new(&value)) {
        return anyhow!("the environment variable {variable}: {reason}");
    }
    let setting = settings
        .iter()
        .find(|setting| setting.name == name && setting.values.contains(&value));
    match setting {
        Some(setting) => anyhow!("{}: {reason}", setting.place),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Verb;

    fn walk(command: &Command, path: &str, seen: &mut Vec<String>) {
        for arg in command.get_arguments() {
            if matches!(arg.get_id().as_str(), "help" | "version") || arg.is_positional() {
                continue;
            }
            let variable = arg.get_env().and_then(OsStr::to_str).unwrap_or_default();
            let name = arg.get_long().unwrap_or(arg.get_id().as_str());
            let expected = format!("LOOKBOOK_{}", name.replace('-', "_").to_uppercase());
            assert_eq!(variable, expected, "{path} --{name}");
            seen.push(format!("{path} --{name}"));
        }
        for verb in command.get_subcommands() {
            walk(verb, &format!("{path} {}", verb.get_name()), seen);
        }
    }

    #[test]
    fn every_flag_of_every_verb_has_its_environment_variable() {
        let mut command = command();
        command.build();
        let mut seen = Vec::new();
        walk(&command, "lookbook", &mut seen);
        for flag in [
            "lookbook --config",
            "lookbook load --no-index",
            "lookbook model add --onnx",
            "lookbook search --k",
        ] {
            assert!(seen.iter().any(|seen| seen == flag), "{flag}: {seen:?}");
        }
        let load = command.find_subcommand("load").unwrap();
        let mut arguments = load.get_arguments();
        let source = arguments.find(|arg| arg.get_id() == "source").unwrap();
        assert_eq!(source.get_env(), Some(OsStr::new("LOOKBOOK_SOURCE")));
    }

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
        with_answers(command()).debug_assert();
    }

    #[test]
    fn a_switch_may_be_answered() {
        let no_index = |args: &[&str]| {
            let argv = [&["lookbook", "load", "x"], args].concat();
            let matches = with_answers(command()).try_get_matches_from(argv).unwrap();
            let Verb::Load(load) = Args::from_arg_matches(&matches).unwrap().verb else {
                panic!()
            };
            load.no_index
        };
        assert!(!no_index(&[]) && no_index(&["--no-index"]) && no_index(&["--no-index=yes"]));
        assert!(!no_index(&["--no-index=no"]) && !no_index(&["--no-index=false"]));
    }

    #[test]
    fn a_variable_that_is_nearly_a_flags_is_a_slip() {
        let mut known = BTreeSet::new();
        variables(&command(), &mut known);
        let slip = |name| slip(name, &known);
        assert_eq!(slip("LOOKBOOK_PRUNE_LIMT"), Some("LOOKBOOK_PRUNE_LIMIT"));
        assert_eq!(slip("LOOKBOOK_PRUNE_LIMIT"), None);
        for name in ["HOME", "DATA", "PG_CONFIG", "USER", "KILLS", "BENCH", "K"] {
            let name = format!("LOOKBOOK_{name}");
            assert!(super::slip(&name, &known).is_none(), "{name}");
        }
    }

    #[test]
    fn the_file_is_named_before_anything_is_parsed() {
        let argv = |args: &str| args.split(' ').map(OsString::from).collect::<Vec<_>>();
        let file = |args: &str| config_file(&argv(args));
        assert_eq!(
            file("lookbook load --config a.toml x"),
            Some("a.toml".into())
        );
        assert_eq!(file("lookbook --config=b.toml load"), Some("b.toml".into()));
        assert_eq!(file("lookbook load -- --config"), None);
    }
}
