//! The inference worker: one for the server, same results, no harm when it dies, bounded waiting.

mod sql_support;
mod worker_support;

use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, openvino, signal, workspace};
use postgres::Client;
use sql_support::{add_slow_model, backend_pid, bmp, embed, import_embedder, refusal};
use worker_support::{PATIENCE, number, photo, tiny, wait_for};

fn maps(pid: i32) -> Result<String> {
    Ok(std::fs::read_to_string(format!("/proc/{pid}/maps"))?)
}

#[test]
fn one_worker_serves_all_connections_and_databases() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let one = tiny(&cluster, "one")?;
    let two = tiny(&cluster, "two")?;
    let mut first = one.connect()?;
    embed(&mut first, &photo(1), None)?;
    let pid = number(&mut first, "pid")?.context("no worker")?;
    let loads = number(&mut first, "loads")?;
    for (database, shade) in [(&one, 2), (&two, 3), (&two, 4)] {
        let mut client = database.connect()?;
        let backend = backend_pid(&mut client)?;
        client.batch_execute("SET lookbook.worker = on")?;
        embed(&mut client, &photo(shade), None)?;
        assert_eq!(number(&mut client, "pid")?, Some(pid));
        ensure!(
            !maps(backend)?.contains("libonnxruntime"),
            "a connection loaded the runtime"
        );
    }
    assert_eq!(number(&mut first, "loads")?, loads, "loaded once");
    let row = first.query_one(
        "SELECT a.backend_type, a.datname IS NULL, a.query LIKE '%' || w.pid, w.memory_bytes > 0, w.loaded::text
         FROM lookbook_worker AS w JOIN pg_stat_activity AS a ON a.pid = w.supervisor_pid",
        &[],
    )?;
    assert_eq!(row.get::<_, String>(0), "lookbook worker");
    assert!(row.get::<_, bool>(1) && row.get::<_, bool>(2) && row.get::<_, bool>(3));
    ensure!(row.get::<_, String>(4).contains("\"mean\""));
    // Nobody holds a database open.
    drop(first);
    one.psql("SELECT")?;
    let shared: Vec<String> = maps(i32::try_from(pid)?)?
        .lines()
        .filter(|line| {
            line.split(' ')
                .nth(1)
                .is_some_and(|flags| flags.ends_with('s'))
        })
        .map(str::to_owned)
        .collect();
    ensure!(shared.is_empty(), "shared memory in reach: {shared:?}");
    let stands = std::fs::read_link(format!("/proc/{pid}/cwd"))?;
    ensure!(
        std::fs::read_dir(&stands)?.next().is_none(),
        "files in reach: {}",
        stands.display()
    );
    Ok(())
}

#[test]
fn results_are_those_of_the_in_process_path_bit_by_bit() -> Result<()> {
    results_are_those_of_the_in_process_path(&Cluster::start(&[])?)
}

#[test]
fn so_they_are_by_openvino() -> Result<()> {
    let Some(library) = openvino()? else {
        return Ok(());
    };
    let library = format!("lookbook.onnxruntime = '{}'", library.display());
    let cluster = Cluster::start(&[&library, "lookbook.device = 'openvino'"])?;
    results_are_those_of_the_in_process_path(&cluster)?;
    let mut client = cluster.database("seen")?.connect()?;
    let loaded = "SELECT bool_and(model ->> 'provider' = 'OpenVINO') FROM lookbook_worker, jsonb_array_elements(loaded) AS model";
    ensure!(client.query_one(loaded, &[])?.get::<_, bool>(0));
    Ok(())
}

