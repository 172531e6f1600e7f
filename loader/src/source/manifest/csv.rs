//! CSV and TSV: a header row, then one row per photo.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context, Result, anyhow, bail};
use csv::{ByteRecord, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::{super::names::distinct, Roles, Row};

/// In which the header's delimiter is looked for.
const MOST_OF_HEADER: u64 = 1 << 16;

/// `delimiter`: the one of the format, else what the header has.
pub fn rows(file: &Path, delimiter: Option<u8>, roles: &Roles) -> Result<Rows> {
    let delimiter = match delimiter {
        Some(delimiter) => delimiter,
        None => delimiter_of(file)?,
    };
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(Chunks {
            file: File::open(file).context("cannot be opened")?,
            quotes: Quotes::new(delimiter),
            last: Vec::new(),
            end: 0,
        });
    let header = reader.byte_headers()?.clone();
    let line = format!("line {}", line_of(&reader, &header));
    let name = |at| Ok(text(&header, at)?.trim().to_owned());
    let names: Result<Vec<String>> = (0..header.len()).map(name).collect();
    let mut names = names.with_context(|| line.clone())?;
    // Spreadsheets write the empty columns behind a table, too.
    while names.last().is_some_and(String::is_empty) {
        names.pop();
    }
    distinct(&names).with_context(|| line.clone())?;
    let borrowed: Vec<&str> = names.iter().map(String::as_str).collect();
    let found = roles.find(&borrowed, true).context(line)?;
    let is_role = |name: &String| found.iter().flatten().any(|role| role == name);
    Ok(Rows {
        has_others: !names.iter().all(is_role),
        reader,
        roles: roles.clone(),
        found,
        names,
        is_over: false,
    })
}

/// The rows of one file.
pub struct Rows {
    reader: Reader<Chunks>,
    roles: Roles,
    found: super::Found,
    names: Vec<String>,
    has_others: bool,
    is_over: bool,
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = ByteRecord::new();
        if self.is_over {
            return None;
        }
        let read = self.reader.read_byte_record(&mut record);
        let line = line_of(&self.reader, &record);
        match read {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                self.is_over = true;
                return Some(Err(anyhow!(explain(&error, line))));
            }
        }
        let row = self.row(&record).map(|item| (line, item));
        Some(row.with_context(|| format!("line {line}")))
    }
}

impl Rows {
    fn row(&self, record: &ByteRecord) -> Result<super::Item> {
        let mut row = Map::new();
        for (column, name) in self.names.iter().enumerate() {
            row.insert(name.clone(), Value::from(text(record, column)?.trim()));
        }
        for column in self.names.len()..record.len() {
            if !text(record, column)?.trim().is_empty() {
                bail!(
                    "column {} has a value, and the header no name for it",
                    column + 1
                );
            }
        }
        self.roles.item(&self.found, row, None, self.has_others)
    }
}

/// A semicolon where the header has no comma, as spreadsheets write it where numbers have decimal commas.
fn delimiter_of(file: &Path) -> Result<u8> {
    let mut begin = Vec::new();
    let opened = File::open(file).context("cannot be opened")?;
    opened.take(MOST_OF_HEADER).read_to_end(&mut begin)?;
    if begin.starts_with(b"\xff\xfe") || begin.starts_with(b"\xfe\xff") {
        bail!("it is UTF-16: save it as UTF-8");
    }
    let header = begin.split(|byte| *byte == b'\n').next().unwrap_or(&begin);
    let is_semicolon = header.contains(&b';') && !header.contains(&b',');
    Ok(if is_semicolon { b';' } else { b',' })
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

fn explain(error: &csv::Error, line: u64) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => {
            format!("line {line} has {len} columns, the header has {expected_len}")
        }
        // It names its line.
        csv::ErrorKind::Io(error) => error.to_string(),
        _ => error.to_string(),
    }
}

/// The line on which a record begins that was just read. Its own position is where the parser stood before it passed
/// over empty lines, and over what was left of the line end before: of CR LF it takes the CR only.
fn line_of(reader: &Reader<Chunks>, record: &ByteRecord) -> u64 {
    let end = reader.position();
    let fields = record.as_slice().iter();
    let line_ends_inside = fields.filter(|byte| **byte == b'\n').count() as u64;
    let has_its_end = reader.get_ref().byte_before(end.byte()) == Some(b'\n');
    end.line()
        .saturating_sub(line_ends_inside + u64::from(has_its_end))
}

