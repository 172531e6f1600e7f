//! Searches drawn at random on a table `look (id, category, v)`, each compared with the truth of its own snapshot.

use anyhow::{Result, ensure};
use lookbook_tests::Random;
use postgres::{Client, IsolationLevel};

/// The distances of a search with one of `operators`: of the whole table, by a filter column, by another condition.
pub fn drawn_search(random: &mut Random, operators: &[&str]) -> String {
    let (query, category) = (random.below(1_000_000), random.below(10));
    let limit = [1, 10, 100, 10_000][random.index(4)];
    let operator = operators[random.index(operators.len())];
    let condition = match random.below(3) {
        0 => "true".to_owned(),
        1 => format!("category = {category}"),
        _ => format!("id % 10 = {category}"),
    };
    format!(
        "SELECT v {operator} look({query}) FROM look WHERE {condition} ORDER BY v {operator} look({query}) LIMIT {limit}"
    )
}

/// What the session's index gives is what a sort gives. An error is of the server; the result says what was wrong.
pub fn compare_in_snapshot(
    client: &mut Client,
    query: &str,
) -> Result<Result<()>, postgres::Error> {
    let mut snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .start()?;
    let of = |rows: Vec<postgres::Row>| -> Vec<Option<f64>> {
        rows.iter().map(|row| row.get(0)).collect()
    };
    let found = of(snapshot.query(query, &[])?);
    snapshot.batch_execute(
        "SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = on; SET LOCAL enable_sort = on",
    )?;
    let truth = of(snapshot.query(query, &[])?);
    snapshot.commit()?;
    Ok(are_the_same(query, &found, &truth))
}

fn are_the_same(query: &str, found: &[Option<f64>], truth: &[Option<f64>]) -> Result<()> {
    ensure!(
        found == truth,
        "{query}: {} rows of {}\nfound {:?}\ntruth {:?}",
        found.len(),
        truth.len(),
        &found[..found.len().min(12)],
        &truth[..truth.len().min(12)]
    );
    Ok(())
}