fn results_are_those_of_the_in_process_path(cluster: &Cluster) -> Result<()> {
    let database = cluster.database("equal")?;
    let folder = workspace().join("tests/catalogue/queries");
    let photos: Vec<Vec<u8>> = std::fs::read_dir(folder)?
        .map(|entry| Ok(std::fs::read(entry?.path())?))
        .collect::<Result<_>>()?;
    let all = "SELECT embed_image(image)::text || (SELECT string_agg(g::text, ';') FROM detect_garments(image) g)
               FROM unnest($1::bytea[]) AS image";
    let answers = |mode: &str| -> Result<Vec<Option<String>>> {
        let mut client = database.connect()?;
        client.batch_execute(&format!(
            "SET extra_float_digits = 3; SET lookbook.worker = {mode}"
        ))?;
        let rows = client.query(all, &[&photos])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    };
    let here = answers("off")?;
    assert_eq!(answers("on")?, here);
    // Together, so that batches form: each connection all photos, in one order and in the other.
    let photos = &photos;
    let here = &here;
    let database = &database;
    std::thread::scope(|scope| -> Result<()> {
        let callers: Vec<_> = (0..6)
            .map(|turn| {
                scope.spawn(move || -> Result<()> {
                    let mut client = database.connect()?;
                    client.batch_execute("SET lookbook.worker = on; SET extra_float_digits = 3")?;
                    for step in 0..photos.len() {
                        let at = (step + turn) % photos.len();
                        let found: String = client
                            .query_one("SELECT embed_image($1)::text", &[&photos[at]])?
                            .get(0);
                        let expected = here[at].as_deref().unwrap_or_default();
                        ensure!(expected.starts_with(&found), "photo {at} differs");
                    }
                    Ok(())
                })
            })
            .collect();
        for caller in callers {
            caller.join().ok().context("a caller panicked")??;
        }
        Ok(())
    })
}

#[test]
fn a_killed_worker_costs_one_error_and_no_connection() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "killed")?;
    let mut client = database.connect()?;
    add_slow_model(&mut client)?;
    let mut watcher = database.connect()?;
    let before = backend_pid(&mut watcher)?;
    embed(&mut watcher, &photo(1), None)?;
    for round in 0..2 {
        let mut victim = database.connect()?;
        let waiting = spawn(move || {
            let failed = refusal(embed(&mut victim, &photo(2), Some("slow")))?;
            let next = embed(&mut victim, &photo(3), Some("mean"))?;
            anyhow::Ok((failed, next))
        });
        wait_for(&mut watcher, "running", |count| count == Some(1))?;
        let pid = number(&mut watcher, "pid")?.context("no worker")?;
        signal("KILL", u32::try_from(pid)?)?;
        let (failed, next) = waiting.join().ok().context("the waiting thread")??;
        assert_eq!(failed.code, "58000", "round {round}: {failed:?}");
        ensure!(failed.hint.contains("next call"), "{failed:?}");
        assert_eq!(next.len(), 3);
    }
    assert_eq!(backend_pid(&mut watcher)?, before, "the server went on");
    assert_eq!(number(&mut watcher, "restarts")?, Some(2));
    Ok(())
}

#[test]
fn nobody_waiting_stops_the_run() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "given_up")?;
    let mut client = database.connect()?;
    add_slow_model(&mut client)?;
    client.batch_execute("SET lookbook.worker = on; SET statement_timeout = '300ms'")?;
    let refused = refusal(embed(&mut client, &photo(1), Some("slow")))?;
    assert_eq!(refused.code, "57014");
    client.batch_execute("RESET statement_timeout")?;
    wait_for(&mut client, "running", |count| count == Some(0))?;
    ensure!(number(&mut client, "cancelled")? >= Some(1));

    let mut victim = database.connect()?;
    let pid = backend_pid(&mut victim)?;
    let waiting = spawn(move || embed(&mut victim, &photo(2), Some("slow")).is_err());
    wait_for(&mut client, "running", |count| count == Some(1))?;
    client.execute("SELECT pg_terminate_backend($1)", &[&pid])?;
    // Whether the client reads 57P01 or the end of the connection first is its own affair.
    ensure!(waiting.join().is_ok_and(|failed| failed));
    wait_for(&mut client, "running", |count| count == Some(0))?;
    assert_eq!(embed(&mut client, &photo(3), None)?.len(), 3);
    Ok(())
}

