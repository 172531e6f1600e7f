//! The planner: it takes the index where it is worth it and leaves it where it is not, whatever is set.

mod index_support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use index_support::{PATIENCE, catalogue, database, expect_plan, plan_of, rows_of, truth_of};
use lookbook_tests::Cluster;
use postgres::Client;
use serde_json::Value;

const NEAR: &str = "SELECT id FROM look ORDER BY v <-> look(7) LIMIT 10";

fn indexed(name: &str, rows: i64) -> Result<Client> {
    let (_, mut client) = catalogue(Cluster::shared()?, name, rows)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    Ok(client)
}

/// What a node of the executed plan says of itself.
fn executed(client: &mut Client, query: &str, node_type: &str) -> Result<Value> {
    let row = client.query_one(&format!("EXPLAIN (ANALYZE, FORMAT json) {query}"), &[])?;
    let plan: Value = serde_json::from_str(&row.get::<_, postgres_json::Text>(0).0)?;
    find(&plan[0]["Plan"], node_type).with_context(|| format!("no {node_type} in {plan:#}"))
}

fn find(node: &Value, node_type: &str) -> Option<Value> {
    if node["Node Type"] == node_type {
        return Some(node.clone());
    }
    node["Plans"]
        .as_array()?
        .iter()
        .find_map(|child| find(child, node_type))
}

mod postgres_json {
    use postgres::types::{FromSql, Type};

    /// A `json` value as its text.
    pub struct Text(pub String);

    impl FromSql<'_> for Text {
        fn from_sql(
            _: &Type,
            raw: &[u8],
        ) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
            Ok(Self(String::from_utf8(raw.to_vec())?))
        }

        fn accepts(of: &Type) -> bool {
            *of == Type::JSON
        }
    }
}

#[test]
fn the_index_is_chosen_from_2000_rows_up_with_and_without_statistics() -> Result<()> {
    for rows in [2_000, 20_000] {
        let mut client = indexed(&format!("chosen_{rows}"), rows)?;
        // Without statistics a condition is believed to leave next to nothing.
        expect_plan(&mut client, NEAR, &["Index Scan using looks"])?;
        client.batch_execute("ANALYZE look")?;
        for query in [
            NEAR.to_owned(),
            NEAR.replace("10", "1"),
            NEAR.replace("10", "50"),
            "SELECT id, v <-> look(7) AS d FROM look ORDER BY d LIMIT 5".to_owned(),
            "SELECT id FROM look WHERE category = 3 ORDER BY v <-> look(7) LIMIT 5".to_owned(),
            "SELECT id FROM look WHERE category IN (3, 4) ORDER BY v <-> look(7) LIMIT 5"
                .to_owned(),
            "SELECT a.id, b.id FROM look a JOIN look b ON b.id <> a.id WHERE a.id = 5
                 ORDER BY b.v <-> look(7) LIMIT 5"
                .to_owned(),
            "SELECT id FROM look ORDER BY v <-> (SELECT v FROM look WHERE id = 3) LIMIT 5"
                .to_owned(),
        ] {
            expect_plan(&mut client, &query, &["Index Scan using looks"])
                .with_context(|| format!("{rows} rows"))?;
        }
    }
    Ok(())
}

#[test]
fn the_loaders_search_goes_through_the_index() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "loaders_search")?;
    client.batch_execute(
        "CREATE TABLE photo (id bigint PRIMARY KEY, path text);
         CREATE TABLE garment (id bigint, photo_id bigint REFERENCES photo, sku text, category text, label text,
           embedding embedding(64)) WITH (toast_tuple_target = 8160);
         INSERT INTO photo SELECT n, 'photo ' || n FROM generate_series(1, 4000) n;
         INSERT INTO garment SELECT n, n, n, (ARRAY['upper', 'lower', 'footwear'])[n % 3 + 1], 'x', look(n, 64)
           FROM generate_series(1, 4000) n;
         CREATE INDEX ON garment USING lookbook (embedding, category, label); ANALYZE",
    )?;
    let near = "SELECT g.sku, p.path FROM garment g JOIN photo p ON p.id = g.photo_id
        WHERE g.category = 'upper' ORDER BY g.embedding <-> look(7, 64) LIMIT 5";
    expect_plan(
        &mut client,
        near,
        &[
            "Index Scan using garment_embedding_category_label_idx",
            "Index Cond: (category = 'upper'::text)",
        ],
    )?;
    // As a shop may ask: for each garment of a photo, with a condition on the photo.
    let each = "SELECT near.* FROM (SELECT embedding, category FROM garment WHERE id < 4) AS q
        CROSS JOIN LATERAL (
          SELECT g.sku, g.embedding <-> q.embedding AS distance FROM garment g JOIN photo p ON p.id = g.photo_id
          WHERE g.category = q.category AND p.path <> 'photo 17'
          ORDER BY g.embedding <-> q.embedding LIMIT 5) AS near";
    expect_plan(
        &mut client,
        each,
        &[
            "Index Scan using garment_embedding_category_label_idx on garment g",
            "Index Cond: (category = garment.category)",
        ],
    )
}

