//! pgbench writes, deletes and searches beside vacuums; every search is compared with the truth of its snapshot, and what
//! backends and the index take is measured as time goes on: it must not grow.
//!
//! Some seconds in `make test`; `make soak MINUTES=30` for longer.

mod index_support;

use std::fs;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use index_support::{TimeBox, check_index, database, expect_exact, info, own_memory_kb, plan_of};
use lookbook_tests::Cluster;
use postgres::Client;

const SETUP: &str = "
    CREATE TABLE look (id bigint PRIMARY KEY, category int, n bigint,
                       v embedding(32) GENERATED ALWAYS AS (look(n)) STORED);
    CREATE INDEX looks ON look USING lookbook (v, category);
    INSERT INTO look (id, category, n) SELECT n, n % 10, n FROM generate_series(1, 3000) n;
    CREATE FUNCTION by_index(q bigint) RETURNS double precision[] LANGUAGE plpgsql STABLE
      SET enable_seqscan = off SET enable_sort = off SET lookbook.recall = 1 AS $$
    DECLARE x embedding := look(q);
    BEGIN RETURN array(SELECT v <-> x FROM look WHERE category = q % 10 ORDER BY v <-> x LIMIT 20)
              || array(SELECT v <-> x FROM look ORDER BY v <-> x LIMIT 20); END $$;
    CREATE FUNCTION by_scan(q bigint) RETURNS double precision[] LANGUAGE plpgsql STABLE
      SET enable_indexscan = off SET enable_bitmapscan = off AS $$
    DECLARE x embedding := look(q);
    BEGIN RETURN array(SELECT v <-> x FROM look WHERE category = q % 10 ORDER BY v <-> x LIMIT 20)
              || array(SELECT v <-> x FROM look ORDER BY v <-> x LIMIT 20); END $$;
    -- STABLE: both see the snapshot of the statement.
    CREATE FUNCTION compare(q bigint) RETURNS void LANGUAGE plpgsql STABLE AS $$
    BEGIN
      IF by_index(q) IS DISTINCT FROM by_scan(q) THEN
        RAISE EXCEPTION 'query %: found %, truth %', q, by_index(q), by_scan(q);
      END IF;
    END $$";

/// Scripts of pgbench, with their weights.
const SCRIPTS: [(&str, u32, &str); 3] = [
    (
        "write",
        6,
        "\\set id random(1, 6000)\n\\set n random(1, 1000000)\n\
         INSERT INTO look (id, category, n) VALUES (:id, :n % 10, :n) ON CONFLICT (id) DO UPDATE SET n = excluded.n, category = excluded.category;\n",
    ),
    (
        "delete",
        5,
        "\\set id random(1, 6000)\nDELETE FROM look WHERE id = :id;\n",
    ),
    (
        "search",
        4,
        "\\set q random(1, 1000000)\nSELECT compare(:q);\n",
    ),
];

/// What was measured at one moment.
#[derive(Debug)]
struct Sample {
    /// Of the largest backend of pgbench.
    memory_kb: i64,
    pages: i64,
}

fn sample(client: &mut Client) -> Result<Option<Sample>> {
    let rows = client.query(
        "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'",
        &[],
    )?;
    // One that ends meanwhile is not there to be read.
    let memory = rows.iter().filter_map(|row| own_memory_kb(row.get(0)).ok());
    let Some(memory_kb) = memory.max() else {
        return Ok(None);
    };
    let pages = info(client, "looks", "pages")?;
    Ok(Some(Sample { memory_kb, pages }))
}

#[test]
fn searches_stay_exact_and_nothing_grows() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum=off"])?;
    let (database, mut client) = database(&cluster, "soak")?;
    client.batch_execute(SETUP)?;
    client.batch_execute("VACUUM ANALYZE look")?;
    client.batch_execute("SET lookbook.recall = 1")?;
    let time = TimeBox::of_seconds(8);
    let folder = tempfile::tempdir()?;
    let mut pgbench = database.program("pgbench");
    pgbench.args(["-n", "-c", "4", "-j", "2", "-T"]);
    pgbench.arg(time.seconds_left().to_string());
    for (name, weight, script) in SCRIPTS {
        let file = folder.path().join(name);
        fs::write(&file, script)?;
        pgbench
            .arg("-f")
            .arg(format!("{}@{weight}", file.display()));
    }
    let mut running = pgbench
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut samples = Vec::new();
    while running.try_wait()?.is_none() {
        client.batch_execute("VACUUM look")?;
        samples.extend(sample(&mut client)?);
        sleep(Duration::from_millis(300));
    }
    let output = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    let failed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}{failed}");
    let done = said
        .lines()
        .find(|line| line.contains("actually processed"));
    let done = done.with_context(|| format!("pgbench said: {said}"))?;

    let (first, last) = samples.split_at(samples.len() / 2);
    let most = |samples: &[Sample], of: fn(&Sample) -> i64| samples.iter().map(of).max();
    for (what, of, allowance) in [
        (
            "kB of a backend",
            (|s| s.memory_kb) as fn(&Sample) -> i64,
            3_000,
        ),
        ("pages of the index", |s| s.pages, 100),
    ] {
        let (first, last) = (most(first, of), most(last, of));
        eprintln!("{what}: at most {first:?} in the first half, {last:?} in the second");
        let (Some(first), Some(last)) = (first, last) else {
            anyhow::bail!("nothing was measured: {said}");
        };
        ensure!(
            last <= first * 5 / 4 + allowance,
            "{what} grow from {first} to {last}"
        );
    }
    eprintln!("{done}; {} samples", samples.len());

    client.batch_execute("VACUUM look")?;
    client.batch_execute("SET enable_seqscan = off; SET enable_sort = off")?;
    let all = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";
    ensure!(plan_of(&mut client, all)?.contains("using looks on"));
    let rows = expect_exact(&mut client, "looks", all)?;
    assert_eq!(check_index(&mut client, "looks")?, rows as i64);
    let orphans = info(&mut client, "looks", "orphan_pages")?;
    ensure!(orphans == 0, "{orphans} pages belong to nobody");
    Ok(())
}