#[test]
fn a_full_queue_refuses_at_once() -> Result<()> {
    let cluster = Cluster::start(&["lookbook.worker_threads=1", "lookbook.worker_queue_limit=2"])?;
    let database = tiny(&cluster, "full")?;
    let mut client = database.connect()?;
    add_slow_model(&mut client)?;
    let mut blocked = Vec::new();
    for shade in 0..3_u8 {
        let mut slow = database.connect()?;
        let pid = backend_pid(&mut slow)?;
        blocked.push((
            pid,
            spawn(move || refusal(embed(&mut slow, &photo(shade), Some("slow")))),
        ));
        let expected = i64::from(shade) + 1;
        wait_for(&mut client, "running + waiting", |n| n == Some(expected))?;
    }
    let refused = refusal(embed(&mut client, &photo(9), Some("mean")))?;
    assert_eq!(refused.code, "53400", "{refused:?}");
    ensure!(
        refused.hint.contains("lookbook.worker_queue_limit"),
        "{refused:?}"
    );
    assert_eq!(number(&mut client, "refused")?, Some(1));
    for (pid, waiting) in blocked {
        client.execute("SELECT pg_cancel_backend($1)", &[&pid])?;
        assert_eq!(waiting.join().ok().context("a caller")??.code, "57014");
    }
    // Their callers are gone before the worker has noticed it.
    wait_for(&mut client, "running + waiting", |n| n == Some(0))?;
    assert_eq!(embed(&mut client, &photo(9), Some("mean"))?.len(), 3);
    Ok(())
}

#[test]
fn without_a_free_slot_the_connection_runs_models_itself() -> Result<()> {
    let cluster = Cluster::start(&["max_worker_processes=0"])?;
    let database = tiny(&cluster, "no_slot")?;
    let mut client = database.connect()?;
    assert_eq!(embed(&mut client, &photo(1), None)?.len(), 3);
    ensure!(maps(backend_pid(&mut client)?)?.contains("libonnxruntime"));
    assert_eq!(number(&mut client, "pid")?, None);
    client.batch_execute("SET lookbook.worker = on")?;
    let refused = refusal(embed(&mut client, &photo(2), None))?;
    assert_eq!(refused.code, "55000", "{refused:?}");
    ensure!(refused.message.contains("max_worker_processes"));
    Ok(())
}

#[test]
fn a_worker_that_found_no_slot_when_the_server_started_is_not_waited_for() -> Result<()> {
    let preloaded = "shared_preload_libraries='lookbook'";
    let cluster = Cluster::start(&[preloaded, "max_worker_processes=0"])?;
    let database = tiny(&cluster, "no_slot_at_all")?;
    let mut client = database.connect()?;
    let begun = Instant::now();
    assert_eq!(embed(&mut client, &photo(1), None)?.len(), 3);
    ensure!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    client.batch_execute("SET lookbook.worker = on")?;
    let refused = refusal(embed(&mut client, &photo(2), None))?;
    assert_eq!(refused.code, "55000", "{refused:?}");
    ensure!(
        refused.message.contains("max_worker_processes"),
        "{refused:?}"
    );
    Ok(())
}

#[test]
fn off_runs_in_the_connection() -> Result<()> {
    let cluster = Cluster::start(&["lookbook.worker=off"])?;
    let database = tiny(&cluster, "off")?;
    let mut client = database.connect()?;
    assert_eq!(embed(&mut client, &photo(1), None)?.len(), 3);
    assert_eq!(number(&mut client, "supervisor_pid")?, None);
    database.psql("CREATE ROLE r_plain LOGIN")?;
    let mut plain = database.connect_as("r_plain")?;
    plain.batch_execute("SELECT embed_image(NULL)")?;
    let refused = refusal(plain.batch_execute("SET lookbook.worker = on"))?;
    assert_eq!(refused.code, "42501", "an administrator's choice");
    Ok(())
}