#[test]
fn long_vectors_make_the_index_no_less_worth_it() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "long_vectors")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, v embedding(256));
         INSERT INTO look SELECT n, look(n, 256) FROM generate_series(1, 2000) n;
         CREATE INDEX looks ON look USING lookbook (v)",
    )?;
    let near = "SELECT id FROM look ORDER BY v <-> look(7, 256) LIMIT 10";
    expect_plan(&mut client, near, &["Index Scan using looks"])?;
    client.batch_execute("VACUUM ANALYZE look")?;
    expect_plan(&mut client, near, &["Index Scan using looks"])
}

#[test]
fn a_selective_btree_condition_is_answered_by_the_btree() -> Result<()> {
    let mut client = indexed("btree_chosen", 20_000)?;
    client.batch_execute(
        "ALTER TABLE look ADD sku text; UPDATE look SET sku = 'sku ' || id / 5;
         CREATE INDEX by_sku ON look (sku); CREATE INDEX by_id ON look (id)",
    )?;
    client.batch_execute("VACUUM ANALYZE look")?;
    for condition in [
        "sku = 'sku 77'",
        "id = 77",
        "id BETWEEN 70 AND 90",
        "sku = 'sku 77' AND category = 3",
    ] {
        let query = format!("SELECT id FROM look WHERE {condition} ORDER BY v <-> look(7) LIMIT 5");
        let plan = plan_of(&mut client, &query)?;
        ensure!(
            plan.contains("by_") && !plan.contains("looks"),
            "{condition}: {plan}"
        );
    }
    // Few dimensions without structure: deep in the scan a row costs more than many of the table.
    client.batch_execute(
        "CREATE TABLE even AS SELECT n AS id, n % 200 AS class,
           (SELECT array_agg(random()) FROM generate_series(1, 8) WHERE n > 0)::embedding(8) AS v FROM generate_series(1, 100000) n;
         CREATE INDEX evens ON even USING lookbook (v); CREATE INDEX by_class ON even (class); ANALYZE even",
    )?;
    let query = "SELECT id FROM even WHERE class = 7 ORDER BY v <-> '[1,1,1,1,1,1,1,1]' LIMIT 10";
    expect_plan(&mut client, query, &["by_class"])?;
    // It leaves most rows: the order matters more.
    let query = "SELECT id FROM look WHERE id > 100 ORDER BY v <-> look(7) LIMIT 5";
    expect_plan(&mut client, query, &["Index Scan using looks"])
}

#[test]
fn scans_are_counted() -> Result<()> {
    let mut client = indexed("scans_counted", 3_000)?;
    for _ in 0..3 {
        client.query(NEAR, &[])?;
    }
    let joined = "SELECT l.id FROM generate_series(1, 4) n, LATERAL (SELECT id FROM look ORDER BY v <-> look(n) LIMIT 1) l";
    expect_plan(&mut client, joined, &["Index Scan using looks"])?;
    client.query(joined, &[])?;
    // Said to the others at the end of a transaction, but not of each within a second.
    let counted = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'looks'";
    let deadline = Instant::now() + PATIENCE;
    while client.query_one(counted, &[])?.get::<_, i64>(0) < 7 {
        ensure!(Instant::now() < deadline, "scans are not counted");
        sleep(Duration::from_millis(300));
    }
    assert_eq!(client.query_one(counted, &[])?.get::<_, i64>(0), 7);
    Ok(())
}

