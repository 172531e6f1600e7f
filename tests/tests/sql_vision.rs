//! Vision functions in SQL: answers, remembered answers, hostile input, cancelling.

mod sql_support;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, Database, signal};
use postgres::Client;
use sql_support::{
    add_slow_model, backend_pid, bmp, embed, embedder_manifest, import, import_detector,
    import_embedder, onnx, refusal,
};
use std::time::{Duration, Instant};

const AVERAGE: &str = "GlobalAveragePool";
const MAXIMUM: &str = "GlobalMaxPool";

/// A database whose default models are the tiny ones.
fn tiny<'c>(name: &str) -> Result<Database<'c>>
where
    'static: 'c,
{
    let database = Cluster::shared()?.database(name)?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_detector(&mut client, "boxes")?;
    client.batch_execute(
        "SELECT lookbook_model_default('mean'); SELECT lookbook_model_default('boxes')",
    )?;
    Ok(database)
}

/// A complete PNG file whose header promises more pixels than its few bytes hold.
fn bomb(width: u32, height: u32) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.extend_from_slice(&[8, 2, 0, 0, 0]);
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    let empty_zlib_stream = [0x78, 0x9c, 0x03, 0, 0, 0, 0, 1];
    let chunks: [(&[u8; 4], &[u8]); 3] = [
        (b"IHDR", &header),
        (b"IDAT", &empty_zlib_stream),
        (b"IEND", &[]),
    ];
    for (kind, data) in chunks {
        let checked = [kind.as_slice(), data].concat();
        file.extend_from_slice(&(data.len() as u32).to_be_bytes());
        file.extend_from_slice(&checked);
        file.extend_from_slice(&crc32(&checked).to_be_bytes());
    }
    file
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[derive(Debug, PartialEq, Clone, Copy)]
struct Counts {
    loads: i64,
    inferences: i64,
    hits: i64,
}

fn counts(client: &mut Client) -> Result<Counts> {
    let row = client.query_one(
        "SELECT session_loads, inferences, memo_hits FROM lookbook_session_stats()",
        &[],
    )?;
    Ok(Counts {
        loads: row.get(0),
        inferences: row.get(1),
        hits: row.get(2),
    })
}

#[test]
fn hostile_images_get_their_sqlstate_and_the_backend_survives() -> Result<()> {
    let database = tiny("hostile")?;
    let mut client = database.connect()?;
    let pid = backend_pid(&mut client)?;
    let jpeg: &[u8] = include_bytes!("../catalogue/photos/beige-blazer-worn.jpg");
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("zero length", Vec::new(), "22P03"),
        ("text", b"https://example.org/photo.jpg".to_vec(), "22P03"),
        ("one byte", vec![0xff], "22P03"),
        ("JPEG start alone", vec![0xff, 0xd8, 0xff], "22026"),
        ("truncated JPEG", jpeg[..jpeg.len() / 2].to_vec(), "22026"),
        (
            "truncated BMP",
            bmp(40, 40, [1, 2, 3])[..2_000].to_vec(),
            "22026",
        ),
        ("decompression bomb", bomb(100_000, 100_000), "54000"),
        ("bomb of one row", bomb(u32::MAX >> 1, 1), "54000"),
        ("PNG without pixels", bomb(10, 10), "22P03"),
    ];
    for (what, image, code) in &cases {
        for sql in [
            "SELECT embed_image($1)::text",
            "SELECT category FROM detect_garments($1)",
        ] {
            let refused =
                refusal(client.query(sql, &[image])).with_context(|| format!("{sql} of {what}"))?;
            assert_eq!(refused.code, *code, "{sql} of {what}: {refused:?}");
            ensure!(
                refused.detail.is_empty() && !refused.message.contains("panicked"),
                "{refused:?}"
            );
        }
        let tried = client.query_one("SELECT try_embed_image($1) IS NULL", &[image])?;
        assert!(tried.get::<_, bool>(0), "try_embed_image of {what}");
        let tried = client.query("SELECT category FROM try_detect_garments($1)", &[image])?;
        assert!(tried.is_empty(), "try_detect_garments of {what}");
    }
    assert_eq!(embed(&mut client, jpeg, None)?.len(), 3);
    assert_eq!(backend_pid(&mut client)?, pid);
    Ok(())
}

