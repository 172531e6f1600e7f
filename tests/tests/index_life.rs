//! An index through its life: built, filled, changed, emptied, rebuilt.

mod index_support;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catalogue, check_index, database, expect_exact, expect_plan, info,
    own_memory_kb, recall, rows_of, truth_of, wait_until,
};
use lookbook_tests::Cluster;
use postgres::Client;

const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

fn bytes(client: &mut Client, relation: &str) -> Result<i64> {
    Ok(client
        .query_one("SELECT pg_relation_size($1::text::regclass)", &[&relation])?
        .get(0))
}

/// The mean recall at 10 of 40 queries at the default setting.
fn mean_recall(client: &mut Client) -> Result<f64> {
    let mut total = 0.0;
    client.batch_execute("RESET lookbook.recall")?;
    for query in 0..40 {
        let query = format!(
            "SELECT id, v <-> look({0}) FROM look ORDER BY v <-> look({0}) LIMIT 10",
            500_000 + query
        );
        total += recall(&rows_of(client, &query)?, &truth_of(client, &query)?);
    }
    client.batch_execute("SET lookbook.recall = 1")?;
    Ok(total / 40.0)
}

#[test]
fn an_index_on_an_empty_table_splits_as_inserts_and_copies_fill_it() -> Result<()> {
    let (_, mut client) = database(Cluster::shared()?, "from_empty")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category);",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    assert_eq!(check_index(&mut client, "looks")?, 0);
    ensure!(rows_of(&mut client, ALL)?.is_empty());
    // Row by row, each in a transaction of its own.
    for n in 1..=300_i64 {
        client.execute("INSERT INTO look VALUES ($1, 0, look($1))", &[&n])?;
    }
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 300);
    client
        .batch_execute("INSERT INTO look SELECT n, 1, look(n) FROM generate_series(301, 4000) n")?;
    client.batch_execute("CREATE TEMP TABLE more AS SELECT n::bigint AS id, 2 AS category, look(n) AS v FROM generate_series(4001, 8000) n")?;
    let mut copied = Vec::new();
    std::io::Read::read_to_end(
        &mut client.copy_out("COPY more TO STDOUT (FORMAT binary)")?,
        &mut copied,
    )?;
    let mut copy = client.copy_in("COPY look FROM STDIN (FORMAT binary)")?;
    std::io::Write::write_all(&mut copy, &copied)?;
    assert_eq!(copy.finish()?, 4_000);

    assert_eq!(check_index(&mut client, "looks")?, 8_000);
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 8_000);
    let lists = info(&mut client, "looks", "lists")?;
    ensure!(lists >= 8, "{lists} lists of 8,000 rows");
    client.batch_execute("VACUUM look")?;
    let grown = mean_recall(&mut client)?;
    let grown_bytes = bytes(&mut client, "looks")?;
    client.batch_execute("REINDEX INDEX looks")?;
    let rebuilt = mean_recall(&mut client)?;
    ensure!(
        grown >= 0.97 && grown >= 0.9 * rebuilt,
        "recall {grown} grown, {rebuilt} rebuilt"
    );
    let rebuilt_bytes = bytes(&mut client, "looks")?;
    ensure!(
        grown_bytes <= 3 * rebuilt_bytes,
        "{grown_bytes} bytes grown, {rebuilt_bytes} rebuilt"
    );
    Ok(())
}

#[test]
fn deleting_all_and_loading_again_leaves_no_bloat() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "no_bloat", 4_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let mut sizes = vec![bytes(&mut client, "looks")?];
    for round in 0..5 {
        client.batch_execute("DELETE FROM look")?;
        client.batch_execute("VACUUM look")?;
        assert_eq!(check_index(&mut client, "looks")?, 0);
        ensure!(rows_of(&mut client, ALL)?.is_empty());
        client.batch_execute(&format!(
            "INSERT INTO look SELECT n, n % 10, look(n + {round}) FROM generate_series(1, 4000) n"
        ))?;
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 4_000);
        sizes.push(bytes(&mut client, "looks")?);
    }
    // What splitting needs on its way is needed once.
    ensure!(
        sizes[5] <= 3 * sizes[0] && sizes[5] * 10 <= sizes[2] * 11,
        "the index went through {sizes:?} bytes"
    );
    Ok(())
}

