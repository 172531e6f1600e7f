//! Parquet: one row per photo. The photo's column holds a path, a URL or the bytes themselves, alone
//! or as the pair `{bytes, path}` that data sets of Hugging Face have.

use std::{fs::File, path::Path};

use anyhow::{Context, Result, anyhow, bail};
use parquet::{
    basic::{Compression, LogicalType, TimeUnit},
    file::{
        metadata::RowGroupMetaData, reader::FileReader, serialized_reader::SerializedFileReader,
    },
    record::{Field, reader::RowIter},
    schema::types::{Type, TypePtr},
};
use serde_json::{Map, Value};

use super::{
    super::names::{distinct, has_zero},
    Roles, Row,
};
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
    distinct(&names)?;
    let groups = reader.metadata().row_groups().iter();
    let unread = groups
        .flat_map(RowGroupMetaData::columns)
        .find_map(|column| match column.compression() {
            Compression::BROTLI(_) => Some("Brotli"),
            Compression::LZO => Some("LZO"),
            _ => None,
        });
    if let Some(packing) = unread {
        bail!("it is packed by {packing}, which is not read: pack it by Snappy, zstd, gzip or LZ4");
    }
    let kinds = schema.get_fields().to_vec();
    let found = roles.find(&names, true)?;
    let is_role = |name: &&str| found.iter().flatten().any(|role| role == name);
    let has_others = !names.iter().all(is_role);
    Ok(Rows {
        rows: RowIter::from_file_into(Box::new(reader)).with_batch_size(BATCH_ROWS),
        roles: roles.clone(),
        found,
        kinds,
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
    /// Of each column.
    kinds: Vec<TypePtr>,
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
        let [image, roles @ ..] = &self.found;
        let mut row = Map::new();
        let mut held = None;
        for ((name, field), kind) in columns.into_iter().zip(&self.kinds) {
            let value = if Some(&name) == image.as_ref() {
                let (bytes, path) = photo_of(field)?;
                held = bytes;
                path.map_or(Value::Null, Value::from)
            } else {
                let has_role = roles.iter().flatten().any(|role| *role == name);
                let value = match field {
                    Field::Bytes(bytes) if has_role && !is_uuid(kind) => text_of(bytes.data()),
                    // Some writers mean nothing by it.
                    Field::Float(number) if has_role && number.is_nan() => Ok(Value::Null),
                    Field::Double(number) if has_role && number.is_nan() => Ok(Value::Null),
                    field => value_of(&field, kind),
                };
                value.with_context(|| format!("column {name}"))?
            };
            if has_zero(&value) {
                bail!("column {name} has a zero character, which PostgreSQL cannot store");
            }
            row.insert(name, value);
        }
        self.roles.item(&self.found, row, held, self.has_others)
    }
}

