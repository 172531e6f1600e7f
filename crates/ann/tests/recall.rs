//! Recall where codes tell little: rows in tight groups, and beside a few that are huge.

mod common;

use common::*;
use lookbook_ann::memory::MemoryStore;
use lookbook_ann::{Bound, Found, HeapTid, Index, Metric, Options, Search, SearchOptions};

const DIMS: usize = 64;

fn normal(numbers: &mut Numbers) -> f32 {
    let uniform =
        |numbers: &mut Numbers| (numbers.below(1 << 24) as f64 + 0.5) / f64::from(1 << 24);
    let (a, b) = (uniform(numbers), uniform(numbers));
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

fn normals(numbers: &mut Numbers, dims: usize) -> Vec<f32> {
    (0..dims).map(|_| normal(numbers)).collect()
}

/// A vector of a group around one of the centres.
fn member(numbers: &mut Numbers, centres: &[Vec<f32>], spread: f32) -> Vec<f32> {
    let centre = &centres[numbers.below(centres.len() as u64) as usize];
    let centre = centre.iter();
    centre.map(|x| x + spread * normal(numbers)).collect()
}

fn model(rows: impl Iterator<Item = Vec<f32>>) -> Model {
    let row = |(tid, vector): (usize, Vec<f32>)| {
        let row = ModelRow {
            vector: Some(vector),
            words: vec![],
        };
        (HeapTid(tid as u64), row)
    };
    rows.enumerate().map(row).collect()
}

fn built(options: &Options, model: &Model) -> (MemoryStore, Index) {
    let store = MemoryStore::new();
    let mut index = build(&store, options, model);
    index.calibrate(&store).expect("calibrate");
    (store, index)
}

fn grown(options: &Options, model: &Model) -> (MemoryStore, Index) {
    let store = MemoryStore::new();
    let mut index = create(&store, options);
    for (tid, row) in model {
        insert(&store, &mut index, *tid, row);
    }
    (store, index)
}

/// Asserts recall among ten at each setting; gives the codes refined for a query at the last.
fn assert_recall(
    what: &str,
    (store, index): &(MemoryStore, Index),
    model: &Model,
    settings: &[f32],
    queries: &[Vec<f32>],
) -> usize {
    let metric = index.options().metric;
    let tenths: Vec<f64> = queries
        .iter()
        .map(|query| nearest(model, metric, query, 10)[9].0)
        .collect();
    let mut last = 0;
    for &setting in settings {
        let (mut right, mut refined) = (0, 0);
        for (query, tenth) in queries.iter().zip(&tenths) {
            let mut search = search(store, index, Some(query), setting, vec![]);
            let found = limit(&mut search, model, metric, query, 10);
            right += found.iter().filter(|row| row.0 <= *tenth).count();
            refined += search.stats().refined;
        }
        let found = right as f64 / (10 * queries.len()) as f64;
        last = refined / queries.len();
        eprintln!("{what}, {metric:?} at {setting}: {found}, {last} refined");
        assert!(
            found >= f64::from(setting) - 0.01,
            "{what}, {metric:?}: {found} at {setting}"
        );
    }
    last
}

#[test]
fn recall_is_kept_where_codes_err_by_more_than_neighbours_differ() {
    for (metric, bits, groups, spread) in [
        (Metric::L2, 8, 8, 0.1),
        (Metric::L2, 8, 20, 0.03),
        (Metric::L2, 8, 20, 0.01),
        (Metric::L2, 8, 20, 0.001),
        (Metric::Cosine, 8, 8, 0.1),
        (Metric::Cosine, 8, 20, 0.01),
        (Metric::InnerProduct, 8, 8, 0.1),
        (Metric::InnerProduct, 8, 20, 0.01),
        (Metric::L2, 4, 60, 0.3),
        (Metric::InnerProduct, 4, 60, 0.3),
    ] {
        let mut numbers = Numbers(31);
        let centres: Vec<Vec<f32>> = (0..groups).map(|_| normals(&mut numbers, DIMS)).collect();
        let model = model((0..16_000).map(|_| member(&mut numbers, &centres, spread)));
        let queries: Vec<Vec<f32>> = (0..60)
            .map(|_| member(&mut numbers, &centres, spread))
            .collect();
        let options = Options {
            bits,
            ..Options::new(DIMS, metric)
        };
        let index = built(&options, &model);
        let what = format!("{groups} groups of spread {spread}, {bits} bits");
        assert_recall(&what, &index, &model, &[0.9, 0.98], &queries);
    }
}

#[test]
fn a_grown_index_keeps_recall_in_tight_groups() {
    let mut numbers = Numbers(33);
    let centres: Vec<Vec<f32>> = (0..10).map(|_| normals(&mut numbers, DIMS)).collect();
    let model = model((0..9_000).map(|_| member(&mut numbers, &centres, 0.01)));
    let queries: Vec<Vec<f32>> = (0..60)
        .map(|_| member(&mut numbers, &centres, 0.01))
        .collect();
    let index = grown(&Options::new(DIMS, Metric::L2), &model);
    assert_recall("grown", &index, &model, &[0.98], &queries);
}

#[test]
fn recall_is_kept_on_a_line() {
    let mut numbers = Numbers(34);
    let model = model((0..16_000).map(|_| vec![numbers.float()]));
    let queries: Vec<Vec<f32>> = (0..100).map(|_| vec![numbers.float()]).collect();
    let index = built(&Options::new(1, Metric::L2), &model);
    assert_recall("a line", &index, &model, &[0.98], &queries);
}

#[test]
fn rows_of_huge_numbers_take_nothing_from_the_others() {
    for (every, size) in [(1_000, 1e6), (100, 1e4), (10, 1e3)] {
        let mut numbers = Numbers(35);
        let rows = (0..16_000).map(|row| match normals(&mut numbers, DIMS) {
            huge if row % every == 7 => huge.iter().map(|x| size * x.abs()).collect(),
            row => row,
        });
        let model = model(rows);
        let options = Options::new(DIMS, Metric::L2);
        let queries: Vec<Vec<f32>> = (0..50).map(|_| normals(&mut numbers, DIMS)).collect();
        let what = format!("one in {every} of {size}");
        for index in [built(&options, &model), grown(&options, &model)] {
            let refined = assert_recall(&what, &index, &model, &[0.98], &queries);
            // Codes around a mean that those rows pull away tell nothing: then it is all.
            assert!(refined < 4_000, "{what}: {refined} refined");
        }
    }
}

#[test]
fn a_limit_of_the_distance_costs_no_recall() {
    for (dims, near) in [(3, 100), (3, 300), (8, 100)] {
        let mut numbers = Numbers(35);
        let mut point = || (0..dims).map(|_| numbers.float()).collect::<Vec<f32>>();
        let model = model((0..16_000).map(|_| point()));
        let queries: Vec<Vec<f32>> = (0..40).map(|_| point()).collect();
        let (store, index) = built(&Options::new(dims, Metric::L2), &model);
        for recall in [0.9, 0.98] {
            let (mut right, mut codes) = (0, 0);
            for query in &queries {
                let limit = nearest(&model, Metric::L2, query, near)[near - 1].0;
                let options = SearchOptions {
                    recall,
                    limit: Some(limit),
                    ..SearchOptions::default()
                };
                let mut search =
                    Search::new(&store, index.clone(), Some(query), &options).expect("search");
                let found = drain(&mut search, &model, Metric::L2, Some(query));
                let is_within = |found: &Found| match found.bound {
                    Bound::AtLeast(least) => least <= limit,
                    _ => false,
                };
                assert!(found.iter().all(is_within));
                right += found
                    .iter()
                    .filter_map(|found| {
                        let vector = model[&found.tid].vector.as_ref()?;
                        exact(Metric::L2, query, vector)
                    })
                    .filter(|distance| *distance <= limit)
                    .count();
                codes += search.stats().codes;
            }
            let found = right as f64 / (near * queries.len()) as f64;
            let codes = codes / queries.len();
            eprintln!("{near} in {dims} dimensions at {recall}: {found}, {codes} codes");
            assert!(
                found >= f64::from(recall) - 0.01,
                "{near} in {dims} dimensions: {found} at {recall}"
            );
        }
    }
}
