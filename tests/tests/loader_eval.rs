//! `lookbook eval`: figures that can be worked out by hand, through the database and its index.

mod loader_support;
mod sql_support;

use std::fs;

use anyhow::{Context, Result, ensure};
use loader_support::Shop;
use lookbook_tests::{Cluster, shared_data};
use serde_json::{Value, json};
use sql_support::bmp;

fn shop(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

fn number(object: &Value, key: &str) -> Result<f64> {
    object[key]
        .as_f64()
        .with_context(|| format!("{key} of {object}"))
}

fn expect_number(object: &Value, key: &str, expected: f64) -> Result<()> {
    let found = number(object, key)?;
    ensure!(
        (found - expected).abs() < 1e-9,
        "{key} is {found}, not {expected}: {object}"
    );
    Ok(())
}

/// The detector `boxes` finds the left half (shirt, 0.9) and the lower right quarter (shoe, 0.8) of
/// every photo.
fn annotated(shop: &Shop<'_>) -> Result<Value> {
    for name in ["a.bmp", "b.bmp"] {
        shop.put(name, &bmp(160, 80, [10, 200, 30]))?;
    }
    let annotation = |image: u8, category: u8, bbox: [f64; 4]| json!({"image_id": image, "category_id": category, "bbox": bbox});
    Ok(json!({
        "images": [{"id": 2, "file_name": "b.bmp"}, {"id": 1, "file_name": "a.bmp"}],
        "categories": [{"id": 7, "name": "upper"}, {"id": 3, "name": "shoe"}, {"id": 5, "name": "lower"}],
        "annotations": [
            annotation(1, 7, [0.0, 0.0, 80.0, 80.0]),
            annotation(1, 3, [80.0, 40.0, 80.0, 40.0]),
            annotation(2, 7, [100.0, 0.0, 40.0, 20.0]),
        ],
    }))
}

#[test]
fn detection_is_judged_by_label_or_group_as_coco_does() -> Result<()> {
    let shop = shop("eval_detection")?;
    let boxes = shop.put("boxes.json", annotated(&shop)?.to_string().as_bytes())?;
    let boxes = boxes.to_str().context("a path in UTF-8")?;
    let outcome = shop
        .run([
            "eval",
            "detection",
            "--coco",
            boxes,
            "--json",
            "--out",
            "found.json",
        ])?
        .expect(0)?;
    let object: Value = serde_json::from_str(&outcome.stdout)?;
    // One of two uppers is found, before the miss: precision 1 at recalls 0 to 0.50.
    expect_number(&object["ap50"], "upper", 51.0 / 101.0)?;
    expect_number(&object["ap50"], "shoe", 1.0)?;
    ensure!(
        object["ap50"]["lower"].is_null(),
        "nothing is annotated: {object}"
    );
    expect_number(&object, "map50", (51.0 / 101.0 + 1.0) / 2.0)?;
    // The boxes are exact, so a stricter overlap changes nothing.
    expect_number(&object, "map50_95", (51.0 / 101.0 + 1.0) / 2.0)?;
    // Three boxes; the manifest keeps all four detections, of which two are right.
    for (key, expected) in [("precision", 0.5), ("recall", 2.0 / 3.0), ("f1", 4.0 / 7.0)] {
        expect_number(&object, key, expected)?;
    }
    expect_number(&object["recall_by_category"], "upper", 0.5)?;
    // The detector has no such label, and no box misses it.
    ensure!(!outcome.stderr.contains("no label"), "{outcome}");

    let found: Value = serde_json::from_slice(&fs::read(shop.path("found.json"))?)?;
    let found = found.as_array().context("a list of detections")?;
    assert_eq!(found.len(), 4);
    ensure!(
        found.iter().any(|found| found["image_id"] == 1
            && found["category_id"] == 3
            && found["bbox"] == json!([80.0, 40.0, 80.0, 40.0])),
        "{found:?}"
    );

    for (option, value, part) in [
        (
            "--out",
            "absent/found.json",
            "cannot write absent/found.json",
        ),
        ("--out", "photos/boxes.json", "would overwrite it"),
        ("--limit", "0", "0 is not in 1.."),
    ] {
        let args = [
            "eval",
            "detection",
            "--coco",
            boxes,
            "--json",
            option,
            value,
        ];
        let outcome = shop.run(args)?.expect(1)?;
        ensure!(outcome.stdout.is_empty(), "{}", outcome.stdout);
        outcome.expect_stderr(&[part])?;
    }

    // A failed run leaves no file of detections behind, and what was there stays.
    let absent = ["--out", "left.json", "--detect-model", "nothing"];
    let args = ["eval", "detection", "--coco", boxes];
    shop.run(args.iter().chain(&absent))?.expect(1)?;
    ensure!(!shop.path("left.json").exists());

    let higher = shop
        .run(args.iter().chain(&["--score-threshold", "0.85"]))?
        .expect(0)?;
    let says = "what scores 0.85 or more, by --score-threshold; a load keeps from 0.3";
    ensure!(higher.stdout.contains(says), "{}", higher.stdout);
    let more = ["--score-threshold", "0.85", "--json"];
    let higher = shop.run(args.iter().chain(&more))?.expect(0)?;
    let higher: Value = serde_json::from_str(&higher.stdout)?;
    expect_number(&higher, "score_threshold", 0.85)?;
    expect_number(&higher, "load_threshold", 0.3)?;

    let table = shop.run(args)?.expect(0)?;
    ensure!(
        table.stdout.contains("as a load keeps it")
            && table.stdout.contains("upper")
            && table.stdout.contains("0.505")
            && table.stdout.contains("0.752"),
        "{}",
        table.stdout
    );
    Ok(())
}

#[test]
fn a_shop_has_names_of_its_own_for_categories() -> Result<()> {
    let shop = shop("eval_names")?;
    let mut json = annotated(&shop)?;
    for (at, name) in ["blouse", "shoe", "jeans = trousers"]
        .into_iter()
        .enumerate()
    {
        json["categories"][at]["name"] = name.into();
    }
    json["categories"]
        .as_array_mut()
        .context("a list")?
        .push(json!({"id": 9, "name": "tee"}));
    // The second upper of the first photo is one of the other kind.
    json["annotations"][2]["category_id"] = 9.into();
    let boxes = shop.put("boxes.json", json.to_string().as_bytes())?;
    let boxes = boxes.to_str().context("a path in UTF-8")?;
    let run = |map: &[&str]| {
        let named = map.iter().flat_map(|name| ["--map", name]);
        let args = ["eval", "detection", "--coco", boxes, "--json"];
        shop.run(args.into_iter().chain(named))
    };
    run(&[])?.expect(0)?.expect_stderr(&["blouse, tee"])?;
    let none = run(&["shoe=Shoe"])?.expect(1)?.expect_stderr(&[
        "Shoe (it has shoe)",
        "--map NAME=LABEL",
        "which has",
    ])?;
    ensure!(none.stdout.is_empty(), "{none}");
    let outcome = run(&["blouse=upper", "tee=upper", "shoe="])?.expect(0)?;
    ensure!(!outcome.stderr.contains("no label"), "{outcome}");
    let object: Value = serde_json::from_str(&outcome.stdout)?;
    expect_number(&object, "map50", 51.0 / 101.0)?;
    expect_number(&object["ap50"], "upper", 51.0 / 101.0)?;
    ensure!(object["ap50"].get("shoe").is_none(), "left out: {object}");
    for (map, part) in [
        ("dress=full_body", "no category is named"),
        ("upper", "expected NAME=LABEL"),
    ] {
        run(&[map])?.expect(1)?.expect_stderr(&[part])?;
    }
    Ok(())
}

#[test]
fn photos_that_cannot_be_used_are_said_and_left_out() -> Result<()> {
    let shop = shop("eval_unreadable")?;
    let json = annotated(&shop)?;
    shop.put("b.bmp", b"not a photo")?;
    fs::write(shop.path("elsewhere.json"), json.to_string())?;
    let args = [
        "eval",
        "detection",
        "--coco",
        "elsewhere.json",
        "--images",
        "photos",
        "--json",
    ];
    let outcome = shop
        .run(args)?
        .expect(2)?
        .expect_stderr(&["b.bmp", "not an image"])?;
    let object: Value = serde_json::from_str(&outcome.stdout)?;
    expect_number(&object, "map50", 1.0)?;
    expect_number(&object, "skipped", 1.0)?;

    let outcome = shop
        .run(["eval", "detection", "--coco", "elsewhere.json"])?
        .expect(1)?;
    outcome.expect_stderr(&["none of the 2 photos could be used"])?;
    fs::write(shop.path("wrong.json"), "{\"images\": []}")?;
    let outcome = shop
        .run(["eval", "detection", "--coco", "wrong.json"])?
        .expect(1)?;
    outcome.expect_stderr(&["wrong.json", "COCO", "missing field `annotations`"])?;
    Ok(())
}

/// Vectors are mean colours, so photos of near colours are near.
fn colours(shop: &Shop<'_>) -> Result<()> {
    for (name, colour) in [
        ("a/red-query.bmp", [200, 0, 0]),
        ("a/red.bmp", [190, 0, 0]),
        ("a/blue-query.bmp", [0, 0, 200]),
        ("a/blue.bmp", [0, 0, 150]),
        ("a/green.bmp", [0, 200, 0]),
        ("more/navy.bmp", [0, 0, 190]),
        ("more/black.bmp", [0, 0, 0]),
    ] {
        shop.put(name, &bmp(16, 16, colour))?;
    }
    let list = "set,path,item_id,role,group\n\
                plain,a/red-query.bmp,red,query,\n\
                plain,a/red.bmp,red,gallery,\n\
                plain,a/blue-query.bmp,blue,query,\n\
                plain,a/blue.bmp,blue,gallery,\n\
                plain,a/green.bmp,green,gallery,\n\
                other,a/green.bmp,green,query,\n";
    shop.put("lists/list.csv", list.as_bytes())?;
    Ok(())
}

#[test]
fn retrieval_counts_the_item_among_the_nearest() -> Result<()> {
    let shop = shop("eval_retrieval")?;
    colours(&shop)?;
    let run = |more: &[&str]| -> Result<Value> {
        let mut args = vec![
            "eval",
            "retrieval",
            "--csv",
            "photos/lists/list.csv",
            "--set",
            "plain",
            "--json",
        ];
        args.extend(more);
        Ok(serde_json::from_str(&shop.run(args)?.expect(0)?.stdout)?)
    };
    let object = run(&[])?;
    for (key, expected) in [
        ("top1", 1.0),
        ("top50", 1.0),
        ("queries", 2.0),
        ("gallery", 3.0),
    ] {
        expect_number(&object, key, expected)?;
    }
    ensure!(number(&object, "recall")? > 0.5, "{object}");
    // Navy is nearer to the blue query than the other blue.
    let object = run(&["--gallery", "photos/more"])?;
    for (key, expected) in [("top1", 0.5), ("top5", 1.0), ("gallery", 5.0)] {
        expect_number(&object, key, expected)?;
    }
    shop.put("more.csv", b"path\nmore/navy.bmp\na/red-query.bmp\n")?;
    let object = run(&["--gallery", "photos/more.csv"])?;
    // The query itself joined the gallery, but is never its own neighbour.
    for (key, expected) in [("top1", 0.5), ("top5", 1.0), ("gallery", 5.0)] {
        expect_number(&object, key, expected)?;
    }
    let table = shop
        .run([
            "eval",
            "retrieval",
            "--csv",
            "photos/lists/list.csv",
            "--set",
            "plain",
        ])?
        .expect(0)?;
    ensure!(
        table.stdout.contains("top 10")
            && table.stdout.contains("1.000")
            && table.stdout.contains("searched with lookbook.recall 0."),
        "{}",
        table.stdout
    );
    shop.wait_for_the_end(std::time::Duration::from_secs(60))?;
    let left = shop
        .database
        .psql("SELECT count(*) FROM pg_class WHERE relname LIKE 'lookbook_eval%'")?;
    assert_eq!(left, "0", "the table was temporary");
    Ok(())
}

#[test]
fn a_list_that_cannot_be_used_says_why() -> Result<()> {
    let shop = shop("eval_lists")?;
    colours(&shop)?;
    for (args, part) in [
        (
            vec!["--csv", "photos/lists/list.csv", "--set", "fancy"],
            "has no set \"fancy\"; it has: other, plain",
        ),
        (
            vec!["--csv", "photos/lists/list.csv", "--set", "other"],
            "no photos with the role gallery in set \"other\"",
        ),
        (vec!["--csv", "photos/lists/list.csv"], "green.bmp"),
        (vec!["--csv", "missing.csv"], "missing.csv"),
        (
            vec!["--deepfashion-inshop", "photos"],
            "has no list_eval_partition.txt",
        ),
        (
            vec!["--csv", "photos/lists/list.csv", "--crop", "list"],
            "a CSV file has none",
        ),
        (
            vec!["--deepfashion-inshop", "photos", "--set", "plain"],
            "cannot be used with",
        ),
    ] {
        let args = ["eval", "retrieval"]
            .into_iter()
            .chain(args.iter().copied());
        let outcome = shop.run(args)?;
        if part == "green.bmp" {
            // Both query and gallery, of one item, in two sets: allowed; it has no other photo.
            outcome
                .expect(0)?
                .expect_stderr(&["1 of 3 queries have no photo of their item"])?;
        } else {
            outcome.expect(1)?.expect_stderr(&[part])?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_measured_without_queries_or_without_a_gallery() -> Result<()> {
    let shop = shop("eval_roles")?;
    shop.put("there.bmp", &bmp(16, 16, [200, 0, 0]))?;
    for (role, other) in [("query", "gallery"), ("gallery", "query")] {
        let list = format!("path,item_id,role\ngone.bmp,x,{role}\nthere.bmp,x,{other}\n");
        shop.put("list.csv", list.as_bytes())?;
        let outcome = shop
            .run(["eval", "retrieval", "--csv", "photos/list.csv"])?
            .expect(1)?;
        ensure!(outcome.stdout.is_empty(), "{}", outcome.stdout);
        let part = format!("none of the photos with the role {role} could be used");
        outcome.expect_stderr(&["gone.bmp", &part])?;
    }
    Ok(())
}

/// A photo of one colour whose middle has another: where the garment is.
fn framed(frame: [u8; 3], middle: [u8; 3]) -> Result<Vec<u8>> {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        let is_middle = (16..48).contains(&x) && (16..48).contains(&y);
        image::Rgb(if is_middle { middle } else { frame })
    });
    let mut out = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut out, image::ImageFormat::Png)?;
    Ok(out.into_inner())
}

#[test]
fn the_in_shop_benchmark_is_read_as_published() -> Result<()> {
    let shop = shop("eval_inshop")?;
    let (red, blue, white) = ([250, 0, 0], [0, 0, 250], [250; 3]);
    let photos = [
        (
            "id_00000001/01_1_front.jpg",
            "id_00000001",
            "query",
            framed(blue, red)?,
        ),
        (
            "id_00000001/01_2_side.jpg",
            "id_00000001",
            "gallery",
            framed(white, red)?,
        ),
        (
            "id_00000002/02_1_front.jpg",
            "id_00000002",
            "gallery",
            framed(blue, blue)?,
        ),
        (
            "id_00000003/03_1_front.jpg",
            "id_00000003",
            "train",
            b"never read".to_vec(),
        ),
    ];
    let mut partition = format!("{}\nimage_name item_id evaluation_status\n", photos.len());
    let mut boxes = format!(
        "{}\nimage_name clothes_type pose_type x_1 y_1 x_2 y_2\n",
        photos.len()
    );
    for (name, item, status, bytes) in &photos {
        let image_name = format!("img/WOMEN/Dresses/{name}");
        shop.put(&format!("In-shop/Img/{image_name}"), bytes)?;
        partition += &format!("{image_name:<60}{item} {status}\n");
        boxes += &format!("{image_name:<60} 3 1 018 018 046 046\n");
    }
    shop.put("In-shop/Eval/list_eval_partition.txt", partition.as_bytes())?;
    shop.put("In-shop/Anno/list_bbox_inshop.txt", boxes.as_bytes())?;
    let args = |crop| {
        [
            "eval",
            "retrieval",
            "--deepfashion-inshop",
            "photos/In-shop",
            "--crop",
            crop,
            "--json",
        ]
    };
    let run = |crop| -> Result<Value> {
        Ok(serde_json::from_str(
            &shop.run(args(crop))?.expect(0)?.stdout,
        )?)
    };
    // The whole query is mostly blue; the garment in its box is red.
    let whole = run("none")?;
    for (key, expected) in [
        ("top1", 0.0),
        ("top5", 1.0),
        ("queries", 1.0),
        ("gallery", 2.0),
    ] {
        expect_number(&whole, key, expected)?;
    }
    expect_number(&run("list")?, "top1", 1.0)?;
    // A box of another photo is not taken for the edge of this one, and none of nothing.
    for (corners, code, part) in [
        (
            "064 018 090 046",
            2,
            "01_2_side.jpg: its box 64 18 90 46 lies outside of its 64 x 64 pixels",
        ),
        (
            "046 018 018 046",
            1,
            "list_bbox_inshop.txt: line 4: the box 46 18 18 46 has no pixels",
        ),
    ] {
        let second = boxes.match_indices("018 018 046 046").nth(1);
        let (at, old) = second.context("a second box")?;
        let mut altered = boxes.clone();
        altered.replace_range(at..at + old.len(), corners);
        shop.put("In-shop/Anno/list_bbox_inshop.txt", altered.as_bytes())?;
        shop.run(args("list"))?
            .expect(code)?
            .expect_stderr(&[part])?;
        shop.run(args("none"))?.expect(0)?;
    }

    // Wherever its photos lie, though the first is absent.
    let one_more = partition.replacen('4', "5", 1);
    let gone = "evaluation_status\nimg/gone.jpg id_00000004 gallery\n";
    shop.put(
        "In-shop/Eval/list_eval_partition.txt",
        one_more.replacen("evaluation_status\n", gone, 1).as_bytes(),
    )?;
    fs::rename(
        shop.path("photos/In-shop/Img/img"),
        shop.path("photos/In-shop/img"),
    )?;
    let outcome = shop.run(args("none"))?.expect(2)?;
    let object = serde_json::from_str(&outcome.stdout)?;
    for (key, expected) in [("top5", 1.0), ("gallery", 2.0), ("skipped", 1.0)] {
        expect_number(&object, key, expected)?;
    }

    shop.put("In-shop/Eval/list_eval_partition.txt", one_more.as_bytes())?;
    shop.run(args("none"))?.expect(1)?.expect_stderr(&[
        "list_eval_partition.txt",
        "it says that 5 photos follow, and has 4",
    ])?;
    Ok(())
}

#[test]
fn the_detectors_crop_can_be_what_is_embedded() -> Result<()> {
    let shop = shop("eval_crop")?;
    // The detector finds the left half; the right half misleads.
    let halves = |left: [u8; 3], right: [u8; 3]| -> Result<Vec<u8>> {
        let picture =
            image::RgbImage::from_fn(80, 80, |x, _| image::Rgb(if x < 42 { left } else { right }));
        let mut out = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut out, image::ImageFormat::Png)?;
        Ok(out.into_inner())
    };
    shop.put("query.png", &halves([250, 0, 0], [0, 250, 250])?)?;
    shop.put("same.png", &halves([250, 0, 0], [250, 0, 0])?)?;
    shop.put("other.png", &halves([120, 120, 120], [120, 120, 120])?)?;
    let list = b"path,item_id,role\nquery.png,x,query\nsame.png,x,gallery\nother.png,y,gallery\n";
    shop.put("list.csv", list)?;
    for (crop, expected) in [("none", 0.0), ("detect", 1.0)] {
        let args = [
            "eval",
            "retrieval",
            "--csv",
            "photos/list.csv",
            "--crop",
            crop,
            "--json",
        ];
        let object: Value = serde_json::from_str(&shop.run(args)?.expect(0)?.stdout)?;
        expect_number(&object, "top1", expected).context(crop)?;
    }
    Ok(())
}

