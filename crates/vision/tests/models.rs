//! Models do what their manifests say. `check.rs` has those that do not, `outputs.rs` further forms of output.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod common;

use std::time::{Duration, Instant};

use lookbook_vision::{
    BoundingBox, Cancel, Detection, Detector, Embedder, Error, ErrorCode, Group, Photo,
    SessionOptions, View, check_model, check_model_with, decode_side, garments,
};
use serde_json::{Value, json};

use common::{
    OPTIONS, detector, detector_document, embedder, embedder_document, largest_difference,
    manifest, onnx, open_detector, open_embedder, photo, photos, runtime, white,
};

#[test]
fn a_batch_gives_what_single_photos_give() {
    let photos = photos();
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    for file in [
        "embed",
        "embed_map",
        "embed_fixed_1",
        "embed_fixed_3",
        "embed_bytes",
        "embed_half",
    ] {
        let mut embedder = embedder(file);
        let batch = embedder.embed(&views).unwrap();
        assert_eq!(batch.len(), views.len());
        for (view, together) in views.iter().zip(&batch) {
            let alone = embedder.embed(&[*view]).unwrap().remove(0);
            assert!(largest_difference(&alone, together) <= 1e-6, "{file}");
            assert_eq!(alone.len(), embedder.dimensions(), "{file}");
        }
        assert!(
            largest_difference(&batch[0], &batch[1]) > 1e-4,
            "{file} must tell photos apart"
        );
        assert!(embedder.embed(&[]).unwrap().is_empty());
    }
    for family in ["yolo_v8", "yolo_v5", "detr", "torchvision"] {
        let mut detector = detector(family);
        let batch = detector.detect(&views).unwrap();
        for (view, together) in views.iter().zip(&batch) {
            assert_eq!(
                &detector.detect(&[*view]).unwrap().remove(0),
                together,
                "{family}"
            );
        }
    }
}

#[test]
fn a_free_batch_can_be_fixed_and_incomplete_runs_are_filled_up() {
    let photos = photos();
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let bytes = onnx("embed");
    let manifest = manifest(&embedder_document("embed"));
    let open = |batch| {
        let options = SessionOptions { batch, ..OPTIONS };
        Embedder::open(&runtime(), manifest.clone(), &bytes, &options).unwrap()
    };
    let expected = open(0).embed(&views).unwrap();
    for batch in [1, 2, 7] {
        let mut embedder = open(batch);
        assert_eq!(embedder.batch_size(), batch);
        for (found, expected) in embedder.embed(&views).unwrap().iter().zip(&expected) {
            assert!(largest_difference(found, expected) <= 1e-6, "{batch}");
        }
    }
}

#[test]
fn preparing_on_other_threads_changes_nothing() {
    let photos = photos();
    let mut embedder = embedder("embed");
    let expected = embedder
        .embed(&photos.iter().map(Photo::whole).collect::<Vec<_>>())
        .unwrap();
    let preprocessor = embedder.preprocessor();
    let tensors: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = photos
            .iter()
            .map(|photo| {
                let preprocessor = preprocessor.clone();
                scope.spawn(move || preprocessor.prepare(&photo.whole()))
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap())
            .collect()
    });
    assert_eq!(embedder.embed_prepared(&tensors).unwrap(), expected);
}

#[test]
fn pooling_a_map_equals_the_pooled_model_and_vectors_have_length_one() {
    let photo = photo(70, 50, 1);
    let pooled = embedder("embed").embed(&[photo.whole()]).unwrap().remove(0);
    let map = embedder("embed_map")
        .embed(&[photo.whole()])
        .unwrap()
        .remove(0);
    assert!(largest_difference(&pooled, &map) < 1e-5);
    let length: f32 = pooled.iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5);

    let mut document = embedder_document("embed_map");
    document["output"]["pool"] = json!("max");
    let most = open_embedder(&document, "embed_map")
        .unwrap()
        .embed(&[photo.whole()])
        .unwrap();
    assert!(largest_difference(&most[0], &map) > 1e-3, "max is not mean");
}

