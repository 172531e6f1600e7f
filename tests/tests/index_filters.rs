//! Filter columns: any hashable type, `=`, `IN` and `= ANY`, tested inside the index, and never a row too
//! many or too few.

mod index_support;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, check_index, database, expect_exact, expect_plan, plan_of, rows_of, truth_of,
};
use lookbook_tests::{Cluster, not_tested};
use postgres::Client;

const ROWS: i64 = 2_400;

/// A column `c` of type `column_type` that holds `value` (an expression of `n`) and is NULL in one row of
/// nine; every condition gives what it gives without the index, whether rows came before or after it.
fn check(client: &mut Client, column_type: &str, value: &str, conditions: &[&str]) -> Result<()> {
    client.batch_execute(&format!(
        "DROP TABLE IF EXISTS look;
         CREATE TABLE look (id bigint, v embedding(32), c {column_type});
         INSERT INTO look SELECT n, look(n), CASE WHEN n % 9 > 0 THEN {value} END FROM generate_series(1, {ROWS} / 2) n;
         CREATE INDEX looks ON look USING lookbook (v, c);
         INSERT INTO look SELECT n, look(n), CASE WHEN n % 9 > 0 THEN {value} END FROM generate_series({ROWS} / 2 + 1, {ROWS}) n"
    )).with_context(|| format!("a column of type {column_type}"))?;
    check_index(client, "looks")?;
    for condition in conditions {
        for limit in ["LIMIT 7", ""] {
            let query = format!(
                "SELECT id, v <-> look(3) FROM look WHERE {condition} ORDER BY v <-> look(3) {limit}"
            );
            expect_plan(client, &query, &["using looks", "Index Cond:"])
                .with_context(|| format!("a column of type {column_type}"))?;
            let rows = expect_exact(client, "looks", &query)?;
            // A condition that finds nothing anywhere would prove nothing, unless it is about NULL.
            ensure!(
                rows > 0 || condition.contains("none"),
                "{column_type}: {condition} finds nothing"
            );
        }
    }
    Ok(())
}

fn client(name: &str) -> Result<Client> {
    let (_, mut client) = database(Cluster::shared()?, name)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    Ok(client)
}

#[test]
fn integers_of_every_width_are_filtered_by_each_other() -> Result<()> {
    let mut client = client("integers")?;
    for (column, maximum) in [
        ("smallint", 30_000),
        ("integer", 2_000_000_000),
        ("bigint", 9_000_000_000_000_i64),
    ] {
        let value = format!("(n % 5 * {})::{column} - 2", maximum / 5);
        let some = maximum / 5 - 2;
        let (a, b) = (format!("c = {some}"), format!("c = {some}::bigint"));
        let array = format!("c = ANY (ARRAY[-2, {some}]::bigint[])");
        let list = format!("c IN (-2, {some})");
        check(
            &mut client,
            column,
            &value,
            &[
                "c = -2",
                "c = (-2)::smallint",
                "c = (-2)::integer",
                "c = (-2)::bigint",
                "c = ANY ('{-2,NULL,7}'::smallint[])",
                "c = ANY ('{-2,-2,8}'::integer[])",
                "c = ANY ('{-2,99}'::bigint[])",
                "c = 77 /* none */",
                "c = ANY ('{}'::integer[]) /* none */",
                &a,
                &b,
                &array,
                &list,
            ],
        )?;
    }
    // Wider than the column: nothing is cut off.
    check(
        &mut client,
        "smallint",
        "(n % 5)::smallint",
        &["c = 65537 /* none */", "c = 4294967297::bigint /* none */"],
    )
}

