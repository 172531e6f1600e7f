//! Searches: the order of exact distances, never too few rows, NULLs last, and recall as a setting.

mod index_support;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catalogue, check_index, database, expect_exact, expect_plan, indexed, recall,
    rows_of, truth_of,
};
use lookbook_tests::Cluster;

const ROWS: i64 = 6_000;

#[test]
fn with_recall_1_every_metric_gives_the_exact_order_to_the_last_row() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "every_metric", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for (class, operator) in [
        ("embedding_l2_ops", "<->"),
        ("embedding_cosine_ops", "<=>"),
        ("embedding_ip_ops", "<#>"),
    ] {
        client.batch_execute(&format!(
            "CREATE INDEX looks ON look USING lookbook (v {class})"
        ))?;
        check_index(&mut client, "looks")?;
        for query in [17, 100_001, 100_002] {
            for limit in ["LIMIT 1", "LIMIT 10", "LIMIT 300 OFFSET 20", ""] {
                let query = format!(
                    "SELECT id, v {operator} look({query}) FROM look ORDER BY v {operator} look({query}) {limit}"
                );
                expect_exact(&mut client, "looks", &query)?;
            }
        }
        client.batch_execute("DROP INDEX looks")?;
    }
    Ok(())
}

#[test]
fn rows_come_in_order_and_the_nearest_are_found_at_the_default_recall() -> Result<()> {
    let mut client = indexed("default_recall", ROWS)?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    assert_eq!(
        client
            .query_one("SHOW lookbook.recall", &[])?
            .get::<_, String>(0),
        "0.98"
    );
    let mut total = 0.0;
    let queries = 100;
    for query in 0..queries {
        let query = format!(
            "SELECT id, v <-> look({0}) FROM look ORDER BY v <-> look({0}) LIMIT 10",
            200_000 + query
        );
        expect_plan(&mut client, &query, &["Index Scan using looks"])?;
        let found = rows_of(&mut client, &query)?;
        ensure!(found.len() == 10, "{} rows", found.len());
        total += recall(&found, &truth_of(&mut client, &query)?);
    }
    let mean = total / f64::from(queries);
    ensure!(mean >= 0.97, "recall {mean}");
    Ok(())
}