#[test]
fn an_idle_worker_ends_and_comes_back() -> Result<()> {
    let cluster = Cluster::start(&["lookbook.worker_idle_timeout='1s'"])?;
    let database = tiny(&cluster, "idle")?;
    let mut client = database.connect()?;
    embed(&mut client, &photo(1), None)?;
    wait_for(&mut client, "pid", |pid| pid.is_none())?;
    ensure!(number(&mut client, "supervisor_pid")?.is_some());
    assert_eq!(embed(&mut client, &photo(2), None)?.len(), 3);
    Ok(())
}

#[test]
fn preloaded_it_starts_with_the_server_and_ends_with_it() -> Result<()> {
    let cluster = Cluster::start(&["shared_preload_libraries='lookbook'"])?;
    let database = tiny(&cluster, "preloaded")?;
    let mut client = database.connect()?;
    wait_for(&mut client, "supervisor_pid", |pid| pid.is_some())?;
    add_slow_model(&mut client)?;
    client.batch_execute("SET lookbook.worker = on")?;
    embed(&mut client, &photo(1), None)?;
    let supervisor = number(&mut client, "supervisor_pid")?.context("no supervisor")?;

    // Terminated, it is started again by the postmaster.
    client.execute(
        "SELECT pg_terminate_backend($1)",
        &[&i32::try_from(supervisor)?],
    )?;
    wait_for(&mut client, "supervisor_pid", |pid| {
        pid.is_some_and(|pid| pid != supervisor)
    })?;
    assert_eq!(embed(&mut client, &photo(2), None)?.len(), 3);

    // The server stops although a request would run for long.
    let pid = number(&mut client, "pid")?.context("no worker")?;
    let mut slow = database.connect()?;
    let waiting = spawn(move || embed(&mut slow, &photo(3), Some("slow")).is_err());
    wait_for(&mut client, "running", |count| count == Some(1))?;
    cluster.stop()?;
    ensure!(waiting.join().is_ok_and(|failed| failed));
    ensure!(
        !std::path::Path::new(&format!("/proc/{pid}")).exists(),
        "it outlived the server"
    );
    Ok(())
}

#[test]
fn a_terminated_supervisor_is_replaced_whoever_asks_meanwhile() -> Result<()> {
    let cluster = Cluster::start(&["lookbook.worker=on"])?;
    let database = tiny(&cluster, "replaced")?;
    let mut client = database.connect()?;
    add_slow_model(&mut client)?;
    for round in 0..6_u8 {
        // Amid a run it takes its time to end, and holds its lock meanwhile.
        let mut slow = database.connect()?;
        let backend = backend_pid(&mut slow)?;
        let running =
            spawn(move || refusal(embed(&mut slow, &photo(1 + 10 * round), Some("slow"))));
        wait_for(&mut client, "running", |count| count == Some(1))?;
        client.batch_execute("SELECT pg_terminate_backend(supervisor_pid) FROM lookbook_worker")?;
        let mut asking = Vec::new();
        for number in 2..8 {
            let mut client = database.connect()?;
            asking.push(spawn(move || {
                embed(&mut client, &photo(number + 10 * round), None)
            }));
        }
        for answer in asking {
            match answer.join() {
                Ok(answer) => answer.with_context(|| format!("round {round}"))?,
                Err(_) => anyhow::bail!("a session panicked"),
            };
        }
        // Its request is made once more, of the next process.
        wait_for(&mut client, "running", |count| count == Some(1))?;
        client.execute("SELECT pg_cancel_backend($1)", &[&backend])?;
        let failed = running.join().ok().context("who waits")??;
        assert_eq!(failed.code, "57014", "round {round}: {failed:?}");
    }
    Ok(())
}

