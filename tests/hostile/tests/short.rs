//! The short run of what `make fuzz` does for long: every seed, then some thousand damaged ones, always the same.
//!
//! `LOOKBOOK_FUZZ_SEED=N` begins elsewhere. Unlike libFuzzer it sees no coverage and no sanitizer watches: it keeps what holds
//! from breaking, the long run finds what is new.

mod damage;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use damage::Damage;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files of a folder of the checkout that end in `ending`, in order.
fn files(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = workspace().join(folder);
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    paths.sort();
    let files: Vec<_> = paths
        .iter()
        .map(|path| fs::read(path).expect("a seed"))
        .collect();
    assert!(!files.is_empty(), "no seeds in {}", folder.display());
    files
}

/// How many inputs were values, and how many were refused.
fn run(
    name: &str,
    reader: fn(&[u8]) -> bool,
    seeds: &[Vec<u8>],
    rounds: usize,
) -> Result<(usize, usize), String> {
    let first =
        std::env::var("LOOKBOOK_FUZZ_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let mut damage = Damage(first);
    let mut values = 0;
    for round in 0..seeds.len() + rounds {
        let input = match seeds.get(round) {
            Some(seed) => seed.clone(),
            None => damage.of_one(seeds),
        };
        match catch_unwind(AssertUnwindSafe(|| reader(&input))) {
            Ok(is_value) => values += usize::from(is_value),
            Err(_) => {
                let kept =
                    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{first}-{round}"));
                fs::write(&kept, &input).expect("a folder for findings");
                return Err(format!(
                    "round {round} of seed {first} breaks {name}; the {} bytes are in {}",
                    input.len(),
                    kept.display()
                ));
            }
        }
    }
    Ok((values, seeds.len() + rounds - values))
}

/// Fails when something breaks, and when nearly all inputs were of one sort: then they tested little.
fn check(name: &str, reader: fn(&[u8]) -> bool, seeds: &[Vec<u8>], rounds: usize) {
    match run(name, reader, seeds, rounds) {
        Ok((values, refused)) => {
            println!("{name}: {values} values, {refused} refused");
            assert!(values > rounds / 200, "{name}: {values} values in {rounds}");
            assert!(
                refused > rounds / 200,
                "{name}: {refused} refused in {rounds}"
            );
        }
        Err(finding) => panic!("{finding}"),
    }
}

#[test]
fn text_of_an_embedding() {
    let seeds = files("tests/hostile/seeds/embedding_text", "");
    check(
        "embedding_text",
        lookbook_hostile::embedding_text,
        &seeds,
        100_000,
    );
}

#[test]
fn binary_form_of_an_embedding() {
    let seeds = files("tests/hostile/seeds/embedding_wire", "");
    check(
        "embedding_wire",
        lookbook_hostile::embedding_wire,
        &seeds,
        100_000,
    );
}

#[test]
fn manifest_of_a_model() {
    let mut seeds = files("tests/hostile/seeds/manifest", "");
    seeds.extend(files("models/shipped", ".json"));
    check("manifest", lookbook_hostile::manifest, &seeds, 20_000);
}

#[test]
fn header_of_an_onnx_file() {
    let seeds = files("crates/vision/tests/models", ".onnx");
    check("onnx_header", lookbook_hostile::onnx_header, &seeds, 50_000);
}

#[test]
fn message_of_the_worker() {
    let seeds = files("tests/hostile/seeds/worker_protocol", "");
    check(
        "worker_protocol",
        lookbook_hostile::worker_protocol,
        &seeds,
        100_000,
    );
}

#[test]
fn photo() {
    let mut seeds = files("crates/vision/tests/images", "");
    seeds.retain(|seed| !seed.starts_with(b"#!"));
    check("image", lookbook_hostile::image, &seeds, 6_000);
}

#[test]
fn pages_of_an_index() {
    let seeds = files("tests/hostile/seeds/index_pages", "");
    check("index_pages", lookbook_hostile::index_pages, &seeds, 1_000);
}

#[test]
fn a_fault_is_found_and_its_input_is_kept() {
    let seeds = [b"[1,2,3]".to_vec()];
    let faulty = |bytes: &[u8]| {
        assert!(!bytes.contains(&0xff), "the planted fault");
        true
    };
    let finding = run("planted", faulty, &seeds, 2_000).expect_err("it is there to be found");
    let file = finding.rsplit(' ').next().expect("it ends with the path");
    assert!(fs::read(file).expect("kept").contains(&0xff));
}
