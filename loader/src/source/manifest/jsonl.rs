//! JSON lines: one object per photo. Numbers and nested values stay what they are.

use std::{
    fs::File,
    io::{BufRead, BufReader, Lines},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{
    super::{
        decimal::{inexact, rounded},
        json,
        names::{REPEATED, has_zero},
    },
    Roles, Row,
};

pub fn rows(file: &Path, roles: &Roles) -> Result<Rows> {
    let file = File::open(file).context("cannot be opened")?;
    Ok(Rows {
        lines: BufReader::new(file).lines(),
        unseen: roles.sku.iter().chain(&roles.sells).cloned().collect(),
        roles: roles.clone(),
        line: 0,
        has_rows: false,
        is_over: false,
    })
}

/// The rows of one file.
pub struct Rows {
    lines: Lines<BufReader<File>>,
    roles: Roles,
    /// Names that were mapped, which rows may leave out, and no row has had yet.
    unseen: Vec<String>,
    line: u64,
    has_rows: bool,
    is_over: bool,
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        loop {
            self.line += 1;
            let line = self.line;
            let Some(text) = self.lines.next() else {
                return self.end().err().map(Err);
            };
            let item = match text {
                Ok(text) if text.trim().is_empty() => continue,
                Ok(text) => self.row(text.trim_start_matches('\u{feff}')),
                Err(error) => Err(error.into()),
            };
            // After an unreadable line every further one would be an error too.
            self.is_over = item.is_err();
            return Some(
                item.map(|item| (line, item))
                    .with_context(|| format!("line {line}")),
            );
        }
    }
}

impl Rows {
    fn end(&mut self) -> Result<()> {
        self.is_over = true;
        if self.has_rows && !self.unseen.is_empty() {
            bail!("no row has a column named {}", self.unseen.join(" or "));
        }
        Ok(())
    }

    fn row(&mut self, text: &str) -> Result<super::Item> {
        let row = json::object(text.as_bytes()).map_err(|error| anyhow!(explain(&error)))?;
        if let Some(number) = inexact(text) {
            bail!("{}", rounded(number));
        }
        if row
            .iter()
            .any(|(name, value)| name.contains('\0') || has_zero(value))
        {
            bail!("has a zero character, which PostgreSQL cannot store");
        }
        self.has_rows = true;
        self.unseen.retain(|name| !row.contains_key(name));
        let names: Vec<&str> = row.keys().map(String::as_str).collect();
        let found = self.roles.find(&names, false)?;
        let is_role = |name: &&str| found.iter().flatten().any(|role| role == name);
        let has_others = !names.iter().all(is_role);
        self.roles.item(&found, row, None, has_others)
    }
}

fn explain(error: &serde_json::Error) -> String {
    let column = error.column();
    match json::fault(error).as_str() {
        "number out of range" => {
            format!("character {column}: the number is out of range: write it as a text, in quotes")
        }
        fault if fault.contains("hex escape") => format!(
            "character {column}: an escape (\\u and four digits) is of half a character, as of a text that was cut inside of one: \
             write the text whole"
        ),
        fault if fault.starts_with(REPEATED) => fault.to_owned(),
        fault => format!("is not a JSON object: {fault} (character {column})"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{args::SourceArgs, source::Item};

    fn read(text: &[u8], map: &[&str]) -> Result<Vec<Item>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.jsonl");
        std::fs::write(&file, text).unwrap();
        let args = SourceArgs {
            map: map.iter().map(|pair| pair.parse().unwrap()).collect(),
            ..SourceArgs::default()
        };
        let part = super::super::jsonl(&file, &args)?;
        part.items.map(|found| Ok(found?.unwrap())).collect()
    }

    #[test]
    fn objects_keep_their_types_and_may_leave_things_out() {
        let rows = read(
            b"{\"path\": \"a.jpg\", \"sku\": 7, \"price\": 9.5, \"tags\": [\"new\"], \"old\": null}\n\n{\"path\": \"b.jpg\"}\n",
            &[],
        )
        .unwrap();
        assert_eq!(rows[0].entry.product(), "7");
        assert_eq!(
            rows[0].entry.attributes,
            Some(json!({"price": 9.5, "tags": ["new"]}))
        );
        assert_eq!(
            (rows[1].entry.product(), &rows[1].entry.attributes),
            ("b", &None)
        );
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, map, expected) in [
            (
                &b"{\"path\": \"a.jpg\"}\nnothing\n"[..],
                &[][..],
                "line 2: is not a JSON object",
            ),
            (b"[1]\n", &[], "line 1: is not a JSON object"),
            (
                b"{\"path\": {}}\n",
                &[],
                "line 1: column path: must be a text or a number",
            ),
            (b"{\"sku\": 1}\n", &[], "line 1: no column named path"),
            (
                b"{\"path\": \"a\"}\n{\"path\": \"b\", \"e\": 1e400}\n",
                &[],
                "line 2: character 24: the number is out of range",
            ),
            (
                b"{\"path\": \"a\", \"x\": \"\\ud83d\"}\n",
                &[],
                "is of half a character",
            ),
            (
                b"{\"path\": \"a\"}\n",
                &["image=file"],
                "line 1: no column named file",
            ),
            (
                b"{\"path\": \"a\\u0000\"}\n",
                &[],
                "line 1: has a zero character",
            ),
            (
                b"{\"path\": \"a\", \"x\": [\"\\u0000\"]}\n",
                &[],
                "line 1: has a zero character",
            ),
            (
                b"{\"path\": \"a\", \"path\": \"b\"}\n",
                &[],
                "line 1: two columns are named \"path\"",
            ),
            (b"{\"path\": \"\xff\"}\n", &[], "line 1"),
            (
                b"{\"path\": \"a\"}\n{\"path\": \"b\"}\n",
                &["sku=produkt"],
                "no row has a column named produkt",
            ),
            (
                b"{\"path\": \"a\"}\n{\"path\": \"./a\"}\n",
                &[],
                "line 2: path \"./a\" is already on line 1",
            ),
        ] {
            let error = format!("{:#}", read(text, map).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("photos.jsonl"), "{error}");
        }
    }
}
