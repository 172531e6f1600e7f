//! Every way in which a database moves to another server or another time: the index answers as before, models and
//! their vectors come along, and writing goes on.

mod index_support;

use anyhow::{Context, Result, ensure};
use index_support::{
    BY_INDEX_EXACTLY, catch_up, check_index, database, error_of, expect_exact, info, rows_of,
    wait_until,
};
use lookbook_tests::{Cluster, Database, Installation, check_output, workspace};
use postgres::Client;

const NEAREST: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7) LIMIT 200";
const ALL: &str = "SELECT id, v <-> look(7) FROM look ORDER BY v <-> look(7)";

type Rows = Vec<(i64, Option<f64>)>;

const CHECKED_ROUNDS: i64 = 12;

/// A table of looks with an index that has seen inserts, deletes and a vacuum.
fn table(client: &mut Client) -> Result<()> {
    client.batch_execute(
        "CREATE TABLE look (id bigint, category int, v embedding(32));
         CREATE INDEX looks ON look USING lookbook (v, category);
         INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series(1, 3000) n;
         DELETE FROM look WHERE id % 7 = 3",
    )?;
    client.batch_execute("VACUUM look")?;
    Ok(())
}

/// Rows from the index at recall 1, after it was compared with the exact answer and checked.
fn answers(client: &mut Client, query: &str) -> Result<Rows> {
    client.batch_execute(BY_INDEX_EXACTLY)?;
    check_index(client, "looks")?;
    expect_exact(client, "looks", query)?;
    rows_of(client, query)
}

fn wait_for_end_of_recovery(client: &mut Client) -> Result<()> {
    wait_until("the end of recovery", || {
        Ok(!client
            .query_one("SELECT pg_is_in_recovery()", &[])?
            .get::<_, bool>(0))
    })
}

fn grow(client: &mut Client, first: i64, rows: i64) -> Result<()> {
    client.execute(
        "INSERT INTO look SELECT n, n % 10, look(n) FROM generate_series($1::bigint, $1::bigint + $2::bigint - 1) n",
        &[&first, &rows],
    )?;
    Ok(())
}

#[test]
fn a_point_in_time_gives_the_answers_of_that_moment() -> Result<()> {
    let archive = tempfile::Builder::new()
        .prefix("lookbook-archive-")
        .tempdir_in("/tmp")?;
    // Written by the server's user, who may not be ours.
    check_output(
        std::process::Command::new("chmod")
            .arg("1777")
            .arg(archive.path()),
    )?;
    let folder = archive.path().display();
    let cluster = Cluster::start(&[
        "wal_level=replica",
        "archive_mode=on",
        &format!("archive_command='cp %p {folder}/%f'"),
    ])?;
    let (database, mut client) = database(&cluster, "moments")?;
    table(&mut client)?;
    let backup = cluster.replica(&[
        "hot_standby=on",
        "archive_mode=off",
        &format!("restore_command='cp {folder}/%f %p'"),
    ])?;
    // From here on the backup knows of the archive alone.
    backup
        .connect("postgres", "postgres")?
        .batch_execute("ALTER SYSTEM RESET primary_conninfo")?;
    backup.stop()?;

    grow(&mut client, 10_000, 2_000)?;
    client.batch_execute(
        "DELETE FROM look WHERE id % 11 = 0; UPDATE look SET v = look(id + 50000) WHERE id % 13 = 0",
    )?;
    client.batch_execute("VACUUM look")?;
    let then = answers(&mut client, ALL)?;
    let segment: String = client
        .query_one(
            "SELECT pg_walfile_name(pg_create_restore_point('the_moment'))",
            &[],
        )?
        .get(0);
    // What must not be there afterwards.
    grow(&mut client, 20_000, 2_000)?;
    client.batch_execute("DELETE FROM look WHERE id < 1000")?;
    client.batch_execute("VACUUM look")?;
    client.batch_execute("SELECT pg_switch_wal()")?;
    wait_until("archiving", || {
        Ok(client
            .query_one(
                "SELECT coalesce(last_archived_wal >= $1, false) FROM pg_stat_archiver",
                &[&segment],
            )?
            .get(0))
    })?;

    backup.configure(&[
        "recovery_target_name='the_moment'",
        "recovery_target_action='promote'",
    ])?;
    backup.start_server()?;
    let restored = backup.existing_database("moments");
    let mut restored = restored.connect()?;
    wait_for_end_of_recovery(&mut restored)?;
    assert_eq!(answers(&mut restored, ALL)?, then);
    // It goes on from there on a timeline of its own.
    grow(&mut restored, 30_000, 1_500)?;
    restored.batch_execute("VACUUM look")?;
    assert_eq!(answers(&mut restored, ALL)?.len(), then.len() + 1_500);
    assert_ne!(answers(&mut client, ALL)?.len(), then.len());
    drop(database);
    Ok(())
}

