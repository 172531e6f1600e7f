//! Parquet: one row per photo. The photo's column holds a path, a URL or the bytes themselves, alone
//! or as the pair `{bytes, path}` that data sets of Hugging Face have.

use std::{fs::File, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use parquet::{
    basic::{LogicalType, TimeUnit, TimestampType},
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, reader::RowIter},
};
use serde_json::{Map, Value};

use super::{super::names::has_zero, Roles, Row};
use crate::messages;

/// Rows that are decoded at once. Photos are large; the page they lie in is held beside them.
const BATCH_ROWS: usize = 16;
/// A text of more than that is no path.
const MAX_PATH_BYTES: usize = 4096;

pub fn rows(file: &Path, roles: &Roles) -> Result<Rows> {
    let opened = File::open(file).context("cannot be opened")?;
    let reader = messages::contain(|| SerializedFileReader::new(opened));
    let reader = reader
        .map_err(|panic| anyhow!(panic))?
        .context("is no Parquet file")?;
    let schema = reader.metadata().file_metadata().schema();
    let names: Vec<&str> = schema
        .get_fields()
        .iter()
        .map(|field| field.name())
        .collect();
    let stamp =
        |field: &parquet::schema::types::TypePtr| match field.get_basic_info().logical_type_ref() {
            Some(LogicalType::Timestamp(stamp)) => Some(stamp.clone()),
            _ => None,
        };
    let stamps = schema.get_fields().iter().map(stamp).collect();
    let found = roles.find(&names, true)?;
    let is_role = |name: &&str| found.iter().flatten().any(|role| role == name);
    let has_others = !names.iter().all(is_role);
    Ok(Rows {
        rows: RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH_ROWS),
        roles: roles.clone(),
        found,
        stamps,
        has_others,
        row: 0,
        is_over: false,
    })
}

/// The rows of one file.
pub struct Rows {
    rows: RowIter<'static>,
    roles: Roles,
    found: super::Found,
    /// Of each column, if it holds moments.
    stamps: Vec<Option<TimestampType>>,
    has_others: bool,
    row: u64,
    is_over: bool,
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        self.row += 1;
        let number = self.row;
        // The reader takes some kinds of damage for impossible.
        let next = match messages::contain(|| self.rows.next()) {
            Ok(None) => return None,
            Ok(Some(Ok(row))) => self.item(row.into_columns()),
            Ok(Some(Err(error))) => Err(error.into()),
            Err(panic) => Err(anyhow!("the file is damaged: {panic}")),
        };
        self.is_over = next.is_err();
        Some(
            next.map(|item| (number, item))
                .with_context(|| format!("row {number}")),
        )
    }
}

impl Rows {
    fn item(&self, columns: Vec<(String, Field)>) -> Result<super::Item> {
        let [image, ..] = &self.found;
        let mut row = Map::new();
        let mut held = None;
        for ((name, field), stamp) in columns.into_iter().zip(&self.stamps) {
            let value = if Some(&name) == image.as_ref() {
                let (bytes, path) = photo_of(field)?;
                held = bytes;
                path.map_or(Value::Null, Value::from)
            } else {
                value_of(field, stamp.as_ref()).with_context(|| format!("column {name}"))?
            };
            if has_zero(&value) {
                bail!("column {name} has a zero character, which PostgreSQL cannot store");
            }
            row.insert(name, value);
        }
        self.roles.item(&self.found, row, held, self.has_others)
    }
}

/// As JSON: numbers by their shortest digits, moments as text with their zone if they have one.
fn value_of(field: Field, stamp: Option<&TimestampType>) -> Result<Value> {
    let field = match (field, stamp) {
        (Field::Float(number), _) => return Ok(number.to_string().parse::<f64>()?.into()),
        (Field::Long(since), Some(stamp)) => match stamp.unit {
            TimeUnit::NANOS => Field::TimestampMicros(since.div_euclid(1000)),
            TimeUnit::MICROS => Field::TimestampMicros(since),
            TimeUnit::MILLIS => Field::TimestampMillis(since),
        },
        (field, _) => field,
    };
    // The crate takes some moments for impossible.
    let value = messages::contain(|| field.to_json_value());
    match (value.map_err(|panic| anyhow!(panic))?, stamp) {
        (Value::String(text), Some(stamp)) if !stamp.is_adjusted_to_u_t_c => {
            Ok(text.trim_end_matches(" +00:00").into())
        }
        (value, _) => Ok(value),
    }
}

