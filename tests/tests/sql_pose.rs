//! Poses in SQL: the key points of a person, the gate of full front views, and who may use which model.

mod sql_support;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, Database, shared_data};
use postgres::Client;
use serde_json::{Value, json};
use sql_support::{bmp, import, import_embedder, refusal, sha256};

/// Gives each point a score of (0.9 − k / 50) times the brightness: crates/vision/tests/models/make.py.
const HEATMAPS: &[u8] = include_bytes!("../../crates/vision/tests/models/pose_heatmaps.onnx");
const FLAT_LAYS: [&[u8]; 3] = [
    include_bytes!("../catalogue/photos/beige-blazer-flat.jpg"),
    include_bytes!("../catalogue/photos/black-joggers-flat.jpg"),
    include_bytes!("../catalogue/photos/black-loafers-pair.jpg"),
];
const NAMES: [&str; 17] = [
    "nose",
    "left_eye",
    "right_eye",
    "left_ear",
    "right_ear",
    "left_shoulder",
    "right_shoulder",
    "left_elbow",
    "right_elbow",
    "left_wrist",
    "right_wrist",
    "left_hip",
    "right_hip",
    "left_knee",
    "right_knee",
    "left_ankle",
    "right_ankle",
];
const POINTS: &str = "SELECT name, x, y, score FROM garment_keypoints($1, $2)";

fn manifest(
    client: &mut Client,
    name: &str,
    onnx: &[u8],
    input: Value,
    output: Value,
) -> Result<Value> {
    Ok(json!({
        "format": 1, "name": name, "version": "1", "kind": "pose", "description": "a model of the tests",
        "licence": "Apache-2.0", "source": "tests", "sha256": sha256(client, onnx)?,
        "input": input, "output": output
    }))
}

fn import_heatmaps(client: &mut Client, name: &str) -> Result<String> {
    let input = json!({
        "name": "image", "width": 32, "height": 40, "layout": "nchw", "dtype": "f32", "colour": "rgb",
        "resize": "stretch", "filter": "bilinear"
    });
    let names = json!({"heatmaps": "heatmaps", "offsets": "offsets"});
    let output = json!({"family": "heatmaps", "names": names, "stride": 8});
    let manifest = manifest(client, name, HEATMAPS, input, output)?;
    Ok(import(client, name, &manifest, HEATMAPS)?)
}

/// A database whose default pose model is the tiny one.
fn tiny(name: &str) -> Result<Database<'static>> {
    let database = Cluster::shared()?.database(name)?;
    let mut client = database.connect()?;
    import_heatmaps(&mut client, "maps")?;
    client.batch_execute("SELECT lookbook_model_default('maps')")?;
    Ok(database)
}

/// A photo of one colour, and of the brightness that the tiny model goes by.
fn grey(brightness: u8) -> Vec<u8> {
    bmp(64, 80, [brightness; 3])
}

fn is_full_front(client: &mut Client, image: &[u8]) -> Result<Option<bool>, postgres::Error> {
    let row = client.query_one("SELECT is_full_front_pose($1)", &[&image])?;
    row.try_get(0)
}

#[test]
fn seventeen_named_points_lie_in_pixels_of_the_photo() -> Result<()> {
    let database = tiny("pose_points")?;
    let mut client = database.connect()?;
    let rows = client.query(POINTS, &[&grey(255), &None::<&str>])?;
    let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, NAMES);
    for (at, row) in rows.iter().enumerate() {
        let (x, y, score): (f32, f32, f32) = (row.get(1), row.get(2), row.get(3));
        let k = at as f32;
        let expected = (
            (2.0 * ((at % 4) as f32 * 8.0 - 0.125 * k)).clamp(0.0, 64.0),
            (2.0 * ((at / 4) as f32 * 8.0 + 0.25 * k)).clamp(0.0, 80.0),
        );
        ensure!(
            (x - expected.0).abs() < 0.01 && (y - expected.1).abs() < 0.01,
            "{}: {x}, {y}; expected {expected:?}",
            names[at]
        );
        // One pixel of the picture is black.
        ensure!(
            (score - (0.9 - k / 50.0)).abs() < 0.01,
            "{}: {score}",
            names[at]
        );
    }
    Ok(())
}

#[test]
fn the_gate_wants_nose_eye_hip_and_ankle() -> Result<()> {
    let database = tiny("pose_gate")?;
    let mut client = database.connect()?;
    assert_eq!(is_full_front(&mut client, &grey(255))?, Some(true));
    assert_eq!(
        is_full_front(&mut client, &grey(200))?,
        Some(false),
        "ankles have 0.47"
    );
    let rows = client.query(
        "SELECT is_full_front_pose(image) FROM unnest($1::bytea[]) WITH ORDINALITY AS photo(image, n) ORDER BY n",
        &[&vec![grey(255), grey(20), grey(240)]],
    )?;
    let gates: Vec<bool> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(gates, [true, false, true]);
    Ok(())
}