#[test]
fn a_replica_answers_as_its_primary_at_the_same_lsn_and_goes_on_when_promoted() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "replicated")?;
    table(&mut client)?;
    let replica = cluster.replica(&["hot_standby=on"])?;
    let copy = replica.existing_database("replicated");
    let mut reader = copy.connect()?;
    for round in 0..3 {
        grow(&mut client, 10_000 * (round + 1), 700)?;
        client.batch_execute(&format!("DELETE FROM look WHERE id % 17 = {round}"))?;
        client.batch_execute("VACUUM look")?;
        catch_up(&mut client, &mut reader)?;
        for query in [NEAREST, ALL] {
            assert_eq!(answers(&mut reader, query)?, answers(&mut client, query)?);
        }
    }
    drop(client);
    drop(database);
    cluster.kill_9()?;
    ensure!(
        reader
            .query_one("SELECT pg_promote()", &[])?
            .get::<_, bool>(0)
    );
    wait_for_end_of_recovery(&mut reader)?;
    let before = answers(&mut reader, ALL)?.len();
    // Enough for lists to be split.
    grow(&mut reader, 50_000, 4_000)?;
    reader.batch_execute("VACUUM look")?;
    assert_eq!(answers(&mut reader, ALL)?.len(), before + 4_000);
    Ok(())
}

/// Replay waits for no latch: what a check on a standby meets half done is no damage, and a search finds every row of its snapshot.
#[test]
fn a_replica_checks_and_answers_while_lists_are_split_and_swept() -> Result<()> {
    let cluster = Cluster::start(&["autovacuum=off"])?;
    let (_database, mut client) = database(&cluster, "checked")?;
    table(&mut client)?;
    let replica = cluster.replica(&["hot_standby=on"])?;
    let copy = replica.existing_database("checked");
    let mut reader = copy.connect()?;
    client.batch_execute("CREATE UNLOGGED TABLE passing AS SELECT v FROM look; CREATE INDEX passing_v ON passing USING lookbook (v)")?;
    catch_up(&mut client, &mut reader)?;
    let (code, message) = error_of(&mut reader, "SELECT lookbook_index_check('passing_v')")?;
    ensure!(
        code == "0A000" && message.contains("is not on a standby"),
        "{code} {message}"
    );
    let changing = std::thread::spawn(move || -> Result<()> {
        for round in 1..=CHECKED_ROUNDS {
            grow(&mut client, 10_000 * round, 1_500)?;
            client.execute("DELETE FROM look WHERE id < 10000 * $1::bigint", &[&round])?;
            client.batch_execute("VACUUM look")?;
        }
        Ok(())
    });
    let mut checks = 0;
    while !changing.is_finished() {
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")?;
        answers(&mut reader, NEAREST)?;
        info(&mut reader, "looks", "rows")?;
        reader.batch_execute("COMMIT")?;
        checks += 1;
    }
    changing.join().expect("the thread that changes rows")?;
    ensure!(checks > 10, "only {checks} checks beside the changes");
    Ok(())
}