#[test]
fn bytes_and_half_precision_reach_the_model() {
    let photo = photo(64, 80, 2);
    let bytes = embedder("embed_bytes")
        .embed(&[photo.whole()])
        .unwrap()
        .remove(0);
    let half = embedder("embed_half")
        .embed(&[photo.whole()])
        .unwrap()
        .remove(0);
    for (byte, half) in bytes.iter().zip(&half) {
        assert!((byte / 255.0 - half).abs() < 2e-3, "{bytes:?} {half:?}");
    }
    let red: f64 = photo
        .pixels()
        .pixels()
        .map(|pixel| f64::from(pixel[0]))
        .sum();
    assert!((f64::from(bytes[0]) - red / f64::from(64 * 80)).abs() < 0.6);
}

/// The detections of the test models on a white photo, in input pixels of 32 x 40.
fn expected(suppressed: bool) -> Vec<(Group, f32, [f32; 4])> {
    let mut all = vec![
        (Group::Upper, 0.9, [6.0, 4.0, 14.0, 20.0]),
        (Group::Upper, 0.8, [7.0, 4.0, 15.0, 20.0]),
        (Group::Lower, 0.7, [21.0, 26.0, 27.0, 34.0]),
        (Group::Lower, 0.6, [6.0, 4.0, 14.0, 20.0]),
        (Group::Upper, 0.5, [26.0, 34.0, 32.0, 40.0]),
    ];
    if suppressed {
        all.remove(1);
    }
    all
}

fn assert_detections(found: &[Detection], expected: &[(Group, f32, [f32; 4])], scale: (f32, f32)) {
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (group, score, edges)) in found.iter().zip(expected) {
        assert_eq!(found.group, *group);
        assert!((found.score - score).abs() < 0.01, "{found:?}");
        let edges = [
            edges[0] * scale.0,
            edges[1] * scale.1,
            edges[2] * scale.0,
            edges[3] * scale.1,
        ];
        let b = found.bbox;
        let difference = largest_difference(&[b.x1, b.y1, b.x2, b.y2], &edges);
        assert!(difference < 0.01 * scale.0, "{found:?}, expected {edges:?}");
    }
}

#[test]
fn every_family_finds_the_same_garments() {
    let photo = white(320, 400);
    for family in ["yolo_v8", "yolo_v5"] {
        let found = detector(family).detect(&[photo.whole()]).unwrap().remove(0);
        assert_detections(&found, &expected(true), (10.0, 10.0));
        assert_eq!(
            (found[0].label.as_str(), found[1].label.as_str()),
            ("shirt", "trousers")
        );
    }
    let found = detector("detr").detect(&[photo.whole()]).unwrap().remove(0);
    let shares: Vec<_> = expected(false)
        .into_iter()
        .map(|(group, score, b)| (group, score * 0.95, b))
        .collect();
    assert_detections(&found, &shares, (10.0, 10.0));

    // Torchvision counts classes from 1; the test's labels begin at 0.
    let mut document = detector_document("torchvision");
    document["output"]["labels"] = json!([
        {"name": "background", "group": null}, {"name": "shirt", "group": "upper"},
        {"name": "trousers", "group": "lower"}
    ]);
    let mut detector = open_detector(&document, "torchvision").unwrap();
    let found = detector.detect(&[photo.whole()]).unwrap().remove(0);
    let all = expected(true);
    assert_detections(&found, &[all[0], all[1], all[3]], (10.0, 10.0));
}

#[test]
fn thresholds_groups_and_counts_are_the_manifests() {
    let photo = white(32, 40);
    let found = |change: &dyn Fn(&mut Value)| {
        let mut document = detector_document("yolo_v8");
        change(&mut document);
        open_detector(&document, "yolo_v8")
            .unwrap()
            .detect(&[photo.whole()])
            .unwrap()
            .remove(0)
    };
    assert_eq!(found(&|_| {}).len(), 4);
    assert_eq!(
        found(&|d| d["output"]["score_threshold"] = json!(0.65)).len(),
        2
    );
    assert_eq!(
        found(&|d| d["output"]["iou_threshold"] = json!(0.99)).len(),
        5
    );
    assert_eq!(
        found(&|d| d["output"]["max_detections"] = json!(1)).len(),
        1
    );
    let no_trousers = found(&|d| d["output"]["labels"][1]["group"] = json!(null));
    assert!(no_trousers.iter().all(|found| found.group == Group::Upper));
    assert_eq!(no_trousers.len(), 2);
}