#[test]
fn a_share_of_rows_deleted_again_and_again_is_taken_out_of_the_lists() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "delete_share", 6_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for round in 0..4 {
        client.batch_execute(&format!("DELETE FROM look WHERE id % 5 = {round}"))?;
        // Dead rows are not given out, vacuumed or not.
        let live = 6_000 - 1_200 * (round + 1);
        assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, live);
        client.batch_execute("VACUUM look")?;
        assert_eq!(check_index(&mut client, "looks")?, live);
        assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, live);
    }
    let dead = info(&mut client, "looks", "dead_rows")?;
    ensure!(dead <= 1_200 / 4, "{dead} dead rows are left");
    let mean = mean_recall(&mut client)?;
    ensure!(mean >= 0.97, "recall {mean} after deletes");
    Ok(())
}

#[test]
fn several_indexes_are_vacuumed_in_parallel() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "parallel_vacuum", 5_000)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v, category);
         CREATE INDEX others ON look USING lookbook (v embedding_cosine_ops);
         CREATE INDEX by_id ON look (id);
         SET min_parallel_index_scan_size = 0; SET max_parallel_maintenance_workers = 2",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for share in [3, 2] {
        client.batch_execute(&format!("DELETE FROM look WHERE id % {share} = 0"))?;
        client.batch_execute("VACUUM (PARALLEL 2) look")?;
        let rows: i64 = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
        for (index, operator) in [("looks", "<->"), ("others", "<=>")] {
            assert_eq!(check_index(&mut client, index)?, rows);
            let query =
                format!("SELECT id, v {operator} look(7) FROM look ORDER BY v {operator} look(7)");
            assert_eq!(expect_exact(&mut client, index, &query)? as i64, rows);
        }
    }
    Ok(())
}

#[test]
fn updates_are_followed_hot_or_not() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "updates", 3_000)?;
    client.batch_execute(
        "ALTER TABLE look ADD note text; ALTER TABLE look SET (fillfactor = 50);
         CREATE INDEX looks ON look USING lookbook (v, category)",
    )?;
    client.batch_execute("VACUUM FULL look")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let by_category =
        "SELECT id, v <-> look(7) FROM look WHERE category = 3 ORDER BY v <-> look(7)";
    // Nothing that is indexed: HOT, and the index is not touched.
    client.batch_execute(
        "UPDATE look SET note = 'a' WHERE id % 2 = 0; UPDATE look SET note = 'b' WHERE id % 4 = 0",
    )?;
    client
        .batch_execute("SELECT pg_stat_force_next_flush()")
        .or_else(|error| {
            // Since 15; before, statistics come by themselves.
            error.as_db_error().map(drop).ok_or(error)
        })?;
    assert_eq!(check_index(&mut client, "looks")?, 3_000);
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 3_000);
    assert_eq!(expect_exact(&mut client, "looks", by_category)?, 300);
    // The vector, a filter column, both, to NULL and back.
    for update in [
        "v = look(id + 9000) WHERE id % 3 = 0",
        "category = 3 WHERE id % 3 = 1",
        "v = look(id), category = id % 10 WHERE id % 7 = 0",
        "v = NULL WHERE id % 5 = 0",
        "v = look(id * 3) WHERE v IS NULL",
        "category = NULL WHERE id % 11 = 0",
    ] {
        client.batch_execute(&format!("UPDATE look SET {update}"))?;
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 3_000, "{update}");
        expect_exact(&mut client, "looks", by_category)?;
        client.batch_execute("VACUUM look")?;
        assert_eq!(check_index(&mut client, "looks")?, 3_000, "{update}");
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 3_000, "{update}");
        expect_exact(&mut client, "looks", by_category)?;
    }
    Ok(())
}