#[test]
fn null_gives_null_and_bad_images_their_error() -> Result<()> {
    let database = tiny("pose_nulls")?;
    let mut client = database.connect()?;
    assert_eq!(
        client
            .query("SELECT * FROM garment_keypoints(NULL)", &[])?
            .len(),
        0
    );
    let row = client.query_one("SELECT is_full_front_pose(NULL) IS NULL", &[])?;
    ensure!(row.get::<_, bool>(0));
    for (image, code) in [
        (b"".as_slice(), "22P03"),
        (b"text", "22P03"),
        (&[0xff, 0xd8, 0xff], "22026"),
    ] {
        assert_eq!(refusal(is_full_front(&mut client, image))?.code, code);
        assert_eq!(
            refusal(client.query(POINTS, &[&image, &None::<&str>]))?.code,
            code
        );
    }
    client.batch_execute("SET lookbook.max_image_pixels = 100")?;
    assert_eq!(refusal(is_full_front(&mut client, &grey(1)))?.code, "54000");
    Ok(())
}

#[test]
fn a_pose_is_worked_out_once_for_both_functions_and_remembered() -> Result<()> {
    let database = tiny("pose_memo")?;
    let mut client = database.connect()?;
    let inferences = |client: &mut Client| -> Result<i64> {
        let row = client.query_one("SELECT inferences FROM lookbook_session_stats()", &[])?;
        Ok(row.get(0))
    };
    let image = grey(230);
    let before = inferences(&mut client)?;
    is_full_front(&mut client, &image)?;
    client.query(POINTS, &[&image, &Some("maps")])?;
    client.query(
        "SELECT is_full_front_pose($1) FROM generate_series(1, 50)",
        &[&image],
    )?;
    assert_eq!(inferences(&mut client)?, before + 1);
    Ok(())
}

#[test]
fn the_setting_names_a_model_and_the_kind_is_checked() -> Result<()> {
    let database = tiny("pose_setting")?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", "GlobalAveragePool")?;
    client.batch_execute("SET lookbook.pose_model = 'nix'")?;
    assert_eq!(refusal(is_full_front(&mut client, &grey(9)))?.code, "42704");
    client.batch_execute("SET lookbook.pose_model = 'mean'")?;
    let refused = refusal(is_full_front(&mut client, &grey(9)))?;
    assert_eq!(refused.code, "22023");
    ensure!(
        refused
            .message
            .contains("is of kind embedder, and this needs one of kind pose")
            && refused.hint.contains("lookbook.pose_model"),
        "{refused:?}"
    );
    client.batch_execute("RESET lookbook.pose_model")?;
    is_full_front(&mut client, &grey(9))?;
    Ok(())
}

