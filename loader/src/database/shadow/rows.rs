//! The rows that lack their new vector, and the vectors written to them.

use std::fmt;

use anyhow::Result;
use postgres::{Client, GenericClient, types::ToSql};

use super::Shadow;
use crate::database::{Box2, EmbeddingRef, OWN_PATH, Role, Target, quoted, retry};

/// Photos listed at once.
const PAGE: i64 = 500;

/// A photo with garments that lack their new vector.
#[derive(Debug)]
pub struct Stale {
    pub id: i64,
    pub path: String,
    pub sha256: Vec<u8>,
    pub garments: Vec<StaleGarment>,
}

/// A row that lacks its new vector.
#[derive(Debug)]
pub struct StaleGarment {
    /// Its place in the table (`ctid`), until somebody writes the row.
    pub place: String,
    pub bbox: Box2,
    /// It stands for the whole photo.
    pub is_whole: bool,
}

/// The vector of a row.
#[derive(Debug)]
pub struct NewVector {
    pub place: String,
    pub photo: i64,
    pub bbox: Box2,
    pub vector: Vec<f32>,
}

/// Some rows, and the photos of the first of them by the column that says so.
pub(super) struct Rows {
    count: i64,
    table: String,
    link: String,
    keys: Vec<String>,
}

impl fmt::Display for Rows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            count,
            table,
            link,
            keys,
        } = self;
        write!(f, "{count} rows of {table} ({link}: {})", keys.join(", "))
    }
}

impl Shadow {
    /// An SQL condition: row `g` lacks its new vector.
    pub(super) fn is_stale(&self) -> String {
        format!(
            "g.{} IS NOT NULL AND g.{} IS NULL",
            quoted(self.target.embedding()),
            quoted(&self.next)
        )
    }

    /// Whether a row lacks its new vector.
    pub(super) fn lacks_vectors(&self, client: &mut impl GenericClient) -> Result<bool> {
        let garment = &self.target.garment;
        let lacking = format!("SELECT FROM {garment} g WHERE {} LIMIT 1", self.is_stale());
        Ok(client.query_opt(&lacking, &[])?.is_some())
    }

    /// The rows that lack their new vector, in words.
    pub fn lacking(&self, client: &mut Client) -> Result<String> {
        let rows = self.rows_where(client, &self.is_stale())?;
        Ok(rows.map_or_else(|| "no rows".to_owned(), |rows| rows.to_string()))
    }

    /// Rows `g` that meet a condition.
    pub(super) fn rows_where(&self, client: &mut Client, condition: &str) -> Result<Option<Rows>> {
        let (_, link) = self.target.link()?;
        let garment = &self.target.garment;
        let rows = client.query(
            &format!(
                "SELECT count(*) OVER (), g.{}::pg_catalog.text FROM {garment} g WHERE {condition} LIMIT 5",
                quoted(link)
            ),
            &[],
        )?;
        let key = |row: &postgres::Row| row.get::<_, Option<String>>(1);
        let keys = rows.iter().map(|row| key(row).unwrap_or("NULL".to_owned()));
        Ok(rows.first().map(|first| Rows {
            count: first.get(0),
            table: garment.clone(),
            link: link.to_owned(),
            keys: keys.collect(),
        }))
    }

    /// Photos and garment rows that lack their new vector.
    pub fn count_stale(&self, client: &mut Client) -> Result<(u64, u64)> {
        let (_, link) = self.target.link()?;
        let row = client.query_one(
            &format!(
                "SELECT count(DISTINCT g.{}), count(*) FROM {} g WHERE {}",
                quoted(link),
                self.target.garment,
                self.is_stale()
            ),
            &[],
        )?;
        let unsigned = |column| u64::try_from(row.get::<_, i64>(column)).unwrap_or(0);
        Ok((unsigned(0), unsigned(1)))
    }

    /// The next photos with such rows, in the order of their ids, after `last`.
    pub fn stale_after(&self, client: &mut Client, last: i64) -> Result<Vec<Stale>> {
        let next = format!("p.id > $1 ORDER BY p.id LIMIT {PAGE}");
        self.stale(client, &next, &last)
    }