#[test]
fn rolled_back_rows_are_never_seen() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "rolled_back", 2_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute(
        "BEGIN; INSERT INTO look SELECT n, 1, look(n) FROM generate_series(10001, 14000) n;
         SAVEPOINT s; DELETE FROM look WHERE id % 2 = 0; ROLLBACK TO s; UPDATE look SET v = look(id + 1)",
    )?;
    // Inside, its own changes are seen.
    assert_eq!(
        expect_exact(&mut client, "looks", ALL)
            .or_else(|_| rows_of(&mut client, ALL).map(|rows| rows.len()))?,
        6_000
    );
    client.batch_execute("ROLLBACK")?;
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 2_000);
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_index(&mut client, "looks")?, 2_000);
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 2_000);
    Ok(())
}

#[test]
fn concurrent_builds_miss_no_row_that_is_written_meanwhile() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "concurrently", 4_000)?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    for (round, build) in [
        "CREATE INDEX CONCURRENTLY looks ON look USING lookbook (v, category)",
        "REINDEX INDEX CONCURRENTLY looks",
        "REINDEX TABLE CONCURRENTLY look",
    ]
    .iter()
    .enumerate()
    {
        let mut writer = database.connect()?;
        let is_over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            let writing = scope.spawn(|| -> Result<()> {
                let first = 100_000 * (round as i64 + 1);
                let mut n = first;
                while !is_over.load(std::sync::atomic::Ordering::SeqCst) || n < first + 20 {
                    writer.execute("INSERT INTO look VALUES ($1, 3, look($1))", &[&n])?;
                    writer.execute(
                        "UPDATE look SET v = look(id + 1) WHERE id = $1::bigint - 50",
                        &[&n],
                    )?;
                    writer.execute("DELETE FROM look WHERE id = $1::bigint - 70", &[&n])?;
                    n += 1;
                }
                Ok(())
            });
            let built = client.batch_execute(build);
            is_over.store(true, std::sync::atomic::Ordering::SeqCst);
            writing
                .join()
                .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
            built.context(*build)
        })?;
        let rows: i64 = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
        assert_eq!(
            expect_exact(&mut client, "looks", ALL)? as i64,
            rows,
            "{build}"
        );
        client.batch_execute("VACUUM look")?;
        check_index(&mut client, "looks")?;
        assert_eq!(
            expect_exact(&mut client, "looks", ALL)? as i64,
            rows,
            "{build}"
        );
        let invalid: i64 = client
            .query_one("SELECT count(*) FROM pg_index WHERE NOT indisvalid", &[])?
            .get(0);
        assert_eq!(invalid, 0, "{build}");
    }
    Ok(())
}