#[test]
fn boxes_come_back_through_every_fit() {
    // 320 x 200 photo, 32 x 40 input: letterbox scales by 1/10 and pads 10 rows above.
    let photo = white(320, 200);
    let mut document = detector_document("yolo_v8");
    document["input"]["resize"] = json!("letterbox");
    document["input"]["pad"] = json!([255, 255, 255]);
    let mut detector = open_detector(&document, "yolo_v8").unwrap();
    let found = detector.detect(&[photo.whole()]).unwrap().remove(0);
    // (26, 34)..(32, 40) lies in the padding below the photo, so it is gone.
    let first = found[0].bbox;
    assert_eq!(
        [first.x1, first.y1, first.x2, first.y2],
        [60.0, 0.0, 140.0, 100.0]
    );
    let second = found[1].bbox;
    assert_eq!(
        [second.x1, second.y1, second.x2, second.y2],
        [210.0, 160.0, 270.0, 200.0]
    );
    assert_eq!(found.len(), 3);

    // Crop scales by 1/5 and cuts 16 columns on each side.
    document["input"]["resize"] = json!("crop");
    let mut detector = open_detector(&document, "yolo_v8").unwrap();
    let first = detector.detect(&[photo.whole()]).unwrap()[0][0].bbox;
    assert_eq!(
        [first.x1, first.y1, first.x2, first.y2],
        [110.0, 20.0, 150.0, 100.0]
    );

    // A view's boxes are the photo's.
    let mut detector = self::detector("yolo_v8");
    let view = photo.crop(BoundingBox {
        x1: 100.0,
        y1: 50.0,
        x2: 164.0,
        y2: 130.0,
    });
    let first = detector.detect(&[view]).unwrap()[0][0].bbox;
    assert_eq!(
        [first.x1, first.y1, first.x2, first.y2],
        [112.0, 58.0, 128.0, 90.0]
    );
}

#[test]
fn photos_are_decoded_large_enough_for_what_a_crop_covers() {
    let side = |resize: &str, share: Option<f64>| {
        let mut document = embedder_document("embed");
        document["input"]["resize"] = resize.into();
        if let Some(share) = share {
            document["input"]["crop_share"] = share.into();
        }
        decode_side(None, &open_embedder(&document, "embed").unwrap())
    };
    assert_eq!(side("stretch", None), 80);
    assert_eq!(side("letterbox", None), 80);
    // Twice the 40 pixels of the shorter side, of a photo with sides of 2 to 3.
    assert_eq!(side("crop", None), 120);
    // 40 pixels are 0.8 of 50.
    assert_eq!(side("crop", Some(0.8)), 150);
}

#[test]
fn garments_are_crops_with_a_margin() {
    let photo = photo(321, 403, 6);
    let (mut detector, mut embedder) = (detector("yolo_v8"), embedder("embed"));
    assert_eq!(decode_side(Some(&detector), &embedder), 960);
    assert_eq!(decode_side(None, &embedder), 80);
    let white = white(321, 403);
    let found = garments(&mut detector, &mut embedder, &white).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(
        (found[0].category.as_str(), found[0].label.as_str()),
        ("upper", "shirt")
    );
    for garment in &found {
        let b = garment.bbox;
        let (dx, dy) = (b.width() * 0.05, b.height() * 0.05);
        let grown = BoundingBox {
            x1: b.x1 - dx,
            y1: b.y1 - dy,
            x2: b.x2 + dx,
            y2: b.y2 + dy,
        };
        let view = white.crop(grown);
        assert!(view.bounds().x1 >= 0.0 && view.bounds().x2 <= 321.0);
        assert_eq!(b.with_margin(&white), view.bounds());
        let alone = embedder.embed(&[view]).unwrap().remove(0);
        assert!(largest_difference(&alone, &garment.embedding) <= 1e-6);
    }
    // Darker than any threshold: nothing is found, and that is no error.
    let dark = Photo::from_pixels(image::RgbImage::new(40, 40));
    assert!(
        garments(&mut detector, &mut embedder, &dark)
            .unwrap()
            .is_empty()
    );
    assert!(
        garments(&mut detector, &mut embedder, &photo)
            .unwrap()
            .len()
            < 4
    );
}

