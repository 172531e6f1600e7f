//! Conditions that PostgreSQL's planner does not see as conditions of an index: arguments that may be left out, and
//! limits by subqueries. And where our planner hook must keep out.

mod index_support;

use anyhow::{Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catalogue, database, expect_plan, indexed, plan_of, rows_of, truth_of,
};
use lookbook_tests::Cluster;
use postgres::Client;

const ROWS: i64 = 5_000;

#[test]
fn a_generic_plan_tests_a_category_that_may_be_left_out_in_the_index() -> Result<()> {
    let mut client = indexed("left_out", ROWS)?;
    client.batch_execute(&format!(
        "SET plan_cache_mode = force_generic_plan; {BY_INDEX_EXACTLY};
         PREPARE near(int) AS SELECT id, v <-> look(7) FROM look WHERE $1 IS NULL OR category = $1 ORDER BY v <-> look(7) LIMIT 8;
         PREPARE turned(bigint) AS SELECT id, v <-> look(7) FROM look WHERE $1 = category OR $1 IS NULL ORDER BY v <-> look(7) LIMIT 8;
         PREPARE other(int, int) AS SELECT id, v <-> look(7) FROM look WHERE $1 IS NULL OR category = $2 ORDER BY v <-> look(7) LIMIT 8"
    ))?;
    for name in ["near", "turned"] {
        for value in ["3", "12", "NULL"] {
            expect_as_written_out(&mut client, name, value)?;
        }
        let plan = format!("EXECUTE {name}(3)");
        expect_plan(
            &mut client,
            &plan,
            &["Index Cond: (category = CASE WHEN ($1 IS NULL) THEN NULL::"],
        )?;
    }
    // Not the same argument: that the other is NULL lets no row pass.
    expect_plan(
        &mut client,
        "EXECUTE other(3, 3)",
        &["Index Cond: (category = CASE WHEN ($1 IS NULL)"],
    )?;
    for (values, rows) in [
        ("NULL, 3", 8),
        ("NULL, NULL", 8),
        ("3, NULL", 0),
        ("5, 3", 8),
    ] {
        let execute = format!("EXECUTE other({values})");
        let found = rows_of(&mut client, &execute)?;
        ensure!(found.len() == rows, "{execute}: {found:?}");
    }
    // Known before the scan only.
    let known = "SELECT id, v <-> look(7) FROM look
        WHERE (SELECT max(id) FROM look) < 10 OR category = (SELECT min(category) + 3 FROM look) ORDER BY v <-> look(7) LIMIT 8";
    expect_plan(&mut client, known, &["Index Cond: (category = CASE WHEN ("])?;
    let (found, truth) = (rows_of(&mut client, known)?, truth_of(&mut client, known)?);
    ensure!(found == truth && found.len() == 8, "{found:?}\n{truth:?}");

    // Eight of a category among thousands, by LATERAL.
    client.batch_execute(
        "CREATE TABLE asked (n bigint, wanted int); INSERT INTO asked VALUES (1, 3), (2, NULL), (3, 12)",
    )?;
    let near = "SELECT found.* FROM asked CROSS JOIN LATERAL (
        SELECT id, v <-> look(asked.n) AS distance FROM look
        WHERE asked.wanted IS NULL OR category = asked.wanted ORDER BY v <-> look(asked.n) LIMIT 4) AS found
        ORDER BY asked.n, distance";
    client.batch_execute("SET enable_sort = on")?;
    expect_plan(
        &mut client,
        near,
        &[
            "Index Cond: (category = CASE WHEN (asked.wanted IS NULL) THEN NULL::integer ELSE asked.wanted END)",
        ],
    )?;
    let (found, truth) = (rows_of(&mut client, near)?, truth_of(&mut client, near)?);
    ensure!(found == truth && found.len() == 8, "{found:?}\n{truth:?}");
    Ok(())
}

/// `EXECUTE` has one plan: the truth is that of the same query with the value in it.
fn expect_as_written_out(client: &mut Client, name: &str, value: &str) -> Result<()> {
    let execute = format!("EXECUTE {name}({value})");
    expect_plan(client, &execute, &["using looks on"])?;
    let query = format!(
        "SELECT id, v <-> look(7) FROM look WHERE {value}::int IS NULL OR category = {value}::int ORDER BY v <-> look(7) LIMIT 8"
    );
    let (found, truth) = (rows_of(client, &execute)?, truth_of(client, &query)?);
    ensure!(found == truth, "{execute}: {found:?}\n{truth:?}");
    Ok(())
}

