//! A CSV or TSV manifest as a source: a header row with `path`, perhaps `sku`, and any further
//! columns, which become the photo's attributes.
//!
//! Invariant: a manifest is taken whole or refused with the number of the line to mend; a wrong
//! manifest must not half load.

use std::{
    collections::{HashMap, hash_map},
    fs::File,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::{Catalogue, Entry, sku_of};

/// Reads the manifest at `file`; its paths are relative to its folder.
pub fn read(file: &Path, delimiter: u8) -> Result<Catalogue> {
    let name = file.display();
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .from_path(file)
        .with_context(|| format!("cannot open {name}"))?;
    let columns = Columns::of(&mut reader).with_context(|| format!("manifest {name}"))?;
    let mut catalogue = Catalogue::default();
    let mut first_line: HashMap<PathBuf, u64> = HashMap::new();
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => bail!("manifest {name}: {}", explain(&error)),
        }
        let line = record.position().map_or(0, csv::Position::line);
        let entry = columns
            .entry(&record, folder)
            .with_context(|| format!("manifest {name}, line {line}"))?;
        match first_line.entry(normalised(&entry.path)) {
            hash_map::Entry::Vacant(vacant) => vacant.insert(line),
            hash_map::Entry::Occupied(first) => bail!(
                "manifest {name}, line {line}: path {:?} is already on line {}; a photo is named once",
                entry.path,
                first.get()
            ),
        };
        catalogue.entries.push(entry);
    }
    Ok(catalogue)
}

/// Where the columns are.
#[derive(Debug)]
struct Columns {
    path: usize,
    sku: Option<usize>,
    others: Vec<(usize, String)>,
}

impl Columns {
    fn of(reader: &mut Reader<File>) -> Result<Self> {
        let header = reader
            .headers()
            .map_err(|error| anyhow::anyhow!(explain(&error)))?;
        let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        for (at, name) in names.iter().enumerate() {
            if names[..at].contains(name) {
                bail!("line 1: two columns are named {name:?}");
            }
        }
        let find = |wanted: &str| names.iter().position(|name| name == wanted);
        let Some(path) = find("path") else {
            bail!(
                "line 1: no column named path; the columns are {}",
                names.join(", ")
            );
        };
        let sku = find("sku");
        let is_other = |at: &usize| *at != path && Some(*at) != sku;
        let others = (0..names.len())
            .filter(is_other)
            .map(|at| (at, names[at].clone()))
            .collect();
        Ok(Self { path, sku, others })
    }

    fn entry(&self, record: &ByteRecord, folder: &Path) -> Result<Entry> {
        let path = text(record, self.path)?;
        if path.is_empty() {
            bail!("the path is empty");
        }
        let sku = match self.sku {
            Some(column) => text(record, column)?,
            None => "",
        };
        let mut attributes = Map::new();
        for (column, name) in &self.others {
            let value = text(record, *column)?;
            if !value.is_empty() {
                attributes.insert(name.clone(), Value::from(value));
            }
        }
        Ok(Entry {
            path: path.to_owned(),
            file: folder.join(path),
            sku: if sku.is_empty() {
                sku_of(path)
            } else {
                sku.to_owned()
            },
            attributes: (!self.others.is_empty()).then_some(Value::Object(attributes)),
        })
    }
}

/// A cell as PostgreSQL text can hold it.
fn text(record: &ByteRecord, column: usize) -> Result<&str> {
    let cell = std::str::from_utf8(&record[column]);
    let cell = cell.with_context(|| format!("column {} is not UTF-8", column + 1))?;
    if cell.contains('\0') {
        bail!("column {} has a zero byte", column + 1);
    }
    Ok(cell)
}

/// `./a.jpg` and `a.jpg` are one photo.
fn normalised(path: &str) -> PathBuf {
    Path::new(path)
        .components()
        .filter(|part| *part != Component::CurDir)
        .collect()
}

fn explain(error: &csv::Error) -> String {
    let line = error.position().map_or(0, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            format!("line {line} has {len} columns, the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { .. } => format!("line {} is not UTF-8", line.max(1)),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(bytes: &[u8]) -> Result<Catalogue> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.csv");
        std::fs::write(&file, bytes).unwrap();
        read(&file, b',')
    }

    fn message(bytes: &[u8]) -> String {
        format!("{:#}", read_text(bytes).unwrap_err())
    }

    #[test]
    fn columns_beside_path_and_sku_become_attributes() {
        let catalogue =
            read_text(b"\xef\xbb\xbfcolour,path,sku\nred,a/b.jpg,S-1\n,c.jpg,\n").unwrap();
        let [first, second] = catalogue.entries.as_slice() else {
            panic!("two photos")
        };
        assert_eq!(
            (first.path.as_str(), first.sku.as_str()),
            ("a/b.jpg", "S-1")
        );
        assert_eq!(first.attributes, Some(serde_json::json!({"colour": "red"})));
        assert!(first.file.ends_with("a/b.jpg") && first.file.is_absolute());
        assert_eq!(
            (second.sku.as_str(), &second.attributes),
            ("c", &Some(serde_json::json!({})))
        );
    }

    #[test]
    fn a_wrong_manifest_is_refused_with_the_line_to_mend() {
        for (manifest, expected) in [
            (
                &b"file,sku\na.jpg,1\n"[..],
                "line 1: no column named path; the columns are file, sku",
            ),
            (b"", "line 1: no column named path"),
            (b"path,path\n", "line 1: two columns are named \"path\""),
            (
                b"path\na.jpg\nb.jpg\n./a.jpg\n",
                "line 4: path \"./a.jpg\" is already on line 2",
            ),
            (
                b"path,sku\na.jpg,1\nb.jpg\n",
                "line 3 has 1 columns, the header has 2",
            ),
            (b"path,sku\n,1\n", "line 2: the path is empty"),
            (b"path,sku\na\xff.jpg,1\n", "line 2: column 1 is not UTF-8"),
            (b"path,sku\na.jpg,1\0\n", "line 2: column 2 has a zero byte"),
        ] {
            let message = message(manifest);
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("photos.csv"), "{message}");
        }
    }
}
