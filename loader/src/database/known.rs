//! What is loaded already: by it a rerun knows what to skip and what to replace.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
};

use anyhow::Result;
use lookbook_vision::Group;
use postgres::{Client, fallible_iterator::FallibleIterator};
use serde_json::Value;

use super::Target;
use crate::source::{Decimal, Entry};

/// In the list of the photos of a table of the shop, which can do without: a photo that gets a product, of whatever key,
/// has to differ.
pub const NO_PRODUCT: &str = "";

/// The ONNX digests that a photo's rows depend on, as hex.
#[derive(Debug, Clone)]
pub struct Models {
    pub detect: String,
    pub embed: String,
}

/// A photo in the table.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    pub id: i64,
    sha256: [u8; 32],
    about: About,
    has_these_models: bool,
}

/// A digest of what the source says of a photo beside its pixels: 64 bits tell two versions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct About(u64);

impl About {
    fn new(sku: &str, sells: Option<&str>, attributes: Option<&Value>) -> Self {
        let mut hasher = DefaultHasher::new();
        (sku, sells).hash(&mut hasher);
        if let Some(attributes) = attributes {
            hash(attributes, &mut hasher);
        }
        Self(hasher.finish())
    }
}

/// As the database may give it back: objects have their keys in order, whatever order they came in, and a number may
/// be written otherwise.
fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Array(elements) => {
            (1, elements.len()).hash(hasher);
            elements.iter().for_each(|element| hash(element, hasher));
        }
        Value::Object(pairs) => {
            (2, pairs.len()).hash(hasher);
            for (name, value) in pairs {
                name.hash(hasher);
                hash(value, hasher);
            }
        }
        Value::Number(number) => (3, Decimal::of(&number.to_string())).hash(hasher),
        Value::String(text) => (4, text).hash(hasher),
        Value::Null | Value::Bool(_) => (5, value.as_bool()).hash(hasher),
    }
}

impl Loaded {
    /// Whether loading those bytes again would write the same rows.
    pub fn is_current(&self, sha256: &[u8; 32], about: About) -> bool {
        self.has_these_models && self.sha256 == *sha256 && self.about == about
    }
}

/// All photos of the table by path; about 150 bytes each.
#[derive(Debug, Default)]
pub struct Known {
    photos: HashMap<Box<str>, Loaded>,
    is_mapped: bool,
}

impl Known {
    pub fn read(client: &mut Client, target: &Target, models: &Models) -> Result<Self> {
        // Every photo has a garment. Somebody may have deleted it: a product of the shop that went and came back.
        let query = format!(
            "SELECT path, id, sha256, detect_model = $1 AND embed_model = $2 AND EXISTS (SELECT FROM {} g WHERE {}), sku::pg_catalog.text, attributes, sells \
             FROM {} p",
            target.garment,
            target.is_of_photo()?,
            target.photo
        );
        let mut rows = client.query_raw(&query, [&models.detect, &models.embed])?;
        let mut known = HashMap::new();
        while let Some(row) = rows.next()? {
            let sha256: &[u8] = row.get(2);
            let attributes: Option<Value> = row.get(5);
            let loaded = Loaded {
                id: row.get(1),
                // Rows that others wrote may hold anything; then the photo counts as changed.
                sha256: sha256.try_into().unwrap_or_default(),
                about: About::new(row.get(4), row.get(6), attributes.as_ref()),
                has_these_models: sha256.len() == 32 && row.get::<_, bool>(3),
            };
            known.insert(row.get::<_, &str>(0).into(), loaded);
        }
        Ok(Self {
            photos: known,
            is_mapped: target.is_mapped,
        })
    }

    /// What the list of photos would have of it.
    pub fn about(&self, entry: &Entry) -> About {
        let sku = match entry.sku {
            None if self.is_mapped => NO_PRODUCT,
            _ => entry.product(),
        };
        let sells = entry.sells.map(Group::as_str);
        About::new(sku, sells, entry.attributes.as_ref())
    }

    pub fn photo(&self, path: &str) -> Option<&Loaded> {
        self.photos.get(path)
    }

    /// Path and id of every photo.
    pub fn photos(&self) -> impl Iterator<Item = (&str, i64)> {
        self.photos
            .iter()
            .map(|(path, loaded)| (&**path, loaded.id))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_of_a_photo_is_told_apart_whatever_the_order_of_its_keys() {
        let of = |sku, text: &str| About::new(sku, None, serde_json::from_str(text).ok().as_ref());
        assert_eq!(
            of("a", r#"{"b": "1", "a": "2"}"#),
            of("a", r#"{"a": "2", "b": "1"}"#)
        );
        assert_ne!(of("a", r#"{"b": "1"}"#), of("a", r#"{"b": "2"}"#));
        let named = About::new("a", None, None);
        assert_ne!(named, About::new("b", None, None));
        assert_ne!(named, About::new("a", Some("upper"), None));
        assert_ne!(named, About::new("a", None, Some(&json!({}))));
        // As jsonb gives numbers back.
        assert_eq!(
            of("a", r#"{"x": [1e16, -0.0, 1.50]}"#),
            of("a", r#"{"x": [10000000000000000, 0, 1.5]}"#)
        );
        assert_ne!(of("a", r#"{"x": 1}"#), of("a", r#"{"x": 10}"#));
        assert_ne!(of("a", r#"{"x": "1"}"#), of("a", r#"{"x": 1}"#));
    }
}