#[test]
fn tiny_and_very_wide_images_work() -> Result<()> {
    let database = tiny("odd_sizes")?;
    let mut client = database.connect()?;
    for (width, height) in [(1, 1), (1, 2_000), (30_000, 1), (30_000, 3)] {
        let image = bmp(width, height, [255, 0, 0]);
        let mean = embed(&mut client, &image, None)?;
        ensure!(
            mean[0] > 0.6 && mean[1] < 0.01,
            "{width} x {height}: {mean:?}"
        );
        let found = client.query("SELECT * FROM detect_garments($1)", &[&image])?;
        ensure!(found.len() <= 2, "{width} x {height}");
    }
    Ok(())
}

#[test]
fn limits_are_settings() -> Result<()> {
    let database = tiny("limits")?;
    let mut client = database.connect()?;
    let image = bmp(20, 10, [1, 2, 3]);
    embed(&mut client, &image, None)?;
    client.batch_execute("SET lookbook.max_image_pixels = 199")?;
    let refused = refusal(embed(&mut client, &image, None))?;
    assert_eq!(refused.code, "54000");
    ensure!(
        refused.hint.contains("lookbook.max_image_pixels"),
        "{refused:?}"
    );
    client.batch_execute(
        "SET lookbook.max_image_pixels = 200; SET lookbook.max_image_bytes = '600B'",
    )?;
    assert_eq!(refusal(embed(&mut client, &image, None))?.code, "54000");
    client.batch_execute("SET lookbook.max_image_bytes = '1kB'")?;
    embed(&mut client, &image, None)?;
    if Cluster::shared()?.installation().major() >= 15 {
        assert_eq!(
            refusal(client.batch_execute("SET lookbook.embed_modle = 'x'"))?.code,
            "42602"
        );
    }
    for sql in [
        "SET lookbook.device = 'tpu'",
        "SET lookbook.inference_threads = -1",
        "SET lookbook.max_image_pixels = 0",
    ] {
        assert_eq!(
            refusal(client.batch_execute(sql)).context(sql)?.code,
            "22023",
            "{sql}"
        );
    }
    Ok(())
}

#[test]
fn null_image_gives_null_and_null_model_the_default() -> Result<()> {
    let database = tiny("nulls")?;
    let mut client = database.connect()?;
    let row = client.query_one(
        "SELECT embed_image(NULL) IS NULL, try_embed_image(NULL) IS NULL, embed_image(NULL, 'nix') IS NULL,
                (SELECT count(*) FROM detect_garments(NULL)),
                embed_image($1, NULL)::real[] = embed_image($1, 'mean')::real[]",
        &[&bmp(8, 8, [7, 8, 9])],
    )?;
    assert!(
        row.get::<_, bool>(0)
            && row.get::<_, bool>(1)
            && row.get::<_, bool>(2)
            && row.get::<_, bool>(4)
    );
    assert_eq!(row.get::<_, i64>(3), 0);
    let missing = refusal(client.query("SELECT try_embed_image('x', 'nix')::text", &[]))?;
    assert_eq!(
        missing.code, "42704",
        "only what is wrong with the image becomes NULL"
    );
    Ok(())
}

#[test]
fn garments_have_boxes_in_photo_pixels_and_embeddings_of_their_crops() -> Result<()> {
    let database = tiny("garments")?;
    let mut client = database.connect()?;
    let image = bmp(160, 80, [200, 100, 50]);
    let rows = client.query(
        "SELECT category, label, score, box::text, embedding::real[] FROM detect_garments($1) ORDER BY score DESC",
        &[&image],
    )?;
    assert_eq!(rows.len(), 2);
    let text = |row: usize, column: usize| rows[row].get::<_, String>(column);
    assert_eq!(
        (text(0, 0), text(0, 1)),
        ("upper".to_owned(), "shirt".to_owned())
    );
    assert_eq!(text(0, 3), "(80,80),(0,0)", "the left half");
    assert_eq!(
        (text(1, 0), text(1, 1)),
        ("footwear".to_owned(), "shoe".to_owned())
    );
    assert_eq!(text(1, 3), "(160,80),(80,40)", "the lower right quarter");
    ensure!((rows[0].get::<_, f32>(2) - 0.9).abs() < 1e-6);
    let colour: Vec<f32> = rows[1].get(4);
    for (element, expected) in colour.iter().zip([200.0, 100.0, 50.0]) {
        ensure!((element * 255.0 - expected).abs() < 1.0, "{colour:?}");
    }
    client.batch_execute("SET lookbook.embed_model = 'nix'")?;
    assert_eq!(
        refusal(client.query("SELECT * FROM detect_garments($1)", &[&image]))?.code,
        "42704"
    );
    let lateral =
        "SELECT count(*) FROM (VALUES (1), (2)) AS photo(id), LATERAL detect_garments($1, 'boxes')";
    client.batch_execute("RESET lookbook.embed_model")?;
    assert_eq!(client.query_one(lateral, &[&image])?.get::<_, i64>(0), 4);
    Ok(())
}