#[test]
fn builds_need_little_memory_and_show_their_progress() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "progress", 12_000)?;
    // An expression that takes its time: the build must last long enough to be watched.
    client.batch_execute(
        "SET maintenance_work_mem = '1MB';
         CREATE FUNCTION slow(id bigint) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS
         $$BEGIN IF id % 500 = 0 THEN PERFORM pg_sleep(0.03); END IF; RETURN id; END$$",
    )?;
    let builder: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let mut watcher = database.connect()?;
    let mut phases = Vec::new();
    let mut most = 0;
    std::thread::scope(|scope| -> Result<()> {
        let building = scope.spawn(|| {
            client
                .batch_execute("CREATE INDEX looks ON look USING lookbook (v, category, slow(id))")
        });
        while !building.is_finished() {
            for row in watcher.query(
                "SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE pid = $1",
                &[&builder],
            )? {
                let (phase, done, total): (String, i64, i64) = (row.get(0), row.get(1), row.get(2));
                ensure!(total == 0 || done <= total, "{done} of {total} rows in {phase}");
                most = most.max(done);
                if phases.last() != Some(&phase) {
                    phases.push(phase);
                }
            }
        }
        building
            .join()
            .map_err(|_| anyhow::anyhow!("the builder panicked"))??;
        Ok(())
    })?;
    ensure!(
        phases.len() >= 2
            && phases
                .iter()
                .all(|phase| phase.starts_with("building index: ") || phase == "initializing"),
        "{phases:?}"
    );
    ensure!(most > 0, "no rows were counted in {phases:?}");
    assert_eq!(check_index(&mut client, "looks")?, 12_000);
    client.batch_execute(BY_INDEX_EXACTLY)?;
    expect_exact(&mut client, "looks", ALL)?;
    let left: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_stat_progress_create_index WHERE pid = $1",
            &[&builder],
        )?
        .get(0);
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn a_failed_or_cancelled_build_leaves_nothing_behind() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "failed_build", 20_000)?;
    let files = "SELECT count(*) FROM pg_class WHERE relname LIKE 'looks%'";
    // A row that cannot be indexed, seen late in the scan.
    client.batch_execute("INSERT INTO look VALUES (20001, 1, look(1))")?;
    let failing = "CREATE INDEX looks ON look USING lookbook (v, (1 / (20001 - id)::int))";
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    for _ in 0..2 {
        let (code, message) = index_support::error_of(&mut client, failing)?;
        ensure!(code == "22012", "{code} {message}");
        assert_eq!(client.query_one(files, &[])?.get::<_, i64>(0), 0);
        // A joined thread may be listed a moment longer.
        wait_until("no thread is left of a failed build", || {
            Ok(std::fs::read_dir(format!("/proc/{pid}/task"))?.count() == 1)
        })?;
    }
    // Cancelled, at several moments.
    let started = Instant::now();
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v); DROP INDEX looks")?;
    let whole = started.elapsed().as_millis();
    let size_before: i64 = client
        .query_one("SELECT pg_database_size(current_database())", &[])?
        .get(0);
    let mut cancelled = 0;
    for percent in [5, 20, 40, 60, 80] {
        let timeout = (whole * percent / 100).max(1);
        client.batch_execute(&format!("SET statement_timeout = {timeout}"))?;
        match client.batch_execute("CREATE INDEX looks ON look USING lookbook (v)") {
            Ok(()) => client.batch_execute("SET statement_timeout = 0; DROP INDEX looks")?,
            Err(error) => {
                let error = error.as_db_error().context("the server answers")?;
                ensure!(error.code().code() == "57014", "{error}");
                cancelled += 1;
            }
        }
        client.batch_execute("SET statement_timeout = 0")?;
        assert_eq!(client.query_one(files, &[])?.get::<_, i64>(0), 0);
    }
    ensure!(
        cancelled >= 2,
        "only {cancelled} builds were cancelled, of {whole} ms each"
    );
    client.batch_execute("CHECKPOINT")?;
    let size: i64 = client
        .query_one("SELECT pg_database_size(current_database())", &[])?
        .get(0);
    ensure!(
        size < size_before + 1_000_000,
        "{size_before} bytes became {size}"
    );
    // Concurrently: it leaves an invalid index, as PostgreSQL says, that takes rows and can be dropped.
    client.batch_execute(&format!("SET statement_timeout = {}", (whole / 2).max(1)))?;
    let built = client.batch_execute("CREATE INDEX CONCURRENTLY looks ON look USING lookbook (v)");
    client.batch_execute("SET statement_timeout = 0")?;
    if built.is_err() {
        client.batch_execute(
            "INSERT INTO look SELECT n, 1, look(n) FROM generate_series(30001, 30100) n",
        )?;
        client.batch_execute("REINDEX INDEX CONCURRENTLY looks")?;
    }
    assert_eq!(
        check_index(&mut database.connect()?, "looks")?,
        client
            .query_one("SELECT count(*) FROM look", &[])?
            .get::<_, i64>(0)
    );
    Ok(())
}