#[test]
fn texts_are_filtered_whatever_their_type_is_called() -> Result<()> {
    let mut client = client("texts")?;
    let value = "(ARRAY['upper', 'lower', '', 'Über größe', repeat('long ', 900)])[n % 5 + 1]";
    let conditions = [
        "c = 'upper'",
        "c = 'upper'::text",
        "c = 'upper'::varchar",
        "c IN ('upper', 'lower')",
        "c = ANY ('{upper,NULL,nobody}')",
        "c = ANY (ARRAY['lower', 'Über größe']::varchar[])",
        "c = ''",
        "c = repeat('long ', 900)",
        "c = 'uppe' /* none */",
        "c = NULL /* none */",
    ];
    // A condition that is NULL is folded away: there is no scan to test.
    let conditions = &conditions[..conditions.len() - 1];
    check(&mut client, "text", value, conditions)?;
    check(&mut client, "varchar", value, conditions)?;
    check(&mut client, "varchar(5000)", value, conditions)?;
    check(
        &mut client,
        "char(8)",
        "(ARRAY['upper', 'lower', ''])[n % 3 + 1]",
        &[
            "c = 'upper'",
            "c = 'upper   '",
            "c = 'upper'::char(20)",
            "c IN ('lower', 'upper ')",
            "c = ''",
            "c = ANY (ARRAY['lower', 'nobody']::char(6)[])",
        ],
    )?;
    check(
        &mut client,
        "name",
        "('name' || n % 4)::name",
        &["c = 'name1'", "c IN ('name1', 'name2')"],
    )
}

#[test]
fn uuids_booleans_and_bytes_are_filtered() -> Result<()> {
    let mut client = client("uuids")?;
    check(
        &mut client,
        "uuid",
        "md5((n % 6)::text)::uuid",
        &[
            "c = md5('3')::uuid",
            "c IN (md5('1')::uuid, md5('2')::uuid)",
            "c = md5('none')::uuid",
        ],
    )?;
    check(
        &mut client,
        "boolean",
        "n % 3 = 0",
        &[
            "c",
            "NOT c",
            "c = true",
            "c = false",
            "c IN (true, false)",
            "c IS NOT DISTINCT FROM true AND c = true",
        ],
    )?;
    check(
        &mut client,
        "bytea",
        "decode(md5((n % 6)::text), 'hex')",
        &["c = decode(md5('3'), 'hex')", "c = '\\x00' /* none */"],
    )
}

#[test]
fn dates_and_times_are_filtered() -> Result<()> {
    let mut client = client("dates")?;
    check(
        &mut client,
        "date",
        "'2026-01-01'::date + (n % 7)::int",
        &[
            "c = '2026-01-03'",
            "c IN ('2026-01-03', '2026-01-04', 'infinity')",
            "c = '1999-01-01' /* none */",
        ],
    )?;
    check(
        &mut client,
        "timestamp",
        "'2026-01-01 12:00'::timestamp + (n % 7) * interval '1 day'",
        &[
            "c = '2026-01-03 12:00'",
            "c = ANY ('{2026-01-03 12:00,2026-01-04 12:00}')",
        ],
    )?;
    check(
        &mut client,
        "timestamptz",
        "'2026-01-01 12:00+00'::timestamptz + (n % 7) * interval '1 day'",
        &[
            "c = '2026-01-03 14:00+02'",
            "c IN ('2026-01-03 12:00+00', '2026-01-05 12:00+00')",
        ],
    )
}

#[test]
fn numbers_with_fractions_are_filtered_by_value_not_by_spelling() -> Result<()> {
    let mut client = client("numerics")?;
    check(
        &mut client,
        "numeric",
        "(n % 5)::numeric / 2",
        &[
            "c = 1.5",
            "c = 1.50000",
            "c = 1",
            "c = 1.000",
            "c IN (0, 0.5)",
            "c = 2::int",
            "c = 'NaN' /* none */",
        ],
    )
}

