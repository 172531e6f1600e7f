//! The SQL functions: arguments in, datums out, NULLs. What is computed is in the modules beside.

use super::call_site;
use super::{embedding_of, garments_of, pose_of};
use crate::embedding::NewEmbedding;
use crate::models::{self, Sight};
use crate::settings::errors::UserError;
use lookbook_vision::{Garment, Kind, Pose};
use pgrx::callconv::{BoxRet, FcInfo};
use pgrx::prelude::*;
use pgrx::{FromDatum, IntoDatum, pg_sys};

/// A finished value of some SQL type; `None` is NULL.
pub(super) struct Finished(pub(super) Option<pg_sys::Datum>);

// SAFETY: the datum was made for the declared type, in a memory context that outlives the call.
unsafe impl BoxRet for Finished {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> pgrx::datum::Datum<'fcx> {
        match self.0 {
            // SAFETY: as above.
            Some(datum) => unsafe { fcinfo.return_raw_datum(datum) },
            None => fcinfo.return_null(),
        }
    }
}

impl IntoDatum for Finished {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        self.0
    }

    fn type_oid() -> pg_sys::Oid {
        pg_sys::InvalidOid
    }
}

/// What to do with bytes that are no readable image.
#[derive(Clone, Copy)]
enum BadImage {
    Raise,
    Null,
}

#[pg_extern]
fn embed_image(fcinfo: pg_sys::FunctionCallInfo) -> Result<Finished, UserError> {
    embed(fcinfo, named_model, BadImage::Raise)
}

/// As `embed_image`, by the model that filled a column.
#[pg_extern]
fn lookbook_embed_for(fcinfo: pg_sys::FunctionCallInfo) -> Result<Finished, UserError> {
    embed(fcinfo, model_of_column, BadImage::Raise)
}

#[pg_extern]
fn try_embed_image(fcinfo: pg_sys::FunctionCallInfo) -> Result<Finished, UserError> {
    embed(fcinfo, named_model, BadImage::Null)
}

/// The model that the second argument names.
fn named_model(fcinfo: pg_sys::FunctionCallInfo) -> Option<String> {
    argument(fcinfo, 1)
}

/// The model that filled the column which the second argument names.
fn model_of_column(fcinfo: pg_sys::FunctionCallInfo) -> Option<String> {
    models::of_column(&argument::<String>(fcinfo, 1)?, function_oid(fcinfo))
}

fn embed(
    fcinfo: pg_sys::FunctionCallInfo,
    model: fn(pg_sys::FunctionCallInfo) -> Option<String>,
    bad_image: BadImage,
) -> Result<Finished, UserError> {
    if argument_is_null(fcinfo, 0) {
        return Ok(Finished(None));
    }
    let sight = Sight::current();
    if let Some(answer) = call_site::recall(fcinfo, sight) {
        return Ok(Finished(answer));
    }
    let asked = model(fcinfo);
    let answer = compute_embedding(fcinfo, asked.as_deref(), bad_image)?
        .map(|elements| embedding_datum(fcinfo, &elements));
    call_site::remember(fcinfo, sight, answer);
    Ok(Finished(answer))
}

