//! Writing: one transaction per batch of photos, by binary COPY.
//!
//! Invariant: a photo and its garments are committed together, and a photo that is replaced is
//! never seen without its new rows.

use anyhow::Result;
use postgres::{
    Client, Transaction,
    binary_copy::BinaryCopyInWriter,
    error::SqlState,
    types::{ToSql, Type},
};

use super::{Box2, EmbeddingRef, Tables};

/// A photo and what was found in it, ready to be written.
#[derive(Debug)]
pub struct PhotoRow {
    pub path: String,
    pub sku: String,
    pub sha256: [u8; 32],
    pub width: u32,
    pub height: u32,
    pub attributes: Option<serde_json::Value>,
    /// The id it keeps when it takes the place of an earlier load.
    pub replaces: Option<i64>,
    /// `None` where there is no pose model.
    pub full_front_pose: Option<bool>,
    pub garments: Vec<GarmentRow>,
}

#[derive(Debug)]
pub struct GarmentRow {
    pub category: String,
    pub label: String,
    pub score: Option<f32>,
    pub bbox: Box2,
    pub embedding: Vec<f32>,
}

/// Owns the connection while rows are written.
pub struct Writer {
    client: Client,
    tables: Tables,
    detect_model: String,
    embed_model: String,
    /// Of the extension's type in this database.
    embedding_type: Type,
}

impl Writer {
    pub fn new(mut client: Client, tables: Tables, models: super::Models) -> Result<Self> {
        let probe = format!("SELECT embedding FROM {}", tables.garment);
        let embedding_type = client.prepare(&probe)?.columns()[0].type_().clone();
        let super::Models {
            detect: detect_model,
            embed: embed_model,
        } = models;
        Ok(Self {
            client,
            tables,
            detect_model,
            embed_model,
            embedding_type,
        })
    }

    /// The connection, when everything is written.
    pub fn into_client(self) -> Client {
        self.client
    }

    /// Deletes photos with their garments; returns how many were there.
    pub fn delete(&mut self, ids: &[i64]) -> Result<u64> {
        let delete = format!("DELETE FROM {} WHERE id = ANY($1)", self.tables.photo);
        self.client.execute(&delete, &[&ids]).map_err(explain)
    }

    /// Commits all of `photos`, or none.
    pub fn write(&mut self, photos: &[PhotoRow]) -> Result<()> {
        let mut change = self.client.transaction().map_err(explain)?;
        let target = Target {
            tables: &self.tables,
            detect_model: &self.detect_model,
            embed_model: &self.embed_model,
            embedding_type: &self.embedding_type,
        };
        target.write(&mut change, photos).map_err(explain)?;
        change.commit().map_err(explain)
    }
}

struct Target<'a> {
    tables: &'a Tables,
    detect_model: &'a String,
    embed_model: &'a String,
    embedding_type: &'a Type,
}

impl Target<'_> {
    fn write(
        &self,
        change: &mut Transaction<'_>,
        photos: &[PhotoRow],
    ) -> Result<(), postgres::Error> {
        let replaced: Vec<i64> = photos.iter().filter_map(|photo| photo.replaces).collect();
        if !replaced.is_empty() {
            let delete = format!("DELETE FROM {} WHERE id = ANY($1)", self.tables.photo);
            change.execute(&delete, &[&replaced])?;
        }
        let mut fresh = self
            .reserve(change, photos.len() - replaced.len())?
            .into_iter();
        // Exactly as many as are taken here.
        let ids: Vec<i64> = photos
            .iter()
            .filter_map(|photo| photo.replaces.or_else(|| fresh.next()))
            .collect();
        self.copy_photos(change, photos, &ids)?;
        self.copy_garments(change, photos, &ids)
    }

    fn reserve(
        &self,
        change: &mut Transaction<'_>,
        count: usize,
    ) -> Result<Vec<i64>, postgres::Error> {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        let rows = change.query(
            "SELECT pg_catalog.nextval(pg_catalog.pg_get_serial_sequence($1, 'id')) \
             FROM pg_catalog.generate_series(1, $2)",
            &[&self.tables.photo, &count],
        )?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    fn copy_photos(
        &self,
        change: &mut Transaction<'_>,
        photos: &[PhotoRow],
        ids: &[i64],
    ) -> Result<(), postgres::Error> {
        let copy = format!(
            "COPY {} (id, path, sku, sha256, width, height, detect_model, embed_model, attributes, full_front_pose) \
             FROM STDIN (FORMAT binary)",
            self.tables.photo
        );
        let types = [
            Type::INT8,
            Type::TEXT,
            Type::TEXT,
            Type::BYTEA,
            Type::INT4,
            Type::INT4,
            Type::TEXT,
            Type::TEXT,
            Type::JSONB,
            Type::BOOL,
        ];
        let mut out = BinaryCopyInWriter::new(change.copy_in(&copy)?, &types);
        for (photo, id) in photos.iter().zip(ids) {
            let sha256 = photo.sha256.as_slice();
            // Limits on pixels keep both far below 2^31.
            let (width, height) = (photo.width.cast_signed(), photo.height.cast_signed());
            let row: [&(dyn ToSql + Sync); 10] = [
                id,
                &photo.path,
                &photo.sku,
                &sha256,
                &width,
                &height,
                self.detect_model,
                self.embed_model,
                &photo.attributes,
                &photo.full_front_pose,
            ];
            out.write(&row)?;
        }
        out.finish().map(drop)
    }

    fn copy_garments(
        &self,
        change: &mut Transaction<'_>,
        photos: &[PhotoRow],
        ids: &[i64],
    ) -> Result<(), postgres::Error> {
        let copy = format!(
            "COPY {} (photo_id, sku, category, label, score, box, embedding) FROM STDIN (FORMAT binary)",
            self.tables.garment
        );
        let types = [
            Type::INT8,
            Type::TEXT,
            Type::TEXT,
            Type::TEXT,
            Type::FLOAT4,
            Type::BOX,
            self.embedding_type.clone(),
        ];
        let mut out = BinaryCopyInWriter::new(change.copy_in(&copy)?, &types);
        for (photo, id) in photos.iter().zip(ids) {
            for garment in &photo.garments {
                let embedding = EmbeddingRef(&garment.embedding);
                let row: [&(dyn ToSql + Sync); 7] = [
                    id,
                    &photo.sku,
                    &garment.category,
                    &garment.label,
                    &garment.score,
                    &garment.bbox,
                    &embedding,
                ];
                out.write(&row)?;
            }
        }
        out.finish().map(drop)
    }
}

fn explain(error: postgres::Error) -> anyhow::Error {
    let is_gone = error.is_closed()
        || matches!(
            error.code(),
            Some(
                &SqlState::ADMIN_SHUTDOWN
                    | &SqlState::CRASH_SHUTDOWN
                    | &SqlState::CANNOT_CONNECT_NOW
            )
        )
        || (error.code().is_none() && has_io_cause(&error));
    let is_taken = error.code() == Some(&SqlState::UNIQUE_VIOLATION);
    let error = anyhow::Error::from(error);
    if is_gone {
        return error.context("the connection to the database was lost");
    }
    if is_taken {
        return error.context("somebody else wrote one of these photos meanwhile");
    }
    error.context("the database refused a batch of rows")
}

fn has_io_cause(error: &postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}