#[test]
fn a_query_without_an_order_or_without_a_limit_goes_another_way() -> Result<()> {
    let mut client = indexed("another_way", 20_000)?;
    client.batch_execute("ANALYZE look")?;
    for query in [
        "SELECT count(*) FROM look",
        "SELECT id FROM look WHERE category = 3",
        "SELECT count(*) FROM look WHERE category = 3",
        "SELECT id FROM look WHERE v = look(7)",
        "SELECT max(v <-> look(7)) FROM look",
        "SELECT id FROM look ORDER BY v <-> look(7) DESC LIMIT 5",
        "SELECT id FROM look ORDER BY id LIMIT 5",
        "SELECT id FROM look ORDER BY v LIMIT 5",
        "SELECT id FROM look ORDER BY v <=> look(7) LIMIT 5",
        "SELECT id FROM look ORDER BY v <#> look(7) LIMIT 5",
        "SELECT id FROM look ORDER BY v <+> look(7) LIMIT 5",
        "SELECT id FROM look ORDER BY 2 * (v <-> look(7)) LIMIT 5",
        "UPDATE look SET category = category WHERE id = 1",
        "DELETE FROM look WHERE category = 77",
        "SELECT id FROM look ORDER BY v <-> look(7)",
    ] {
        let plan = plan_of(&mut client, query)?;
        ensure!(!plan.contains("looks"), "{query}: {plan}");
        rows_or_nothing(&mut client, query)?;
    }
    Ok(())
}

fn rows_or_nothing(client: &mut Client, query: &str) -> Result<()> {
    client.query(query, &[]).with_context(|| query.to_owned())?;
    Ok(())
}

#[test]
fn counting_never_goes_through_the_index() -> Result<()> {
    let mut client = indexed("counting", 3_000)?;
    client.batch_execute("DELETE FROM look WHERE id % 3 = 0")?;
    client.batch_execute("VACUUM ANALYZE look")?;
    client.batch_execute(
        "SET enable_seqscan = off; SET enable_bitmapscan = off; SET seq_page_cost = 1000000",
    )?;
    for (query, rows) in [
        ("SELECT count(*), 0::float8 FROM look", 2_000),
        (
            "SELECT count(*), 0::float8 FROM look WHERE category = 3",
            200,
        ),
        (
            "SELECT count(*), 0::float8 FROM (SELECT 1 FROM look) x",
            2_000,
        ),
        (
            "SELECT count(*), 0::float8 FROM (SELECT FROM look ORDER BY v <-> look(3) LIMIT 7) x",
            7,
        ),
        (
            "SELECT count(*), 0::float8 FROM look a JOIN look b USING (id)",
            2_000,
        ),
    ] {
        let plan = plan_of(&mut client, query)?;
        ensure!(!plan.contains("Index Only Scan"), "{query}: {plan}");
        assert_eq!(rows_of(&mut client, query)?, [(rows, Some(0.0))], "{query}");
    }
    Ok(())
}

#[test]
fn a_tie_breaker_sorts_incrementally_over_the_index() -> Result<()> {
    let mut client = indexed("tie_breaker", 20_000)?;
    client.batch_execute("INSERT INTO look SELECT 100000 + n, n, look(7) FROM generate_series(1, 20) n; ANALYZE look")?;
    for (order, then) in [
        ("v <-> look(7), id", "id"),
        ("v <-> look(7), category DESC, id", "category"),
        ("v <-> look(7) ASC NULLS LAST, id DESC", "id"),
    ] {
        let query = format!("SELECT id, v <-> look(7) FROM look ORDER BY {order} LIMIT 10");
        expect_plan(
            &mut client,
            &query,
            &[
                "Incremental Sort",
                "Presorted Key: ((v <->",
                "Index Scan using looks",
                then,
            ],
        )?;
        ensure!(
            rows_of(&mut client, &query)? == truth_of(&mut client, &query)?,
            "{query}"
        );
        let scan = executed(&mut client, &query, "Index Scan")?;
        let rows = scan["Actual Rows"].as_f64().context("rows")?;
        ensure!(rows < 2_000.0, "{rows} rows were read for ten: {query}");
    }
    Ok(())
}