/// Whether quotes are closed. The parser takes the end of the file for the end of a quoted field, and text behind a
/// closing quote for a part of it, so that one missing quote swallows rows.
struct Quotes {
    delimiter: u8,
    state: Quote,
    line: u64,
    /// Where the field begins that is read.
    began: u64,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    /// At the beginning of a field.
    Before,
    /// In a field without quotes, which may have some inside.
    None,
    Open,
    /// The quote that closes a field, or the first of two that stand for one.
    Closing,
}

impl Quotes {
    fn new(delimiter: u8) -> Quotes {
        Quotes {
            delimiter,
            state: Quote::Before,
            line: 1,
            began: 1,
            bytes: 0,
        }
    }

    fn read(&mut self, chunk: &[u8]) -> io::Result<()> {
        const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
        for &byte in chunk {
            let at = usize::try_from(self.bytes).unwrap_or(usize::MAX);
            self.bytes += 1;
            if BYTE_ORDER_MARK.get(at) == Some(&byte) {
                continue;
            }
            let ends = byte == self.delimiter || byte == b'\n' || byte == b'\r';
            self.state = match self.state {
                Quote::Before if byte == b'"' => {
                    self.began = self.line;
                    Quote::Open
                }
                Quote::Before | Quote::None if ends => Quote::Before,
                Quote::Before | Quote::None => Quote::None,
                Quote::Open if byte == b'"' => Quote::Closing,
                Quote::Open => Quote::Open,
                Quote::Closing if byte == b'"' => Quote::Open,
                Quote::Closing if ends => Quote::Before,
                Quote::Closing => {
                    return Err(io::Error::other(format!(
                        "line {}: text behind the closing quote of a field that begins on line {}; a quote inside is written twice",
                        self.line, self.began
                    )));
                }
            };
            self.line += u64::from(byte == b'\n');
        }
        Ok(())
    }

    fn end(&self) -> io::Result<()> {
        match self.state {
            Quote::Open => Err(io::Error::other(format!(
                "the quote that a field begins with on line {} is never closed",
                self.began
            ))),
            _ => Ok(()),
        }
    }
}

/// A file, and what was read of it last.
struct Chunks {
    file: File,
    quotes: Quotes,
    last: Vec<u8>,
    /// Where that ends.
    end: u64,
}