#[test]
fn rows_come_in_the_order_of_their_distances_at_every_recall() -> Result<()> {
    let mut client = indexed("true_order", ROWS)?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    for setting in [0.5, 0.9, 0.98, 0.999] {
        client.batch_execute(&format!("SET lookbook.recall = {setting}"))?;
        for query in 0..40 {
            for (condition, limit) in [
                ("true", 10),
                ("true", 200),
                ("category = 3", 20),
                ("id % 10 = 3", 20),
            ] {
                let query = format!(
                    "SELECT id, v <-> look({0}) FROM look WHERE {condition} ORDER BY v <-> look({0}) LIMIT {limit}",
                    400_000 + query
                );
                let distances: Vec<Option<f64>> = rows_of(&mut client, &query)?
                    .iter()
                    .map(|row| row.1)
                    .collect();
                ensure!(
                    distances.len() == limit,
                    "{} rows: {query}",
                    distances.len()
                );
                ensure!(
                    distances.is_sorted(),
                    "at recall {setting}: {query}\n{distances:?}"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_scan_that_is_read_to_its_end_keeps_the_order() -> Result<()> {
    let mut client = indexed("to_the_end", ROWS)?;
    client.batch_execute("ANALYZE look; SET enable_seqscan = off; SET enable_sort = off")?;
    const ALL: &str = "SELECT id, v <-> look(QUERY) FROM look";
    const NEAREST: &str = "ORDER BY v <-> look(QUERY)";
    for query in [
        // Few rows pass the index, few the table; the LIMIT is beyond all, or there is none.
        format!("{ALL} WHERE category = 3 AND id < 700 {NEAREST} LIMIT 400"),
        format!("{ALL} WHERE id % 50 = 3 {NEAREST} LIMIT 300"),
        format!("{ALL} {NEAREST} LIMIT 7000"),
        format!("{ALL} {NEAREST}"),
        // The planner does not know the LIMIT; a distance is one that it knows.
        format!("{ALL} WHERE category = 3 AND id < 700 {NEAREST} LIMIT (SELECT 400)"),
        format!(
            "WITH near AS MATERIALIZED ({ALL} WHERE v <-> look(QUERY) < 4 {NEAREST}) TABLE near"
        ),
    ] {
        for number in 500_000..500_030 {
            let query = query.replace("QUERY", &number.to_string());
            expect_plan(&mut client, &query, &["Index Scan using looks"])?;
            let distances = |rows: Vec<(i64, Option<f64>)>| rows.into_iter().map(|row| row.1);
            let found = distances(rows_of(&mut client, &query)?);
            let truth = distances(truth_of(&mut client, &query)?);
            ensure!(found.eq(truth), "{query}");
        }
    }
    Ok(())
}

#[test]
fn a_higher_recall_setting_never_finds_less_and_1_finds_all() -> Result<()> {
    let mut client = indexed("recall_setting", ROWS)?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    for setting in [0.9, 0.95, 0.98, 0.99, 1.0] {
        client.batch_execute(&format!("SET lookbook.recall = {setting}"))?;
        let mut total = 0.0;
        for query in 0..60 {
            let query = format!(
                "SELECT id, v <-> look({0}) FROM look ORDER BY v <-> look({0}) LIMIT 10",
                300_000 + query
            );
            total += recall(
                &rows_of(&mut client, &query)?,
                &truth_of(&mut client, &query)?,
            );
        }
        let mean = total / 60.0;
        ensure!(mean >= setting - 0.01, "recall {mean} at {setting}");
    }
    for wrong in ["0.49", "1.01", "-1", "'NaN'", "'high'"] {
        ensure!(
            client
                .batch_execute(&format!("SET lookbook.recall = {wrong}"))
                .is_err(),
            "lookbook.recall = {wrong} was accepted"
        );
    }
    Ok(())
}

#[test]
fn a_limit_is_filled_whatever_the_where_rejects() -> Result<()> {
    let mut client = indexed("limit_filled", ROWS)?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    for recall in ["0.5", "0.98", "1"] {
        client.batch_execute(&format!("SET lookbook.recall = {recall}"))?;
        for (condition, rows) in [
            ("true", ROWS),
            ("id % 100 = 3", ROWS / 100),
            ("id = 4711", 1),
            ("category = 3", ROWS / 10),
            ("category = 3 AND id % 50 = 3", ROWS / 50),
            ("category IN (3, 4) AND id % 7 = 0", -1),
            ("category = 77", 0),
            ("category = 77 AND id % 7 = 0", 0),
            ("false", 0),
        ] {
            let select = format!("FROM look WHERE {condition}");
            let passing: i64 = client
                .query_one(&format!("SELECT count(*) {select}"), &[])?
                .get(0);
            ensure!(rows < 0 || passing == rows, "{condition}: {passing} rows");
            for limit in [1, 5, 40, 10_000] {
                let query = format!(
                    "SELECT id, v <-> look(7) {select} ORDER BY v <-> look(7) LIMIT {limit}"
                );
                let found = rows_of(&mut client, &query)?;
                ensure!(
                    i64::try_from(found.len())? == passing.min(limit),
                    "{} rows of {passing} at recall {recall}: {query}",
                    found.len()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn rows_without_a_vector_come_last_and_all_of_them_come() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "nulls_last", 3_000)?;
    client.batch_execute(
        "UPDATE look SET v = NULL WHERE id % 4 = 0;
         CREATE INDEX looks ON look USING lookbook (v, category);
         INSERT INTO look SELECT n, n % 10, CASE WHEN n % 4 > 0 THEN look(n) END FROM generate_series(3001, 4000) n",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let all = "SELECT id, v <-> look(9) FROM look ORDER BY v <-> look(9)";
    assert_eq!(expect_exact(&mut client, "looks", all)?, 4_000);
    let filtered = "SELECT id, v <-> look(9) FROM look WHERE category = 4 ORDER BY v <-> look(9)";
    assert_eq!(expect_exact(&mut client, "looks", filtered)?, 400);
    // No order at all: every row is there, in any order.
    let unordered = "SELECT id, v <-> NULL FROM look ORDER BY v <-> NULL::embedding";
    assert_eq!(rows_of(&mut client, unordered)?.len(), 4_000);
    Ok(())
}

#[test]
fn vectors_without_a_direction_come_after_those_with_one() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "zero_vectors", 2_500)?;
    // Not by UPDATE: an index over rows that were changed in place waits for every older transaction (`indcheckxmin`).
    client.batch_execute(
        "CREATE TABLE shaped AS SELECT id, category, (CASE WHEN id % 10 = 0 THEN v * 0 WHEN id % 10 <> 1 THEN v END)::embedding(32) AS v
           FROM look;
         DROP TABLE look; ALTER TABLE shaped RENAME TO look;
         CREATE INDEX looks ON look USING lookbook (v embedding_cosine_ops);
         INSERT INTO look SELECT n, 0, look(n) * 0 FROM generate_series(3001, 3010) n",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let query = "SELECT id, v <=> look(9) FROM look ORDER BY v <=> look(9)";
    assert_eq!(expect_exact(&mut client, "looks", query)?, 2_510);
    // A query without a direction has a distance from nothing: every row comes, NULLs last.
    let rows = rows_of(
        &mut client,
        "SELECT id, v <=> look(9) * 0 FROM look ORDER BY v <=> look(9) * 0",
    )?;
    ensure!(rows.len() == 2_510, "{} rows", rows.len());
    let nulls = rows.iter().rev().take_while(|row| row.1.is_none()).count();
    assert_eq!(nulls, 250);
    Ok(())
}

#[test]
fn extreme_vectors_are_found_in_their_order() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "extremes")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, v embedding(3));
         INSERT INTO look SELECT n, ARRAY[n, -n, 0.5 * n]::real[]::embedding FROM generate_series(1, 500) n;
         INSERT INTO look VALUES (1001, '[1e38,1e38,-1e38]'), (1002, '[3e38,3e38,3e38]'), (1003, '[1e-38,0,0]'),
           (1004, '[0,0,0]'), (1005, '[-3.4e38,0,0]'), (1006, '[1e-45,1e-45,0]'), (1007, '[1e19,1e19,1e19]')",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for (class, operator) in [("l2", "<->"), ("ip", "<#>"), ("cosine", "<=>")] {
        client.batch_execute(&format!(
            "DROP INDEX IF EXISTS looks; CREATE INDEX looks ON look USING lookbook (v embedding_{class}_ops)"
        ))?;
        for query in [
            "[0,0,0]",
            "[100,-100,50]",
            "[1e38,1e38,-1e38]",
            "[1e-40,0,0]",
            "[1,1,1]",
        ] {
            let query = format!(
                "SELECT id, v {operator} '{query}' FROM look ORDER BY v {operator} '{query}' LIMIT 400"
            );
            expect_plan(&mut client, &query, &["using looks"])?;
            let (found, truth) = (
                rows_of(&mut client, &query)?,
                truth_of(&mut client, &query)?,
            );
            let bits = |rows: &[(i64, Option<f64>)]| -> Vec<String> {
                rows.iter().map(|row| format!("{:?}", row.1)).collect()
            };
            ensure!(
                bits(&found) == bits(&truth),
                "{query}\n{found:?}\n{truth:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn equal_vectors_are_all_found() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "equal_vectors")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, v embedding(32));
         INSERT INTO look SELECT n, look(n % 3) FROM generate_series(1, 6000) n;
         CREATE INDEX looks ON look USING lookbook (v);
         INSERT INTO look SELECT n, look(n % 3) FROM generate_series(6001, 9000) n",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    check_index(&mut client, "looks")?;
    let query = "SELECT id, v <-> look(1) FROM look ORDER BY v <-> look(1)";
    assert_eq!(expect_exact(&mut client, "looks", query)?, 9_000);
    Ok(())
}

#[test]
fn lateral_joins_search_anew_for_every_outer_row() -> Result<()> {
    let mut client = indexed("lateral", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let query = "SELECT near.id, near.distance
        FROM generate_series(1, 40) AS n CROSS JOIN LATERAL (
          SELECT id, v <-> look(n * 131) AS distance FROM look WHERE category = n % 10
          ORDER BY v <-> look(n * 131) LIMIT 3) AS near";
    expect_plan(
        &mut client,
        query,
        &["Nested Loop", "Index Scan using looks"],
    )?;
    let found = rows_of(&mut client, query)?;
    ensure!(found.len() == 120, "{} rows", found.len());
    ensure!(found == truth_of(&mut client, query)?, "{found:?}");

    // The vector comes from the outer row, some of them NULL: then any rows may come, but three of them.
    let query = "SELECT near.id, near.distance
        FROM (SELECT n, CASE WHEN n % 5 > 0 THEN look(n * 7) END AS q FROM generate_series(1, 30) n) AS outside
        CROSS JOIN LATERAL (SELECT id, v <-> q AS distance FROM look ORDER BY v <-> q LIMIT 3) AS near";
    let found = rows_of(&mut client, query)?;
    ensure!(found.len() == 90, "{} rows", found.len());
    let known = |rows: Vec<(i64, Option<f64>)>| -> Vec<(i64, Option<f64>)> {
        rows.into_iter().filter(|row| row.1.is_some()).collect()
    };
    ensure!(known(found) == known(truth_of(&mut client, query)?));
    Ok(())
}

#[test]
fn cursors_go_forward_and_with_scroll_backward() -> Result<()> {
    let mut client = indexed("cursors", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let query = "SELECT id, v <-> look(5) FROM look ORDER BY v <-> look(5) LIMIT 100";
    let truth = truth_of(&mut client, query)?;
    let mut change = client.transaction()?;
    change.batch_execute(&format!("DECLARE near SCROLL CURSOR FOR {query}"))?;
    let mut fetch = |what: &str| -> Result<Vec<i64>> {
        let rows = change.query(&format!("FETCH {what} FROM near"), &[])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let ids: Vec<i64> = truth.iter().map(|row| row.0).collect();
    assert_eq!(fetch("FORWARD 10")?, ids[..10]);
    assert_eq!(
        fetch("BACKWARD 5")?,
        ids[4..9].iter().rev().copied().collect::<Vec<_>>()
    );
    assert_eq!(fetch("FORWARD 20")?, ids[5..25]);
    assert_eq!(fetch("ABSOLUTE 100")?, ids[99..]);
    assert_eq!(fetch("LAST")?, ids[99..]);
    assert_eq!(fetch("FIRST")?, ids[..1]);
    assert_eq!(fetch("ALL")?, ids[1..]);
    change.batch_execute(&format!(
        "CLOSE near; DECLARE near NO SCROLL CURSOR FOR {query}"
    ))?;
    let forward: Vec<i64> = change
        .query("FETCH 40 FROM near", &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(forward, ids[..40]);
    ensure!(change.batch_execute("FETCH BACKWARD 1 FROM near").is_err());
    Ok(())
}

#[test]
fn an_open_scan_survives_aborted_savepoints_and_sees_its_own_snapshot() -> Result<()> {
    let mut client = indexed("savepoints", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let query = "SELECT id, v <-> look(5) FROM look ORDER BY v <-> look(5)";
    let truth: Vec<i64> = truth_of(&mut client, query)?
        .iter()
        .map(|row| row.0)
        .collect();
    let mut change = client.transaction()?;
    change.batch_execute(&format!("DECLARE near NO SCROLL CURSOR FOR {query}"))?;
    let mut found: Vec<i64> = Vec::new();
    for round in 0..6 {
        let rows = change.query("FETCH 200 FROM near", &[])?;
        found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
        change.batch_execute("SAVEPOINT s")?;
        // Rows of the same place come and go, lists split; a scan inside of the savepoint goes with it.
        change.batch_execute(&format!(
            "INSERT INTO look SELECT n, 1, look(5 + 40 * n) FROM generate_series({0}, {0} + 400) n;
             DECLARE inner_{round} CURSOR FOR {query}; FETCH 3 FROM inner_{round}",
            10_000 + round * 1_000
        ))?;
        ensure!(change.batch_execute("SELECT 1 / 0").is_err());
        change.batch_execute("ROLLBACK TO SAVEPOINT s")?;
    }
    let rows = change.query("FETCH ALL FROM near", &[])?;
    found.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    ensure!(found == truth, "{} rows of {}", found.len(), truth.len());
    change.commit()?;
    check_index(&mut client, "looks")?;
    expect_exact(&mut client, "looks", query)?;
    Ok(())
}

#[test]
fn a_scan_that_ends_by_an_error_leaves_the_session_and_the_index_usable() -> Result<()> {
    let mut client = indexed("error_in_scan", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for _ in 0..20 {
        let failing = "SELECT 1 / (id - id % 3) FROM look WHERE id < 3 ORDER BY v <-> look(3)";
        ensure!(client.batch_execute(failing).is_err());
    }
    // Nothing stays locked: a vacuum of the whole table gets through.
    client.batch_execute("DELETE FROM look WHERE id % 2 = 0")?;
    client.batch_execute("VACUUM look")?;
    check_index(&mut client, "looks")?;
    let query = "SELECT id, v <-> look(5) FROM look ORDER BY v <-> look(5) LIMIT 50";
    expect_exact(&mut client, "looks", query)?;
    Ok(())
}

#[test]
fn pages_held_for_the_executor_are_given_back() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "held_pages", ROWS)?;
    client
        .batch_execute("CREATE INDEX looks ON look USING lookbook (v, category); ANALYZE look")?;
    // After the first rounds the session knows where the pages of the table lie. Scans end at a LIMIT, stop in the middle
    // beside each other, fail, and go with their transaction.
    let rounds: String = (0..40)
        .map(|n| {
            format!(
                "SELECT id FROM look ORDER BY v <-> look({n}) LIMIT 10;
                 BEGIN;
                 DECLARE a CURSOR FOR SELECT id FROM look ORDER BY v <-> look({n});
                 DECLARE b CURSOR FOR SELECT id FROM look ORDER BY v <-> look({n} + 3);
                 FETCH 7 a; FETCH 5 b; FETCH 2 a; FETCH 9 b;
                 DO $$BEGIN
                     PERFORM 1 / (id - id % 3) FROM look WHERE id < 3 ORDER BY v <-> look({n});
                 EXCEPTION WHEN division_by_zero THEN END$$;
                 FETCH 3 a; CLOSE b;
                 {};
                 ",
                if n % 2 == 0 { "COMMIT" } else { "ROLLBACK" }
            )
        })
        .collect();
    // A pin that is left is warned of when its transaction ends, and makes freezing wait for ever.
    let freeze = "SET statement_timeout = '60s'; DELETE FROM look WHERE id % 3 = 0;
                  VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) look;";
    let output = database.try_psql(&format!("{rounds}{freeze}"))?;
    ensure!(
        output.success && output.stderr.is_empty(),
        "{}",
        output.stderr
    );
    let query = "SELECT id, v <-> look(5) FROM look ORDER BY v <-> look(5) LIMIT 50";
    client.batch_execute(BY_INDEX_EXACTLY)?;
    expect_exact(&mut client, "looks", query)?;
    Ok(())
}

#[test]
fn prepared_statements_search_for_their_parameters_in_generic_plans_too() -> Result<()> {
    let mut client = indexed("prepared", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute(
        "SET plan_cache_mode = force_generic_plan;
         PREPARE near (embedding, int, int[]) AS
           SELECT id, v <-> $1 FROM look WHERE category = $2 OR category = ANY ($3) ORDER BY v <-> $1 LIMIT 20;
         PREPARE one (embedding, int) AS SELECT id, v <-> $1 FROM look WHERE category = $2 ORDER BY v <-> $1 LIMIT 20;
         PREPARE several (embedding, int[]) AS SELECT id, v <-> $1 FROM look WHERE category = ANY ($2) ORDER BY v <-> $1 LIMIT 20",
    )?;
    for query in 0..12 {
        let look = format!("look({})", query * 777 + 1);
        let category = query % 10;
        for (call, condition) in [
            (
                format!("one({look}, {category})"),
                format!("category = {category}"),
            ),
            (format!("one({look}, NULL)"), "false".to_owned()),
            (
                format!("several({look}, '{{{category},3,3}}')"),
                format!("category IN ({category}, 3)"),
            ),
            (format!("several({look}, '{{}}')"), "false".to_owned()),
            (format!("several({look}, NULL)"), "false".to_owned()),
            (
                format!("several({look}, '{{NULL,{category}}}')"),
                format!("category = {category}"),
            ),
        ] {
            let plan: Vec<String> = client
                .query(&format!("EXPLAIN (COSTS OFF) EXECUTE {call}"), &[])?
                .iter()
                .map(|row| row.get(0))
                .collect();
            let plan = plan.join("\n");
            ensure!(
                plan.contains("Index Scan using looks") && plan.contains('$'),
                "{plan}"
            );
            let found = rows_of(&mut client, &format!("EXECUTE {call}"))?;
            let truth = truth_of(
                &mut client,
                &format!(
                    "SELECT id, v <-> {look} FROM look WHERE {condition} ORDER BY v <-> {look} LIMIT 20"
                ),
            )?;
            ensure!(found == truth, "{call}: {found:?} instead of {truth:?}");
        }
    }
    Ok(())
}

#[test]
fn binary_parameters_of_a_driver_are_searched_for() -> Result<()> {
    let mut client = indexed("binary_parameter", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let vector: Vec<f32> = (0..32).map(|d| (d as f32 * 0.37).sin()).collect();
    let query = "SELECT id, v <-> $1::real[]::embedding FROM look ORDER BY v <-> $1::real[]::embedding LIMIT 10";
    let found: Vec<i64> = client
        .query(query, &[&vector])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    client.batch_execute(
        "SET enable_seqscan = on; SET enable_sort = on; SET enable_indexscan = off",
    )?;
    let truth: Vec<i64> = client
        .query(query, &[&vector])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(found, truth);
    Ok(())
}

#[test]
fn a_statement_timeout_ends_a_long_search() -> Result<()> {
    let mut client = indexed("timeout", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute("SET statement_timeout = '150ms'")?;
    let start = std::time::Instant::now();
    let long = "SELECT count(*) FROM generate_series(1, 100000) AS n CROSS JOIN LATERAL (
          SELECT id FROM look ORDER BY v <-> look(n) OFFSET 3000 LIMIT 1) AS near";
    let error = client
        .batch_execute(long)
        .err()
        .context("the search must be ended")?;
    ensure!(
        error
            .as_db_error()
            .is_some_and(|error| error.code().code() == "57014"),
        "{error}"
    );
    ensure!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
    client.batch_execute("SET statement_timeout = 0")?;
    expect_exact(
        &mut client,
        "looks",
        "SELECT id, v <-> look(5) FROM look ORDER BY v <-> look(5) LIMIT 50",
    )?;
    Ok(())
}

#[test]
fn parallel_queries_agree_with_serial_ones() -> Result<()> {
    let mut client = indexed("parallel", ROWS)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 2",
    )?;
    let query = "SELECT count(*), sum(near.id)::float8 FROM look AS outside CROSS JOIN LATERAL (
          SELECT id FROM look ORDER BY v <-> outside.v LIMIT 2) AS near WHERE outside.id <= 100";
    let serial = {
        client.batch_execute("SET max_parallel_workers_per_gather = 0")?;
        rows_of(&mut client, query)?
    };
    client.batch_execute("SET max_parallel_workers_per_gather = 2")?;
    assert_eq!(rows_of(&mut client, query)?, serial);
    assert_eq!(serial[0].0, 200);
    Ok(())
}
