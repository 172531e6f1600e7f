//! `lookbook completions` and `lookbook man`: what shells and `man` know of the command line; and words that a shell
//! takes as they are.

use std::{borrow::Cow, fs, path::Path};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{generate, shells};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use crate::{
    args::{CompletionsArgs, ManArgs, Shell},
    cli,
    messages::{self, Ending},
};

const NAME: &str = "lookbook";

/// What a page ends with.
const FILES: &[(&str, &str)] = &[
    (
        "lookbook-rejects.csv",
        "Photos that a load rejected, and why (--rejects).",
    ),
    (
        "$XDG_CACHE_HOME/lookbook, ~/.cache/lookbook",
        "Models, kept from one run to the next.",
    ),
    (
        "~/.pgpass, ~/.postgresql/root.crt",
        "Passwords and certificates, as psql takes them.",
    ),
];
const EXAMPLES: &[&str] = &[
    "lookbook load photos/ --database postgresql://localhost/shop",
    "lookbook load catalogue.csv --map image=file,sku=product,sells=category",
    "lookbook sync photos/ --prune --watch",
    "lookbook reembed --embed-model resnet-preact-64 --root photos/",
    "lookbook search customer.jpg --html sheet.html --root photos/",
    "lookbook detect customer.jpg --out boxes.png",
    "lookbook model check my-model.onnx",
    "lookbook eval detection --coco boxes.json",
    "lookbook doctor --database postgresql://localhost/shop",
];

pub fn completions(args: &CompletionsArgs) -> Result<Ending> {
    let mut command = cli::command();
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, NAME, &mut script),
    }
    messages::print_exactly(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Ending::Complete)
}

pub fn man(args: &ManArgs) -> Result<Ending> {
    let mut command = cli::command();
    command.build();
    let Some(folder) = &args.out else {
        messages::print_exactly(page(command, EXAMPLES)?.trim_end())?;
        return Ok(Ending::Complete);
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pages = Vec::new();
    pages_of(&command, NAME, &mut pages);
    for (name, command) in pages {
        let verb = name.split('-').nth(1);
        let is_of_verb = |example: &&&str| verb.is_none() || example.split(' ').nth(1) == verb;
        let examples: Vec<&str> = EXAMPLES.iter().filter(is_of_verb).copied().collect();
        let text = page(command, &examples)?;
        let file = folder.join(format!("{name}.1"));
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        messages::print(file.display())?;
    }
    Ok(Ending::Complete)
}

/// With the short usage of `--help`, and what the options do not say.
fn page(mut command: Command, examples: &[&str]) -> Result<String> {
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let mut text = Vec::new();
    Man::new(command.override_usage(usage)).render(&mut text)?;
    let mut end = Roff::new();
    end.control("SH", ["EXIT STATUS"])
        .text([roman(cli::EXIT_CODES)]);
    end.control("SH", ["ENVIRONMENT"]).text([roman(cli::RULE)]);
    end.control("SH", ["FILES"]);
    for (file, about) in FILES {
        end.control("TP", []).text([bold(*file)]);
        end.text([roman(*about)]);
    }
    if !examples.is_empty() {
        end.control("SH", ["EXAMPLES"]).control("nf", []);
        for example in examples {
            end.text([roman(*example)]);
        }
        end.control("fi", []);
    }
    Ok(String::from_utf8_lossy(&text).into_owned() + &end.to_roff())
}

/// A file's path as one word of a command line, quoted for a POSIX shell where it needs to be.
pub fn word(file: &Path) -> String {
    let path = file.to_string_lossy();
    // Else it would be a flag.
    let path = match path.starts_with('-') {
        true => Cow::Owned(format!("./{path}")),
        false => path,
    };
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+=:,@%".contains(c);
    match !path.is_empty() && path.chars().all(is_plain) {
        true => path.into_owned(),
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// A page for the command and each verb below it, named as `man` looks for them: `lookbook-model-add`.
fn pages_of(command: &Command, name: &str, pages: &mut Vec<(String, Command)>) {
    pages.push((name.to_owned(), command.clone().name(name.to_owned())));
    for verb in command.get_subcommands() {
        if verb.get_name() != "help" && !verb.is_hide_set() {
            pages_of(verb, &format!("{name}-{}", verb.get_name()), pages);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_man_pages_are_command_lines() {
        for example in EXAMPLES {
            cli::parse(example.split(' ').map(Into::into)).unwrap();
        }
    }

    #[test]
    fn paths_become_words_of_a_shell() {
        for (path, expected) in [
            ("models/a-b_1.onnx", "models/a-b_1.onnx"),
            ("größe.onnx", "größe.onnx"),
            ("odd name ä&'x.onnx", r"'odd name ä&'\''x.onnx'"),
            ("$HOME/a.onnx", "'$HOME/a.onnx'"),
            ("~/a.onnx", "'~/a.onnx'"),
            ("-odd.onnx", "./-odd.onnx"),
            ("-odd one.onnx", "'./-odd one.onnx'"),
        ] {
            assert_eq!(word(Path::new(path)), expected);
        }
    }
}
