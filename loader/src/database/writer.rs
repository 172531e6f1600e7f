//! Writing: one transaction per batch of photos, by binary COPY.
//!
//! Invariants: a photo and its garments are committed together, and a photo that is replaced is
//! never seen without its new rows; a photo counts as written when its rows are there.

use std::collections::HashMap;

use anyhow::Result;
use lookbook_vision::Group;
use postgres::{
    Client, Transaction,
    binary_copy::BinaryCopyInWriter,
    error::SqlState,
    types::{ToSql, Type},
};

use super::{
    Box2, Models, OWN_PATH, Role, Target, catalog::has_triggers, gate::Gate, known::NO_PRODUCT,
    quoted, retry, target::Deleted, types::Cell,
};
use crate::source::{Reject, sku_of};

/// Code of a photo whose rows the tables refuse: a constraint or a trigger of the shop.
pub const ROW_REFUSED: &str = "row_refused";

/// Classes of SQLSTATEs (`errcodes.txt`) that say something of the connection, the statement, the rights or the server;
/// the others, those that triggers make up among them, say something of a value.
const NOT_OF_A_ROW: &[&str] = &[
    "08", "0A", "25", "28", "2D", "3D", "3F", "40", "42", "53", "55", "57", "58", "72", "F0", "HV",
    "XX",
];

const PHOTO_COLUMNS: &str = "id, path, sku, sells, sha256, width, height, detect_model, embed_model, attributes, full_front_pose";

/// A photo and what was found in it, ready to be written.
#[derive(Debug)]
pub struct PhotoRow {
    pub path: String,
    /// `None` where the source says no product.
    pub sku: Option<String>,
    /// The category of the product, where the source says it.
    pub sells: Option<Group>,
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

impl PhotoRow {
    /// The product, or what stands in for it in the loader's own tables.
    pub fn product(&self) -> &str {
        self.sku.as_deref().unwrap_or_else(|| sku_of(&self.path))
    }
}

#[derive(Debug)]
pub struct GarmentRow {
    pub category: String,
    pub label: String,
    pub score: Option<f32>,
    pub bbox: Box2,
    /// Another product than the photo's, of which nothing is known.
    pub is_worn_with_it: bool,
    pub embedding: Vec<f32>,
}

/// Owns the connection while rows are written.
pub struct Writer {
    client: Client,
    target: Target,
    models: Models,
    gate: Gate,
    /// Of the two tables' columns; `None` when nothing shall be written.
    types: Option<[Vec<Type>; 2]>,
    /// Somebody's, on the garments: they may change or drop what is written.
    has_triggers: bool,
}

impl Writer {
    pub fn new(mut client: Client, target: Target, models: Models) -> Result<Self> {
        let mut types_of = |table: &str, columns: &str| -> Result<Vec<Type>> {
            let probe = client.prepare(&format!("SELECT {columns} FROM {table}"))?;
            let types = probe.columns().iter();
            Ok(types.map(|column| column.type_().clone()).collect())
        };
        let types = [
            types_of(&target.photo, PHOTO_COLUMNS)?,
            types_of(&target.garment, &garment_columns(&target))?,
        ];
        Ok(Self {
            types: Some(types),
            ..Self::looking(client, target, models)?
        })
    }

    /// Refuses what a writer would refuse, and writes nothing.
    pub fn looking(mut client: Client, target: Target, models: Models) -> Result<Self> {
        Ok(Self {
            gate: Gate::of(&mut client, &target)?,
            has_triggers: has_triggers(&mut client, &target.garment)?,
            client,
            target,
            models,
            types: None,
        })
    }

    /// The connection, when everything is written.
    pub fn into_client(self) -> Client {
        self.client
    }

    /// Deletes photos with their garments, but for those to which something of the shop refers; returns how many were
    /// there, and adds why each of the others stays.
    pub fn delete(&mut self, ids: &[i64], stay: &mut Vec<String>) -> Result<u64> {
        if self.types.is_none() || ids.is_empty() {
            return Ok(0);
        }
        let error = match self.target.delete(&mut self.client, ids) {
            Ok(deleted) if deleted.kept.is_empty() => return Ok(deleted.photos),
            Ok(Deleted { kept, .. }) => {
                stay.extend(kept.iter().map(|_| self.target.keeps()));
                let others: Vec<i64> = ids
                    .iter()
                    .filter(|id| !kept.contains(id))
                    .copied()
                    .collect();
                return self.delete(&others, stay);
            }
            Err(error) => error,
        };
        let Some(reason) = refusal(&error, &self.target) else {
            return Err(explain(error));
        };
        if ids.len() < 2 {
            stay.push(reason);
            return Ok(0);
        }
        let (some, others) = ids.split_at(ids.len() / 2);
        Ok(self.delete(some, stay)? + self.delete(others, stay)?)
    }

