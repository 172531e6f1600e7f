//! What is loaded already: by it a rerun knows what to skip and what to replace.

use std::collections::HashMap;

use anyhow::Result;
use postgres::{Client, fallible_iterator::FallibleIterator};

use super::Tables;

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
    has_these_models: bool,
}

impl Loaded {
    /// Whether loading those bytes again would write the same rows.
    pub fn is_current(&self, sha256: &[u8; 32]) -> bool {
        self.has_these_models && self.sha256 == *sha256
    }
}

/// All photos of the table by path; about 150 bytes each.
#[derive(Debug, Default)]
pub struct Known(HashMap<Box<str>, Loaded>);

impl Known {
    pub fn read(client: &mut Client, tables: &Tables, models: &Models) -> Result<Self> {
        let query = format!(
            "SELECT path, id, sha256, detect_model = $1 AND embed_model = $2 FROM {}",
            tables.photo
        );
        let mut rows = client.query_raw(&query, [&models.detect, &models.embed])?;
        let mut known = HashMap::new();
        while let Some(row) = rows.next()? {
            let sha256: &[u8] = row.get(2);
            let loaded = Loaded {
                id: row.get(1),
                // Rows that others wrote may hold anything; then the photo counts as changed.
                sha256: sha256.try_into().unwrap_or_default(),
                has_these_models: sha256.len() == 32 && row.get::<_, bool>(3),
            };
            known.insert(row.get::<_, &str>(0).into(), loaded);
        }
        Ok(Self(known))
    }

    pub fn photo(&self, path: &str) -> Option<&Loaded> {
        self.0.get(path)
    }
}