#[test]
fn enums_and_domains_are_filtered() -> Result<()> {
    let mut client = client("enums")?;
    client.batch_execute(
        "CREATE TYPE season AS ENUM ('spring', 'summer', 'autumn', 'winter');
         CREATE DOMAIN sku AS text CHECK (value <> 'x');
         CREATE DOMAIN brand AS integer",
    )?;
    let season = "(enum_range(NULL::season))[n % 3 + 1]";
    let conditions = [
        "c = 'summer'",
        "c IN ('spring', 'autumn')",
        "c = ANY ('{spring,NULL}'::season[])",
        "c = 'winter' /* none */",
    ];
    check(&mut client, "season", season, &conditions)?;
    check(
        &mut client,
        "sku",
        "'sku ' || n % 4",
        &["c = 'sku 1'", "c IN ('sku 1', 'sku 2')"],
    )?;
    check(
        &mut client,
        "brand",
        "n % 4",
        &["c = 1", "c = 1::smallint", "c IN (1, 2)", "c = 3::bigint"],
    )
}

#[test]
fn every_other_type_that_can_be_hashed_is_filtered() -> Result<()> {
    let mut client = client("other_types")?;
    client.batch_execute("CREATE TYPE pair AS (a bigint, b text)")?;
    for (column, value, conditions) in [
        (
            "real",
            "n % 5 * 0.5",
            ["c = 1.5::real", "c = 1.5::float8", "c IN (0, -0.0)"],
        ),
        (
            "float8",
            "n % 5 * 0.5",
            [
                "c = 1.5::real",
                "c = 1.5::float8",
                "c = ANY ('{0.5,1}'::real[])",
            ],
        ),
        (
            "time",
            "'12:00'::time + n % 5 * interval '1 hour'",
            ["c = '13:00'", "c = '16:00'", "c IN ('12:00', '13:00')"],
        ),
        (
            "interval",
            "n % 5 * interval '12 hours'",
            ["c = '1 day'", "c = '24:00'", "c IN ('0', '2 days')"],
        ),
        (
            "inet",
            "'10.0.0.0'::inet + n % 5",
            [
                "c = '10.0.0.1'",
                "c = '10.0.0.1/32'",
                "c IN ('10.0.0.2', '10.0.0.3')",
            ],
        ),
        (
            "oid",
            "(n % 5)::oid",
            ["c = 3::oid", "c = '0'", "c IN (1, 2)"],
        ),
        (
            "jsonb",
            "jsonb_build_object('a', n % 5)",
            [
                "c = '{\"a\": 3}'",
                "c = '{\"a\": 3.0}'",
                "c IN ('{\"a\":1}', '{}')",
            ],
        ),
        (
            "int[]",
            "ARRAY[n % 5, 7]",
            ["c = '{3,7}'", "c = ARRAY[3, 7]", "c = '{1}' /* none */"],
        ),
        (
            "int4range",
            "int4range(0, (n % 5)::int)",
            ["c = '[0,3)'", "c = '[0,2]'", "c IN ('empty', '[0,2)')"],
        ),
        (
            "int4multirange",
            "int4multirange(int4range(0, (n % 5)::int))",
            [
                "c = '{[0,3)}'",
                "c = '{[0,1),[1,3)}'",
                "c IN ('{}', '{[0,2)}')",
            ],
        ),
        (
            "pair",
            "ROW(n % 5, 'b')::pair",
            [
                "c = ROW(3, 'b')::pair",
                "c = '(3,b)'::pair",
                "c IN ('(1,b)'::pair, '(1,c)'::pair)",
            ],
        ),
        (
            "pg_lsn",
            "('0/' || n % 5)::pg_lsn",
            ["c = '0/3'", "c = '0/03'", "c IN ('0/1', '0/9')"],
        ),
        (
            "xid8",
            "(n % 5)::text::xid8",
            ["c = '3'", "c = '03'", "c IN ('1', '9')"],
        ),
        (
            "tid",
            "('(0,' || n % 5 || ')')::tid",
            ["c = '(0,3)'", "c = '(00,3)'", "c IN ('(0,1)', '(1,1)')"],
        ),
    ] {
        check(&mut client, column, value, &conditions)?;
    }
    Ok(())
}