#[test]
fn a_cancelled_insert_leaves_a_sound_index() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "cancelled_insert", 500)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let mut cancelled = 0;
    for timeout in [15, 40, 80, 160, 320] {
        client.batch_execute(&format!("SET statement_timeout = {timeout}"))?;
        let insert =
            "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1001, 200000) n";
        cancelled += i32::from(client.batch_execute(insert).is_err());
        client.batch_execute("SET statement_timeout = 0")?;
        check_index(&mut client, "looks")?;
        assert_eq!(expect_exact(&mut client, "looks", ALL)?, 500);
    }
    assert_eq!(cancelled, 5);
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_index(&mut client, "looks")?, 500);
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 500);
    Ok(())
}

/// A backend keeps what it knows of an index from one statement to the next.
#[test]
fn what_a_session_remembers_of_an_index_is_never_stale() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "remembered", 3_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let mut other = database.connect()?;
    let near = "SELECT id, v <-> look(7) FROM look WHERE category < 1000000 ORDER BY v <-> look(7)";
    for change in [
        "REINDEX INDEX looks",
        "VACUUM FULL look",
        "TRUNCATE look",
        "INSERT INTO look SELECT n, n % 10, look(n) * 100 FROM generate_series(1, 3000) n",
        "TRUNCATE look; INSERT INTO look SELECT n, n % 10, look(n + 5) FROM generate_series(1, 1200) n",
        "DROP INDEX looks; CREATE INDEX looks ON look USING lookbook (v) WITH (bits = 5)",
        "DELETE FROM look WHERE id % 2 = 0",
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(5001, 9000) n",
        "REINDEX INDEX CONCURRENTLY looks",
        "CREATE INDEX CONCURRENTLY new ON look USING lookbook (v, category)",
        "ALTER INDEX looks RENAME TO old",
        "DROP INDEX old; ALTER INDEX new RENAME TO looks",
        "ALTER TABLE look ALTER v TYPE embedding(32) USING v * 2",
        "DELETE FROM look",
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 2000) n",
    ] {
        // Each in a transaction of its own, and vacuums between them.
        if change.contains("CONCURRENTLY") || change.contains("VACUUM") {
            other.batch_execute(change)?;
        } else {
            other.batch_execute(&format!("BEGIN; {change}; COMMIT"))?;
        }
        let rows: i64 = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
        let index = if change.contains("TO old") {
            "old"
        } else {
            "looks"
        };
        let query = if index == "old" { ALL } else { near };
        if index == "looks" {
            assert_eq!(
                expect_exact(&mut client, index, query)? as i64,
                rows,
                "{change}"
            );
        }
        client.batch_execute("INSERT INTO look VALUES (77777, 3, look(7))")?;
        other.batch_execute("VACUUM look")?;
        if index == "looks" {
            assert_eq!(
                expect_exact(&mut client, index, query)? as i64,
                rows + 1,
                "{change}"
            );
        }
        client.batch_execute("DELETE FROM look WHERE id = 77777")?;
        check_index(&mut client, index)?;
    }
    // Taken back, in the session itself.
    for change in [
        "REINDEX INDEX looks",
        "TRUNCATE look; INSERT INTO look SELECT n, n, look(n) * 3 FROM generate_series(1, 900) n",
        "ALTER TABLE look ALTER v TYPE embedding(32) USING v * 2",
        "DROP INDEX looks; CREATE INDEX looks ON look USING lookbook (v, category)",
    ] {
        let rows = expect_exact(&mut client, "looks", near)?;
        client.batch_execute(&format!("BEGIN; SAVEPOINT s; {change}"))?;
        expect_plan(&mut client, near, &["using looks on"])?;
        rows_of(&mut client, near)?;
        client.batch_execute("ROLLBACK TO s")?;
        assert_eq!(rows_of(&mut client, near)?.len(), rows, "{change}");
        client.batch_execute("INSERT INTO look VALUES (88888, 3, look(7)); ROLLBACK")?;
        assert_eq!(expect_exact(&mut client, "looks", near)?, rows, "{change}");
        check_index(&mut client, "looks")?;
    }
    Ok(())
}

