//! The data directory as a whole may not be written any more: clear errors, nothing lost, and everything goes on when it may.

mod index_support;
mod sql_support;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use index_support::{BY_INDEX_EXACTLY, catalogue, check_index, error_of, expect_exact};
use lookbook_tests::{Cluster, Database, check_output};
use postgres::Client;
use sql_support::{bmp, embed, refusal};

const ROWS: i64 = 3_000;
const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

fn data_directory(client: &mut Client) -> Result<String> {
    Ok(client.query_one("SHOW data_directory", &[])?.get(0))
}

/// Takes the right to write from everything in the folder, or gives it back.
fn set_writable(folder: &str, is_writable: bool) -> Result<()> {
    let mode = if is_writable { "u+w" } else { "u-w" };
    check_output(Command::new("chmod").args(["-R", mode, folder]))?;
    Ok(())
}

/// Every row of the table is found by a sound index.
fn check_all(database: &Database<'_>) -> Result<i64> {
    let mut client = database.connect()?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let rows = client.query_one("SELECT count(*) FROM look", &[])?.get(0);
    ensure!(check_index(&mut client, "looks")? >= rows);
    assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, rows);
    Ok(rows)
}

/// A session that has the files of the table and its index open.
fn warm(database: &Database<'_>) -> Result<Client> {
    let mut client = database.connect()?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    client
        .batch_execute("INSERT INTO look VALUES (0, 0, look(0)); DELETE FROM look WHERE id = 0")?;
    expect_exact(&mut client, "looks", ALL)?;
    Ok(client)
}

#[test]
fn a_read_only_data_directory_loses_nothing() -> Result<()> {
    let cluster = Cluster::start(&["max_wal_size='64MB'", "restart_after_crash=off"])?;
    let (database, mut client) = catalogue(&cluster, "read_only", ROWS)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category); CHECKPOINT")?;
    let folder = data_directory(&mut client)?;
    let mut warm = warm(&database)?;
    let mut cold = database.connect()?;
    // What it needs to tell its errors.
    error_of(&mut cold, "SELECT 1/0")?;
    set_writable(&folder, false)?;

    // Who has the files open goes on, and finds every row.
    assert_eq!(expect_exact(&mut warm, "looks", ALL)? as i64, ROWS);
    // Who has not, is told which file and why; so is who needs a new one.
    let build = "CREATE INDEX more ON look USING lookbook (v)";
    for (session, statement) in [(&mut cold, "SELECT count(*) FROM look"), (&mut warm, build)] {
        let (code, message) = error_of(session, statement)?;
        assert_eq!(code, "42501", "{statement}: {message}");
        ensure!(message.contains("Permission denied"), "{message}");
    }
    // Writes go as far as open files and log segments reach; what was told to be committed counts.
    let mut known = ROWS;
    let mut failure = None;
    for _ in 0..300 {
        let insert = "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series($1::bigint, $1::bigint + 999) n";
        match warm.execute(insert, &[&(known + 1)]) {
            Ok(_) => known += 1_000,
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    let failure = failure.context("no insert ever needed a new file")?;
    // A log segment that cannot be made ends the server, as ever in PostgreSQL; anything else ends the statement.
    let code = failure.as_db_error().map(|told| told.code().code());
    ensure!(
        matches!(code, None | Some("42501" | "57P02" | "57P01")),
        "{failure}"
    );

    drop((client, warm, cold));
    set_writable(&folder, true)?;
    cluster.restart()?;
    let found = check_all(&database)?;
    // Of a statement whose session ended, nobody was told whether it is there; it is wholly or not at all.
    let is_open = code != Some("42501");
    ensure!(
        found == known || is_open && found == known + 1_000,
        "{found} rows, {known} committed"
    );
    let mut client = database.connect()?;
    client.execute("DELETE FROM look WHERE id > $1", &[&ROWS])?;
    client.batch_execute("VACUUM look")?;
    client.batch_execute("INSERT INTO look VALUES (9000000, 1, look(9000000))")?;
    assert_eq!(check_all(&database)?, ROWS + 1);
    drop(client);

    // It does not start without the right to write, says so, and starts again with it.
    cluster.stop()?;
    set_writable(&folder, false)?;
    let refused = cluster.start_server();
    set_writable(&folder, true)?;
    let refused = format!("{:?}", refused.err().context("it started")?);
    ensure!(refused.contains("Permission denied"), "{refused}");
    cluster.start_server()?;
    assert_eq!(check_all(&database)?, ROWS + 1);
    Ok(())
}

#[test]
fn without_a_place_for_its_socket_the_worker_leaves_models_to_the_connection() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = cluster.database("no_socket")?;
    let mut client = database.connect()?;
    let folder = data_directory(&mut client)?;
    // Everything that a call reads is open in this session; no worker was ever started.
    client.batch_execute("SET lookbook.worker = off")?;
    let image = bmp(20, 30, [1, 2, 3]);
    let expected = embed(&mut client, &bmp(20, 30, [4, 5, 6]), None)?;
    // Nothing is left for the WAL writer, and a log segment is there with room: a new one could not be made.
    client.batch_execute("SELECT pg_switch_wal()")?;
    client.batch_execute("CHECKPOINT")?;
    set_writable(&folder, false)?;
    let outcome = (|| {
        client.batch_execute("SET lookbook.worker = on")?;
        let refused = refusal(embed(&mut client, &image, None))?;
        client.batch_execute("SET lookbook.worker = auto")?;
        let here = embed(&mut client, &image, None)?;
        anyhow::Ok((refused, here))
    })();
    set_writable(&folder, true)?;
    let (refused, here) = outcome?;
    assert_eq!(refused.code, "55000", "{refused:?}");
    ensure!(
        refused.message.contains("pgsql_tmp.lookbook"),
        "{refused:?}"
    );
    assert_eq!(here.len(), expected.len());
    // The worker as soon as it can be had.
    let mut other = database.connect()?;
    other.batch_execute("SET lookbook.worker = on")?;
    assert_eq!(embed(&mut other, &image, None)?, here);
    Ok(())
}