#[test]
fn a_database_without_a_pose_model_says_what_to_do() -> Result<()> {
    let database = Cluster::shared()?.database("pose_none")?;
    let mut client = database.connect()?;
    // As in a release that ships none: the shipped rows cannot be dropped, the defaults can.
    client.batch_execute("DELETE FROM lookbook_default_model WHERE kind = 'pose'")?;
    let refused = refusal(is_full_front(&mut client, &grey(9)))?;
    assert_eq!(refused.code, "42704");
    assert_eq!(refused.message, "there is no default pose model");
    ensure!(
        refused.hint.contains("lookbook_model_import()"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn a_pose_model_is_used_by_those_it_is_granted_to() -> Result<()> {
    let database = tiny("pose_grants")?;
    let mut owner = database.connect()?;
    owner.batch_execute("CREATE ROLE pose_user LOGIN")?;
    let mut user = database.connect_as("pose_user")?;
    assert_eq!(refusal(is_full_front(&mut user, &grey(255)))?.code, "42501");
    owner.batch_execute("SELECT lookbook_model_grant('maps', 'pose_user')")?;
    assert_eq!(is_full_front(&mut user, &grey(255))?, Some(true));
    Ok(())
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() -> Result<()> {
    let database = Cluster::shared()?.database("pose_refused")?;
    let mut client = database.connect()?;
    let input = json!({
        "name": "image", "width": 32, "height": 40, "layout": "nchw", "dtype": "f32", "colour": "rgb",
        "resize": "stretch", "filter": "bilinear"
    });
    for (stride, fitting) in [(4, "8 would fit"), (32, "8 would fit")] {
        let names = json!({"heatmaps": "heatmaps", "offsets": "offsets"});
        let output = json!({"family": "heatmaps", "names": names, "stride": stride});
        let wrong = manifest(&mut client, "wrong", HEATMAPS, input.clone(), output)?;
        let refused = refusal(import(&mut client, "wrong", &wrong, HEATMAPS))?;
        ensure!(
            refused.code == "22023" && refused.message.contains(fitting),
            "{refused:?}"
        );
    }
    let output = json!({"family": "movenet", "name": "heatmaps"});
    let wrong = manifest(&mut client, "wrong", HEATMAPS, input, output)?;
    let refused = refusal(import(&mut client, "wrong", &wrong, HEATMAPS))?;
    assert_eq!(refused.code, "22023");
    ensure!(
        refused.message.contains("expected [2, 1, 17, 3]"),
        "{refused:?}"
    );
    Ok(())
}

/// Flat-lay garments have no pose. The shipped model is the default, and answers both functions with no setting and no import.
#[test]
fn poses_are_found_out_of_the_box_and_not_in_a_garment_alone() -> Result<()> {
    let database = Cluster::shared()?.database("pose_shipped")?;
    let mut client = database.connect()?;
    for photo in FLAT_LAYS {
        let rows = client.query(POINTS, &[&photo, &None::<&str>])?;
        let names: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(names, NAMES);
        ensure!(
            rows.iter()
                .all(|row| (0.0..=1.0).contains(&row.get::<_, f32>(3)))
        );
        assert_eq!(is_full_front(&mut client, photo)?, Some(false));
    }
    Ok(())
}

#[test]
fn the_shipped_model_finds_people_from_head_to_foot() -> Result<()> {
    let Some(detection) = shared_data("detection")? else {
        return Ok(());
    };
    let database = Cluster::shared()?.database("pose_people")?;
    let mut client = database.connect()?;
    // Street photos: one adult, frontal, full length nearly always; the upper half is without ankles.
    let truth: Value = serde_json::from_slice(&std::fs::read(detection.join("groups_val.json"))?)?;
    let files = truth["images"].as_array().context("images")?;
    let (mut full, mut upright, photos) = (0, 0, 24);
    for file in files.iter().take(photos) {
        let file = file["file_name"].as_str().context("file_name")?;
        let image = std::fs::read(detection.join(file))?;
        full += usize::from(is_full_front(&mut client, &image)?.context("no answer")?);
        let rows = client.query(POINTS, &[&image, &None::<&str>])?;
        let height = |name: &str| -> Result<f32> {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
            Ok(row.context("no such point")?.get(2))
        };
        let (nose, hip, ankle) = (height("nose")?, height("left_hip")?, height("left_ankle")?);
        upright += usize::from(nose < hip && hip < ankle);
    }
    ensure!(
        upright >= photos - 1,
        "nose, hip and ankle lie above each other in {upright} of {photos}"
    );
    ensure!(
        full >= photos * 3 / 4,
        "{full} of {photos} are full front views"
    );
    Ok(())
}

#[test]
fn movenet_brought_along_finds_people_from_head_to_foot() -> Result<()> {
    let (Some(model), Some(detection)) = (
        shared_data("models/movenet_lightning_192_int8.onnx")?,
        shared_data("detection")?,
    ) else {
        return Ok(());
    };
    let database = Cluster::shared()?.database("pose_movenet")?;
    let mut client = database.connect()?;
    let onnx = std::fs::read(&model)?;
    let input = json!({
        "name": "serving_default_input:0", "width": 192, "height": 192, "layout": "nhwc", "dtype": "u8",
        "colour": "rgb", "resize": "letterbox", "filter": "bilinear"
    });
    let output = json!({"family": "movenet", "name": "StatefulPartitionedCall:0"});
    let manifest = manifest(&mut client, "movenet", &onnx, input, output)?;
    import(&mut client, "movenet", &manifest, &onnx)?;
    client.batch_execute("SELECT lookbook_model_default('movenet')")?;

    // Street photos: one adult, frontal, full length nearly always; nobody stands on his head.
    let truth: Value = serde_json::from_slice(&std::fs::read(detection.join("groups_val.json"))?)?;
    let files = truth["images"].as_array().context("images")?;
    let (mut full, mut upright, photos) = (0, 0, 24);
    for file in files.iter().take(photos) {
        let file = file["file_name"].as_str().context("file_name")?;
        let image = std::fs::read(detection.join(file))?;
        let gate = is_full_front(&mut client, &image)?.context("no answer")?;
        let rows = client.query(POINTS, &[&image, &Some("movenet")])?;
        let point = |name: &str| -> Result<(f32, f32)> {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == name);
            let row = row.context("no such point")?;
            Ok((row.get(2), row.get(3)))
        };
        let seen = |name: &str| -> Result<bool> { Ok(point(name)?.1 > 0.5) };
        let any = |a: &str, b: &str| -> Result<bool> { Ok(seen(a)? || seen(b)?) };
        let expected = seen("nose")?
            && any("left_eye", "right_eye")?
            && any("left_hip", "right_hip")?
            && any("left_ankle", "right_ankle")?;
        assert_eq!(gate, expected, "{file}");
        full += usize::from(gate);
        upright += usize::from(point("nose")?.0 < point("left_hip")?.0);
    }
    ensure!(
        upright >= photos - 1,
        "the nose is above the hip in {upright} of {photos}"
    );
    ensure!(
        full >= photos / 2,
        "{full} of {photos} are full front views"
    );
    Ok(())
}
