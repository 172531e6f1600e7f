//! When the machine runs out of something: a clear error for whoever asked, nothing lost, and everything goes on
//! once there is enough again.

mod index_support;

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catalogue, check_index, database, error_of, expect_exact, wait_until,
};
use lookbook_tests::{Cluster, Database, check_output, not_tested};
use postgres::Client;

const INSERT: &str = "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series($1::bigint, $1::bigint + 999) n";
const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

fn rows(client: &mut Client) -> Result<i64> {
    Ok(client.query_one("SELECT count(*) FROM look", &[])?.get(0))
}

/// Every row of the table is found by a sound index.
fn check_all(database: &Database<'_>) -> Result<i64> {
    let mut client = database.connect()?;
    client.batch_execute(BY_INDEX_EXACTLY)?;
    let rows = rows(&mut client)?;
    ensure!(check_index(&mut client, "looks")? >= rows);
    assert_eq!(expect_exact(&mut client, "looks", ALL)? as i64, rows);
    Ok(rows)
}

/// A file system of a few megabytes, gone at its end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`: this machine lets us mount nothing.
    fn mount(megabytes: u32) -> Result<Option<Self>> {
        let folder = tempfile::Builder::new()
            .prefix("lookbook-disk-")
            .tempdir_in("/tmp")?
            .keep();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={megabytes}m,mode=1777"),
                "tmpfs",
            ])
            .arg(&folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            std::fs::remove_dir(&folder)?;
            return Ok(None);
        }
        Ok(Some(Self(folder)))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the server may still hold files of it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_fails_the_statement_and_nothing_else() -> Result<()> {
    let Some(disk) = SmallDisk::mount(24)? else {
        not_tested("a small file system, which only root may mount")?;
        return Ok(());
    };
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = catalogue(&cluster, "full", 6_000)?;
    let place = disk.path().join("space");
    std::fs::create_dir(&place)?;
    give_to_the_server(&cluster, &place)?;
    client.batch_execute(&format!(
        "CREATE TABLESPACE small LOCATION '{}'",
        place.display()
    ))?;

    // A build that finds no room leaves nothing.
    let filler = disk.path().join("filler");
    fill(&filler)?;
    let build = "CREATE INDEX looks ON look USING lookbook (v, category) TABLESPACE small";
    let (code, message) = error_of(&mut client, build)?;
    assert_eq!(code, "53100", "{message}");
    ensure!(message.contains("No space left on device"), "{message}");
    let there: bool = client
        .query_one("SELECT to_regclass('looks') IS NOT NULL", &[])?
        .get(0);
    ensure!(!there, "a failed build left its index");
    std::fs::remove_file(&filler)?;
    client.batch_execute(build)?;
    assert_eq!(check_all(&database)?, 6_000);

    // Room for some thousand rows more.
    fill(&filler)?;
    let free = std::fs::OpenOptions::new().write(true).open(&filler)?;
    free.set_len(free.metadata()?.len() - (2 << 20))?;
    drop(free);

    // Inserts and COPY until the disk is full: each statement wholly or not at all.
    let mut known = 6_000_i64;
    for what in ["INSERT", "COPY"] {
        let mut failure = None;
        for _ in 0..200 {
            let outcome = if what == "COPY" {
                copy_rows(&mut client, known + 1, 1_000)
            } else {
                client.execute(INSERT, &[&(known + 1)]).map(drop)
            };
            match outcome {
                Ok(()) => known += 1_000,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let failure = failure.with_context(|| format!("{what} never filled the disk"))?;
        let failure = failure.as_db_error().context("the backend died")?;
        assert_eq!(failure.code().code(), "53100", "{what}: {failure}");
        assert_eq!(rows(&mut client)?, known, "{what} was done in part");
        assert_eq!(check_all(&database)?, known);
    }

    std::fs::remove_file(&filler)?;
    // With room again, everything goes on: vacuum gives back what the failed statements left.
    client.batch_execute("DELETE FROM look WHERE id > 6000")?;
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_all(&database)?, 6_000);
    copy_rows(&mut client, 6_001, 1_000)?;
    assert_eq!(check_all(&database)?, 7_000);
    Ok(())
}

/// COPY of rows that the server makes: the text of their vectors comes from itself.
fn copy_rows(client: &mut Client, first: i64, rows: i64) -> Result<(), postgres::Error> {
    let lines: String = client
        .query_one(
            "SELECT string_agg(concat_ws(E'\\t', n, n % 10, look(n)::text), E'\\n') || E'\\n'
             FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) n",
            &[&first, &rows],
        )?
        .get(0);
    let mut copy = client.copy_in("COPY look FROM STDIN")?;
    // If the server ends it early, finishing says why.
    let _ = copy.write_all(lines.as_bytes());
    copy.finish().map(drop)
}

/// Writes until the disk takes no more.
fn fill(path: &Path) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    while file.write_all(&[0; 8192]).is_ok() {}
    Ok(())
}