#[test]
fn a_lost_socket_is_made_again() -> Result<()> {
    for settings in [&[][..], &["shared_preload_libraries='lookbook'"]] {
        let cluster = Cluster::start(settings)?;
        let database = tiny(&cluster, "lost")?;
        let mut client = database.connect()?;
        client.batch_execute("SET lookbook.worker = on")?;
        embed(&mut client, &photo(1), None)?;
        let data: String = client.query_one("SHOW data_directory", &[])?.get(0);
        std::fs::remove_file(std::path::Path::new(&data).join("pgsql_tmp.lookbook/socket"))?;
        assert_eq!(embed(&mut client, &photo(2), None)?.len(), 3);
    }
    Ok(())
}

/// Lets a process of the server fork while its user has less than `most` processes; `None`: as many as it may allow itself.
fn limit_processes(client: &mut Client, of: i64, most: Option<u32>) -> Result<()> {
    let limits = std::fs::read_to_string(format!("/proc/{of}/limits"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max processes"))
        .context("no limit")?;
    let hard = line.split_whitespace().nth(1).context("no hard limit")?;
    let soft = most.map_or(hard.to_owned(), |most| most.to_string());
    // As the server's user, who may do so.
    client.batch_execute(&format!(
        "COPY (SELECT) TO PROGRAM 'prlimit --pid={of} --nproc={soft}:'"
    ))?;
    Ok(())
}

#[test]
fn a_process_that_cannot_start_keeps_nobody_waiting() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "no_process")?;
    let mut client = database.connect()?;
    embed(&mut client, &photo(1), None)?;
    let supervisor = number(&mut client, "supervisor_pid")?.context("no supervisor")?;
    let pid = number(&mut client, "pid")?.context("no worker")?;
    limit_processes(&mut client, supervisor, Some(1))?;
    signal("KILL", u32::try_from(pid)?)?;
    let mut strict = database.connect()?;
    strict.batch_execute("SET lookbook.worker = on")?;
    wait_for(&mut client, "pid", |pid| pid.is_none())?;
    let begun = Instant::now();
    for _ in 0..5 {
        let refused = refusal(embed(&mut strict, &photo(2), None))?;
        assert_eq!(refused.code, "55000", "{refused:?}");
        ensure!(refused.message.contains("could not start"), "{refused:?}");
    }
    assert_eq!(
        embed(&mut client, &photo(3), None)?.len(),
        3,
        "it can itself"
    );
    ensure!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    let attempts = cluster
        .log()
        .matches("could not start an inference")
        .count();
    ensure!((1..=5).contains(&attempts), "{attempts} lines in the log");
    limit_processes(&mut client, supervisor, None)?;
    let deadline = Instant::now() + PATIENCE;
    while let Err(refused) = embed(&mut strict, &photo(4), None) {
        ensure!(Instant::now() < deadline, "{refused:?}");
        sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn it_dies_with_the_postmaster() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "orphan")?;
    let mut client = database.connect()?;
    embed(&mut client, &photo(1), None)?;
    let pid = number(&mut client, "pid")?.context("no worker")?;
    cluster.kill_9()?;
    let deadline = Instant::now() + PATIENCE;
    while std::path::Path::new(&format!("/proc/{pid}")).exists() {
        ensure!(Instant::now() < deadline, "the worker outlived the server");
        sleep(Duration::from_millis(10));
    }
    cluster.start_server()?;
    assert_eq!(embed(&mut database.connect()?, &photo(1), None)?.len(), 3);
    Ok(())
}