#[test]
fn a_collation_decides_what_is_equal() -> Result<()> {
    let mut client = client("collations")?;
    check(
        &mut client,
        "text COLLATE \"C\"",
        "(ARRAY['Upper', 'upper', 'lower'])[n % 3 + 1]",
        &["c = 'upper'", "c IN ('Upper', 'lower')"],
    )?;
    let ignores_case = "CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if let Err(error) = client.batch_execute(ignores_case) {
        let error = error.as_db_error().context("an answer of the server")?;
        ensure!(error.message().contains("ICU is not supported"), "{error}");
        not_tested("collations that ignore case, this server was built without ICU")?;
        return Ok(());
    }
    check(
        &mut client,
        "text COLLATE ignore_case",
        "(ARRAY['Upper', 'uPPer', 'lower', 'UPPER'])[n % 4 + 1]",
        &[
            "c = 'upper'",
            "c IN ('UPPER', 'x')",
            "c = ANY (ARRAY['LOWER', NULL])",
            "c = 'none'",
        ],
    )?;
    let folded = "SELECT id, v <-> look(3) FROM look WHERE c = 'upper' ORDER BY v <-> look(3)";
    let upper: i64 = client
        .query_one(
            "SELECT count(*) FROM look WHERE upper(c COLLATE \"C\") = 'UPPER'",
            &[],
        )?
        .get(0);
    assert_eq!(rows_of(&mut client, folded)?.len() as i64, upper);
    // Another collation than the column's: the index does not know what is equal then.
    let other =
        "SELECT id, v <-> look(3) FROM look WHERE c = 'upper' COLLATE \"C\" ORDER BY v <-> look(3)";
    ensure!(
        plan_of(&mut client, other)?.contains("Filter: (c ="),
        "{}",
        plan_of(&mut client, other)?
    );
    ensure!(rows_of(&mut client, other)? == truth_of(&mut client, other)?);
    Ok(())
}

#[test]
fn several_columns_are_filtered_at_once_and_in_any_choice() -> Result<()> {
    let mut client = client("several_columns")?;
    client.batch_execute(&format!(
        "CREATE TABLE look (id bigint, v embedding(32), category text, brand bigint, season smallint, sold boolean, day date);
         INSERT INTO look SELECT n, look(n), 'category ' || n % 5, n % 7, n % 4, n % 2 = 0, '2026-01-01'::date + (n % 9)::int
           FROM generate_series(1, {ROWS}) n;
         CREATE INDEX looks ON look USING lookbook (v, category, brand, season, sold, day)"
    ))?;
    for condition in [
        "category = 'category 1'",
        "brand = 3",
        "day = '2026-01-05'",
        "category = 'category 1' AND brand = 3",
        "category IN ('category 1', 'category 2') AND season = ANY ('{1,2,3}') AND NOT sold",
        "sold AND day IN ('2026-01-02', '2026-01-03') AND brand = 2",
        "category = 'category 1' AND category = 'category 2'",
        "category = 'category 1' AND category IN ('category 1', 'category 2')",
        "brand = 3 AND id % 2 = 0",
        "(category, brand) = ('category 1', 3)",
        // Not for the index, and right all the same.
        "brand > 3",
        "brand = 3 AND season <> 1",
        "category = 'category 1' OR brand = 3",
        "category IS NOT NULL AND brand = 3",
        "category IS NULL",
        "category LIKE 'category%' AND brand = 6",
        "brand = season",
    ] {
        for limit in ["LIMIT 7", ""] {
            let query = format!(
                "SELECT id, v <-> look(3) FROM look WHERE {condition} ORDER BY v <-> look(3) {limit}"
            );
            let (found, truth) = (
                rows_of(&mut client, &query)?,
                truth_of(&mut client, &query)?,
            );
            ensure!(
                found == truth,
                "{query}: {} of {} rows",
                found.len(),
                truth.len()
            );
        }
    }
    Ok(())
}