fn give_to_the_server(cluster: &Cluster, path: &Path) -> Result<()> {
    let owner = cluster
        .connect("postgres", "postgres")?
        .query_one("SELECT current_setting('data_directory')", &[])?
        .get::<_, String>(0);
    check_output(
        Command::new("chown")
            .arg(format!("--reference={owner}"))
            .arg(path),
    )?;
    Ok(())
}

#[test]
fn a_tiny_maintenance_work_mem_builds_the_same_index() -> Result<()> {
    let (database, mut client) = catalogue(Cluster::shared()?, "tiny_memory", 20_000)?;
    client.batch_execute(
        "SET maintenance_work_mem = '1MB';
         CREATE INDEX looks ON look USING lookbook (v, category)",
    )?;
    assert_eq!(check_all(&database)?, 20_000);
    client.batch_execute("DELETE FROM look WHERE id % 3 = 0")?;
    client.batch_execute("VACUUM look")?;
    assert_eq!(check_all(&database)?, 20_000 - 6_666);
    Ok(())
}

fn clean(database: &Database<'_>) -> Result<()> {
    let mut client = database.connect()?;
    client.batch_execute("DELETE FROM look WHERE id > 6000")?;
    Ok(client.batch_execute("VACUUM look")?)
}

/// The address space of one backend is cut: its statement fails, at worst with its session, and the server is back
/// with every committed row.
#[test]
fn a_backend_without_memory_takes_nothing_with_it() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = catalogue(&cluster, "no_memory", 6_000)?;
    client.batch_execute("CREATE INDEX looks ON look USING lookbook (v, category)")?;
    let work = [
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(100001, 130000) n",
        "REINDEX INDEX looks",
        "SELECT count(*) FROM (SELECT id FROM look ORDER BY v <-> look(7)) AS everything",
        "SELECT sum(embedding_norm(v || v || v)) FROM (SELECT v FROM look, generate_series(1, 30)) AS many",
    ];
    for (round, spare_megabytes) in [1_u64, 6].into_iter().enumerate() {
        for statement in work {
            let mut victim = database.connect()?;
            // What a session loads once is there before.
            victim.batch_execute(
                "SET maintenance_work_mem = '64MB'; SET work_mem = '256MB'; SET enable_seqscan = off;
                 SELECT id FROM look ORDER BY v <-> look(7) LIMIT 5; SELECT '[1]'::embedding || '[2]'",
            )?;
            let pid: i32 = victim.query_one("SELECT pg_backend_pid()", &[])?.get(0);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
            let used_kb: u64 = status
                .lines()
                .find_map(|line| line.strip_prefix("VmSize:"))
                .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
                .context("VmSize of the backend")?;
            let limit = (used_kb + spare_megabytes * 1024) * 1024;
            // As the owner of the process: not even root may always do it.
            let owner = std::fs::metadata(format!("/proc/{pid}"))?;
            check_output(
                Command::new("prlimit")
                    .uid(owner.uid())
                    .gid(owner.gid())
                    .args(["--pid", &pid.to_string()])
                    .arg(format!("--as={limit}")),
            )?;
            if let Err(error) = victim.batch_execute(statement)
                && let Some(told) = error.as_db_error()
            {
                let code = told.code().code();
                ensure!(
                    matches!(code, "53200" | "53000" | "57P02" | "57P01"),
                    "round {round}, {statement}: {code} {told}"
                );
            }
            drop(victim);
            // A session that died takes the others with it, and the server is back within a moment.
            wait_until("the server", || Ok(clean(&database).is_ok()))?;
            assert_eq!(check_all(&database)?, 6_000, "round {round}, {statement}");
        }
    }
    Ok(())
}

/// The files of the index may not be opened any more: whoever needs them is told which, and goes on when the rights are back.
#[test]
fn lost_rights_on_the_files_are_an_error_until_they_are_back() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "lost_rights")?;
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 3000) n;
         CREATE INDEX looks ON look USING lookbook (v, category);
         CHECKPOINT",
    )?;
    let file: String = client
        .query_one(
            "SELECT current_setting('data_directory') || '/' || pg_relation_filepath('looks')",
            &[],
        )?
        .get(0);
    drop(client);
    // A file that is open stays so: only a fresh server looks at rights.
    cluster.restart()?;
    check_output(Command::new("chmod").args(["000", &file]))?;
    let mut client = database.connect()?;
    let (code, message) = error_of(&mut client, "INSERT INTO look VALUES (9000, 1, look(9000))")?;
    assert_eq!(code, "42501", "{message}");
    ensure!(message.contains("could not open file"), "{message}");
    check_output(Command::new("chmod").args(["600", &file]))?;
    client.batch_execute("INSERT INTO look VALUES (9000, 1, look(9000))")?;
    assert_eq!(check_all(&database)?, 3_001);
    Ok(())
}
