//! What the suites of models and vision share: tiny models, tiny images, errors as users see them.
#![allow(dead_code, reason = "each suite uses its part")]

pub mod onnx;

use anyhow::{Context, Result, bail};
use lookbook_tests::Database;
use postgres::Client;
use serde_json::{Value, json};

/// The manifest of a model of [`onnx`] with three dimensions.
pub fn embedder_manifest(client: &mut Client, name: &str, onnx: &[u8]) -> Result<Value> {
    Ok(json!({
        "format": 1, "name": name, "version": "1.0.0", "kind": "embedder",
        "description": "a test model", "licence": "Apache-2.0", "source": "tests/tests/sql_support/onnx.rs",
        "sha256": sha256(client, onnx)?,
        "input": input(),
        "output": {"name": "embedding", "dimensions": 3, "pool": "none", "normalize": false}
    }))
}

/// The model `slow`, put there without the check that would run it once.
pub fn add_slow_model(client: &mut Client) -> Result<()> {
    let model = onnx::slow_embedder(1_000_000_000);
    let manifest = embedder_manifest(client, "slow", &model)?;
    client.batch_execute("SET session_replication_role = replica")?;
    client.execute(
        "INSERT INTO lookbook_model (name, kind, sha256, manifest, onnx)
         SELECT 'slow', 'embedder', $1::text::jsonb ->> 'sha256', $1::text::jsonb, $2",
        &[&manifest.to_string(), &model],
    )?;
    client.batch_execute("RESET session_replication_role")?;
    Ok(())
}

/// The manifest of [`onnx::detector`].
pub fn detector_manifest(client: &mut Client, name: &str, onnx: &[u8]) -> Result<Value> {
    let mut manifest = embedder_manifest(client, name, onnx)?;
    manifest["kind"] = json!("detector");
    manifest["output"] = json!({
        "family": "yolo_v8", "names": {"boxes": "boxes"},
        "labels": [{"name": "shirt", "group": "upper"}, {"name": "shoe", "group": "footwear"}],
        "score_threshold": 0.3, "iou_threshold": 0.5, "max_detections": 20
    });
    Ok(manifest)
}

fn input() -> Value {
    json!({
        "name": "image", "width": onnx::SIDE, "height": onnx::SIDE, "layout": "nchw", "dtype": "f32",
        "colour": "rgb", "resize": "stretch", "filter": "bilinear"
    })
}

pub fn sha256(client: &mut Client, bytes: &[u8]) -> Result<String> {
    Ok(client
        .query_one("SELECT encode(sha256($1), 'hex')", &[&bytes])?
        .get(0))
}

/// `lookbook_model_import` with a manifest of any content.
pub fn import(
    client: &mut Client,
    name: &str,
    manifest: &Value,
    onnx: &[u8],
) -> Result<String, postgres::Error> {
    let sql = "SELECT lookbook_model_import($1, $2::text::jsonb, $3)";
    client
        .query_one(sql, &[&name, &manifest.to_string(), &onnx])
        .map(|row| row.get(0))
}

/// Imports an embedder that averages (`GlobalAveragePool`) or maximises (`GlobalMaxPool`) each colour.
pub fn import_embedder(client: &mut Client, name: &str, pool: &str) -> Result<String> {
    let model = onnx::embedder(pool);
    let manifest = embedder_manifest(client, name, &model)?;
    Ok(import(client, name, &manifest, &model)?)
}

pub fn import_detector(client: &mut Client, name: &str) -> Result<String> {
    let model = onnx::detector();
    let manifest = detector_manifest(client, name, &model)?;
    Ok(import(client, name, &manifest, &model)?)
}

/// A BMP whose pixels are the given colour, except the first one, which is black.
pub fn bmp(width: u32, height: u32, [red, green, blue]: [u8; 3]) -> Vec<u8> {
    let row_bytes = (width * 3).div_ceil(4) * 4;
    let pixels = row_bytes * height;
    let mut file = Vec::new();
    file.extend_from_slice(b"BM");
    for word in [54 + pixels, 0, 54, 40, width, height] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&[1, 0, 24, 0]);
    for word in [0, pixels, 2_835, 2_835, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    for y in 0..height {
        let start = file.len();
        for x in 0..width {
            let first = x == 0 && y == height - 1 && width * height > 1;
            let pixel = if first { [0; 3] } else { [blue, green, red] };
            file.extend_from_slice(&pixel);
        }
        file.resize(start + row_bytes as usize, 0);
    }
    file
}

/// What a user sees of an error.
#[derive(Debug)]
pub struct Refusal {
    pub code: String,
    pub message: String,
    pub detail: String,
    pub hint: String,
}

/// The server's error; anything else, success included, fails the test.
pub fn refusal<T>(result: Result<T, postgres::Error>) -> Result<Refusal> {
    let Err(error) = result else {
        bail!("it succeeded")
    };
    let error = error.as_db_error().context("not an error of the server")?;
    Ok(Refusal {
        code: error.code().code().to_owned(),
        message: error.message().to_owned(),
        detail: error.detail().unwrap_or_default().to_owned(),
        hint: error.hint().unwrap_or_default().to_owned(),
    })
}

/// Roles belong to the cluster: each test has its own.
pub fn roles(database: &Database<'_>, names: &[&str]) -> Result<()> {
    for name in names {
        database
            .connect()?
            .batch_execute(&format!("CREATE ROLE {name} LOGIN"))?;
    }
    Ok(())
}

/// The server process behind a connection.
pub fn backend_pid(client: &mut Client) -> Result<i32> {
    Ok(client.query_one("SELECT pg_backend_pid()", &[])?.get(0))
}

/// The elements of `embed_image(image, model)`.
pub fn embed(
    client: &mut Client,
    image: &[u8],
    model: Option<&str>,
) -> Result<Vec<f32>, postgres::Error> {
    client
        .query_one("SELECT embed_image($1, $2)::real[]", &[&image, &model])
        .map(|row| row.get(0))
}