#[test]
fn a_condition_on_a_column_of_another_table_is_pushed_into_the_index() -> Result<()> {
    let mut client = client("joined_filter")?;
    client.batch_execute(&format!(
        "CREATE TABLE look (id bigint, v embedding(32), category int);
         INSERT INTO look SELECT n, look(n), n % 10 FROM generate_series(1, {ROWS}) n;
         CREATE INDEX looks ON look USING lookbook (v, category);
         CREATE TABLE wish (category int, q embedding(32));
         INSERT INTO wish SELECT n % 12, look(n * 100) FROM generate_series(1, 24) n; ANALYZE"
    ))?;
    let query = "SELECT near.id, near.d FROM wish CROSS JOIN LATERAL (
          SELECT id, v <-> wish.q AS d FROM look WHERE category = wish.category ORDER BY v <-> wish.q LIMIT 4) AS near";
    expect_plan(
        &mut client,
        query,
        &["using looks", "Index Cond: (category = wish.category)"],
    )?;
    let sorted = |mut rows: Vec<(i64, Option<f64>)>| {
        rows.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
        rows
    };
    let (found, truth) = (rows_of(&mut client, query)?, truth_of(&mut client, query)?);
    ensure!(found.len() == 80 && sorted(found) == sorted(truth));
    Ok(())
}

#[test]
fn lists_of_thousands_are_tested_in_the_index() -> Result<()> {
    let mut client = client("long_lists")?;
    client.batch_execute(&format!(
        "CREATE TABLE look (id bigint, v embedding(32), sku text);
         INSERT INTO look SELECT n, look(n), 'sku ' || n FROM generate_series(1, {ROWS}) n;
         CREATE INDEX looks ON look USING lookbook (v, sku)"
    ))?;
    let wanted = "SELECT 'sku ' || 3 * n FROM generate_series(1, 20000) n";
    let query = format!(
        "SELECT id, v <-> look(3) FROM look WHERE sku = ANY (ARRAY({wanted})) ORDER BY v <-> look(3)"
    );
    expect_plan(&mut client, &query, &["using looks", "(sku = ANY ("])?;
    assert_eq!(expect_exact(&mut client, "looks", &query)? as i64, ROWS / 3);
    Ok(())
}

#[test]
fn a_type_without_a_class_is_refused_with_the_name_of_the_type() -> Result<()> {
    let mut client = client("no_class")?;
    client.batch_execute("CREATE TABLE look (v embedding(3), place point)")?;
    let (code, message) = index_support::error_of(
        &mut client,
        "CREATE INDEX ON look USING lookbook (v, place)",
    )?;
    ensure!(
        code == "42704" && message.contains("point"),
        "{code} {message}"
    );
    Ok(())
}

#[test]
fn a_condition_on_a_composite_column_takes_no_memory_for_each_scan() -> Result<()> {
    let mut client = client("composite_memory")?;
    client.batch_execute(
        "CREATE TYPE pair AS (a int, b int);
         CREATE TABLE look (id bigint, v embedding(32), p pair);
         INSERT INTO look SELECT n, look(n), row(n % 5, n % 3)::pair FROM generate_series(1, 200) n;
         CREATE INDEX looks ON look USING lookbook (v, p)",
    )?;
    let mut bytes_after_scans = || -> Result<i64> {
        let query = "SELECT count(*) FROM generate_series(1, 2000) o, LATERAL (
             SELECT id FROM look WHERE p = row(o % 5, o % 3)::pair ORDER BY v <-> look(1) LIMIT 1) found";
        expect_plan(&mut client, query, &["using looks"])?;
        let found: i64 = client.query_one(query, &[])?.get(0);
        assert_eq!(found, 2_000);
        let row = client.query_one(
            "SELECT sum(used_bytes)::bigint FROM pg_backend_memory_contexts WHERE ident = 'looks'",
            &[],
        )?;
        Ok(row.get(0))
    };
    let first = bytes_after_scans()?;
    assert_eq!(bytes_after_scans()?, first);
    Ok(())
}