    /// Commits `photos`, each whole, and adds to `refused` those that the tables cannot take, with the reason. What is left
    /// in `photos` is committed, also with an error.
    pub fn write(&mut self, photos: &mut Vec<PhotoRow>, refused: &mut Vec<Reject>) -> Result<()> {
        for attempt in 1.. {
            let error = match self.try_write(photos, refused) {
                Ok(Written::All) => break,
                Ok(Written::Without(lost)) => {
                    refused.extend(take(photos, lost));
                    continue;
                }
                Err(error) => error,
            };
            let Some(cause) = error.downcast_ref::<postgres::Error>() else {
                photos.clear();
                return Err(error);
            };
            if retry::is_in_the_way(cause) && attempt < retry::TRIES {
                retry::pause(attempt);
                continue;
            }
            // Products may go while a batch is written that refers to them: then it is looked at again.
            let is_product_gone = cause.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION);
            if is_product_gone && attempt < retry::TRIES {
                continue;
            }
            let Some(reason) = refusal(cause, &self.target) else {
                photos.clear();
                return Err(explain(error));
            };
            return self.write_apart(photos, &reason, refused);
        }
        Ok(())
    }

    /// One transaction; all or none.
    fn try_write(
        &mut self,
        photos: &mut Vec<PhotoRow>,
        refused: &mut Vec<Reject>,
    ) -> Result<Written> {
        let mut change = self.client.transaction()?;
        refused.extend(self.gate.refuse(&mut change, photos)?);
        let Some(types) = self.types.as_ref().filter(|_| !photos.is_empty()) else {
            return Ok(Written::All);
        };
        let batch = Batch {
            target: &self.target,
            models: &self.models,
            types,
            photos,
        };
        let kept = batch.delete_replaced(&mut change)?;
        if !kept.is_empty() {
            return Ok(Written::Without(kept));
        }
        let (ids, has_dropped) = batch.write(&mut change)?;
        if has_dropped || self.has_triggers {
            let lost = batch.lost(&mut change, &ids)?;
            if !lost.is_empty() {
                return Ok(Written::Without(lost));
            }
        }
        change.commit()?;
        Ok(Written::All)
    }

    /// One of these is to blame for `reason`: each half alone.
    fn write_apart(
        &mut self,
        photos: &mut Vec<PhotoRow>,
        reason: &str,
        refused: &mut Vec<Reject>,
    ) -> Result<()> {
        let half = photos.len() / 2;
        if half == 0 {
            let alone = photos.drain(..);
            refused.extend(alone.map(|photo| Reject::new(photo.path, ROW_REFUSED, reason)));
            return Ok(());
        }
        let mut others = photos.split_off(half);
        self.write(photos, refused)?;
        let written = self.write(&mut others, refused);
        photos.append(&mut others);
        written
    }
}

/// Why the tables refuse a row: what a constraint, a type or a trigger said. `None`: no row is to blame.
pub fn refusal(cause: &postgres::Error, target: &Target) -> Option<String> {
    let error = cause.as_db_error()?;
    let code = error.code().code();
    let is_of_a_row = if *error.code() == SqlState::UNIQUE_VIOLATION {
        // In the list of photos it says that somebody else loads the same.
        let (schema, table) = (error.schema()?, error.table()?);
        format!("{}.{}", quoted(schema), quoted(table)) != target.photo
    } else {
        // What was tried again and again may be the doing of a trigger.
        retry::is_in_the_way(cause) || !NOT_OF_A_ROW.iter().any(|class| code.starts_with(class))
    };
    is_of_a_row.then(|| match error.detail() {
        Some(detail) => format!("{}: {detail}", error.message()),
        None => error.message().to_owned(),
    })
}

/// What a transaction has done.
enum Written {
    All,
    /// Nothing: of these photos others than theirs would be there.
    Without(Vec<Lost>),
}

/// A photo, by its place in the batch, whose rows would not be those that it shall have.
struct Lost {
    at: usize,
    reason: String,
}