#[test]
fn a_distance_limit_ends_the_scan_early() -> Result<()> {
    let mut client = indexed("distance_limit", 20_000)?;
    client.batch_execute("ANALYZE look; SET enable_seqscan = off; SET enable_sort = off")?;
    for recall in ["0.98", "1"] {
        client.batch_execute(&format!("SET lookbook.recall = {recall}"))?;
        for (condition, operator) in [
            ("v <-> look(7) < 1.5", "<->"),
            ("v <-> look(7) <= 1.5", "<->"),
            ("1.5 > v <-> look(7)", "<->"),
            ("look(7) <-> v < 1.5", "<->"),
            ("v <-> look(7) < 1.5 AND category = 7", "<->"),
            ("v <-> look(7) < (SELECT 1.5)", "<->"),
        ] {
            let query = format!(
                "SELECT id, v {operator} look(7) FROM look WHERE {condition} ORDER BY v {operator} look(7)"
            );
            let truth = truth_of(&mut client, &query)?;
            ensure!(
                !truth.is_empty() && truth.len() < 500,
                "{} rows: {query}",
                truth.len()
            );
            let found = rows_of(&mut client, &query)?;
            if recall == "1" {
                ensure!(
                    found == truth,
                    "{query}: {} of {} rows",
                    found.len(),
                    truth.len()
                );
            } else {
                ensure!(
                    found.len() * 100 >= truth.len() * 90,
                    "{query}: {} of {} rows",
                    found.len(),
                    truth.len()
                );
            }
            let scan = executed(&mut client, &format!("{query} LIMIT 10000"), "Index Scan")?;
            let discarded = ["Rows Removed by Filter", "Rows Removed by Index Recheck"]
                .iter()
                .filter_map(|key| scan[key].as_f64())
                .sum::<f64>();
            ensure!(
                discarded <= 20.0,
                "{discarded} rows were read for nothing: {query}\n{scan:#}"
            );
        }
    }
    // A limit that no row is within, one that is NULL, one that all are within.
    for (limit, rows) in [
        ("-1", 0),
        ("0", 0),
        ("NULL", 0),
        ("'-infinity'", 0),
        ("'infinity'", 20_000),
        ("'NaN'", 20_000),
    ] {
        let query = format!(
            "SELECT id, v <-> look(7) FROM look WHERE v <-> look(7) < {limit}::float8 ORDER BY v <-> look(7)"
        );
        let found = rows_of(&mut client, &query)?.len();
        ensure!(found == rows, "{found} rows below {limit}");
    }
    Ok(())
}

#[test]
fn a_distance_limit_works_for_every_metric_and_for_parameters() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "limit_metrics", 6_000)?;
    client.batch_execute("SET plan_cache_mode = force_generic_plan")?;
    for (class, operator, limit) in [
        ("l2", "<->", 1.6),
        ("cosine", "<=>", 0.06),
        ("ip", "<#>", -20.0),
    ] {
        client.batch_execute(&format!(
            "DROP INDEX IF EXISTS looks; CREATE INDEX looks ON look USING lookbook (v embedding_{class}_ops);
             ANALYZE look; SET enable_seqscan = off; SET enable_sort = off; SET lookbook.recall = 1;
             DEALLOCATE ALL; PREPARE near (embedding, float8) AS SELECT id, v {operator} $1 FROM look
               WHERE v {operator} $1 < $2 ORDER BY v {operator} $1"
        ))?;
        let found = rows_of(&mut client, &format!("EXECUTE near(look(7), {limit})"))?;
        let truth = truth_of(
            &mut client,
            &format!(
                "SELECT id, v {operator} look(7) FROM look WHERE v {operator} look(7) < {limit} ORDER BY v {operator} look(7)"
            ),
        )?;
        ensure!(
            !truth.is_empty() && truth.len() < 2_000,
            "{} rows within {limit}",
            truth.len()
        );
        ensure!(
            found == truth,
            "{operator}: {} of {} rows",
            found.len(),
            truth.len()
        );
    }
    Ok(())
}

