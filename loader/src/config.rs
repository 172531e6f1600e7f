//! `lookbook.toml`: flags written down. Keys are the names of flags; those at the top hold for every
//! verb that has such a flag, those of a section (`[load]`, `[model.add]`) for its verb.
//!
//! Invariant: a key that no flag answers to is refused, with the nearest name; nothing of the file
//! overrides a flag or an environment variable, because it only changes defaults.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Arg, ArgAction, Command};
use toml::{Table, Value};

/// A value that the file gave to a flag.
#[derive(Debug)]
pub struct Setting {
    /// File and key, for messages.
    pub place: String,
    pub name: String,
    pub values: Vec<String>,
}

/// Reads the file and makes its values the defaults of `command`.
pub fn apply(command: Command, file: &Path) -> Result<(Command, Vec<Setting>)> {
    let text = fs::read_to_string(file)
        .with_context(|| format!("cannot read the configuration {}", file.display()))?;
    let table: Table = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        anyhow!(
            "the configuration {} is not TOML{}: {}",
            file.display(),
            before.map_or_else(String::new, place),
            // Not the line itself, which may hold a password.
            error.message()
        )
    })?;
    let mut reader = Reader {
        file: file.display().to_string(),
        settings: Vec::new(),
    };
    let command = reader.verb(command, &table, &[], "")?;
    Ok((command, reader.settings))
}

/// Where the text ends, from 1 on.
fn place(text: &str) -> String {
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!(", line {line}, column {column}")
}

struct Reader {
    file: String,
    settings: Vec<Setting>,
}

/// A key of an outer section that inner verbs inherit.
type Inherited<'a> = (&'a str, &'a Value);

impl Reader {
    /// Gives `table` to `command` and the verbs below it; `path` is `load.` or `model.add.`.
    fn verb(
        &mut self,
        mut command: Command,
        table: &Table,
        inherited: &[Inherited<'_>],
        path: &str,
    ) -> Result<Command> {
        let verbs: Vec<String> = command
            .get_subcommands()
            .map(|verb| verb.get_name().to_owned())
            .collect();
        let is_section =
            |name: &str, value: &Value| value.is_table() && verbs.iter().any(|verb| verb == name);
        let known = names_below(&command);
        let mut own: Vec<Inherited<'_>> = Vec::new();
        for (name, value) in table {
            if is_section(name, value) {
                continue;
            }
            if !known.contains(name.as_str()) {
                bail!(
                    "{}: unknown key {path}{name}{}; keys are the names of flags (lookbook VERB --help lists them)",
                    self.file,
                    nearest(
                        name,
                        known
                            .iter()
                            .map(String::as_str)
                            .chain(verbs.iter().map(String::as_str))
                    )
                );
            }
            own.push((name, value));
        }
        // The inner section wins, so it is applied last.
        let all: Vec<Inherited<'_>> = inherited.iter().copied().chain(own).collect();
        for (name, value) in &all {
            command = self.flag(command, name, value, path)?;
        }
        let nothing = Table::new();
        for verb in verbs {
            let section = table.get(&verb).and_then(Value::as_table);
            let path = format!("{path}{verb}.");
            let mut outcome = Ok(());
            command = command.mut_subcommand(&verb, |inner| {
                let name = inner.get_name().to_owned();
                match self.verb(inner, section.unwrap_or(&nothing), &all, &path) {
                    Ok(inner) => inner,
                    Err(error) => {
                        outcome = Err(error);
                        Command::new(name)
                    }
                }
            });
            outcome?;
        }
        Ok(command)
    }

    fn flag(&mut self, command: Command, name: &str, value: &Value, path: &str) -> Result<Command> {
        let Some(arg) = command.get_arguments().find(|arg| answers_to(arg, name)) else {
            return Ok(command);
        };
        let id = arg.get_id().clone();
        let place = format!("{}: {path}{name}", self.file);
        let values = texts(arg, value).with_context(|| place.clone())?;
        self.settings.retain(|setting| setting.place != place);
        self.settings.push(Setting {
            place,
            name: name.to_owned(),
            values: values.clone(),
        });
        Ok(command.mut_arg(id, |arg| arg.required(false).default_values(values)))
    }
}

fn answers_to(arg: &Arg, name: &str) -> bool {
    match arg.get_long() {
        Some(long) => long == name,
        None => arg.get_id() == name,
    }
}

/// What a key may be called at this place: the flags of the verb and of all below it.
fn names_below(command: &Command) -> BTreeSet<String> {
    let own = command
        .get_arguments()
        .map(|arg| arg.get_long().unwrap_or(arg.get_id().as_str()).to_owned())
        // A file that names another file would be one too many.
        .filter(|name| name != "config");
    own.chain(command.get_subcommands().flat_map(names_below))
        .collect()
}

/// The value as it would stand on the command line.
fn texts(arg: &Arg, value: &Value) -> Result<Vec<String>> {
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue | ArgAction::SetFalse);
    match value {
        Value::Boolean(on) if is_switch => Ok(vec![on.to_string()]),
        _ if is_switch => bail!("must be true or false, not {}", value.type_str()),
        Value::Array(items) => {
            let takes_many = matches!(arg.get_action(), ArgAction::Append)
                || arg.get_value_delimiter().is_some();
            if !takes_many {
                bail!("takes one value, not a list");
            }
            items.iter().map(text).collect()
        }
        one => match arg.get_value_delimiter() {
            Some(delimiter) => Ok(text(one)?.split(delimiter).map(str::to_owned).collect()),
            None => Ok(vec![text(one)?]),
        },
    }
}