#[test]
fn what_a_condition_excludes_does_not_come_by_an_argument_left_out() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "excluded", ROWS)?;
    let near = |table: &str, wanted: &str, condition: &str| {
        format!(
            "SELECT id, v <-> look(7) FROM {table} WHERE ({wanted} IS NULL OR category = {wanted}) {condition}
             ORDER BY v <-> look(7) LIMIT 8"
        )
    };
    client.batch_execute("UPDATE look SET category = NULL WHERE id % 3 = 0")?;
    client.batch_execute(&format!(
        "CREATE INDEX looks ON look USING lookbook (v, category); ANALYZE look;
         CREATE VIEW placed AS SELECT * FROM look WHERE category IS NOT NULL;
         CREATE TABLE guarded AS SELECT * FROM look; CREATE INDEX ON guarded USING lookbook (v, category); ANALYZE guarded;
         CREATE ROLE fitter; GRANT SELECT ON guarded TO fitter;
         ALTER TABLE guarded ENABLE ROW LEVEL SECURITY; CREATE POLICY placed ON guarded USING (category IS NOT NULL);
         CREATE TABLE whole AS SELECT * FROM look;
         CREATE INDEX ON whole USING lookbook (v, category) WHERE category IS NOT NULL; ANALYZE whole;
         SET plan_cache_mode = force_generic_plan; {BY_INDEX_EXACTLY};
         PREPARE written(int) AS {};
         PREPARE either(int) AS {};
         PREPARE viewed(int) AS {};
         PREPARE partial(int) AS {};
         SET ROLE fitter; PREPARE guarded(int) AS {}; RESET ROLE",
        near("look", "$1", "AND category IS NOT NULL"),
        near("look", "$1", "AND (category IS NOT NULL OR id < 0)"),
        near("placed", "$1", ""),
        near("whole", "$1", ""),
        near("guarded", "$1", ""),
    ))?;
    for (name, condition, role) in [
        ("written", "AND category IS NOT NULL", "NONE"),
        ("either", "AND category IS NOT NULL", "NONE"),
        ("viewed", "AND category IS NOT NULL", "NONE"),
        ("partial", "", "NONE"),
        ("guarded", "AND category IS NOT NULL", "fitter"),
    ] {
        for value in ["NULL::int", "3"] {
            let truth = truth_of(&mut client, &near("look", value, condition))?;
            client.batch_execute(&format!("SET ROLE {role}"))?;
            let execute = format!("EXECUTE {name}({value})");
            let plan = plan_of(&mut client, &execute)?;
            let found = rows_of(&mut client, &execute)?;
            client.batch_execute("RESET ROLE")?;
            ensure!(
                plan.contains("using ") == (name != "partial"),
                "{execute}: {plan}"
            );
            ensure!(
                found == truth && found.len() == 8,
                "{execute}: {found:?}\n{truth:?}\n{plan}"
            );
        }
    }
    client.batch_execute("SET enable_sort = on")?;
    let beside = "SELECT found.* FROM (VALUES (3), (NULL)) AS o (wanted) CROSS JOIN LATERAL (
        SELECT id, v <-> look(7) AS distance FROM look
        WHERE (o.wanted IS NULL OR category = o.wanted) AND category IS NOT NULL ORDER BY v <-> look(7) LIMIT 4) AS found
        ORDER BY o.wanted, distance";
    expect_plan(&mut client, beside, &["using looks on"])?;
    let (found, truth) = (
        rows_of(&mut client, beside)?,
        truth_of(&mut client, beside)?,
    );
    ensure!(found == truth && found.len() == 8, "{found:?}\n{truth:?}");
    client.batch_execute("DROP OWNED BY fitter; DROP ROLE fitter")?;
    Ok(())
}

#[test]
fn an_argument_that_a_function_makes_a_key_of_is_one_too() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "strict_key")?;
    client.batch_execute(
        "CREATE TYPE kind AS ENUM ('upper', 'lower');
         CREATE FUNCTION kind_of(name text) RETURNS kind LANGUAGE plpgsql STABLE STRICT AS 'BEGIN RETURN name::kind; END';
         CREATE TABLE look (id bigint, kind kind, v embedding(32));
         INSERT INTO look SELECT n, CASE WHEN n % 100 = 0 THEN 'lower' ELSE 'upper' END::kind, look(n) FROM generate_series(1, 3000) n;
         CREATE INDEX looks ON look USING lookbook (v, kind); ANALYZE look;
         SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET lookbook.recall = 1;
         PREPARE near(text) AS SELECT id, v <-> look(7) FROM look WHERE $1 IS NULL OR kind = kind_of($1) ORDER BY v <-> look(7) LIMIT 5",
    )?;
    expect_plan(
        &mut client,
        "EXECUTE near('lower')",
        &["Index Cond: (kind = CASE WHEN ($1 IS NULL) THEN NULL::kind ELSE kind_of($1) END)"],
    )?;
    for (value, condition) in [("'lower'", "kind = 'lower'"), ("NULL", "true")] {
        let query = format!(
            "SELECT id, v <-> look(7) FROM look WHERE {condition} ORDER BY v <-> look(7) LIMIT 5"
        );
        let found = rows_of(&mut client, &format!("EXECUTE near({value})"))?;
        ensure!(
            found == truth_of(&mut client, &query)?,
            "{value}: {found:?}"
        );
    }
    Ok(())
}