    /// Those of these paths that have such rows.
    pub fn stale_of(&self, client: &mut Client, paths: &[&str]) -> Result<Vec<Stale>> {
        self.stale(client, "p.path = ANY ($1::text[])", &paths)
    }

    /// Photos `p` with such rows that meet a condition on `$1`.
    fn stale(
        &self,
        client: &mut Client,
        condition: &str,
        value: &(dyn ToSql + Sync),
    ) -> Result<Vec<Stale>> {
        let Target { photo, garment, .. } = &self.target;
        let bbox = quoted(self.target.column(Role::Box).unwrap_or("box"));
        // A photo of which nothing was found is its own garment, and its box is all of it.
        let whole = format!("g.{bbox} ~= box(point(p.width, p.height), point(0, 0))");
        let of_this = match self.target.link()? {
            (Role::PhotoId, column) => format!("g.{} = p.id", quoted(column)),
            (_, column) => format!("g.{} = p.path::{}", quoted(column), self.target.key_type),
        };
        let rows = client.query(
            &format!(
                "SELECT p.id, p.path, p.sha256, g.places, g.boxes, g.whole FROM {photo} p JOIN LATERAL (
                   SELECT array_agg(g.ctid::text ORDER BY g.ctid), array_agg(g.{bbox} ORDER BY g.ctid),
                     array_agg({whole} ORDER BY g.ctid)
                   FROM {garment} g WHERE {of_this} AND g.{bbox} IS NOT NULL AND {}) AS g (places, boxes, whole) ON g.places IS NOT NULL
                 WHERE {condition}",
                self.is_stale()
            ),
            &[value],
        )?;
        let stale = |row: &postgres::Row| -> Result<Stale> {
            let places: Vec<String> = row.try_get(3)?;
            let boxes: Vec<Box2> = row.try_get(4)?;
            let whole: Vec<bool> = row.try_get(5)?;
            let garments = places.into_iter().zip(boxes).zip(whole);
            Ok(Stale {
                id: row.try_get(0)?,
                path: row.try_get(1)?,
                sha256: row.try_get(2)?,
                garments: garments
                    .map(|((place, bbox), is_whole)| StaleGarment {
                        place,
                        bbox,
                        is_whole,
                    })
                    .collect(),
            })
        };
        rows.iter().map(stale).collect()
    }

    /// Writes new vectors, all or none; returns how many rows took theirs. A row that somebody wrote meanwhile stays
    /// without: it is in another place, and what may be in its old one is told by its photo and its box.
    pub fn fill(&self, client: &mut Client, vectors: &[&NewVector]) -> Result<u64> {
        let photos: Vec<i64> = vectors.iter().map(|new| new.photo).collect();
        let boxes: Vec<Box2> = vectors.iter().map(|new| new.bbox).collect();
        let embeddings: Vec<EmbeddingRef<'_>> = vectors
            .iter()
            .map(|new| EmbeddingRef(&new.vector))
            .collect();
        let update = format!(
            "UPDATE {garment} g SET {next} = n.embedding \
             FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]::pg_catalog.tid[]), pg_catalog.unnest($2::pg_catalog.int8[]), \
                 pg_catalog.unnest($3::pg_catalog.box[]), pg_catalog.unnest($4::{vector}[])) \
               AS n (place, photo, box, embedding) JOIN {photo} p ON p.id = n.photo \
             WHERE g.ctid = n.place AND {of_photo} AND g.{bbox} ~= n.box AND {stale}",
            garment = self.target.garment,
            photo = self.target.photo,
            next = quoted(&self.next),
            vector = self.target.vector_type(),
            of_photo = self.target.is_of_photo()?,
            bbox = quoted(self.target.column(Role::Box).unwrap_or("box")),
            stale = self.is_stale(),
        );
        let places: Vec<&str> = vectors.iter().map(|new| new.place.as_str()).collect();
        Ok(retry::again(|| {
            let mut change = client.transaction()?;
            change.batch_execute(OWN_PATH)?;
            let filled = change.execute(&update, &[&places, &photos, &boxes, &embeddings])?;
            change.commit()?;
            Ok(filled)
        })?)
    }
}