#[test]
fn one_statement_runs_the_model_once_per_image() -> Result<()> {
    let database = tiny("once")?;
    let mut client = database.connect()?;
    // What a connection holds where there is no worker.
    client.batch_execute("SET lookbook.worker = off")?;
    client.batch_execute(
        "CREATE TABLE garment AS SELECT n AS id, ARRAY[n, n % 7, 1]::real[]::embedding AS embedding FROM generate_series(1, 2000) n;
         CREATE TABLE photo (id int, image bytea)",
    )?;
    for id in 0..3_i32 {
        client.execute(
            "INSERT INTO photo VALUES ($1, $2)",
            &[&id, &bmp(64, 64, [200, 10 * id as u8, 0])],
        )?;
    }
    let image = bmp(64, 64, [1, 2, 3]);
    let before = counts(&mut client)?;
    let nearest = "SELECT id FROM garment ORDER BY embedding <-> embed_image($1) LIMIT 5";
    assert_eq!(client.query(nearest, &[&image])?.len(), 5);
    let after = counts(&mut client)?;
    assert_eq!(
        (
            after.inferences - before.inferences,
            after.loads - before.loads
        ),
        (1, 1)
    );
    ensure!(
        after.hits - before.hits <= 2,
        "rows are answered at the call site: {before:?} {after:?}"
    );
    client.query(nearest, &[&image])?;
    assert_eq!(
        counts(&mut client)?.inferences,
        after.inferences,
        "remembered by the connection"
    );

    client.query(
        "SELECT embedding <-> embed_image((SELECT image FROM photo WHERE id = 0)) FROM garment",
        &[],
    )?;
    assert_eq!(counts(&mut client)?.inferences, after.inferences + 1);
    client.query(
        "SELECT embed_image(image)::text FROM photo, generate_series(1, 100)",
        &[],
    )?;
    assert_eq!(counts(&mut client)?.inferences, after.inferences + 3);
    assert_eq!(counts(&mut client)?.loads, after.loads);
    Ok(())
}

#[test]
fn a_call_site_never_mistakes_one_image_for_another() -> Result<()> {
    let database = tiny("call_site")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE photo (id int, image bytea);
         CREATE FUNCTION by_loop(images bytea[]) RETURNS SETOF text LANGUAGE plpgsql STABLE AS $$
         DECLARE image bytea; answer embedding;
         BEGIN
           FOREACH image IN ARRAY images LOOP
             answer := embed_image(image);
             RETURN NEXT answer::text;
             answer := try_embed_image(image, CASE WHEN length(image) % 2 = 0 THEN 'mean' END);
             RETURN NEXT answer::text;
           END LOOP;
         END $$;
         CREATE FUNCTION by_query(image bytea) RETURNS text LANGUAGE sql AS $$ SELECT embed_image(image)::text $$",
    )?;
    let images: Vec<Vec<u8>> = (0..40_u8)
        .map(|red| bmp(30 + u32::from(red) % 3, 30, [red * 6, 3, 90]))
        .collect();
    let mut expected = Vec::new();
    for (id, image) in (0_i32..).zip(&images) {
        client.execute("INSERT INTO photo VALUES ($1, $2)", &[&id, image])?;
        let row = client.query_one("SELECT embed_image($1)::text", &[image])?;
        expected.push(row.get::<_, String>(0));
    }
    let distinct: std::collections::HashSet<_> = expected.iter().collect();
    assert_eq!(distinct.len(), images.len());
    let rows = client.query("SELECT by_loop($1)", &[&images])?;
    let looped: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let twice: Vec<String> = expected
        .iter()
        .flat_map(|text| [text.clone(), text.clone()])
        .collect();
    assert_eq!(looped, twice);
    for sql in [
        "SELECT embed_image(image)::text FROM photo ORDER BY id",
        "SELECT by_query(image) FROM photo ORDER BY id",
        "SELECT (SELECT embed_image(p.image)::text) FROM photo p ORDER BY id",
    ] {
        let scanned: Vec<String> = client
            .query(sql, &[])?
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(scanned, expected, "{sql}");
    }
    Ok(())
}

