//! An index of every kind of table, column and expression, and what it is after the table was rewritten or restored.

mod index_support;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catalogue, check_index, database, expect_exact, expect_plan, info, rows_of,
    truth_of,
};
use lookbook_tests::Cluster;

const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

#[test]
fn temporary_and_unlogged_tables_have_indexes_too() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "kinds_of_tables")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for kind in ["TEMPORARY", "UNLOGGED"] {
        client.batch_execute(&format!(
            "CREATE {kind} TABLE look (id bigint, category int, v embedding(32));
             CREATE INDEX looks ON look USING lookbook (v, category);
             INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 2500) n"
        ))?;
        assert_eq!(check_index(&mut client, "looks")?, 2_500);
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 2_500);
        client.batch_execute("DELETE FROM look WHERE id > 1000")?;
        client.batch_execute("VACUUM look")?;
        client.batch_execute("REINDEX INDEX looks")?;
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 1_000);
        if kind == "UNLOGGED" {
            client.batch_execute("ALTER TABLE look SET LOGGED")?;
            assert_eq!(expect_exact(&mut client, "looks", ALL)?, 1_000);
            client.batch_execute("ALTER TABLE look SET UNLOGGED")?;
            assert_eq!(expect_exact(&mut client, "looks", ALL)?, 1_000);
        }
        client.batch_execute("DROP TABLE look")?;
    }
    client.batch_execute(
        "BEGIN; CREATE TEMP TABLE look (id bigint, v embedding(32)) ON COMMIT DELETE ROWS;
         CREATE INDEX looks ON look USING lookbook (v);
         INSERT INTO look SELECT n, look(n) FROM generate_series(1, 800) n; COMMIT;
         INSERT INTO look SELECT n, look(n) FROM generate_series(1, 10) n",
    )?;
    assert_eq!(check_index(&mut client, "looks")?, 0);
    Ok(())
}

#[test]
fn a_truncated_table_starts_anew_and_a_rolled_back_truncate_does_not() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "truncate", 3_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client
        .batch_execute("BEGIN; TRUNCATE look; INSERT INTO look VALUES (1, 1, look(1)); ROLLBACK")?;
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 3_000);
    client.batch_execute("TRUNCATE look")?;
    assert_eq!(check_index(&mut client, "looks")?, 0);
    client.batch_execute(
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 700) n",
    )?;
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 700);
    // In the transaction that empties or makes the table.
    client.batch_execute(
        "BEGIN; TRUNCATE look; INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 900) n; COMMIT",
    )?;
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 900);
    Ok(())
}

#[test]
fn a_rewritten_table_has_its_index_built_anew() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "rewrites", 2_500)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let by_category =
        "SELECT id, v <-> look(7) FROM look WHERE category = '3' ORDER BY v <-> look(7)";
    for rewrite in [
        "VACUUM FULL look",
        "ALTER TABLE look ALTER category TYPE bigint",
        "ALTER TABLE look ALTER category TYPE text",
        "ALTER TABLE look ALTER category TYPE varchar(20)",
        "ALTER TABLE look ALTER v TYPE embedding(32) USING v * 1",
        "ALTER TABLE look ADD COLUMN now timestamptz DEFAULT clock_timestamp()",
        "CREATE UNIQUE INDEX by_id ON look (id); CLUSTER look USING by_id",
    ] {
        client
            .batch_execute(rewrite)
            .with_context(|| rewrite.to_owned())?;
        check_index(&mut client, "looks")?;
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 2_500, "{rewrite}");
        assert_eq!(
            expect_exact(&mut client, "looks", by_category)?,
            250,
            "{rewrite}"
        );
    }
    // Another dimension is another index.
    let other = "ALTER TABLE look ALTER v TYPE embedding(16) USING subvector(v, 1, 16)";
    client.batch_execute(other)?;
    assert_eq!(info(&mut client, "looks", "dimensions")?, 16);
    assert_eq!(check_index(&mut client, "looks")?, 2_500);
    // A column that takes any dimension still has an index of one.
    client.batch_execute("ALTER TABLE look ALTER v TYPE embedding")?;
    let (code, message) = index_support::error_of(
        &mut client,
        "INSERT INTO look VALUES (99999, '1', '[1,2,3]')",
    )?;
    ensure!(
        code == "22000" && message.contains("different embedding dimensions 16 and 3"),
        "{code} {message}"
    );
    assert_eq!(check_index(&mut client, "looks")?, 2_500);
    let (code, message) = index_support::error_of(&mut client, "REINDEX INDEX looks")?;
    ensure!(
        code == "22023" && message.contains("column does not have dimensions"),
        "{code} {message}"
    );
    assert_eq!(check_index(&mut client, "looks")?, 2_500);
    Ok(())
}

