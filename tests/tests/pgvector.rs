//! Beside pgvector: both extensions in one schema, values that move between the types for free, and
//! the same answers.

use anyhow::{Result, ensure};
use lookbook_tests::{Cluster, Database, pgvector};

/// A database with both extensions and the casts, where pgvector is installed.
fn both<'c>(cluster: &'c Cluster, name: &str) -> Result<Option<Database<'c>>> {
    if !pgvector()? {
        return Ok(None);
    }
    let database = cluster.database(name)?;
    database.psql("CREATE EXTENSION vector; CREATE EXTENSION lookbook_pgvector")?;
    Ok(Some(database))
}

macro_rules! with_pgvector {
    ($name:literal) => {
        match both(Cluster::shared()?, $name)? {
            Some(database) => database,
            None => return Ok(()),
        }
    };
}

#[test]
fn both_extensions_live_in_one_schema_in_either_order() -> Result<()> {
    let database = with_pgvector!("pgvector_schema");
    database.psql(
        "DROP EXTENSION vector CASCADE; DROP EXTENSION lookbook CASCADE;
         CREATE EXTENSION vector; CREATE EXTENSION lookbook; CREATE EXTENSION lookbook_pgvector;
         DROP EXTENSION lookbook CASCADE; CREATE EXTENSION lookbook_pgvector CASCADE",
    )?;
    let schemas =
        "SELECT count(DISTINCT extnamespace) FROM pg_extension WHERE extname <> 'plpgsql'";
    assert_eq!(database.psql(schemas)?, "1");
    Ok(())
}

#[test]
fn names_that_both_have_mean_the_type_of_their_arguments() -> Result<()> {
    let database = with_pgvector!("pgvector_names");
    for function in [
        "l2_distance",
        "l1_distance",
        "inner_product",
        "cosine_distance",
    ] {
        let pair = |of: &str| format!("{function}('[1,2]'::{of}, '[3,5]')");
        let same = format!("SELECT {} = {}", pair("embedding"), pair("vector"));
        assert_eq!(database.psql(&same)?, "t", "{function}");
    }
    let types = "SELECT pg_typeof(avg(e)), pg_typeof(avg(v)), pg_typeof(sum(e)), pg_typeof(sum(v)),
                        pg_typeof(l2_normalize(max(e::text)::embedding)), pg_typeof(e || e), pg_typeof(v || v)
                 FROM (SELECT '[1,2]'::embedding, '[1,2]'::vector) AS s (e, v) GROUP BY e, v";
    assert_eq!(
        database.psql(types)?,
        "embedding|vector|embedding|vector|embedding|embedding|vector"
    );
    Ok(())
}

#[test]
fn casts_go_both_ways_without_a_copy() -> Result<()> {
    let database = with_pgvector!("pgvector_casts");
    let row = |sql: &str| database.psql(sql);
    assert_eq!(
        row("SELECT '[1,2.5]'::vector::embedding, '[1,2.5]'::embedding::vector")?,
        "[1,2.5]|[1,2.5]"
    );
    assert_eq!(
        row(
            "SELECT vector_send(x::real[]::vector) = embedding_send(x::real[]::embedding)
             FROM (VALUES ('{1,-0,1e-45,3.4e38}')) AS t (x)"
        )?,
        "t"
    );
    // An embedding is expected, a vector comes.
    assert_eq!(row("SELECT embedding_dims('[1,2,3]'::vector)")?, "3");
    assert_eq!(
        row(
            "SELECT '[1,2]'::vector <-> '[4,6]'::embedding, '[4,6]'::embedding <-> '[1,2]'::vector"
        )?,
        "5|5"
    );
    assert_eq!(row("SELECT '[1,2]'::vector = '[1,2]'::embedding")?, "t");

    for (sql, error) in [
        (
            "SELECT '[1,2,3]'::vector::embedding(2)",
            "expected 2 dimensions, not 3",
        ),
        (
            "SELECT '[1,2,3]'::embedding::vector(2)",
            "expected 2 dimensions, not 3",
        ),
        (
            "SELECT vector_dims('[1,2]'::embedding)",
            "function vector_dims(embedding) does not exist",
        ),
    ] {
        let output = database.try_psql(sql)?;
        ensure!(output.stderr.contains(error), "{sql}: {}", output.stderr);
    }
    Ok(())
}