#[test]
fn parallel_workers_give_the_same_answers() -> Result<()> {
    let database = tiny("parallel")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE photo (id int, image bytea);
         SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
         SET max_parallel_workers_per_gather = 2; SET debug_parallel_query = on",
    )
    .or_else(|_| {
        client.batch_execute(
            "CREATE TABLE photo (id int, image bytea);
             SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0;
             SET max_parallel_workers_per_gather = 2; SET force_parallel_mode = on",
        )
    })?;
    for id in 0..60_i32 {
        client.execute(
            "INSERT INTO photo VALUES ($1, $2)",
            &[&id, &bmp(20, 20, [id as u8 * 4, 7, 7])],
        )?;
    }
    client.batch_execute("ANALYZE photo")?;
    let sum = "SELECT sum((embed_image(image)::real[])[1])::float8 FROM photo";
    let plan: Vec<String> = client
        .query(&format!("EXPLAIN {sum}"), &[])?
        .iter()
        .map(|row| row.get(0))
        .collect();
    ensure!(plan.iter().any(|line| line.contains("Gather")), "{plan:?}");
    let parallel: f64 = client.query_one(sum, &[])?.get(0);
    client.batch_execute("SET max_parallel_workers_per_gather = 0")?;
    let serial: f64 = client.query_one(sum, &[])?.get(0);
    ensure!(
        (parallel - serial).abs() < 1e-4,
        "{parallel} against {serial}"
    );
    Ok(())
}

#[test]
fn the_planner_knows_that_a_fixed_image_is_embedded_once() -> Result<()> {
    let database = tiny("costs")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "CREATE TABLE garment AS SELECT n AS id, '\\x00'::bytea AS image, ARRAY[n]::real[]::embedding AS embedding
         FROM generate_series(1, 1000) n; ANALYZE garment",
    )?;
    let mut cost = |sql: &str| -> Result<f64> {
        let plan: String = client.query_one(&format!("EXPLAIN {sql}"), &[])?.get(0);
        let total = plan
            .split("..")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .context("a cost")?;
        Ok(total.parse()?)
    };
    let fixed = cost("SELECT embedding <-> embed_image('\\x00', 'mean') FROM garment")?;
    let varying = cost("SELECT embedding <-> embed_image(image, 'mean') FROM garment")?;
    ensure!(
        fixed < 1_000.0 && varying > 100_000.0,
        "{fixed} and {varying}"
    );
    Ok(())
}

/// A database with the model `slow`, put there without the check that would run it once.
fn with_slow_model(name: &str) -> Result<Database<'static>> {
    let database = tiny(name)?;
    add_slow_model(&mut database.connect()?)?;
    Ok(database)
}

/// Generous for a busy machine, and far below the quarter of an hour that the model would take.
const SOON: Duration = Duration::from_secs(5);

#[test]
fn cancel_and_statement_timeout_stop_inference() -> Result<()> {
    let database = with_slow_model("cancelled")?;
    let mut client = database.connect()?;
    let pid = backend_pid(&mut client)?;
    let image = bmp(4, 4, [1, 2, 3]);
    client.batch_execute("SET statement_timeout = '300ms'")?;
    let started = Instant::now();
    let refused = refusal(embed(&mut client, &image, Some("slow")))?;
    assert_eq!(refused.code, "57014");
    ensure!(refused.message.contains("statement timeout"), "{refused:?}");
    ensure!(started.elapsed() < SOON, "took {:?}", started.elapsed());

    client.batch_execute("RESET statement_timeout")?;
    // Not by a cancel request: PostgreSQL answers that with two signals (postmaster.c, signal_child), and the second one may
    // hit the statement after the cancelled one.
    let mut other = database.connect()?;
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        other.execute("SELECT pg_cancel_backend($1)", &[&pid])
    });
    let started = Instant::now();
    let refused = refusal(embed(&mut client, &image, Some("slow")))?;
    assert_eq!(refused.code, "57014");
    ensure!(refused.message.contains("user request"), "{refused:?}");
    ensure!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    canceller.join().ok().context("the cancelling thread")??;

    assert_eq!(embed(&mut client, &image, Some("mean"))?.len(), 3);
    assert_eq!(backend_pid(&mut client)?, pid);
    Ok(())
}

#[test]
fn importing_a_slow_model_can_be_cancelled() -> Result<()> {
    let database = tiny("slow_import")?;
    let mut client = database.connect()?;
    let model = onnx::slow_embedder(1_000_000_000);
    let manifest = embedder_manifest(&mut client, "slow", &model)?;
    client.batch_execute("SET statement_timeout = '300ms'")?;
    let started = Instant::now();
    assert_eq!(
        refusal(import(&mut client, "slow", &manifest, &model))?.code,
        "57014"
    );
    ensure!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    Ok(())
}