fn text(value: &Value) -> Result<String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Integer(number) => Ok(number.to_string()),
        Value::Float(number) => Ok(number.to_string()),
        Value::Boolean(on) => Ok(on.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
            bail!(
                "must be a text, a number, true or false, not a {}",
                value.type_str()
            )
        }
    }
}

/// `; did you mean …?` when something is near enough.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match best {
        Some((likeness, other)) if likeness > 0.7 => format!(", did you mean {other}?"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;
    use crate::{
        args::{Args, Verb},
        cli,
    };

    fn parse(text: &str, argv: &[&str]) -> Result<Args> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lookbook.toml");
        fs::write(&file, text).unwrap();
        let (command, _) = apply(cli::command(), &file)?;
        let matches = command.try_get_matches_from(argv)?;
        Ok(Args::from_arg_matches(&matches)?)
    }

    fn message(text: &str) -> String {
        format!("{:#}", parse(text, &["lookbook", "load", "x"]).unwrap_err())
    }

    #[test]
    fn flags_win_over_sections_and_those_over_the_top() {
        let text = "schema = 'top'\nbatch = 3\nverbose = 2\n[load]\nschema = 'shop'\nlimit = 5\nno-index = true\n";
        let args = parse(text, &["lookbook", "load", "photos", "--limit", "7"]).unwrap();
        assert_eq!(args.verbose, 2);
        let Verb::Load(load) = args.verb else {
            panic!()
        };
        assert_eq!((load.target.schema.as_str(), load.batch), ("shop", 3));
        assert_eq!((load.limit, load.no_index), (Some(7), true));
        let args = parse(text, &["lookbook", "search", "a.jpg"]).unwrap();
        let Verb::Search(search) = args.verb else {
            panic!()
        };
        assert_eq!(search.target.schema, "top");
    }

    #[test]
    fn a_key_of_a_verb_below_and_a_position_can_be_given() {
        let text = "[model.add]\nonnx = 'm.onnx'\nmanifest = 'm.json'\n[load]\nsource = 'photos'\n";
        assert!(parse(text, &["lookbook", "model", "add", "m"]).is_ok());
        let args = parse(text, &["lookbook", "load"]).unwrap();
        let Verb::Load(load) = args.verb else {
            panic!()
        };
        assert_eq!(load.source.sources, [Path::new("photos")]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_name() {
        let said = message("[load]\nshema = 'x'\n");
        assert!(
            said.contains("unknown key load.shema, did you mean schema?"),
            "{said}"
        );
        assert!(said.contains("lookbook.toml"), "{said}");
        let said = message("[laod]\nschema = 'x'\n");
        assert!(
            said.contains("unknown key laod, did you mean load?"),
            "{said}"
        );
        // A flag of another verb is unknown in this section.
        let said = message("[detect]\nno-index = true\n");
        assert!(said.contains("unknown key detect.no-index"), "{said}");
        let said = message("[load]\nno-index = 1\n");
        assert!(
            said.contains("load.no-index: must be true or false"),
            "{said}"
        );
        let said = message("[load]\nschema = ['a', 'b']\n");
        assert!(said.contains("load.schema: takes one value"), "{said}");
        let said = message("schema = 'x'\ndatabase = postgresql://shop:s3cret@db/shop\n");
        assert!(said.contains("is not TOML, line 2, column 12: "), "{said}");
        assert!(!said.contains("s3cret"), "{said}");
    }
}
