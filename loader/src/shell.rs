//! `lookbook completions` and `lookbook man`: what shells and `man` know of the command line; and words that a shell
//! takes as they are.

use std::{borrow::Cow, fs, path::Path};

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{generate, shells};
use clap_mangen::Man;

use crate::{
    args::{CompletionsArgs, ManArgs, Shell},
    cli,
    messages::{self, Ending},
};

const NAME: &str = "lookbook";

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
        let mut text = Vec::new();
        Man::new(command).render(&mut text)?;
        messages::print_exactly(String::from_utf8_lossy(&text).trim_end())?;
        return Ok(Ending::Complete);
    };
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut pages = Vec::new();
    pages_of(&command, NAME, &mut pages);
    for (name, page) in pages {
        let file = folder.join(format!("{name}.1"));
        let mut text = Vec::new();
        Man::new(page).render(&mut text)?;
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        messages::print(file.display())?;
    }
    Ok(Ending::Complete)
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