#[test]
fn the_shipped_models_are_measured_on_real_photos() -> Result<()> {
    let (Some(list), Some(boxes)) = (
        shared_data("retrieval/retrieval.csv")?,
        shared_data("detection/groups_val.json")?,
    ) else {
        return Ok(());
    };
    let shop = Shop::with_shipped_models(Cluster::shared()?, "eval_shipped")?;
    let (list, boxes) = (list.to_string_lossy(), boxes.to_string_lossy());
    let args = [
        "eval",
        "retrieval",
        "--csv",
        &list,
        "--set",
        "same_item",
        "--json",
    ];
    let object: Value = serde_json::from_str(&shop.run(args)?.expect(0)?.stdout)?;
    expect_number(&object, "queries", 16.0)?;
    expect_number(&object, "gallery", 18.0)?;
    let (top1, top50) = (number(&object, "top1")?, number(&object, "top50")?);
    ensure!(top1 >= 0.5 && (top50 - 1.0).abs() < 1e-9, "{object}");

    let args = [
        "eval",
        "detection",
        "--coco",
        &boxes,
        "--limit",
        "12",
        "--json",
    ];
    let object: Value = serde_json::from_str(&shop.run(args)?.expect(0)?.stdout)?;
    ensure!(number(&object, "map50")? > 0.4, "{object}");
    ensure!(
        number(&object, "map50_95")? < number(&object, "map50")?,
        "{object}"
    );
    Ok(())
}