#[test]
fn reltuples_are_right_after_a_build() -> Result<()> {
    let mut client = indexed("reltuples", 5_000)?;
    let of = |client: &mut Client, name: &str| -> Result<f32> {
        Ok(client
            .query_one(
                "SELECT reltuples FROM pg_class WHERE oid = $1::text::regclass",
                &[&name],
            )?
            .get(0))
    };
    assert_eq!(
        [of(&mut client, "look")?, of(&mut client, "looks")?],
        [5_000.0, 5_000.0]
    );
    client.batch_execute("DELETE FROM look WHERE id % 2 = 0")?;
    client.batch_execute("VACUUM look")?;
    assert_eq!(
        [of(&mut client, "look")?, of(&mut client, "looks")?],
        [2_500.0, 2_500.0]
    );
    client.batch_execute("VACUUM FULL look")?;
    assert_eq!(
        [of(&mut client, "look")?, of(&mut client, "looks")?],
        [2_500.0, 2_500.0]
    );
    client.batch_execute(
        "CREATE INDEX part ON look USING lookbook (v) WHERE category = 3; REINDEX INDEX looks",
    )?;
    assert_eq!(
        [of(&mut client, "part")?, of(&mut client, "looks")?],
        [500.0, 2_500.0]
    );
    Ok(())
}

#[test]
fn planning_raises_nothing_of_ours_whatever_is_set() -> Result<()> {
    let mut client = indexed("whatever_is_set", 3_000)?;
    client.batch_execute(
        "CREATE INDEX part ON look USING lookbook (v embedding_cosine_ops) WHERE category = 3",
    )?;
    for setting in [
        "lookbook.recall = 0.5",
        "lookbook.recall = 1",
        "enable_seqscan = off",
        "enable_indexscan = off",
        "enable_sort = off",
        "enable_incremental_sort = off",
        "enable_hashagg = off",
        "enable_nestloop = off",
        "cpu_operator_cost = 0",
        "random_page_cost = 0",
        "seq_page_cost = 0",
        "cpu_index_tuple_cost = 1000000",
        "effective_cache_size = '8kB'",
        "work_mem = '64kB'",
        "plan_cache_mode = force_generic_plan",
        "default_statistics_target = 1",
        "from_collapse_limit = 1",
        "constraint_exclusion = on",
    ] {
        client.batch_execute(&format!("RESET ALL; SET {setting}"))?;
        for query in [
            NEAR,
            "SELECT count(*) FROM look",
            "SELECT id FROM look WHERE category = 3 ORDER BY v <=> look(7) LIMIT 3",
            "SELECT id FROM look ORDER BY v <-> NULL LIMIT 3",
            "SELECT id FROM look WHERE v <-> look(7) < 0.5 ORDER BY v <-> look(7), id LIMIT 3",
            "SELECT id FROM look ORDER BY v <-> look(7), v <=> look(7) LIMIT 3",
            "SELECT a.id FROM look a, LATERAL (SELECT FROM look b ORDER BY b.v <-> a.v LIMIT 1) x WHERE a.id < 3",
            "SELECT id FROM look WHERE v IS NULL",
            "SELECT id FROM look WHERE category IS NULL ORDER BY v <-> look(7) LIMIT 3",
            "SELECT id FROM look WHERE category = ANY (ARRAY(SELECT 3)) ORDER BY v <-> look(7) LIMIT 3",
            "SELECT DISTINCT category FROM look",
            "WITH x AS MATERIALIZED (SELECT id FROM look ORDER BY v <-> look(7) LIMIT 50) SELECT count(*) FROM x",
            "SELECT id FROM look ORDER BY v <-> look(7) LIMIT 0",
            "SELECT id FROM look ORDER BY v <-> look(7) FETCH FIRST 3 ROWS WITH TIES",
            "SELECT id FROM look ORDER BY v <-> look(7) LIMIT 3 FOR UPDATE",
        ] {
            rows_or_nothing(&mut client, query).with_context(|| setting.to_owned())?;
        }
        // Of another dimension: an error of execution, in the words of the type, and the plan is shown.
        let wrong = "SELECT id FROM look ORDER BY v <-> '[1,2,3]' LIMIT 3";
        plan_of(&mut client, wrong).with_context(|| setting.to_owned())?;
    }
    Ok(())
}