#[test]
fn partitions_are_merged_in_order() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "partitions")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32)) PARTITION BY LIST (category);
         CREATE TABLE look_a PARTITION OF look FOR VALUES IN (0, 1, 2);
         CREATE TABLE look_b PARTITION OF look FOR VALUES IN (3, 4, 5);
         CREATE INDEX looks ON look USING lookbook (v, category);
         CREATE TABLE look_c PARTITION OF look DEFAULT;
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 9000) n; ANALYZE look",
    )?;
    let near = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7) LIMIT 20";
    expect_plan(
        &mut client,
        near,
        &[
            "Merge Append",
            "look_a_v_category_idx",
            "look_b_v_category_idx",
            "look_c_v_category_idx",
        ],
    )?;
    client.batch_execute("SET lookbook.recall = 1")?;
    ensure!(rows_of(&mut client, near)? == truth_of(&mut client, near)?);
    let one =
        "SELECT id, v <-> look(7) FROM look WHERE category = 4 ORDER BY v <-> look(7) LIMIT 20";
    expect_plan(
        &mut client,
        one,
        &[
            "Index Scan using look_b_v_category_idx",
            "Index Cond: (category = 4)",
        ],
    )?;
    ensure!(rows_of(&mut client, one)? == truth_of(&mut client, one)?);
    // A row that moves to another partition moves to another index.
    client.batch_execute("UPDATE look SET category = 4 WHERE category = 0; ANALYZE look")?;
    ensure!(rows_of(&mut client, one)? == truth_of(&mut client, one)?);
    for index in [
        "look_a_v_category_idx",
        "look_b_v_category_idx",
        "look_c_v_category_idx",
    ] {
        check_index(&mut client, index)?;
    }
    client.batch_execute(
        "CREATE TABLE look_d (LIKE look INCLUDING ALL); INSERT INTO look_d SELECT n, 100, look(n) FROM generate_series(1, 3000) n;
         ALTER TABLE look ATTACH PARTITION look_d FOR VALUES IN (100); ANALYZE look",
    )?;
    expect_plan(
        &mut client,
        near,
        &["Merge Append", "look_d_v_category_idx"],
    )?;
    ensure!(rows_of(&mut client, near)?[..] == truth_of(&mut client, near)?[..]);
    // The whole has no pages of its own to look at.
    let (code, message) =
        index_support::error_of(&mut client, "SELECT lookbook_index_info('looks')")?;
    ensure!(code == "42809", "{code} {message}");
    Ok(())
}

#[test]
fn partial_and_expression_indexes_answer_what_they_are_about() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "partial", 6_000)?;
    client.batch_execute(
        "ALTER TABLE look ADD sold boolean DEFAULT false; UPDATE look SET sold = id % 3 = 0;
         CREATE INDEX unsold ON look USING lookbook (v, category) WHERE NOT sold;
         CREATE INDEX halves ON look USING lookbook ((subvector(v, 1, 16)::embedding(16)));
         CREATE INDEX parity ON look USING lookbook (v, (id % 2)) WHERE category = 5; ANALYZE look",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let unsold = "SELECT id, v <-> look(7) FROM look WHERE NOT sold AND category = 3 ORDER BY v <-> look(7) LIMIT 30";
    assert_eq!(expect_exact(&mut client, "unsold", unsold)?, 30);
    let halves = "SELECT id, subvector(v, 1, 16)::embedding(16) <-> look(7, 16) FROM look
        ORDER BY subvector(v, 1, 16)::embedding(16) <-> look(7, 16) LIMIT 30";
    assert_eq!(expect_exact(&mut client, "halves", halves)?, 30);
    let parity = "SELECT id, v <-> look(7) FROM look WHERE category = 5 AND id % 2 = 1 ORDER BY v <-> look(7) LIMIT 30";
    expect_plan(
        &mut client,
        parity,
        &["using parity", "((id % '2'::bigint) = 1)"],
    )?;
    assert_eq!(expect_exact(&mut client, "parity", parity)?, 30);
    // Rows enter and leave with their condition.
    client.batch_execute("UPDATE look SET sold = NOT sold WHERE id % 2 = 0; INSERT INTO look VALUES (7777, 3, look(7), false)")?;
    assert_eq!(expect_exact(&mut client, "unsold", unsold)?, 30);
    client.batch_execute("VACUUM look")?;
    let live: i64 = client
        .query_one("SELECT count(*) FROM look WHERE NOT sold", &[])?
        .get(0);
    assert_eq!(check_index(&mut client, "unsold")?, live);
    Ok(())
}

