//! Rows that lie close together: tight groups, among which codes hardly tell, and equal rows.

mod index_support;

use anyhow::{Result, ensure};
use index_support::{check_index, database, expect_plan, recall, rows_of, truth_of};
use lookbook_tests::Cluster;
use postgres::Client;

/// `close(n)` is in one of 20 groups, which are apart by some thousand times what rows of one are.
const CLOSE: &str = "
    CREATE FUNCTION close(n bigint) RETURNS embedding LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
      SELECT array_agg((sin(1 + (n % 20) * d * 1.37)
        + 0.02 * (hashint8extended(n * 16384 + d, 42) % 1000000) / 1000000.0)::real ORDER BY d)::real[]::embedding
      FROM generate_series(1, 64) AS d
    $$;";

#[test]
fn recall_and_order_are_kept_in_tight_groups() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "tight_groups")?;
    client.batch_execute(CLOSE)?;
    client.batch_execute(
        "CREATE TABLE garment (id bigint, v embedding(64));
         INSERT INTO garment SELECT n, close(n) FROM generate_series(1, 8000) AS n;
         CREATE INDEX looks ON garment USING lookbook (v); ANALYZE garment;
         SET enable_seqscan = off; SET enable_sort = off",
    )?;
    let nearest = |query: i64| {
        format!(
            "SELECT id, v <-> close({query}) FROM garment ORDER BY v <-> close({query}) LIMIT 10"
        )
    };
    expect_plan(&mut client, &nearest(1), &["Index Scan using looks"])?;
    let (mut total, queries) = (0.0, 40);
    for query in 100_000..100_000 + queries {
        let found = rows_of(&mut client, &nearest(query))?;
        total += recall(&found, &truth_of(&mut client, &nearest(query))?);
    }
    let mean = total / queries as f64;
    ensure!(mean >= 0.97, "recall {mean}");
    ensure!(late_rows(&mut client)? == 0, "rows came late");
    Ok(())
}

/// How many rows of a cursor that is read to its end are nearer than one before.
fn late_rows(client: &mut Client) -> Result<usize> {
    let mut change = client.transaction()?;
    change.batch_execute(
        "DECLARE c CURSOR FOR SELECT v <-> close(100000) FROM garment ORDER BY v <-> close(100000)",
    )?;
    let rows = change.query("FETCH ALL FROM c", &[])?;
    ensure!(rows.len() == 8_000, "{} rows", rows.len());
    let distances: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
    Ok(distances
        .windows(2)
        .filter(|pair| pair[1] < pair[0])
        .count())
}

#[test]
fn equal_rows_are_built_into_lists_that_an_insert_can_split() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "equal_rows")?;
    client.batch_execute(
        "CREATE TABLE garment (id bigint, v embedding(64));
         INSERT INTO garment SELECT n, look(CASE WHEN n % 4 = 0 THEN n ELSE 0 END, 64) FROM generate_series(1, 8000) AS n;
         CREATE INDEX looks ON garment USING lookbook (v)",
    )?;
    let longest = |client: &mut Client| -> Result<i64> {
        let query = "SELECT (lookbook_index_info('looks') ->> 'longest_list')::bigint";
        Ok(client.query_one(query, &[])?.get(0))
    };
    let built = longest(&mut client)?;
    ensure!(built <= 720, "{built} rows in one list");
    client.batch_execute(
        "INSERT INTO garment SELECT n, look(0, 64) FROM generate_series(8001, 9000) AS n",
    )?;
    client.batch_execute("VACUUM garment")?;
    let tended = longest(&mut client)?;
    ensure!(tended < 400, "{tended} rows in one list after a vacuum");
    check_index(&mut client, "looks")?;
    Ok(())
}