#[test]
fn terminating_a_backend_in_inference_harms_nobody_else() -> Result<()> {
    let database = with_slow_model("terminated")?;
    let mut bystander = database.connect()?;
    let bystander_pid = backend_pid(&mut bystander)?;
    for name in ["TERM", "INT"] {
        let mut client = database.connect()?;
        let pid = u32::try_from(backend_pid(&mut client)?)?;
        let started = Instant::now();
        let victim =
            std::thread::spawn(move || embed(&mut client, &bmp(4, 4, [1, 2, 3]), Some("slow")));
        std::thread::sleep(Duration::from_millis(400));
        signal(name, pid)?;
        let answer = victim.join().ok().context("the victim's thread")?;
        if name == "TERM" {
            // The client may read the end of the connection before the server's last word.
            ensure!(answer.is_err(), "a terminated backend answered");
            let last_word = format!("[{pid}] terminated FATAL:  57P01");
            ensure!(database.cluster().log().contains(&last_word), "{last_word}");
        } else {
            assert_eq!(refusal(answer)?.code, "57014");
        }
        ensure!(started.elapsed() < SOON, "took {:?}", started.elapsed());
    }
    assert_eq!(
        backend_pid(&mut bystander)?,
        bystander_pid,
        "the server did not restart"
    );
    Ok(())
}

#[test]
fn a_missing_runtime_is_an_error_that_says_what_to_do() -> Result<()> {
    let database = tiny("no_runtime")?;
    let mut client = database.connect()?;
    let image = bmp(4, 4, [1, 2, 3]);
    client.batch_execute("SET lookbook.onnxruntime = '/nowhere/libonnxruntime.so'")?;
    let refused = refusal(embed(&mut client, &image, None))?;
    assert_eq!(refused.code, "58P01");
    ensure!(
        refused.message.contains("/nowhere/libonnxruntime.so"),
        "{refused:?}"
    );
    ensure!(refused.hint.contains("make install"), "{refused:?}");
    client.batch_execute("SET lookbook.onnxruntime = '$libdir/dict_snowball.so'")?;
    assert_eq!(
        refusal(embed(&mut client, &image, None))?.code,
        "58P01",
        "a library, but another one"
    );
    client.batch_execute("RESET lookbook.onnxruntime")?;
    assert_eq!(
        embed(&mut client, &image, None)?.len(),
        3,
        "the connection recovers"
    );
    database.psql("CREATE ROLE r_user LOGIN")?;
    let mut user = database.connect_as("r_user")?;
    user.batch_execute("SELECT embed_image(NULL)")?;
    let refused = refusal(user.batch_execute("SET lookbook.onnxruntime = '/tmp/evil.so'"))?;
    assert_eq!(refused.code, "42501");
    Ok(())
}

#[test]
fn a_device_that_was_asked_for_is_used_or_is_an_error() -> Result<()> {
    let database = tiny("device")?;
    let mut client = database.connect()?;
    let image = bmp(4, 4, [1, 2, 3]);
    let on_cpu = embed(&mut client, &image, None)?;
    client.batch_execute("SET lookbook.device = 'cuda:63'")?;
    assert_eq!(
        refusal(embed(&mut client, &image, None))?.code,
        "58000",
        "never silently the CPU"
    );
    client.batch_execute("SET lookbook.device = 'auto'")?;
    assert_eq!(embed(&mut client, &image, None)?.len(), on_cpu.len());
    Ok(())
}

#[test]
fn many_models_in_one_connection_stay_bounded() -> Result<()> {
    let database = tiny("many_models")?;
    let mut client = database.connect()?;
    // What a connection holds where there is no worker.
    client.batch_execute("SET lookbook.worker = off")?;
    let image = bmp(4, 4, [1, 2, 3]);
    for number in 0..8 {
        let name = format!("m{number}");
        let model = onnx::embedder(if number % 2 == 0 { AVERAGE } else { MAXIMUM });
        let manifest = embedder_manifest(&mut client, &name, &model)?;
        import(&mut client, &name, &manifest, &model)?;
        embed(&mut client, &image, Some(&name))?;
    }
    let row = client.query_one(
        "SELECT sessions, memo_entries FROM lookbook_session_stats()",
        &[],
    )?;
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (3, 8));
    Ok(())
}