#[test]
fn two_indexes_of_one_table_do_not_mix() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "two_indexes", 3_000)?;
    client.batch_execute(
        "ALTER TABLE look ADD w embedding(8); UPDATE look SET w = subvector(v, 3, 8);
         CREATE INDEX a ON look USING lookbook (v) WITH (bits = 4, lists = 4);
         CREATE INDEX b ON look USING lookbook (v embedding_cosine_ops, category);
         CREATE INDEX c ON look USING lookbook (w embedding_ip_ops)",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for round in 0..2 {
        if round == 1 {
            client.batch_execute(
                "UPDATE look SET v = look(id + 77), w = subvector(v, 1, 8) WHERE id % 3 = 0",
            )?;
            client.batch_execute("DELETE FROM look WHERE id % 4 = 0")?;
            client.batch_execute("VACUUM look")?;
        }
        for (index, distance) in [
            ("a", "v <-> look(7)"),
            ("b", "v <=> look(7)"),
            ("c", "w <#> look(7, 8)"),
        ] {
            check_index(&mut client, index)?;
            let query = format!("SELECT id, {distance} FROM look ORDER BY {distance} LIMIT 500");
            expect_exact(&mut client, index, &query)?;
        }
    }
    assert_eq!(info(&mut client, "a", "bits")?, 4);
    assert_eq!(info(&mut client, "b", "bits")?, 8);
    Ok(())
}

#[test]
fn vectors_of_every_size_are_indexed() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "sizes")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for (dimensions, rows) in [
        (1, 600),
        (2, 600),
        (17, 600),
        (100, 600),
        (1_000, 120),
        (2_049, 60),
        (4_100, 30),
        (9_500, 12),
        (16_000, 8),
    ] {
        client.batch_execute(&format!(
            "CREATE TABLE look (id bigint, v embedding({dimensions}));
             INSERT INTO look SELECT n, look(n, {dimensions}) FROM generate_series(1, {rows}) n;
             CREATE INDEX looks ON look USING lookbook (v);
             INSERT INTO look SELECT n, look(n, {dimensions}) FROM generate_series({rows} + 1, {rows} + {rows} / 4) n"
        )).with_context(|| format!("{dimensions} dimensions"))?;
        assert_eq!(check_index(&mut client, "looks")?, rows + rows / 4);
        let query = format!(
            "SELECT id, v <-> look(9999, {dimensions}) FROM look ORDER BY v <-> look(9999, {dimensions})"
        );
        assert_eq!(
            expect_exact(&mut client, "looks", &query)? as i64,
            rows + rows / 4,
            "{dimensions}"
        );
        client.batch_execute("DROP TABLE look")?;
    }
    Ok(())
}

#[test]
fn a_dump_restores_the_index() -> Result<()> {
    let (source, mut client) = catalogue(Cluster::shared()?, "dump_source", 2_500)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v embedding_cosine_ops, category) WITH (bits = 6)",
    )?;
    let dump = lookbook_tests::check_output(source.program("pg_dump").arg("--no-owner"))?;
    let target = Cluster::shared()?.empty_database("dump_target")?;
    target.psql(&String::from_utf8(dump.stdout)?)?;
    let mut restored = target.connect()?;
    restored.batch_execute(BY_INDEX_EXACTLY)?;
    assert_eq!(check_index(&mut restored, "looks")?, 2_500);
    assert_eq!(info(&mut restored, "looks", "bits")?, 6);
    let query = "SELECT id, v <=> look(7) FROM look ORDER BY v <=> look(7) LIMIT 100";
    expect_exact(&mut restored, "looks", query)?;
    Ok(())
}

#[test]
fn what_a_session_learnt_of_an_index_outlasts_the_use_of_many_others() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "many_indexes")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, v embedding(32));
         INSERT INTO look SELECT n, look(n) FROM generate_series(1, 2000) n;
         CREATE INDEX looks ON look USING lookbook (v) WITH (lists = 500);
         SET enable_seqscan = off; SET enable_sort = off",
    )?;
    let mut others = String::new();
    for n in 0..12 {
        client.batch_execute(&format!(
            "CREATE TABLE other_{n} (id bigint, v embedding(32));
             INSERT INTO other_{n} VALUES (1, look(1));
             CREATE INDEX ON other_{n} USING lookbook (v)"
        ))?;
        others += &format!("SELECT id FROM other_{n} ORDER BY v <-> look(1) LIMIT 1;");
    }
    // Pages that a search reads; the first ones read the directory, of seven pages, as well.
    let pages = |client: &mut postgres::Client| -> Result<i64> {
        let query = "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF) SELECT id FROM look ORDER BY v <-> look(7) LIMIT 1";
        let lines = client.query(query, &[])?;
        let hits = lines.iter().find_map(|line| {
            let (_, hits) = line.get::<_, &str>(0).split_once("shared hit=")?;
            hits.split(' ').next()?.parse().ok()
        });
        hits.with_context(|| "no buffers were counted")
    };
    let first = pages(&mut client)?;
    pages(&mut client)?;
    let known = pages(&mut client)?;
    ensure!(known + 4 < first, "{first} pages, then {known}");
    client.batch_execute(&others)?;
    let again = pages(&mut client)?;
    ensure!(again < known + 4, "{known} pages, after others {again}");
    Ok(())
}