#[test]
fn a_limit_of_the_distance_to_a_subquery_ends_the_scan() -> Result<()> {
    let mut client = indexed("limit_subquery", ROWS)?;
    client.batch_execute("SET lookbook.recall = 1")?;
    let near = |id: &str, end: &str| {
        format!(
            "SELECT * FROM (SELECT id, v <-> (SELECT v FROM look WHERE id = {id}) AS distance FROM look) AS x
             WHERE distance < 3 ORDER BY distance {end}"
        )
    };
    // Also without a LIMIT: the distance is one.
    for end in ["LIMIT 100", ""] {
        let query = near("11", end);
        expect_plan(
            &mut client,
            &query,
            &["Index Cond: (", "(v <<->> '3'::double precision)"],
        )?;
        let (found, truth) = (
            rows_of(&mut client, &query)?,
            truth_of(&mut client, &query)?,
        );
        ensure!(found == truth && found.len() > 1, "{found:?}\n{truth:?}");
    }
    // Two subqueries that are not the same one.
    for other in [
        "SELECT id, v <-> (SELECT v FROM look WHERE id = 11) FROM look
         WHERE v <-> (SELECT v FROM look WHERE id = 12) < 1.2 ORDER BY v <-> (SELECT v FROM look WHERE id = 11) LIMIT 5",
        "SELECT id, v <-> (SELECT look((10 + random())::bigint)) FROM look
         WHERE v <-> (SELECT look((10 + random())::bigint)) < 1.2 ORDER BY v <-> (SELECT look((10 + random())::bigint)) LIMIT 5",
    ] {
        let plan = plan_of(&mut client, other)?;
        ensure!(!plan.contains("<<->>"), "{plan}");
    }
    Ok(())
}

#[test]
fn a_second_key_changes_nothing_where_the_index_cannot_serve() -> Result<()> {
    let mut client = indexed("second_key", ROWS)?;
    client.batch_execute("SET lookbook.recall = 1")?;
    let near = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7), id LIMIT 5";
    expect_plan(&mut client, near, &["Index Scan using looks"])?;
    let nearest = truth_of(&mut client, near)?;
    for lock in ["FOR UPDATE", "FOR SHARE SKIP LOCKED"] {
        assert_eq!(rows_of(&mut client, &format!("{near} {lock}"))?, nearest);
    }
    let updated = client.execute(
        "UPDATE look SET category = 99 WHERE ctid IN (SELECT ctid FROM look ORDER BY v <-> look(7), id LIMIT 5)",
        &[],
    )?;
    assert_eq!(updated, 5);
    let ids = client.query_one(
        "SELECT array_agg(id ORDER BY id) FROM look WHERE category = 99",
        &[],
    )?;
    let mut expected: Vec<i64> = nearest.iter().map(|row| row.0).collect();
    expected.sort_unstable();
    assert_eq!(ids.get::<_, Vec<i64>>(0), expected);

    let sampled = "SELECT id, v <-> look(7) FROM look TABLESAMPLE bernoulli (5) REPEATABLE (1) ORDER BY v <-> look(7), id LIMIT 5";
    expect_plan(&mut client, sampled, &["Sample Scan on look"])?;
    client.batch_execute("SET enable_sort = off; SET enable_seqscan = off")?;
    for nothing in ["false", "category = NULL", "id <> id AND false"] {
        let query = format!(
            "SELECT id, v <-> look(7) FROM look WHERE {nothing} ORDER BY v <-> look(7), id LIMIT 5"
        );
        ensure!(rows_of(&mut client, &query)?.is_empty(), "{query}");
    }
    // Costs are numbers.
    let costs = client.query(&format!("EXPLAIN {near} FOR UPDATE"), &[])?;
    for line in costs {
        let line: String = line.get(0);
        ensure!(
            !line.contains("NaN") && !line.contains("Infinity"),
            "{line}"
        );
    }
    Ok(())
}