/// `pg_upgrade` copies the files of the index and of the models as they are.
#[test]
fn an_upgraded_cluster_keeps_its_index_its_models_and_their_answers() -> Result<()> {
    let under_test = Installation::under_test()?;
    let newer = Installation::embedded()?.filter(|newer| newer.major() > under_test.major());
    let Some(newer) = newer else {
        // The run on the older version is the one that upgrades.
        eprintln!(
            "pg_upgrade is tested from an older PostgreSQL to the embedded one, not from {}",
            under_test.major()
        );
        return Ok(());
    };
    let photo = std::fs::read(workspace().join("tests/catalogue/queries/camel-coat.jpg"))
        .context("the query photo of the drawn catalogue")?;
    let embed = |client: &mut Client| -> Result<String> {
        Ok(client
            .query_one("SELECT embed_image($1)::text", &[&photo])?
            .get(0))
    };
    let cluster = Cluster::start(&[])?;
    let (database, mut client) = database(&cluster, "upgraded")?;
    table(&mut client)?;
    client.batch_execute(
        "INSERT INTO lookbook_embedding_column
           SELECT 'look', 'v', name, sha256 FROM lookbook_model WHERE kind = 'embedder' LIMIT 1",
    )?;
    let before = (answers(&mut client, ALL)?, embed(&mut client)?);
    // From 15.20 on a server versions its columns in an option that the releases before, the embedded 16.14 too, refuse; whoever
    // upgrades installs the newest one.
    client.batch_execute(
        "UPDATE pg_attribute
         SET attoptions = nullif(ARRAY(SELECT o FROM unnest(attoptions) o WHERE o NOT LIKE 'pg_attver=%'), '{}')
         WHERE attoptions IS NOT NULL",
    )?;
    drop(client);
    drop(database);
    let upgraded = cluster.upgraded_to(newer)?;
    let database = upgraded.existing_database("upgraded");
    let mut client = database.connect()?;
    assert_eq!((answers(&mut client, ALL)?, embed(&mut client)?), before);
    let column: String = client
        .query_one("SELECT relation::text FROM lookbook_embedding_column", &[])?
        .get(0);
    assert_eq!(column, "look");
    grow(&mut client, 10_000, 2_000)?;
    client.batch_execute("VACUUM look")?;
    assert_eq!(answers(&mut client, ALL)?.len(), before.0.len() + 2_000);
    Ok(())
}

/// What an extension owns, as text: the same whichever way a version was reached.
fn objects(database: &Database<'_>) -> Result<String> {
    database.psql(
        "SELECT pg_describe_object(classid, objid, objsubid)
         FROM pg_depend
         WHERE refclassid = 'pg_extension'::regclass AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'lookbook')
         ORDER BY 1",
    )
}

#[test]
fn every_released_version_updates_to_the_newest() -> Result<()> {
    let cluster = Cluster::shared()?;
    let fresh = cluster.database("newest")?;
    let newest = fresh.psql("SELECT extversion FROM pg_extension WHERE extname = 'lookbook'")?;
    let released = fresh.psql(
        "SELECT version FROM pg_available_extension_versions WHERE name = 'lookbook' ORDER BY 1",
    )?;
    ensure!(
        released.lines().any(|version| version == "0.1.0"),
        "{released}"
    );
    for (number, version) in released.lines().enumerate() {
        let old = cluster.empty_database(&format!("released_{number}"))?;
        old.psql(&format!("CREATE EXTENSION lookbook VERSION '{version}'"))?;
        old.psql("CREATE TABLE look (id bigint, v embedding(2)); INSERT INTO look VALUES (1, '[1,2]'), (2, '[5,6]');
                  CREATE INDEX looks ON look USING lookbook (v)")?;
        old.psql("ALTER EXTENSION lookbook UPDATE")?;
        assert_eq!(
            old.psql("SELECT extversion FROM pg_extension WHERE extname = 'lookbook'")?,
            newest
        );
        assert_eq!(objects(&old)?, objects(&fresh)?, "updated from {version}");
        assert_eq!(
            old.psql(
                "SET enable_seqscan = off; SELECT id FROM look ORDER BY v <-> '[5,5]' LIMIT 1"
            )?,
            "2"
        );
        assert_eq!(old.psql("SELECT lookbook_index_check('looks')")?, "2");
    }
    Ok(())
}

#[test]
fn a_dump_of_the_whole_database_restores_index_models_and_vectors() -> Result<()> {
    let cluster = Cluster::shared()?;
    let (source, mut client) = database(cluster, "dumped")?;
    table(&mut client)?;
    client.batch_execute("CREATE MATERIALIZED VIEW near AS SELECT id FROM look ORDER BY v <-> (SELECT v FROM look WHERE id = 7) LIMIT 5")?;
    let before = answers(&mut client, ALL)?;
    let file = tempfile::NamedTempFile::new_in("/tmp")?;
    check_output(
        source
            .program("pg_dump")
            .args(["-Fc", "-f"])
            .arg(file.path()),
    )?;
    let target = cluster.empty_database("restored")?;
    check_output(
        target
            .program("pg_restore")
            .args(["--exit-on-error", "--no-owner", "-j", "2", "-d", "restored"])
            .arg(file.path()),
    )?;
    let mut restored = target.connect()?;
    assert_eq!(answers(&mut restored, ALL)?, before);
    assert_eq!(target.psql("SELECT count(*) FROM near")?, "5");
    assert_eq!(
        target.psql("SELECT string_agg(name || sha256, ',' ORDER BY name) FROM lookbook_model")?,
        source.psql("SELECT string_agg(name || sha256, ',' ORDER BY name) FROM lookbook_model")?
    );
    Ok(())
}
