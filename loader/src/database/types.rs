//! The values the client library does not know, in PostgreSQL's binary form: `embedding` (and pgvector's `vector`,
//! which is the same), pgvector's `halfvec`, `box`, `uuid`; and a cell, which takes the form of its column.

use std::{error::Error, fmt};

use half::f16;
use lookbook_vecmath::wire;
use postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

/// A vector as the extension's `embedding`, or pgvector's `vector` or `halfvec`.
#[derive(Debug)]
pub struct EmbeddingRef<'a>(pub &'a [f32]);

impl ToSql for EmbeddingRef<'_> {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if of.name() == "halfvec" {
            encode_half(self.0, out)?;
            return Ok(IsNull::No);
        }
        let mut message = Vec::with_capacity(wire::encoded_bytes(self.0.len()));
        wire::encode(self.0, &mut message)?;
        out.extend_from_slice(&message);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        ["embedding", "vector", "halfvec"].contains(&of.name())
    }

    to_sql_checked!();
}

/// Their number, two bytes of zero, then each rounded to the nearest half-precision number (`halfvec_send` in pgvector's
/// `src/halfvec.c`).
fn encode_half(values: &[f32], out: &mut BytesMut) -> Result<(), Box<dyn Error + Sync + Send>> {
    out.extend_from_slice(&u16::try_from(values.len())?.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    for &value in values {
        let half = f16::from_f32(value);
        if !half.is_finite() {
            return Err(format!("{value} is out of range for type halfvec").into());
        }
        out.extend_from_slice(&half.to_bits().to_be_bytes());
    }
    Ok(())
}

/// A rectangle as PostgreSQL's `box`: four `float8`, the corner with the larger coordinates first
/// (`box_send` in `src/backend/utils/adt/geo_ops.c`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Box2 {
    pub x1: f64,
    pub y1: f64,
    pub x2: f64,
    pub y2: f64,
}

impl ToSql for Box2 {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        for value in [self.x2, self.y2, self.x1, self.y1] {
            out.extend_from_slice(&value.to_be_bytes());
        }
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BOX
    }

    to_sql_checked!();
}

impl FromSql<'_> for Box2 {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let (values, rest) = raw.as_chunks();
        match (values, rest) {
            ([x2, y2, x1, y1], []) => Ok(Self {
                x1: f64::from_be_bytes(*x1),
                y1: f64::from_be_bytes(*y1),
                x2: f64::from_be_bytes(*x2),
                y2: f64::from_be_bytes(*y2),
            }),
            _ => Err(format!("a box has 32 bytes, this one has {}", raw.len()).into()),
        }
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BOX
    }
}

/// Sixteen bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid([u8; 16]);

impl Uuid {
    /// Of its usual form: 32 hex digits in five groups.
    pub fn parse(text: &str) -> Option<Self> {
        let groups = text.split('-').map(str::len);
        if !text.is_ascii() || !groups.eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let digits = text.replace('-', "");
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

/// A value that is written as its column needs it.
#[derive(Debug, Clone, Copy)]
pub enum Cell<'a> {
    Null,
    /// Also what a column of integers or of uuids shall hold.
    Text(&'a str),
    Int(i64),
    Float(f32),
    Bool(bool),
    Bytes(&'a [u8]),
    Json(&'a serde_json::Value),
    Box(Box2),
    Vector(&'a [f32]),
}

impl ToSql for Cell<'_> {
    fn to_sql(
        &self,
        of: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match *self {
            Self::Null => Ok(IsNull::Yes),
            Self::Text(text) => match *of {
                Type::INT2 | Type::INT4 | Type::INT8 => Cell::Int(text.parse()?).to_sql(of, out),
                Type::UUID => {
                    let uuid = Uuid::parse(text).ok_or_else(|| format!("{text:?} is no uuid"))?;
                    out.extend_from_slice(&uuid.0);
                    Ok(IsNull::No)
                }
                _ => {
                    out.extend_from_slice(text.as_bytes());
                    Ok(IsNull::No)
                }
            },
            Self::Int(number) => match *of {
                Type::INT2 => i16::try_from(number)?.to_sql(of, out),
                Type::INT4 => i32::try_from(number)?.to_sql(of, out),
                _ => number.to_sql(of, out),
            },
            Self::Float(number) => match *of {
                Type::FLOAT8 => f64::from(number).to_sql(of, out),
                _ => number.to_sql(of, out),
            },
            Self::Bool(value) => value.to_sql(of, out),
            Self::Bytes(bytes) => bytes.to_sql(of, out),
            Self::Json(value) => value.to_sql(of, out),
            Self::Box(rectangle) => rectangle.to_sql(of, out),
            Self::Vector(vector) => EmbeddingRef(vector).to_sql(of, out),
        }
    }

    /// Columns are checked before.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_is_sent_with_its_larger_corner_first() {
        let rectangle = Box2 {
            x1: 1.0,
            y1: 2.0,
            x2: 3.0,
            y2: 4.5,
        };
        let mut sent = BytesMut::new();
        rectangle.to_sql(&Type::BOX, &mut sent).unwrap();
        assert_eq!(sent[..8], 3.0f64.to_be_bytes());
        assert_eq!(Box2::from_sql(&Type::BOX, &sent).unwrap(), rectangle);
        assert!(Box2::from_sql(&Type::BOX, &sent[1..]).is_err());
    }

    #[test]
    fn a_halfvec_is_rounded_and_never_infinite() {
        let mut sent = BytesMut::new();
        encode_half(&[1.0, -0.333_333_34, 0.0], &mut sent).unwrap();
        assert_eq!(sent[..], [0, 3, 0, 0, 0x3c, 0, 0xb5, 0x55, 0, 0]);
        let error = encode_half(&[70_000.0], &mut sent).unwrap_err();
        assert_eq!(error.to_string(), "70000 is out of range for type halfvec");
    }

    #[test]
    fn a_uuid_is_read_and_written_in_its_usual_form() {
        let text = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(Uuid::parse(text).unwrap().to_string(), text);
        for wrong in [
            "",
            "0f8fad5b",
            "0f8fad5bd9cb469fa16570867728950e",
            "0f8fad5b-d9cb-469f-a165-70867728950g",
        ] {
            assert_eq!(Uuid::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_cell_takes_the_form_of_its_column() {
        let sent = |cell: Cell<'_>, of: &Type| {
            let mut sent = BytesMut::new();
            cell.to_sql(of, &mut sent).map(|_| sent.to_vec())
        };
        assert_eq!(sent(Cell::Text("258"), &Type::INT4).unwrap(), [0, 0, 1, 2]);
        assert_eq!(sent(Cell::Text("258"), &Type::TEXT).unwrap(), b"258");
        assert_eq!(
            sent(Cell::Int(1), &Type::INT8).unwrap(),
            1_i64.to_be_bytes()
        );
        assert_eq!(
            sent(Cell::Float(0.5), &Type::FLOAT8).unwrap(),
            0.5_f64.to_be_bytes()
        );
        assert!(sent(Cell::Text("70000"), &Type::INT2).is_err());
        assert!(sent(Cell::Text("x"), &Type::INT4).is_err());
    }
}
