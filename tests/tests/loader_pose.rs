//! Poses and the loader: recorded per photo, required where asked for.

mod loader_support;
mod sql_support;

use anyhow::Result;
use loader_support::Shop;
use lookbook_tests::Cluster;
use postgres::Client;
use serde_json::json;
use sql_support::{bmp, import, sha256};

/// Calls a white photo a full front view, and a grey one not: crates/vision/tests/models/make.py.
const HEATMAPS: &[u8] = include_bytes!("../../crates/vision/tests/models/pose_heatmaps.onnx");
const GATES: &str = "SELECT path, full_front_pose FROM photo ORDER BY path";

/// With a white photo and a grey one, and no pose model.
fn shop(name: &str) -> Result<Shop<'static>> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, name)?;
    let no_default = "DELETE FROM lookbook_default_model WHERE kind = 'pose'";
    shop.database.psql(no_default)?;
    shop.put("grey.bmp", &bmp(64, 80, [200; 3]))?;
    shop.put("white.bmp", &bmp(64, 80, [255; 3]))?;
    Ok(shop)
}

fn import_pose_model(client: &mut Client) -> Result<()> {
    let manifest = json!({
        "format": 1, "name": "maps", "version": "1", "kind": "pose", "description": "a model of the tests",
        "licence": "Apache-2.0", "source": "tests", "sha256": sha256(client, HEATMAPS)?,
        "input": {
            "name": "image", "width": 32, "height": 40, "layout": "nchw", "dtype": "f32", "colour": "rgb",
            "resize": "stretch", "filter": "bilinear"
        },
        "output": {
            "family": "heatmaps", "names": {"heatmaps": "heatmaps", "offsets": "offsets"}, "stride": 8
        }
    });
    import(client, "maps", &manifest, HEATMAPS)?;
    client.batch_execute("SELECT lookbook_model_default('maps')")?;
    Ok(())
}

#[test]
fn without_a_pose_model_nothing_is_recorded_and_nothing_can_be_required() -> Result<()> {
    let shop = shop("pose_absent")?;
    shop.load()?.expect(0)?;
    assert_eq!(shop.database.psql(GATES)?, "grey.bmp|\nwhite.bmp|");
    shop.run(["load", "photos", "--require-full-front-pose"])?
        .expect(1)?
        .expect_stderr(&[
            "--require-full-front-pose needs a pose model",
            "lookbook model add",
        ])?;
    Ok(())
}

#[test]
fn a_photo_records_whether_it_is_a_full_front_view_as_sql_says() -> Result<()> {
    let shop = shop("pose_recorded")?;
    import_pose_model(&mut shop.database.connect()?)?;
    shop.load()?.expect(0)?;
    assert_eq!(shop.database.psql(GATES)?, "grey.bmp|f\nwhite.bmp|t");
    let mut client = shop.database.connect()?;
    for (name, expected) in [("grey.bmp", false), ("white.bmp", true)] {
        let image = std::fs::read(shop.photos().join(name))?;
        let row = client.query_one("SELECT is_full_front_pose($1)", &[&image])?;
        assert_eq!(row.get::<_, bool>(0), expected, "{name}");
    }
    Ok(())
}

#[test]
fn photos_that_are_no_full_front_views_are_rejected_where_one_is_required() -> Result<()> {
    let shop = shop("pose_required")?;
    import_pose_model(&mut shop.database.connect()?)?;
    shop.run(["load", "photos", "--require-full-front-pose"])?
        .expect(2)?;
    assert_eq!(shop.database.psql(GATES)?, "white.bmp|t");
    let rejects = shop.rejects()?;
    assert_eq!(rejects.len(), 1);
    assert_eq!(
        rejects[0][..2],
        ["grey.bmp".to_owned(), "not_full_front_pose".to_owned()]
    );
    shop.check_complete(1)
}

#[test]
fn a_table_of_an_earlier_release_gets_the_column() -> Result<()> {
    let shop = shop("pose_column")?;
    shop.load()?.expect(0)?;
    shop.database
        .psql("ALTER TABLE photo DROP COLUMN full_front_pose")?;
    import_pose_model(&mut shop.database.connect()?)?;
    shop.put("later.bmp", &bmp(64, 80, [254; 3]))?;
    shop.load()?.expect(0)?;
    assert_eq!(
        shop.database.psql(GATES)?,
        "grey.bmp|\nlater.bmp|t\nwhite.bmp|"
    );
    Ok(())
}
