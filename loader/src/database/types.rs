//! The two values the client library does not know: `embedding` and `box`, in PostgreSQL's binary
//! form.

use std::error::Error;

use lookbook_vecmath::wire;
use postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked};

/// A vector as the extension's `embedding`.
#[derive(Debug)]
pub struct EmbeddingRef<'a>(pub &'a [f32]);

impl ToSql for EmbeddingRef<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let mut message = Vec::with_capacity(wire::encoded_bytes(self.0.len()));
        wire::encode(self.0, &mut message)?;
        out.extend_from_slice(&message);
        Ok(IsNull::No)
    }

    fn accepts(of: &Type) -> bool {
        of.name() == "embedding"
    }

    to_sql_checked!();
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
}