#[test]
fn a_file_of_boxes_may_be_written_as_users_write_it_and_has_to_have_some() -> Result<()> {
    let shop = shop("eval_coco_forms")?;
    shop.put("a.bmp", &bmp(16, 16, [255, 0, 0]))?;
    let write = |annotations: &str| {
        let text = format!(
            "\u{feff}{{\"images\": [{{\"id\": 1, \"file_name\": \"photos/a.bmp\"}}], \"categories\": [{{\"id\": 1, \"name\": \"Upper\"}}, \
             {{\"id\": 2, \"name\": \"shoe\"}}], \"annotations\": [{annotations}]}}"
        );
        fs::write(shop.path("boxes.json"), text)
    };
    let run = || shop.run(["eval", "detection", "--coco", "boxes.json", "--json"]);
    write(
        r#"{"image_id": 1, "category_id": 2, "bbox": [8, 8, 8, 8], "iscrowd": false}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 16]}"#,
    )?;
    let outcome = run()?.expect(0)?;
    let object: Value = serde_json::from_str(&outcome.stdout)?;
    expect_number(&object["ap50"], "shoe", 1.0)?;
    outcome.expect_stderr(&["no label or group named Upper (it has upper)"])?;
    write(r#"{"image_id": 1, "category_id": 2}"#)?;
    run()?
        .expect(1)?
        .expect_stderr(&["annotation 0, of image 1, has no bbox"])?;
    let crowd = r#"{"image_id": 1, "category_id": 1, "bbox": [0, 0, 8, 16], "iscrowd": 1}"#;
    for nothing in ["", crowd] {
        write(nothing)?;
        run()?.expect(1)?.expect_stderr(&[
            "has no annotated box (crowds aside): there is nothing to measure by",
        ])?;
    }
    let two = r#"{"images": [{"id": 1, "file_name": "photos/a.bmp"}, {"id": 2, "file_name": "photos/a.bmp"}],
        "categories": [{"id": 2, "name": "shoe"}], "annotations": [{"image_id": 2, "category_id": 2, "bbox": [8, 8, 8, 8]}]}"#;
    fs::write(shop.path("boxes.json"), two)?;
    run()?.expect(0)?;
    shop.run(["eval", "detection", "--coco", "boxes.json", "--limit", "1"])?
        .expect(1)?
        .expect_stderr(&["has no annotated box in the photos of --limit 1 (crowds aside)"])?;
    Ok(())
}