#[test]
fn it_serves_replicas_functions_triggers_and_other_roles() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "places")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "SET lookbook.worker = on;
         CREATE TABLE photo (image bytea, vector embedding);
         CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN NEW.vector := embed_image(NEW.image); RETURN NEW; END $$;
         CREATE TRIGGER fill BEFORE INSERT ON photo FOR EACH ROW EXECUTE FUNCTION fill();
         CREATE ROLE shopper; GRANT INSERT, SELECT ON photo TO shopper;
         SELECT lookbook_model_grant('mean', 'shopper')",
    )?;
    let image = photo(1);
    let expected = embed(&mut client, &image, None)?;
    client.batch_execute("SET ROLE shopper")?;
    let vector: Vec<f32> = client
        .query_one(
            "INSERT INTO photo VALUES ($1) RETURNING vector::real[]",
            &[&photo(1)],
        )?
        .get(0);
    assert_eq!(vector, expected);
    let replica = cluster.replica(&[])?;
    let mut reader = replica.connect("postgres", "places")?;
    reader.batch_execute("SET lookbook.worker = on")?;
    assert_eq!(embed(&mut reader, &image, None)?, expected);
    ensure!(number(&mut reader, "pid")? != number(&mut database.connect()?, "pid")?);
    Ok(())
}

#[test]
fn models_follow_transactions() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "transactions")?;
    let mut client = database.connect()?;
    client.batch_execute("SET lookbook.worker = on")?;
    let image = bmp(9, 9, [200, 0, 0]);
    let mean = embed(&mut client, &image, None)?;
    client.batch_execute("BEGIN; SELECT lookbook_model_drop('mean')")?;
    import_embedder(&mut client, "mean", "GlobalMaxPool")?;
    let most = embed(&mut client, &image, Some("mean"))?;
    ensure!(most != mean, "the new model is used in its transaction");
    let mut other = database.connect()?;
    assert_eq!(embed(&mut other, &image, Some("mean"))?, mean);
    client.batch_execute("ROLLBACK")?;
    assert_eq!(embed(&mut client, &image, Some("mean"))?, mean);
    Ok(())
}

#[test]
fn the_socket_is_private_and_garbage_harms_nobody() -> Result<()> {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "private")?;
    let mut client = database.connect()?;
    embed(&mut client, &photo(1), None)?;
    let data: String = client.query_one("SHOW data_directory", &[])?.get(0);
    let folder = std::path::Path::new(&data).join("pgsql_tmp.lookbook");
    let mode = |path: &std::path::Path| -> Result<u32> {
        Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
    };
    assert_eq!(mode(&folder)?, 0o700);
    assert_eq!(mode(&folder.join("socket"))?, 0o600);
    let pid = number(&mut client, "pid")?;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\nand some more to fill a header"[..],
        b"lkbk\x01\x00\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"lkbk\x09\x00\x01\x00\0\0\0\0\0\0\0\0\0\0\0\0",
        b"lkbk\x01\x00\x02\x00\x28\0\0\0\0\0\0\0\0\0\0\0",
        b"lk",
    ] {
        // Root, who runs these tests, is let in as the server's user is.
        let mut stream = UnixStream::connect(folder.join("socket"))?;
        stream.write_all(garbage)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
    }
    assert_eq!(embed(&mut client, &photo(2), None)?.len(), 3);
    assert_eq!(number(&mut client, "pid")?, pid, "the same process");
    Ok(())
}

#[test]
fn a_process_that_does_not_answer_can_still_be_looked_at() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let database = tiny(&cluster, "stopped")?;
    let mut client = database.connect()?;
    embed(&mut client, &photo(1), None)?;
    let pid = u32::try_from(number(&mut client, "pid")?.context("no worker")?)?;
    signal("STOP", pid)?;
    let begun = Instant::now();
    let looked = client.query_one("SELECT pid, supervisor_pid FROM lookbook_worker", &[]);
    let waited = begun.elapsed();
    signal("CONT", pid)?;
    let row = looked?;
    ensure!(
        row.get::<_, Option<i32>>(0).is_none() && row.get::<_, Option<i32>>(1).is_some(),
        "{row:?}"
    );
    ensure!(waited < Duration::from_secs(10), "{waited:?}");
    ensure!(number(&mut client, "pid")? == Some(i64::from(pid)));
    Ok(())
}