fn compute_embedding(
    fcinfo: pg_sys::FunctionCallInfo,
    asked: Option<&str>,
    bad_image: BadImage,
) -> Result<Option<super::Elements>, UserError> {
    let function = function_oid(fcinfo);
    let embedder = models::resolve(Kind::Embedder, asked, function)?;
    let Some(image) = argument::<&[u8]>(fcinfo, 0) else {
        return Ok(None);
    };
    match embedding_of(image, &embedder, function) {
        Ok(elements) => Ok(Some(elements)),
        Err(failure) if failure.is_image_fault() && matches!(bad_image, BadImage::Null) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// category, label, score, box, embedding
type GarmentRow = (String, String, Option<f32>, pg_sys::BOX, Finished);
type GarmentRows = TableIterator<'static, GarmentRow>;

#[pg_extern]
fn detect_garments(fcinfo: pg_sys::FunctionCallInfo) -> Result<GarmentRows, UserError> {
    detect(fcinfo, named_model(fcinfo), None, BadImage::Raise)
}

#[pg_extern]
fn try_detect_garments(fcinfo: pg_sys::FunctionCallInfo) -> Result<GarmentRows, UserError> {
    detect(fcinfo, named_model(fcinfo), None, BadImage::Null)
}

/// As `detect_garments`, with vectors by the model that filled a column.
#[pg_extern]
fn lookbook_detect_for(fcinfo: pg_sys::FunctionCallInfo) -> Result<GarmentRows, UserError> {
    detect(fcinfo, None, model_of_column(fcinfo), BadImage::Raise)
}

fn detect(
    fcinfo: pg_sys::FunctionCallInfo,
    detect_model: Option<String>,
    embed_model: Option<String>,
    bad_image: BadImage,
) -> Result<GarmentRows, UserError> {
    let Some(image) = argument::<&[u8]>(fcinfo, 0) else {
        return Ok(TableIterator::empty());
    };
    let function = function_oid(fcinfo);
    let detector = models::resolve(Kind::Detector, detect_model.as_deref(), function)?;
    let embedder = models::resolve(Kind::Embedder, embed_model.as_deref(), function)?;
    let found = match garments_of(image, &detector, &embedder, function) {
        Err(failure) if failure.is_image_fault() && matches!(bad_image, BadImage::Null) => {
            return Ok(TableIterator::empty());
        }
        found => found?,
    };
    let rows: Vec<_> = found.iter().map(|garment| row(fcinfo, garment)).collect();
    Ok(TableIterator::new(rows))
}

fn row(fcinfo: pg_sys::FunctionCallInfo, garment: &Garment) -> GarmentRow {
    let corner = |x: f32, y: f32| pg_sys::Point {
        x: f64::from(x),
        y: f64::from(y),
    };
    let bounds = pg_sys::BOX {
        high: corner(garment.bbox.x2, garment.bbox.y2),
        low: corner(garment.bbox.x1, garment.bbox.y1),
    };
    let embedding = Finished(Some(embedding_datum(fcinfo, &garment.embedding)));
    (
        garment.category.clone(),
        garment.label.clone(),
        garment.score,
        bounds,
        embedding,
    )
}

/// name, x, y, score
type KeypointRows = TableIterator<'static, (&'static str, f32, f32, f32)>;

#[pg_extern]
fn garment_keypoints(fcinfo: pg_sys::FunctionCallInfo) -> Result<KeypointRows, UserError> {
    let Some(pose) = compute_pose(fcinfo)? else {
        return Ok(TableIterator::empty());
    };
    let rows = pose
        .0
        .map(|point| (point.name, point.x, point.y, point.score));
    Ok(TableIterator::new(rows))
}

#[pg_extern]
fn is_full_front_pose(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<bool>, UserError> {
    let pose = compute_pose(fcinfo)?;
    Ok(pose.map(|pose| pose.is_full_front()))
}

/// `None` for a NULL image.
fn compute_pose(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<Pose>, UserError> {
    let Some(image) = argument::<&[u8]>(fcinfo, 0) else {
        return Ok(None);
    };
    let function = function_oid(fcinfo);
    let asked = argument::<String>(fcinfo, 1);
    let estimator = models::resolve(Kind::Pose, asked.as_deref(), function)?;
    Ok(Some(pose_of(image, &estimator, function)?))
}

/// sessions, session_loads, inferences, memo_hits, memo_entries, memo_bytes
type StatsRows = TableIterator<'static, (i32, i64, i64, i64, i32, i64)>;

#[pg_extern]
fn lookbook_session_stats() -> StatsRows {
    let stats = super::stats();
    TableIterator::once((
        i32::try_from(stats.sessions).unwrap_or(i32::MAX),
        stats.session_loads,
        stats.inferences,
        stats.memo_hits,
        i32::try_from(stats.memo_entries).unwrap_or(i32::MAX),
        i64::try_from(stats.memo_bytes).unwrap_or(i64::MAX),
    ))
}

fn embedding_datum(fcinfo: pg_sys::FunctionCallInfo, elements: &[f32]) -> pg_sys::Datum {
    // SAFETY: fcinfo is that of the running call.
    unsafe { NewEmbedding::from_slice(elements).box_into(&mut FcInfo::from_ptr(fcinfo)) }
        .sans_lifetime()
}

fn function_oid(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Oid {
    // SAFETY: fcinfo is that of the running call.
    unsafe { (*(*fcinfo).flinfo).fn_oid }
}

fn argument_is_null(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> bool {
    // SAFETY: our functions are declared with two arguments.
    unsafe { pgrx::pg_arg_is_null(fcinfo, number) }
}

fn argument<T: FromDatum>(fcinfo: pg_sys::FunctionCallInfo, number: usize) -> Option<T> {
    // SAFETY: the SQL declarations say bytea, text.
    unsafe { pgrx::fcinfo::pg_getarg::<T>(fcinfo, number) }
}