#[test]
fn a_column_changes_its_type_without_a_rewrite() -> Result<()> {
    let database = with_pgvector!("pgvector_columns");
    database.psql(
        "CREATE TABLE item (id int, v vector(3));
         INSERT INTO item SELECT i, ARRAY[i, -i, i / 7.0] FROM generate_series(1, 100) i;
         CREATE TABLE before AS SELECT pg_relation_filenode('item') AS file, (SELECT avg(v) FROM item) AS mean;
         ALTER TABLE item ALTER v TYPE embedding",
    )?;
    assert_eq!(
        database.psql("SELECT file = pg_relation_filenode('item') FROM before")?,
        "t"
    );
    assert_eq!(
        database.psql("SELECT mean::embedding <-> (SELECT avg(v) FROM item) < 1e-5 FROM before")?,
        "t"
    );
    // By assignment into either type.
    database.psql(
        "CREATE TABLE copied (v vector(3));
         INSERT INTO copied SELECT v FROM item;
         INSERT INTO item SELECT 0, v FROM copied",
    )?;
    assert_eq!(database.psql("SELECT count(*) FROM item")?, "200");
    Ok(())
}

#[test]
fn distances_are_those_of_pgvector_to_rounding() -> Result<()> {
    let database = with_pgvector!("pgvector_distances");
    database.psql(
        "CREATE TABLE pairs AS
         SELECT n, array_agg(hashint8(i) % 1000 / 8.0)::embedding AS a, array_agg(hashint8(-i) % 1000 / 8.0)::embedding AS b
         FROM generate_series(1, 300) n, generate_series(n * 1000, n * 1000 + n) i GROUP BY n",
    )?;
    for operator in ["<->", "<=>", "<#>", "<+>"] {
        let largest = format!(
            "SELECT max(abs((a {operator} b) - (a::vector {operator} b::vector))
                        / (1 + embedding_norm(a) * embedding_norm(b))) < 1e-6 FROM pairs"
        );
        assert_eq!(database.psql(&largest)?, "t", "{operator}");
    }
    let order = |ty: &str| {
        format!("SELECT array_agg(n ORDER BY subvector(a::{ty}, 1, 2) <-> '[1,2]', n) FROM pairs")
    };
    assert_eq!(
        database.psql(&order("embedding"))?,
        database.psql(&order("vector"))?
    );
    Ok(())
}

#[test]
fn the_index_answers_for_columns_of_pgvectors_type_too() -> Result<()> {
    let database = with_pgvector!("pgvector_index");
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE item (id bigint, category int, v vector(200));
         INSERT INTO item SELECT n, n % 10, array_agg((sin(n * 12.9898 + d * 78.233) + n % 20)::real)::vector
           FROM generate_series(1, 3000) n, generate_series(1, 200) d GROUP BY n;
         SET enable_seqscan = off; SET enable_sort = off; SET lookbook.recall = 1",
    )?;
    for (class, operator) in [("l2", "<->"), ("cosine", "<=>"), ("ip", "<#>")] {
        client.batch_execute(&format!(
            "DROP INDEX IF EXISTS near; CREATE INDEX near ON item USING lookbook (v vector_{class}_ops, category)"
        ))?;
        for condition in ["true", "category IN (3, 4)"] {
            // To the last row: pgvector's own rounding is never below what the index promised.
            let query = format!(
                "SELECT v {operator} (SELECT v FROM item WHERE id = 7) FROM item WHERE {condition}
                 ORDER BY v {operator} (SELECT v FROM item WHERE id = 7)"
            );
            let plan: Vec<String> = client
                .query(&format!("EXPLAIN (COSTS OFF) {query}"), &[])?
                .iter()
                .map(|row| row.get(0))
                .collect();
            ensure!(
                plan.join("\n").contains("Index Scan using near on item"),
                "{plan:#?}"
            );
            let distances: Vec<f64> = client
                .query(&query, &[])?
                .iter()
                .map(|row| row.get(0))
                .collect();
            let expected = if condition == "true" { 3_000 } else { 600 };
            ensure!(
                distances.len() == expected,
                "{} rows: {query}",
                distances.len()
            );
            ensure!(distances.is_sorted(), "{query}");
        }
    }
    let checked: i64 = client
        .query_one("SELECT lookbook_index_check('near')", &[])?
        .get(0);
    assert_eq!(checked, 3_000);
    Ok(())
}