/// As JSON, at whatever depth: numbers by their shortest digits, moments as text with their zone if they have one.
/// `kind` is the type of the column, or of a part of it that has the field in it: what makes up lists has no names.
fn value_of(field: &Field, kind: &Type) -> Result<Value> {
    Ok(match field {
        Field::Group(row) => {
            let has = |name: &str| fields_of(kind).iter().find(|of| of.name() == name);
            let is_its_own = row.get_column_iter().all(|(name, _)| has(name).is_some());
            if let ([only], false) = (fields_of(kind), is_its_own) {
                return value_of(field, only);
            }
            let pair = |(name, field): (&String, &Field)| {
                let kind = has(name).map_or(kind, |kind| &**kind);
                Ok((name.clone(), value_of(field, kind)?))
            };
            Value::Object(row.get_column_iter().map(pair).collect::<Result<_>>()?)
        }
        Field::ListInternal(list) => {
            let elements = list.elements().iter();
            Value::Array(
                elements
                    .map(|field| value_of(field, kind))
                    .collect::<Result<_>>()?,
            )
        }
        Field::MapInternal(map) => {
            let kind = innermost(kind);
            let [key_kind, value_kind] = fields_of(kind) else {
                bail!("it is a map of something else than pairs");
            };
            let pair = |(key, value): &(Field, Field)| {
                let key = match value_of(key, key_kind)? {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                Ok((key, value_of(value, value_kind)?))
            };
            Value::Object(map.entries().iter().map(pair).collect::<Result<_>>()?)
        }
        field => scalar_of(field, innermost(kind))?,
    })
}

fn fields_of(kind: &Type) -> &[TypePtr] {
    match kind.is_group() {
        true => kind.get_fields(),
        false => &[],
    }
}

/// Without what is around it alone, as in a list.
fn innermost(mut kind: &Type) -> &Type {
    while let [only] = fields_of(kind) {
        kind = only;
    }
    kind
}

fn is_uuid(kind: &Type) -> bool {
    kind.get_basic_info().logical_type_ref() == Some(&LogicalType::Uuid)
}

fn scalar_of(field: &Field, kind: &Type) -> Result<Value> {
    let logical = kind.get_basic_info().logical_type_ref();
    let field = match (field, logical) {
        (Field::Float(number), _) => return Ok(number_of(number.to_string().parse()?)),
        (Field::Float16(number), _) => return Ok(number_of(number.to_string().parse()?)),
        (Field::Double(number), _) => return Ok(number_of(*number)),
        (Field::Bytes(bytes), Some(LogicalType::Uuid)) => return uuid_of(bytes.data()),
        (Field::Long(since), Some(LogicalType::Timestamp(stamp))) => match stamp.unit {
            TimeUnit::NANOS => Field::TimestampMicros(since.div_euclid(1000)),
            TimeUnit::MICROS => Field::TimestampMicros(*since),
            TimeUnit::MILLIS => Field::TimestampMillis(*since),
        },
        (Field::Long(since), Some(LogicalType::Time(time))) => match time.unit {
            TimeUnit::NANOS => Field::TimeMicros(since.div_euclid(1000)),
            _ => Field::TimeMicros(*since),
        },
        (Field::Int(since), Some(LogicalType::Time(_))) => Field::TimeMillis(*since),
        (field, _) => field.clone(),
    };
    // The crate takes some moments for impossible.
    let value = messages::contain(|| field.to_json_value());
    let mut value = value.map_err(|panic| anyhow!(panic))?;
    if let Value::String(text) = &mut value {
        let end = match (&field, logical) {
            (Field::Decimal(_), _) => ".",
            (_, Some(LogicalType::Timestamp(stamp))) if !stamp.is_adjusted_to_u_t_c => " +00:00",
            _ => "",
        };
        let kept = text.strip_suffix(end).map_or(text.len(), str::len);
        text.truncate(kept);
    }
    Ok(value)
}

/// What JSON has no number for as the text that PostgreSQL writes.
fn number_of(number: f64) -> Value {
    match number {
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        _ if number.is_nan() => "NaN".into(),
        _ => number.into(),
    }
}

fn uuid_of(bytes: &[u8]) -> Result<Value> {
    let number = u128::from_be_bytes(bytes.try_into().context("a uuid has sixteen bytes")?);
    let digits = format!("{number:032x}");
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|group| &digits[group]);
    Ok(groups.join("-").into())
}

/// Some writers do not mark texts as such.
fn text_of(bytes: &[u8]) -> Result<Value> {
    let text = std::str::from_utf8(bytes);
    Ok(text
        .context("has bytes that are no text, and a key or a product has to be one")?
        .into())
}