impl Chunks {
    /// The byte before an offset in the chunk; at the end of the file, none.
    fn byte_before(&self, offset: u64) -> Option<u8> {
        let from_end = usize::try_from(self.end.checked_sub(offset)?).ok()?;
        let at = self.last.len().checked_sub(from_end + 1)?;
        self.last.get(at).copied()
    }
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        match count {
            0 => self.quotes.end()?,
            _ => self.quotes.read(&buffer[..count])?,
        }
        self.last.clear();
        self.last.extend_from_slice(&buffer[..count]);
        self.end += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        args::SourceArgs,
        source::{Item, Place},
    };

    fn read(bytes: &[u8], map: &[&str]) -> Result<Vec<Item>> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.csv");
        std::fs::write(&file, bytes).unwrap();
        let args = SourceArgs {
            map: map.iter().map(|pair| pair.parse().unwrap()).collect(),
            ..SourceArgs::default()
        };
        let part = super::super::csv(&file, None, &args)?;
        part.items.map(|found| Ok(found?.unwrap())).collect()
    }

    fn message(bytes: &[u8], map: &[&str]) -> String {
        format!("{:#}", read(bytes, map).unwrap_err())
    }

    #[test]
    fn columns_beside_path_and_sku_become_attributes() {
        let rows = read(
            b"\xef\xbb\xbfcolour,path,sku\nred,a/b.jpg,S-1\n,c.jpg,\n",
            &[],
        )
        .unwrap();
        let [first, second] = rows.as_slice() else {
            panic!("two photos")
        };
        let (entry, place) = (&first.entry, &first.place);
        assert_eq!((entry.path.as_str(), entry.product()), ("a/b.jpg", "S-1"));
        assert_eq!(entry.attributes, Some(serde_json::json!({"colour": "red"})));
        assert!(
            matches!(place, Place::File(file) if file.ends_with("a/b.jpg") && file.is_absolute())
        );
        assert_eq!(
            (second.entry.product(), &second.entry.attributes),
            ("c", &Some(serde_json::json!({})))
        );
    }

    #[test]
    fn columns_of_any_name_are_mapped() {
        let rows = read(
            b"product_id,photo,id,path\n7,a.jpg,k1,kept\n",
            &["image=photo", "sku=product_id", "key=id"],
        )
        .unwrap();
        let entry = &rows[0].entry;
        assert_eq!((entry.path.as_str(), entry.product()), ("k1", "7"));
        assert_eq!(entry.attributes, Some(serde_json::json!({"path": "kept"})));
        assert!(matches!(&rows[0].place, Place::File(file) if file.ends_with("a.jpg")));
        let wrong = message(b"path,sku\na.jpg,1\n", &["sku=product"]);
        assert!(
            wrong.contains("line 1: no column named product; the columns are path, sku"),
            "{wrong}"
        );
        let empty = message(b"path,id\na.jpg,\n", &["key=id"]);
        assert!(empty.contains("line 2: the key is empty"), "{empty}");
    }

    #[test]
    fn what_spreadsheets_write_is_read() {
        let rows = read(
            b"\xef\xbb\xbf\"path\";sku;price\r\n\"a;\"\"b\"\".jpg\"; S-1 ;12,90\r\nc\"d.jpg;;\"1\r\n2\"\r\n",
            &[],
        )
        .unwrap();
        let paths: Vec<&str> = rows.iter().map(|row| row.entry.path.as_str()).collect();
        assert_eq!(paths, ["a;\"b\".jpg", "c\"d.jpg"]);
        assert_eq!(rows[0].entry.product(), "S-1");
        assert_eq!(
            rows[0].entry.attributes,
            Some(serde_json::json!({"price": "12,90"}))
        );
    }

    #[test]
    fn empty_columns_behind_a_table_are_nothing() {
        let rows = read(b"path,sku,,\na.jpg,1,,\n", &[]).unwrap();
        assert_eq!(
            (rows[0].entry.product(), &rows[0].entry.attributes),
            ("1", &None)
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
            (
                b"path,sku,,\na.jpg,1,,\nb.jpg,2,,new\n",
                "line 3: column 4 has a value, and the header no name for it",
            ),
            (
                b"path,sku\r\np00.jpg,1\r\np01.jpg,2\r\np00.jpg,3\r\n",
                "line 4: path \"p00.jpg\" is already on line 2",
            ),
            (
                b"\r\n\npath,sku\np00.jpg,1\n\n\r\n\n,3",
                "line 8: the path is empty",
            ),
            (
                b"path,sku\r\na.jpg,\"two\r\nlines\"\r\n\r\nb.jpg",
                "line 5 has 1 columns",
            ),
            (
                b"path,sku\na.jpg,1\n\"b.jpg,2\nc.jpg,3\n",
                "the quote that a field begins with on line 3 is never closed",
            ),
            (
                b"path,sku,name\na.jpg,1,\"open\nb.jpg,2,z\n",
                "the quote that a field begins with on line 2 is never closed",
            ),
            (
                b"path,sku,name\na.jpg,1,\"open\nb.jpg,2,\"z\"\n",
                "line 3: text behind the closing quote of a field that begins on line 2",
            ),
            (
                b"\xef\xbb\xbf\"path\"x,sku\na.jpg,1\n",
                "line 1: text behind the closing quote",
            ),
            (b"\xff\xfep\0a\0t\0h\0", "it is UTF-16"),
            (b"\n\npath,path\n", "line 3: two columns are named \"path\""),
            (b"path,\xff\n", "line 1: column 2 is not UTF-8"),
            (b"path,sku\na\xff.jpg,1\n", "line 2: column 1 is not UTF-8"),
            (b"path,sku\na.jpg,1\0\n", "line 2: column 2 has a zero byte"),
        ] {
            let message = message(manifest, &[]);
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("photos.csv"), "{message}");
        }
    }
}