#[test]
fn a_run_stops_when_it_is_cancelled_from_another_thread() {
    let mut embedder = embedder("slow");
    let cancel = Cancel::new();
    embedder.set_cancel(&cancel);
    let photo = photo(32, 40, 0);
    let started = Instant::now();
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            cancel.cancel();
        });
        embedder.embed(&[photo.whole()])
    });
    assert_eq!(result.unwrap_err(), Error::Cancelled);
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert!(
        started.elapsed() < Duration::from_secs(20),
        "{:?}",
        started.elapsed()
    );
    // It stays cancelled until another switch is set.
    assert_eq!(
        embedder.embed(&[photo.whole()]).unwrap_err(),
        Error::Cancelled
    );

    let thrown = Cancel::new();
    thrown.cancel();
    let manifest = manifest(&embedder_document("embed"));
    let error = check_model_with(&runtime(), &manifest, &onnx("embed"), &thrown).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Cancelled);
    let mut embedder = self::embedder("embed");
    embedder.set_cancel(&thrown);
    assert_eq!(
        embedder.embed(&[photo.whole()]).unwrap_err(),
        Error::Cancelled
    );
    embedder.set_cancel(&Cancel::new());
    embedder.embed(&[photo.whole()]).unwrap();
}

#[test]
fn shipped_models_pass_the_check_and_batches_change_nothing() {
    let shipped = |name: &str| {
        let path = common::tests_dir()
            .join("../../../models/shipped")
            .join(name);
        std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let parts = |name: &str| {
        let json = String::from_utf8(shipped(&format!("{name}.json"))).unwrap();
        (
            lookbook_vision::Manifest::from_json(&json).unwrap(),
            shipped(&format!("{name}.onnx")),
        )
    };
    for name in [
        "full-front-pose",
        "garment-detector",
        "garment-embedder",
        "resnet-preact-64",
    ] {
        let (manifest, onnx) = parts(name);
        assert_eq!(manifest.name(), name);
        let report = check_model(&runtime(), &manifest, &onnx).unwrap();
        assert!(report.batched, "{name} takes photos in batches");
    }
    let photos = photos();
    let views: Vec<View<'_>> = photos.iter().map(Photo::whole).collect();
    let (manifest, onnx) = parts("garment-embedder");
    let mut embedder = Embedder::open(&runtime(), manifest, &onnx, &OPTIONS).unwrap();
    let batch = embedder.embed(&views).unwrap();
    for (view, together) in views.iter().zip(&batch) {
        let alone = embedder.embed(&[*view]).unwrap().remove(0);
        let difference = largest_difference(&alone, together);
        println!("garment-embedder: batch and single differ by {difference:e}");
        assert!(difference <= 1e-6);
    }
    let (manifest, onnx) = parts("garment-detector");
    let mut detector = Detector::open(&runtime(), manifest, &onnx, &OPTIONS).unwrap();
    let batch = detector.detect(&views).unwrap();
    for (view, together) in views.iter().zip(&batch) {
        let alone = detector.detect(&[*view]).unwrap().remove(0);
        assert_eq!(alone.len(), together.len());
        for (a, b) in alone.iter().zip(together) {
            assert!(
                (a.score - b.score).abs() <= 1e-5 && a.bbox.iou(&b.bbox) > 0.999,
                "{a:?} {b:?}"
            );
        }
    }
}