#[test]
fn a_session_does_not_grow_with_what_it_does() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "memory", 3_000)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v, category);
         CREATE FUNCTION search_often(times int) RETURNS void LANGUAGE plpgsql AS $$
         DECLARE q embedding;
         BEGIN
           FOR n IN 1..times LOOP
             q := look(n % 50);
             PERFORM id FROM look WHERE category IN (n % 10, 3) ORDER BY v <-> q LIMIT 10;
           END LOOP;
         END $$",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute("SET lookbook.recall = 0.98")?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    for (what, often, allowed_kb) in [
        ("searches", "SELECT search_often(2000)", 4_000),
        (
            "rows inserted one by one",
            "DO $$ BEGIN FOR n IN 1..3000 LOOP INSERT INTO look VALUES (n, 1, look(n % 500)); END LOOP; END $$",
            8_000,
        ),
        (
            "rows inserted at once",
            "INSERT INTO look SELECT n, 1, look(n % 500) FROM generate_series(1, 6000) n",
            8_000,
        ),
    ] {
        // The first time allocates what is kept on purpose.
        client.batch_execute(often)?;
        let before = own_memory_kb(pid)?;
        client.batch_execute(often)?;
        client.batch_execute(often)?;
        let grown = own_memory_kb(pid)? - before;
        ensure!(
            grown < allowed_kb,
            "{grown} kB more after twice as many {what}"
        );
    }
    Ok(())
}

#[test]
fn a_join_does_not_grow_with_the_scans_that_it_begins() -> Result<()> {
    let (_, mut client) = catalogue(Cluster::shared()?, "memory_of_join", 2_000)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v, category); ANALYZE look;
         CREATE TABLE wanted AS SELECT look(n) AS v, (SELECT array_agg(c) FROM generate_series(1, 2000) c) AS categories
           FROM generate_series(1, 2500) n",
    )?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client.batch_execute("SET lookbook.recall = 0.98")?;
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
    let join = |rows: i32| {
        format!(
            "SELECT count(*) FROM (SELECT * FROM wanted LIMIT {rows}) w, LATERAL (SELECT id FROM look
             WHERE category = ANY (w.categories) ORDER BY v <-> w.v LIMIT 1) l"
        )
    };
    expect_plan(&mut client, &join(500), &["Index Scan using looks"])?;
    client.batch_execute(&join(500))?;
    let before = highest_memory_kb(pid)?;
    client.batch_execute(&join(2500))?;
    let grown = highest_memory_kb(pid)? - before;
    ensure!(grown < 8_000, "{grown} kB more for 2,000 scans more");
    Ok(())
}

/// The most memory that a process ever had (`VmHWM`).
fn highest_memory_kb(pid: i32) -> Result<i64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("VmHWM")?.parse()?)
}

#[test]
fn autovacuum_cleans_an_index_by_itself() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum_naptime=1s"])?;
    let (_, mut client) = catalogue(&cluster, "autovacuum", 3_000)?;
    client.batch_execute(
        "CREATE INDEX looks ON look USING lookbook (v, category);
         ALTER TABLE look SET (autovacuum_vacuum_threshold = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 0);
         DELETE FROM look WHERE id % 2 = 0",
    )?;
    wait_until("an automatic vacuum", || {
        Ok(info(&mut client, "looks", "rows")? == 1_500)
    })?;
    check_index(&mut client, "looks")?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    assert_eq!(expect_exact(&mut client, "looks", ALL)?, 1_500);
    Ok(())
}