/// The bytes of a photo, and its path.
fn photo_of(field: Field) -> Result<(Option<Vec<u8>>, Option<String>)> {
    match field {
        Field::Null => Ok((None, None)),
        Field::Str(text) => Ok((None, Some(text))),
        Field::Bytes(bytes) if bytes.is_empty() => Ok((Some(Vec::new()), None)),
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
        data_type::{ByteArray, ByteArrayType, Decimal, DoubleType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        record::Row,
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

    fn column(schema: &str) -> TypePtr {
        let schema = parse_message_type(&format!("message m {{ {schema} }}")).unwrap();
        schema.get_fields()[0].clone()
    }

    #[test]
    fn values_are_what_their_columns_say_at_every_depth() {
        let nanos = Field::Long(1_704_164_645_678_901_234);
        let of_10 = |scale| Field::Decimal(Decimal::from_i64(700, 9, scale));
        let uuid = Field::Bytes((0..16).collect::<Vec<u8>>().into());
        let in_utc = json!("2024-01-02 03:04:05.678901 +00:00");
        let naive = json!("2024-01-02 03:04:05.678901");
        for (field, kind, expected) in [
            (nanos.clone(), "int64 c (TIMESTAMP(NANOS,true))", in_utc),
            (nanos.clone(), "int64 c (TIMESTAMP(NANOS,false))", naive),
            (
                Field::TimestampMillis(1_704_164_645_678),
                "int64 c (TIMESTAMP(MILLIS,false))",
                json!("2024-01-02 03:04:05.678"),
            ),
            (nanos, "int64 c", json!(1_704_164_645_678_901_234_i64)),
            (
                Field::Long(3_723_000_000),
                "int64 c (TIME(MICROS,false))",
                json!("01:02:03.000000"),
            ),
            (
                Field::Long(3_723_000_000_000),
                "int64 c (TIME(NANOS,false))",
                json!("01:02:03.000000"),
            ),
            (Field::Float(0.1), "float c", json!(0.1)),
            (Field::Float(f32::NAN), "float c", json!("NaN")),
            (Field::Double(f64::INFINITY), "double c", json!("Infinity")),
            (
                Field::Double(f64::NEG_INFINITY),
                "double c",
                json!("-Infinity"),
            ),
            (of_10(0), "int64 c (DECIMAL(9,0))", json!("700")),
            (of_10(2), "int64 c (DECIMAL(9,2))", json!("7.00")),
            (
                uuid,
                "fixed_len_byte_array(16) c (UUID)",
                json!("00010203-0405-0607-0809-0a0b0c0d0e0f"),
            ),
        ] {
            let alone = column(&format!("required {kind};"));
            assert_eq!(value_of(&field, &alone).unwrap(), expected, "{kind}");
            let inside = column(&format!("required group s {{ required {kind}; }}"));
            let group = Field::Group(Row::new(vec![("c".to_owned(), field)]));
            assert_eq!(value_of(&group, &inside).unwrap(), json!({"c": expected}));
        }
        let never = column("required int64 c (TIMESTAMP(MICROS,true));");
        let never = value_of(&Field::Long(i64::MAX), &never);
        assert!(never.is_err(), "{never:?}");
    }

    #[test]
    fn two_columns_of_one_name_are_a_mistake() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.parquet");
        let schema = "message m { required binary path; required int32 sku; required int32 sku; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let out = File::create(&file).unwrap();
        let writer = SerializedFileWriter::new(out, schema, Arc::default()).unwrap();
        writer.close().unwrap();
        let error = format!("{:#}", read(&file, &[]).unwrap_err());
        assert!(error.contains("two columns are named \"sku\""), "{error}");
    }

    /// One row of an image, a key and a list of two stamps.
    fn write_bytes(file: &Path, image: &[u8], key: &[u8]) {
        let schema = "message photos { required binary image; required binary id;
            required group l (LIST) { repeated group list { required int64 element (TIMESTAMP(MILLIS,false)); } } }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let out = File::create(file).unwrap();
        let mut writer = SerializedFileWriter::new(out, schema, Arc::default()).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for bytes in [image, key] {
            let mut column = group.next_column().unwrap().unwrap();
            let typed = column.typed::<ByteArrayType>();
            typed
                .write_batch(&[ByteArray::from(bytes)], None, None)
                .unwrap();
            column.close().unwrap();
        }
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<Int64Type>();
        typed
            .write_batch(&[0, 1_500], Some(&[1, 1]), Some(&[0, 1]))
            .unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn bytes_are_a_key_where_they_are_a_text_and_an_empty_photo_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("photos.parquet");
        write_bytes(&file, b"", b"k1");
        let rows = read(&file, &["key=id"]).unwrap();
        assert_eq!(rows[0].place, Place::Held(Vec::new()));
        assert_eq!(rows[0].entry.path, "k1");
        let stamps = json!({"l": ["1970-01-01 00:00:00.000", "1970-01-01 00:00:01.500"]});
        assert_eq!(rows[0].entry.attributes, Some(stamps));
        write_bytes(&file, PHOTO, b"\xff");
        let error = format!("{:#}", read(&file, &["key=id"]).unwrap_err());
        assert!(
            error.contains("column id: has bytes that are no text"),
            "{error}"
        );
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