/// Takes photos out of a batch whose rows do not stay as they are written.
fn take(photos: &mut Vec<PhotoRow>, lost: Vec<Lost>) -> Vec<Reject> {
    let refused = lost.into_iter().rev().map(|Lost { at, reason }| {
        let photo = photos.remove(at);
        Reject::new(photo.path, ROW_REFUSED, reason)
    });
    refused.collect()
}

fn garment_columns(target: &Target) -> String {
    let names: Vec<String> = target
        .columns
        .iter()
        .map(|(_, column)| quoted(column))
        .collect();
    names.join(", ")
}

struct Batch<'a> {
    target: &'a Target,
    models: &'a Models,
    types: &'a [Vec<Type>; 2],
    photos: &'a [PhotoRow],
}

impl Batch<'_> {
    /// Deletes what is there of photos that are replaced; those of which something is kept.
    fn delete_replaced(&self, change: &mut Transaction<'_>) -> Result<Vec<Lost>, postgres::Error> {
        let replaced: Vec<i64> = self
            .photos
            .iter()
            .filter_map(|photo| photo.replaces)
            .collect();
        if replaced.is_empty() {
            return Ok(Vec::new());
        }
        let kept = self.target.delete_photos(change, &replaced)?.kept;
        let all = self.photos.iter().enumerate();
        let lost = all.filter_map(|(at, photo)| {
            let is_kept = kept.contains(&photo.replaces?);
            let reason = self.target.keeps();
            is_kept.then_some(Lost { at, reason })
        });
        Ok(lost.collect())
    }

    /// The ids of the photos, and whether rows were dropped on their way.
    fn write(&self, change: &mut Transaction<'_>) -> Result<(Vec<i64>, bool), postgres::Error> {
        change.batch_execute(OWN_PATH)?;
        let is_fresh = |photo: &&PhotoRow| photo.replaces.is_none();
        let fresh = self.photos.iter().filter(is_fresh).count();
        let mut fresh = self.reserve(change, fresh)?.into_iter();
        // Exactly as many as are taken here.
        let ids: Vec<i64> = self
            .photos
            .iter()
            .filter_map(|photo| photo.replaces.or_else(|| fresh.next()))
            .collect();
        let photos = self.copy_photos(change, &ids)?;
        let garments = self.copy_garments(change, &ids)?;
        let sent: usize = self.photos.iter().map(|photo| photo.garments.len()).sum();
        let is_whole = photos == ids.len() as u64 && garments == sent as u64;
        Ok((ids, !is_whole))
    }

    /// Photos of whose garments some are not there.
    fn lost(&self, change: &mut Transaction<'_>, ids: &[i64]) -> Result<Vec<Lost>> {
        let count = format!(
            "SELECT p.id, pg_catalog.count(*) FROM {} p JOIN {} g ON {} \
             WHERE p.id OPERATOR(pg_catalog.=) ANY ($1) GROUP BY p.id",
            self.target.photo,
            self.target.garment,
            self.target.is_of_photo_indexed()
        );
        let mut there: HashMap<i64, usize> = HashMap::new();
        for row in change.query(&count, &[&ids])? {
            there.insert(row.get(0), usize::try_from(row.get::<_, i64>(1))?);
        }
        let all = self.photos.iter().zip(ids).enumerate();
        let lost = all.filter_map(|(at, (photo, id))| {
            let is_there = there.get(id).copied().unwrap_or(0);
            let sent = photo.garments.len();
            (is_there < sent).then(|| Lost {
                at,
                reason: format!(
                    "a trigger changed or dropped it: {is_there} of its {sent} rows are in {} afterwards, told by {}",
                    self.target.garment,
                    self.target.link().map_or("", |(_, column)| column)
                ),
            })
        });
        Ok(lost.collect())
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
            &[&self.target.photo, &count],
        )?;
        rows.iter().map(|row| row.try_get(0)).collect()
    }

    /// How many rows the table took, which its triggers may lessen.
    fn copy_photos(
        &self,
        change: &mut Transaction<'_>,
        ids: &[i64],
    ) -> Result<u64, postgres::Error> {
        let copy = format!(
            "COPY {} ({PHOTO_COLUMNS}) FROM STDIN (FORMAT binary)",
            self.target.photo
        );
        let mut out = BinaryCopyInWriter::new(change.copy_in(&copy)?, &self.types[0]);
        for (photo, id) in self.photos.iter().zip(ids) {
            let row = [
                Cell::Int(*id),
                Cell::Text(&photo.path),
                Cell::Text(match photo.sku {
                    None if self.target.is_mapped => NO_PRODUCT,
                    _ => photo.product(),
                }),
                photo
                    .sells
                    .map_or(Cell::Null, |category| Cell::Text(category.as_str())),
                self.of_photo(Role::Sha256, photo, *id),
                self.of_photo(Role::Width, photo, *id),
                self.of_photo(Role::Height, photo, *id),
                self.of_photo(Role::DetectModel, photo, *id),
                self.of_photo(Role::EmbedModel, photo, *id),
                self.of_photo(Role::Attributes, photo, *id),
                self.of_photo(Role::FullFrontPose, photo, *id),
            ];
            out.write(&row.each_ref().map(|cell| cell as &(dyn ToSql + Sync)))?;
        }
        out.finish()
    }

    /// As [`Self::copy_photos`].
    fn copy_garments(
        &self,
        change: &mut Transaction<'_>,
        ids: &[i64],
    ) -> Result<u64, postgres::Error> {
        let copy = format!(
            "COPY {} ({}) FROM STDIN (FORMAT binary)",
            self.target.garment,
            garment_columns(self.target)
        );
        let roles: Vec<Role> = self.target.columns.iter().map(|(role, _)| *role).collect();
        let mut out = BinaryCopyInWriter::new(change.copy_in(&copy)?, &self.types[1]);
        for (photo, id) in self.photos.iter().zip(ids) {
            for garment in &photo.garments {
                let cells: Vec<Cell<'_>> = roles
                    .iter()
                    .map(|role| self.cell(*role, photo, *id, garment))
                    .collect();
                let row: Vec<&(dyn ToSql + Sync)> = cells
                    .iter()
                    .map(|cell| cell as &(dyn ToSql + Sync))
                    .collect();
                out.write(&row)?;
            }
        }
        out.finish()
    }

    fn cell<'a>(
        &'a self,
        role: Role,
        photo: &'a PhotoRow,
        id: i64,
        garment: &'a GarmentRow,
    ) -> Cell<'a> {
        match role {
            Role::Embedding => Cell::Vector(&garment.embedding),
            Role::Category => Cell::Text(&garment.category),
            Role::Label => Cell::Text(&garment.label),
            Role::Score => garment.score.map_or(Cell::Null, Cell::Float),
            Role::Box => Cell::Box(garment.bbox),
            Role::Sku if garment.is_worn_with_it => Cell::Null,
            _ => self.of_photo(role, photo, id),
        }
    }

    /// What all garments of a photo have; of a garment, nothing.
    fn of_photo<'a>(&'a self, role: Role, photo: &'a PhotoRow, id: i64) -> Cell<'a> {
        match role {
            Role::Key => Cell::Text(&photo.path),
            Role::PhotoId => Cell::Int(id),
            Role::Sku if self.target.is_mapped => {
                photo.sku.as_deref().map_or(Cell::Null, Cell::Text)
            }
            Role::Sku => Cell::Text(photo.product()),
            Role::Sha256 => Cell::Bytes(&photo.sha256),
            Role::Width => Cell::Int(photo.width.into()),
            Role::Height => Cell::Int(photo.height.into()),
            Role::DetectModel => Cell::Text(&self.models.detect),
            Role::EmbedModel => Cell::Text(&self.models.embed),
            Role::Attributes => photo.attributes.as_ref().map_or(Cell::Null, Cell::Json),
            Role::FullFrontPose => photo.full_front_pose.map_or(Cell::Null, Cell::Bool),
            Role::Embedding | Role::Category | Role::Label | Role::Score | Role::Box => Cell::Null,
        }
    }
}

fn explain(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    let Some(cause) = error.downcast_ref::<postgres::Error>() else {
        return error;
    };
    let is_gone = cause.is_closed()
        || matches!(
            cause.code(),
            Some(
                &SqlState::ADMIN_SHUTDOWN
                    | &SqlState::CRASH_SHUTDOWN
                    | &SqlState::CANNOT_CONNECT_NOW
            )
        )
        || (cause.code().is_none() && has_io_cause(cause));
    let is_taken = cause.code() == Some(&SqlState::UNIQUE_VIOLATION);
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
