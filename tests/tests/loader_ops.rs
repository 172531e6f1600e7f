//! The loader as something that runs every night: settings, logs, records, shards, dry runs, health.

mod loader_support;
mod sql_support;

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use loader_support::{MAXIMUM, Outcome, Shop};
use lookbook_tests::{Cluster, check_output};
use serde_json::Value;
use sql_support::{bmp, import_embedder};

const RED: [u8; 3] = [255, 0, 0];

fn tiny(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

#[test]
fn a_configuration_file_stands_behind_the_environment_and_that_behind_flags() -> Result<()> {
    let shop = tiny("config")?;
    shop.put_many(20)?;
    let config = format!(
        "database = \"{}\"\nschema = \"from_file\"\n[load]\nsources = [\"photos\"]\nlimit = 3\nno-index = true\n",
        shop.database.url()
    );
    // One source or several, as the release takes them.
    let load = |args: &[&str], schema: Option<&str>| -> Result<Outcome> {
        let mut command = shop.lookbook(["load", "photos", "--config", "lookbook.toml"])?;
        command.args(args).env_remove("LOOKBOOK_DATABASE");
        if let Some(schema) = schema {
            command.env("LOOKBOOK_SCHEMA", schema);
        }
        Outcome::of(&mut command)
    };
    fs::write(
        shop.path("lookbook.toml"),
        config.replace("sources = [\"photos\"]\n", ""),
    )?;
    load(&[], None)?
        .expect(0)?
        .expect_stdout(&["loaded 3 photos", "no index, as asked"])?;
    load(&["--limit", "4"], Some("from_env"))?.expect(0)?;
    load(&["--schema", "from_flag"], Some("from_env"))?.expect(0)?;
    let counts = shop.database.psql(
        "SELECT (SELECT count(*) FROM from_file.photo), (SELECT count(*) FROM from_env.photo),
           (SELECT count(*) FROM from_flag.photo)",
    )?;
    assert_eq!(counts, "3|4|3");
    load(&["--schema", "answered", "--no-index=no"], None)?
        .expect(0)?
        .expect_stdout(&["index"])?;

    fs::write(shop.path("lookbook.toml"), "[load]\nshema = \"x\"\n")?;
    load(&[], None)?
        .expect(1)?
        .expect_stderr(&["lookbook.toml: unknown key load.shema, did you mean schema?"])?;
    fs::write(shop.path("lookbook.toml"), "[load]\nbatch = \"many\"\n")?;
    load(&[], None)?
        .expect(1)?
        .expect_stderr(&["lookbook.toml: load.batch: invalid value 'many'"])?;
    let mut wrong = shop.lookbook(["load", "photos"])?;
    Outcome::of(wrong.env("LOOKBOOK_MAX_ERROR_RATE", "2"))?
        .expect(1)?
        .expect_stderr(&["environment variable LOOKBOOK_MAX_ERROR_RATE: invalid value '2'"])?;
    let mut slip = shop.lookbook(["load", "nowhere"])?;
    Outcome::of(slip.env("LOOKBOOK_MAX_EROR_RATE", "0.1"))?
        .expect(1)?
        .expect_stderr(&[
            "LOOKBOOK_MAX_EROR_RATE is of no flag: did you mean LOOKBOOK_MAX_ERROR_RATE?",
        ])?;
    Ok(())
}

#[test]
fn a_dry_run_says_what_a_load_would_do_and_writes_nothing() -> Result<()> {
    let shop = tiny("dry_run")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.put("broken.jpg", b"not a photo")?;
    let dry = [
        "sync",
        "photos",
        "--dry-run",
        "--prune",
        "--prune-limit",
        "1",
    ];
    let said = shop.run(dry)?.expect(2)?;
    let said = said.expect_stdout(&[
        "would load 1 photo with 2 garments",
        "1 rejected",
        "nothing was written",
    ])?;
    said.expect_stderr(&["broken.jpg"])?;
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename IN ('photo', 'garment', 'lookbook_run', 'lookbook_reject')";
    assert_eq!(shop.database.psql(tables)?, "0");
    ensure!(!shop.path("lookbook-rejects.csv").exists());

    shop.load()?.expect(2)?;
    let state = "SELECT (SELECT json_agg(p ORDER BY id) FROM photo p), (SELECT json_agg(g ORDER BY id) FROM garment g),
        (SELECT count(*) FROM lookbook_run), (SELECT json_agg(c) FROM lookbook_embedding_column c)";
    let before = shop.database.psql(state)?;
    fs::remove_file(shop.photos().join("a.bmp"))?;
    shop.put("b.bmp", &bmp(16, 32, RED))?;
    shop.run(dry)?.expect(2)?.expect_stdout(&[
        "would load 1 photo",
        "would delete 1 photo gone from the source",
    ])?;
    assert_eq!(shop.database.psql(state)?, before);
    // It is refused where the load would be.
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.run(["load", "photos", "--dry-run", "--embed-model", "brightest"])?
        .expect(1)?
        .expect_stderr(&["was filled by model \"mean\""])?;
    shop.run(["load", "photos", "--dry-run", "--metrics-file", "m.prom"])?
        .expect(2)?;
    ensure!(!shop.path("m.prom").exists());
    Ok(())
}

#[test]
fn a_dry_run_and_the_doctor_refuse_what_the_load_would() -> Result<()> {
    let shop = tiny("dry_run_refused")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.database.psql(
        "CREATE SCHEMA shop; CREATE TABLE shop.photo (id int PRIMARY KEY, url text);
         CREATE ROLE reader LOGIN; CREATE ROLE still LOGIN; ALTER ROLE still SET default_transaction_read_only = on;
         GRANT CREATE ON SCHEMA public TO still;
         SELECT lookbook_model_grant(m, r) FROM unnest('{mean,boxes}'::text[]) m, unnest('{reader,still}'::text[]) r",
    )?;
    let as_role = |role: &str, args: &[&str]| {
        let mut command = shop.lookbook(args)?;
        let url = shop.database.url();
        let url = url.replace("user=postgres", &format!("user={role}"));
        Outcome::of(command.env("LOOKBOOK_DATABASE", url))
    };
    for (role, schema, said) in [
        ("postgres", "shop", "\"shop\".photo has no column path"),
        ("reader", "new", "CREATE SCHEMA new AUTHORIZATION reader"),
        ("still", "public", "sessions of this role only read here"),
    ] {
        let load = ["load", "photos", "--schema", schema];
        as_role(role, &[&load[..], &["--dry-run"]].concat())?
            .expect(1)?
            .expect_stderr(&[said])?;
        as_role(role, &load)?.expect(1)?;
        as_role(role, &["doctor", "--schema", schema])?
            .expect(1)?
            .expect_stdout(&[said])?;
    }
    // The owner's rows, and a role that may only look at them.
    shop.load()?.expect(0)?;
    shop.database
        .psql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader")?;
    as_role("reader", &["load", "photos", "--dry-run"])?
        .expect(1)?
        .expect_stderr(&["rights that this role lacks: GRANT INSERT, DELETE ON"])?;
    Ok(())
}

#[test]
fn a_share_of_bad_photos_is_judged_by_all_and_not_by_the_first() -> Result<()> {
    let shop = tiny("share")?;
    shop.put_many(180)?;
    for number in 0..12 {
        let link = format!("{:05}.link.jpg", number * 15);
        std::os::unix::fs::symlink("nowhere", shop.photos().join(link))?;
    }
    let load = |more: &[&str]| shop.run(["load", "photos", "--max-error-rate"].iter().chain(more));
    load(&["0.1"])?
        .expect(2)?
        .expect_stdout(&["loaded 180 photos", "12 rejected"])?;
    // What a shard will have is known at its end only.
    load(&["0.05", "--shard", "1/1", "--include", "0000*"])?
        .expect(1)?
        .expect_stderr(&["12 of 22 photos rejected, more than --max-error-rate 0.05 allows"])?;
    Ok(())
}

#[test]
fn what_a_load_lacks_is_said_before_the_first_photo() -> Result<()> {
    let shop = tiny("lacking")?;
    shop.put_many(16)?;
    shop.load()?.expect(0)?;
    shop.database.psql(
        "DROP ROLE IF EXISTS lacking_loader; CREATE ROLE lacking_loader LOGIN;
         SELECT lookbook_model_grant('boxes', 'public'), lookbook_model_grant('mean', 'public')",
    )?;
    shop.put("new.bmp", &bmp(8, 8, [1, 2, 3]))?;
    let url = shop
        .database
        .url()
        .replace("user=postgres", "user=lacking_loader");
    let lacks_all = shop
        .run(["load", "photos", "--database", &url])?
        .expect(1)?;
    ensure!(
        lacks_all.stderr.matches("public.photo TO").count() == 1,
        "{lacks_all}"
    );
    shop.database
        .psql("GRANT SELECT, INSERT, DELETE ON photo, garment TO lacking_loader")?;
    let records = "GRANT SELECT, INSERT, UPDATE ON public.lookbook_run TO lacking_loader; \
                   GRANT INSERT ON public.lookbook_reject TO lacking_loader";
    shop.run(["load", "photos", "--database", &url])?
        .expect(1)?
        .expect_stderr(&[
            "a load needs rights that this role lacks: GRANT USAGE ON SEQUENCE public.photo_id_seq TO lacking_loader",
            records,
        ])?;
    shop.database
        .psql("GRANT USAGE ON SEQUENCE photo_id_seq TO lacking_loader")?;
    shop.run(["doctor", "--database", &url])?
        .expect(2)?
        .expect_stdout(&[
            "warning  rights",
            "may load, and its runs are not recorded",
            records,
        ])?;
    // Policies that hold for the role would be found out by the COPY.
    shop.database.psql(
        "ALTER TABLE garment ENABLE ROW LEVEL SECURITY;
         CREATE POLICY all_rows ON garment TO lacking_loader USING (true)",
    )?;
    let guarded = "ALTER ROLE lacking_loader BYPASSRLS (row-level security holds on public.garment";
    shop.run(["sync", "photos", "--database", &url])?
        .expect(1)?
        .expect_stderr(&["rights that this role lacks", guarded])?;
    shop.run(["doctor", "--database", &url])?
        .expect(1)?
        .expect_stdout(&["FAILURE  rights", guarded])?;
    shop.database.psql(
        "ALTER TABLE garment ADD COLUMN season int; UPDATE garment SET season = 1; ALTER TABLE garment ALTER season SET NOT NULL",
    )?;
    shop.load()?.expect(1)?.expect_stderr(&[
        "garment.season is NOT NULL, and a load has nothing for it: give it a default",
    ])?;
    shop.database.psql(
        "CREATE FUNCTION in_season() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.season := 2; RETURN NEW; END';
         CREATE TRIGGER in_season BEFORE INSERT ON garment FOR EACH ROW EXECUTE FUNCTION in_season()",
    )?;
    shop.load()?.expect(0)?.expect_stdout(&["loaded 1 photo"])?;
    shop.database
        .psql("DROP OWNED BY lacking_loader; DROP ROLE lacking_loader")?;
    Ok(())
}

#[test]
fn what_a_url_leaves_open_comes_from_where_psql_takes_it() -> Result<()> {
    let shop = tiny("libpq")?;
    shop.put_many(16)?;
    let socket = shop.database.cluster().socket_folder();
    let mut command = shop.lookbook(["load", "photos", "--no-index"])?;
    command
        .env("LOOKBOOK_DATABASE", "postgresql:///")
        .env("PGHOST", socket)
        // Of no meaning where nothing leaves the machine.
        .env("PGSSLMODE", "require")
        .env("PGUSER", "postgres")
        .env("PGDATABASE", "libpq");
    Outcome::of(&mut command)?.expect(0)?;
    ensure!(shop.photo_count()? == 16);
    // A password file that others may read is not used, and said.
    let file = shop.path("passwords");
    fs::write(&file, "*:*:*:*:secret\n")?;
    command.env("PGPASSFILE", &file);
    Outcome::of(&mut command)?
        .expect(0)?
        .expect_stderr(&["is not used: others may read it; chmod 0600"])?;
    Ok(())
}

#[test]
fn every_run_and_every_reject_is_recorded() -> Result<()> {
    let shop = tiny("recorded")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.put("broken.jpg", b"not a photo")?;
    shop.load()?.expect(2)?;
    fs::remove_file(shop.photos().join("broken.jpg"))?;
    shop.run(["sync", "photos"])?.expect(0)?;
    fs::remove_file(shop.photos().join("a.bmp"))?;
    shop.put("broken.jpg", b"not a photo")?;
    shop.run(["load", "photos"])?.expect(1)?;
    let runs = shop.database.psql(
        "SELECT verb, source, status, photos, loaded, replaced, garments, skipped, rejected, detect_model, embed_model,
           embed_sha256 = (SELECT sha256 FROM lookbook_model WHERE name = 'mean'), images_per_second > 0,
           ended_at >= started_at, devices -> 'embedder' ->> 0, error IS NOT NULL
         FROM lookbook_run ORDER BY id",
    )?;
    let expected = "\
load|photos|partial|2|1|0|2|0|1|boxes|mean|t|t|t|CPU|f
sync|photos|complete|1|0|0|0|1|0|boxes|mean|t|f|t|CPU|f
load|photos|failed|1|0|0|0|0|1|boxes|mean|t|f|t|CPU|t";
    ensure!(runs == expected, "{runs}");
    let rejects = shop.database.psql(
        "SELECT run, path, code, length(reason) > 10, rejected_at <= now() FROM lookbook_reject ORDER BY run",
    )?;
    assert_eq!(
        rejects,
        "1|broken.jpg|not_an_image|t|t\n3|broken.jpg|not_an_image|t|t"
    );
    Ok(())
}

#[test]
fn a_role_that_may_make_no_tables_loads_without_a_record() -> Result<()> {
    let shop = tiny("no_record")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.load()?.expect(0)?;
    shop.database.psql(
        "DROP TABLE lookbook_run, lookbook_reject; CREATE ROLE packer LOGIN;
         SELECT lookbook_model_grant('mean', 'packer'), lookbook_model_grant('boxes', 'packer');
         REVOKE CREATE ON SCHEMA public FROM PUBLIC;
         GRANT SELECT, INSERT, DELETE, TRUNCATE ON photo, garment TO packer; GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO packer",
    )?;
    shop.put("b.bmp", &bmp(16, 32, RED))?;
    let url = shop.database.url().replace("user=postgres", "user=packer");
    shop.run(["load", "photos", "-d", &url])?
        .expect(0)?
        .expect_stderr(&["this run is not recorded in lookbook_run"])?;
    shop.check_complete(2)
}

#[test]
fn a_run_whose_record_lost_its_connection_is_recorded_all_the_same() -> Result<()> {
    let shop = tiny("record_reconnects")?;
    shop.put_many(600)?;
    shop.put("broken.jpg", b"no photo")?;
    let mut load = shop.lookbook(["load", "photos"])?;
    let child = load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // The lock of a live run ("lrun").
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1819440494
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND to_regclass('lookbook_run') IS NOT NULL";
    let mut client = shop.database.connect()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while client.query_one(cut, &[])?.get::<_, i64>(0) == 0 {
        ensure!(Instant::now() < deadline, "no run is recorded");
        sleep(Duration::from_millis(5));
    }
    Outcome::from(child.wait_with_output()?)
        .expect(2)?
        .expect_stdout(&["loaded 600 photos"])?;
    assert_eq!(
        shop.database.psql(
            "SELECT status, loaded, rejected, (SELECT count(*) FROM lookbook_reject) FROM lookbook_run"
        )?,
        "partial|600|1|1"
    );
    Ok(())
}

#[test]
fn shards_load_one_catalogue_at_once_and_the_last_makes_the_index() -> Result<()> {
    let shop = tiny("shards")?;
    shop.put_many(900)?;
    let children: Vec<_> = ["1/3", "2/3", "3/3"]
        .iter()
        .map(|shard| {
            let mut load = shop.lookbook(["load", "photos", "--shard", shard])?;
            load.args(["--rejects", &format!("{}.csv", shard.replace('/', "-"))]);
            Ok(load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
        })
        .collect::<Result<_>>()?;
    let mut loaded = 0;
    for child in children {
        let outcome = Outcome::from(child.wait_with_output()?).expect(0)?;
        let number = outcome.stdout.split(' ').nth(1).context("a count")?;
        let number: usize = number.parse()?;
        ensure!(
            (200..400).contains(&number),
            "a third of the photos: {outcome}"
        );
        loaded += number;
    }
    assert_eq!(loaded, 900);
    shop.check_complete(900)?;
    let index = "SELECT count(*), bool_and(indisvalid) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'lookbook'";
    assert_eq!(shop.database.psql(index)?, "1|t");
    let shards = "SELECT string_agg(shard || ' ' || status, ', ' ORDER BY shard) FROM lookbook_run";
    assert_eq!(
        shop.database.psql(shards)?,
        "1/3 complete, 2/3 complete, 3/3 complete"
    );

    // Nobody else works on a shard, and nobody without one beside it.
    let mut other = shop.database.connect()?;
    other.batch_execute(
        "SELECT pg_advisory_lock_shared(1819242347, hashtext('public of 3')),
           pg_advisory_lock_shared(1819242347, hashtext('public')),
           pg_advisory_lock(1819242347, hashtext('public 1/3'))",
    )?;
    shop.run(["load", "photos", "--shard", "2/2"])?
        .expect(1)?
        .expect_stderr(&[
            "shards of another number to schema \"public\"",
            "the same n of i/n",
        ])?;
    shop.run(["load", "photos", "--shard", "1/3"])?
        .expect(1)?
        .expect_stderr(&["another lookbook load of shard 1/3 is writing to schema \"public\""])?;
    shop.load()?
        .expect(1)?
        .expect_stderr(&["another lookbook load is writing to schema \"public\""])?;
    shop.run(["load", "photos", "--shard", "2/3"])?.expect(0)?;
    Ok(())
}

#[test]
fn shards_load_into_a_table_of_the_shop_at_once() -> Result<()> {
    let shop = tiny("shards_mapped")?;
    shop.put_many(300)?;
    shop.database.psql(
        "CREATE TABLE look (id bigint GENERATED ALWAYS AS IDENTITY, file text, kind text, vector embedding(3))",
    )?;
    for round in 0..3 {
        let children: Vec<_> = ["1/3", "2/3", "3/3"]
            .iter()
            .map(|shard| {
                let mut load = shop.lookbook(["load", "photos", "--into", "look", "--into-map"])?;
                load.args(["key=file,category=kind,embedding=vector", "--shard", shard]);
                load.args(["--rejects", &format!("{}.csv", shard.replace('/', "-"))]);
                Ok(load.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
            })
            .collect::<Result<_>>()?;
        for child in children {
            Outcome::from(child.wait_with_output()?)
                .expect(0)
                .with_context(|| format!("round {round}"))?;
        }
        let files = shop
            .database
            .psql("SELECT count(DISTINCT file) FROM look")?;
        assert_eq!(files, "300");
        shop.database.psql("TRUNCATE look; TRUNCATE look_photo")?;
    }
    Ok(())
}

#[test]
fn a_shard_never_brings_another_model_beside_the_others() -> Result<()> {
    let shop = tiny("shard_models")?;
    import_embedder(&mut shop.database.connect()?, "brightest", MAXIMUM)?;
    shop.put_many(40)?;
    shop.run(["load", "photos", "--shard", "1/2"])?.expect(0)?;
    shop.database.psql("TRUNCATE photo, garment")?;
    // The table is empty, but the other shard may be about to write.
    shop.run([
        "load",
        "photos",
        "--shard",
        "2/2",
        "--embed-model",
        "brightest",
    ])?
    .expect(1)?
    .expect_stderr(&["was filled by model \"mean\""])?;
    Ok(())
}

#[test]
fn the_metrics_file_says_what_a_run_did() -> Result<()> {
    let shop = tiny("metrics")?;
    shop.put_many(20)?;
    shop.put("broken.jpg", b"not a photo")?;
    shop.run(["load", "photos", "--metrics-file", "lookbook.prom"])?
        .expect(2)?;
    let text = fs::read_to_string(shop.path("lookbook.prom"))?;
    let mut values = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').context("a name and a value")?;
        let name = name.replace("verb=\"load\",schema=\"public\"", "");
        ensure!(
            values.insert(name, value.parse::<f64>()?).is_none(),
            "{line} is there twice"
        );
    }
    for (name, expected) in [
        ("running{}", 0.0),
        ("exit_code{}", 2.0),
        ("photos{,state=\"total\"}", 21.0),
        ("photos{,state=\"loaded\"}", 20.0),
        ("photos{,state=\"rejected\"}", 1.0),
        ("rejects{,code=\"not_an_image\"}", 1.0),
        ("garments{}", 40.0),
    ] {
        assert_eq!(
            values.get(&format!("lookbook_run_{name}")),
            Some(&expected),
            "{name}: {text}"
        );
    }
    for positive in [
        "stage_busy_seconds{,stage=\"embed\"}",
        "images_per_second{}",
        "peak_memory_bytes{}",
    ] {
        let value = values.get(&format!("lookbook_run_{positive}"));
        ensure!(
            value.is_some_and(|value| *value > 0.0),
            "{positive}: {text}"
        );
    }
    shop.run(["load", "photos", "--metrics-file", "no/such/folder/x.prom"])?
        .expect(1)?
        .expect_stderr(&["cannot write the metrics file no/such/folder/x.prom"])?;
    Ok(())
}

#[test]
fn json_logs_are_all_that_is_on_standard_error() -> Result<()> {
    let shop = tiny("json_logs")?;
    shop.put("a.bmp", &bmp(16, 32, RED))?;
    shop.put("broken.jpg", b"not a photo")?;
    let run = shop
        .run(["load", "photos", "--log-format", "json"])?
        .expect(2)?;
    let events: Vec<Value> = run
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect::<Result<_>>()?;
    let reject = events
        .iter()
        .find(|event| event["message"] == "photo rejected")
        .context("the reject is an event")?;
    assert_eq!(reject["level"], "WARN");
    assert_eq!(
        (&reject["path"], &reject["code"]),
        (&"broken.jpg".into(), &"not_an_image".into())
    );
    ensure!(
        events
            .iter()
            .any(|event| event["message"] == "run ended" && event["loaded"] == 1)
    );
    let failed = shop
        .run(["load", "nowhere", "--log-format", "json"])?
        .expect(1)?;
    let event: Value = serde_json::from_str(failed.stderr.trim())?;
    ensure!(
        event["level"] == "ERROR" && event["message"].to_string().contains("nowhere"),
        "{failed}"
    );

    let mut traced = shop.lookbook(["load", "photos"])?;
    let traced = Outcome::of(traced.env("LOOKBOOK_LOG", "lookbook=debug"))?.expect(2)?;
    traced.expect_stderr(&["INFO", "run started", "lookbook: warning: broken.jpg"])?;
    Ok(())
}

#[test]
fn shells_and_man_know_every_verb() -> Result<()> {
    let shop = tiny("shells")?;
    for (shell, checker) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let script = shop.run(["completions", shell])?.expect(0)?;
        for part in ["prune-limit", "reembed", "doctor"] {
            ensure!(script.stdout.contains(part), "{shell}: {part}");
        }
        if let Some(checker) = checker {
            let file = shop.path("completions");
            fs::write(&file, &script.stdout)?;
            check_output(Command::new(checker).arg("-n").arg(&file))?;
        }
    }
    shop.run(["man", "--out", "man"])?.expect(0)?;
    for (page, part) in [
        ("lookbook", "SUBCOMMANDS"),
        ("lookbook-sync", r"LOOKBOOK_PRUNE_LIMIT"),
        (
            "lookbook-sync",
            r"\fBlookbook sync\fR [OPTIONS] [SOURCE]...",
        ),
        ("lookbook-sync", "EXIT STATUS"),
        ("lookbook-model-add", r"lookbook model check my\-model.onnx"),
        ("lookbook-model-add", "manifest"),
    ] {
        let text = fs::read_to_string(shop.path(&format!("man/{page}.1")))?;
        ensure!(
            text.starts_with(".ie") && text.contains(".TH") && text.contains(part),
            "{page}: {text}"
        );
    }
    Ok(())
}