/// Rows that the executor sorted again have no ctid, whatever the access method: another plan then.
#[test]
fn rows_can_be_locked_and_named_by_their_ctid() -> Result<()> {
    let mut client = indexed("ctid", 5_000)?;
    client.batch_execute(
        "ANALYZE look; SET enable_seqscan = off; SET enable_sort = off; SET lookbook.recall = 1",
    )?;
    let near = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7) LIMIT 5";
    let nearest = rows_of(&mut client, near)?;
    assert_eq!(
        rows_of(&mut client, &format!("{near} FOR UPDATE"))?,
        nearest
    );
    assert_eq!(
        rows_of(&mut client, &format!("{near} FOR SHARE SKIP LOCKED"))?,
        nearest
    );
    let by_ctid = "SELECT id, v <-> look(7) FROM look WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM look ORDER BY v <-> look(7) LIMIT 5)) ORDER BY 2";
    assert_eq!(rows_of(&mut client, by_ctid)?, nearest);
    let not_first =
        "SELECT id, v <-> look(7) FROM look WHERE ctid <> '(0,7)' ORDER BY v <-> look(7) LIMIT 4";
    assert_eq!(rows_of(&mut client, not_first)?, nearest[1..]);
    let deleted = client.execute(
        "DELETE FROM look WHERE ctid IN (SELECT ctid FROM look ORDER BY v <-> look(7) LIMIT 5)",
        &[],
    )?;
    assert_eq!(deleted, 5);
    ensure!(
        rows_of(&mut client, near)?
            .iter()
            .all(|row| !nearest.contains(row))
    );
    // Names that are not the row's place cost nothing.
    expect_plan(
        &mut client,
        "SELECT tableoid::regclass, look FROM look ORDER BY v <-> look(7) LIMIT 5",
        &["Index Scan using looks"],
    )
}

#[test]
fn a_prepared_query_chooses_the_index_without_knowing_its_vector() -> Result<()> {
    let mut client = indexed("prepared_choice", 5_000)?;
    client.batch_execute(
        "ANALYZE look; SET plan_cache_mode = force_generic_plan;
         PREPARE near (embedding, int) AS SELECT id FROM look WHERE category = $2 ORDER BY v <-> $1 LIMIT 5",
    )?;
    let plan: Vec<String> = client
        .query("EXPLAIN (COSTS OFF) EXECUTE near(look(1), 3)", &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let plan = plan.join("\n");
    ensure!(
        plan.contains("Index Scan using looks") && plan.contains("Index Cond: (category = $2)"),
        "{plan}"
    );
    Ok(())
}

#[test]
fn row_security_is_kept_when_the_index_answers() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "row_security", 3_000)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v, category); ANALYZE look;
         CREATE ROLE shopper LOGIN; GRANT SELECT ON look TO shopper;
         ALTER TABLE look ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON look USING (category IN (3, 4))",
    )?;
    let mut shopper = database.connect_as("shopper")?;
    shopper.batch_execute(
        "SET enable_seqscan = off; SET enable_sort = off; SET lookbook.recall = 1",
    )?;
    let query = "SELECT id, v <-> look(7) FROM look WHERE category IN (2, 3) ORDER BY v <-> look(7) LIMIT 40";
    expect_plan(&mut shopper, query, &["using looks"])?;
    let found = rows_of(&mut shopper, query)?;
    ensure!(
        found.len() == 40 && found.iter().all(|row| row.0 % 10 == 3),
        "{found:?}"
    );
    ensure!(found == truth_of(&mut shopper, query)?);
    // The functions that look inside of an index ask for the right to read its table.
    client.batch_execute("REVOKE SELECT ON look FROM shopper")?;
    for call in [
        "lookbook_index_info('looks')",
        "lookbook_index_check('looks')",
    ] {
        let (code, message) = index_support::error_of(&mut shopper, &format!("SELECT {call}"))?;
        ensure!(code == "42501", "{call}: {code} {message}");
    }
    Ok(())
}