/// The bytes of a photo, and its path.
fn photo_of(field: Field) -> Result<(Option<Vec<u8>>, Option<String>)> {
    match field {
        Field::Null => Ok((None, None)),
        Field::Str(text) => Ok((None, Some(text))),
        Field::Bytes(bytes) => Ok(match as_path(bytes.data()) {
            Some(text) => (None, Some(text.to_owned())),
            None => (Some(bytes.data().to_vec()), None),
        }),
        Field::Group(group) => {
            let (mut bytes, mut path) = (None, None);
            for (name, field) in group.into_columns() {
                match (name.as_str(), field) {
                    ("bytes", Field::Bytes(found)) => bytes = Some(found.data().to_vec()),
                    ("path", Field::Str(found)) => path = Some(found),
                    _ => {}
                }
            }
            Ok((bytes, path))
        }
        _ => bail!("the photo's column has neither text nor bytes"),
    }
}

/// Some writers do not mark texts as such; no photo is one.
fn as_path(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    (bytes.len() <= MAX_PATH_BYTES && !text.contains(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::{
        data_type::{ByteArray, ByteArrayType, DoubleType},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use serde_json::json;

    use super::*;
    use crate::{
        args::SourceArgs,
        source::{Item, Place},
    };

    const PHOTO: &[u8] = b"\xff\xd8\xff photo";

    /// Two rows: a path, bytes; a product; a price.
    fn write(file: &Path) {
        let schema = "message photos { required binary image; required binary id (UTF8); required double price; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().build());
        let out = File::create(file).unwrap();
        let mut writer = SerializedFileWriter::new(out, schema, properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for texts in [[b"a.jpg", PHOTO], [&b"k1"[..], b"k2"]] {
            let values = texts.map(ByteArray::from);
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<DoubleType>();
        typed.write_batch(&[9.5, 1.0], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    fn read(file: &Path, map: &[&str]) -> Result<Vec<Item>> {
        let args = SourceArgs {
            map: map.iter().map(|pair| pair.parse().unwrap()).collect(),
            ..SourceArgs::default()
        };
        let part = super::super::parquet(file, &args)?;
        part.items.map(|found| Ok(found?.unwrap())).collect()
    }

    #[test]
    fn a_photo_is_a_path_or_bytes_and_columns_keep_their_types() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.parquet");
        write(&file);
        let rows = read(&file, &["key=id"]).unwrap();
        assert_eq!(rows[0].place, Place::File(folder.path().join("a.jpg")));
        assert_eq!(rows[1].place, Place::Held(PHOTO.to_vec()));
        let entry = &rows[1].entry;
        assert_eq!((entry.path.as_str(), &entry.sku), ("k2", &None));
        assert_eq!(entry.attributes, Some(json!({"price": 1.0})));
        let nameless = format!("{:#}", read(&file, &[]).unwrap_err());
        assert!(
            nameless.contains("row 2: the photo has no name"),
            "{nameless}"
        );
    }

    #[test]
    fn values_are_what_their_columns_say() {
        let stamp = |unit, is_adjusted_to_u_t_c| TimestampType {
            is_adjusted_to_u_t_c,
            unit,
        };
        let nanos = Field::Long(1_704_164_645_678_901_234);
        for (field, stamp, expected) in [
            (
                nanos.clone(),
                Some(stamp(TimeUnit::NANOS, true)),
                json!("2024-01-02 03:04:05.678901 +00:00"),
            ),
            (
                nanos.clone(),
                Some(stamp(TimeUnit::NANOS, false)),
                json!("2024-01-02 03:04:05.678901"),
            ),
            (
                Field::TimestampMillis(1_704_164_645_678),
                Some(stamp(TimeUnit::MILLIS, false)),
                json!("2024-01-02 03:04:05.678"),
            ),
            (nanos, None, json!(1_704_164_645_678_901_234_i64)),
            (Field::Float(0.1), None, json!(0.1)),
            (Field::Float(f32::NAN), None, Value::Null),
        ] {
            assert_eq!(value_of(field, stamp.as_ref()).unwrap(), expected);
        }
        let never = value_of(Field::Long(i64::MAX), Some(&stamp(TimeUnit::MICROS, true)));
        assert!(never.is_err(), "{never:?}");
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.parquet");
        write(&file);
        let whole = std::fs::read(&file).unwrap();
        for at in (4..whole.len()).step_by(7) {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&file, bytes).unwrap();
            // Some bytes matter to nobody, some only to a value.
            if let Err(error) = read(&file, &["key=id"]) {
                let error = format!("{error:#}");
                assert!(error.contains("photos.parquet"), "{error}");
            }
        }
        std::fs::write(&file, b"no parquet").unwrap();
        let error = format!("{:#}", read(&file, &[]).unwrap_err());
        assert!(error.contains("is no Parquet file"), "{error}");
    }
}
