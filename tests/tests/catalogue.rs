//! The demo catalogue agrees with its manifest and stays small. Needs no server.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use lookbook_tests::workspace;

const MOST_BYTES: u64 = 6_000_000;

/// File names in a folder with their sizes.
fn files(folder: &Path) -> BTreeMap<String, u64> {
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| {
            let entry = entry.expect("a readable folder");
            let bytes = entry.metadata().expect("metadata").len();
            (
                entry.file_name().into_string().expect("a UTF-8 name"),
                bytes,
            )
        })
        .collect()
}

/// The manifest: no field of ours holds a comma or a quote, which the test checks by counting.
fn manifest() -> Vec<BTreeMap<String, String>> {
    let text = fs::read_to_string(workspace().join("tests/catalogue/catalogue.csv"))
        .expect("the manifest");
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().expect("a header").split(',').collect();
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            assert_eq!(fields.len(), header.len(), "{line}");
            assert!(
                !line.contains('"') && fields.iter().all(|field| !field.is_empty()),
                "{line}"
            );
            header
                .iter()
                .map(|name| name.to_string())
                .zip(fields.iter().map(|field| field.to_string()))
                .collect()
        })
        .collect()
}

#[test]
fn the_manifest_lists_every_photo_once() {
    let listed: Vec<String> = manifest()
        .iter()
        .map(|row| row["path"].replace("photos/", ""))
        .collect();
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a photo is listed twice");
    let there: BTreeSet<String> = files(&workspace().join("tests/catalogue/photos"))
        .into_keys()
        .collect();
    assert_eq!(unique, there);
}

#[test]
fn a_sku_is_one_product() {
    let mut products = BTreeMap::new();
    for row in manifest() {
        let product = (
            row["name"].clone(),
            row["price"].clone(),
            row["brand_id"].clone(),
        );
        let known = products
            .entry(row["sku"].clone())
            .or_insert_with(|| product.clone());
        assert_eq!(*known, product, "{}", row["sku"]);
    }
}

#[test]
fn the_catalogue_is_small_but_enough_to_look_at() {
    let photos = files(&workspace().join("tests/catalogue/photos"));
    let queries = files(&workspace().join("tests/catalogue/queries"));
    assert!(photos.len() >= 120, "{} photos", photos.len());
    assert!(queries.len() >= 3, "{} queries", queries.len());
    let bytes: u64 = photos.values().chain(queries.values()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}

#[test]
fn no_query_is_in_the_catalogue() {
    let contents = |folder: &str| -> BTreeSet<Vec<u8>> {
        let folder = workspace().join("tests/catalogue").join(folder);
        files(&folder)
            .keys()
            .map(|name| fs::read(folder.join(name)).expect("a readable photo"))
            .collect()
    };
    assert!(contents("photos").is_disjoint(&contents("queries")));
}
