//! Models are rows: checked on the way in, kept to those who may use them, dumped, rolled back.

mod sql_support;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{Cluster, check_output};
use postgres::Client;
use serde_json::{Value, json};
use sql_support::{
    backend_pid, bmp, detector_manifest, embed, embedder_manifest, import, import_detector,
    import_embedder, onnx, refusal, roles,
};

const AVERAGE: &str = "GlobalAveragePool";
const MAXIMUM: &str = "GlobalMaxPool";

fn names(client: &mut Client) -> Result<Vec<String>> {
    let rows = client.query(
        "SELECT name FROM lookbook_model WHERE NOT shipped ORDER BY name",
        &[],
    )?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

#[test]
fn an_imported_model_can_be_exported_and_dropped() -> Result<()> {
    let database = Cluster::shared()?.database("import_export")?;
    let mut client = database.connect()?;
    let model = onnx::embedder(AVERAGE);
    let sha256 = import_embedder(&mut client, "mean", AVERAGE)?;
    let row = client.query_one(
        "SELECT kind, sha256, owner::text, shipped, manifest ->> 'name', lookbook_model_export('mean')
         FROM lookbook_model WHERE name = 'mean'",
        &[],
    )?;
    assert_eq!(row.get::<_, String>(0), "embedder");
    assert_eq!(row.get::<_, String>(1), sha256);
    assert_eq!(row.get::<_, String>(2), "postgres");
    assert!(!row.get::<_, bool>(3));
    assert_eq!(row.get::<_, String>(4), "mean");
    assert_eq!(row.get::<_, Vec<u8>>(5), model);
    assert_eq!(
        import_embedder(&mut client, "mean", AVERAGE)?,
        sha256,
        "the same import again changes nothing"
    );

    let other = onnx::embedder(MAXIMUM);
    let manifest = embedder_manifest(&mut client, "mean", &other)?;
    let refused = refusal(import(&mut client, "mean", &manifest, &other))?;
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42710", "model \"mean\" already exists")
    );

    client.execute("SELECT lookbook_model_drop('mean')", &[])?;
    let gone = refusal(client.query("SELECT lookbook_model_export('mean')", &[]))?;
    assert_eq!(
        (gone.code.as_str(), gone.message.as_str()),
        ("42704", "model \"mean\" does not exist")
    );
    let gone = refusal(client.query("SELECT lookbook_model_drop('mean')", &[]))?;
    assert_eq!(gone.code, "42704");
    Ok(())
}

#[test]
fn a_bad_manifest_is_refused_with_the_reason() -> Result<()> {
    let database = Cluster::shared()?.database("bad_manifest")?;
    let mut client = database.connect()?;
    let model = onnx::embedder(AVERAGE);
    let good = embedder_manifest(&mut client, "m", &model)?;
    let with = |path: &str, value: Value| {
        let mut manifest = good.clone();
        *manifest.pointer_mut(path).unwrap_or(&mut Value::Null) = value;
        manifest
    };
    let mut unknown_key = good.clone();
    unknown_key["colour_space"] = json!("srgb");
    let mut without_licence = good.clone();
    without_licence
        .as_object_mut()
        .context("an object")?
        .remove("licence");
    let cases = [
        (json!([1, 2]), "22023", "manifest"),
        (json!({}), "22023", "its name is"),
        (with("/format", json!(2)), "22023", "format"),
        (with("/kind", json!("oracle")), "22023", "kind"),
        (with("/input/width", json!(0)), "22023", "width"),
        (with("/input/layout", json!("chwn")), "22023", "layout"),
        (with("/output/dimensions", json!(-3)), "22023", "dimensions"),
        (with("/sha256", json!("0".repeat(64))), "22023", "sha256"),
        (
            with("/name", json!("other")),
            "22023",
            "its manifest says \"other\"",
        ),
        (unknown_key, "22023", "colour_space"),
        (without_licence, "22023", "licence"),
    ];
    for (manifest, code, reason) in cases {
        let refused =
            refusal(import(&mut client, "m", &manifest, &model)).context(manifest.to_string())?;
        assert_eq!(refused.code, code, "{refused:?} for {manifest}");
        let told = format!("{} {}", refused.message, refused.detail);
        ensure!(
            told.contains(reason) || manifest == json!({}),
            "{refused:?} does not say {reason}"
        );
    }
    assert!(names(&mut client)?.is_empty());
    Ok(())
}

#[test]
fn a_broken_onnx_file_is_refused_with_the_reason() -> Result<()> {
    let database = Cluster::shared()?.database("broken_onnx")?;
    let mut client = database.connect()?;
    let pid = backend_pid(&mut client)?;
    let good = onnx::embedder(AVERAGE);
    let cases = [
        ("nothing", Vec::new(), "22P03", "m"),
        (
            "text",
            b"this is not a model".to_vec(),
            "22P03",
            "not a valid ONNX file",
        ),
        (
            "truncated",
            good[..good.len() / 2].to_vec(),
            "22P03",
            "not a valid ONNX file",
        ),
        (
            "unknown operator",
            onnx::embedder("NoSuchOperator"),
            "0A000",
            "NoSuchOperator",
        ),
        (
            "weights elsewhere",
            onnx::embedder_with_external_data("PG_VERSION"),
            "0A000",
            "external",
        ),
        (
            "weights elsewhere, in a graph that comes first",
            onnx::embedder_with_external_data_in_another_graph("PG_VERSION"),
            "0A000",
            "another file",
        ),
    ];
    for (what, bytes, code, reason) in cases {
        let manifest = embedder_manifest(&mut client, "m", &bytes)?;
        let refused = refusal(import(&mut client, "m", &manifest, &bytes)).context(what)?;
        assert_eq!(refused.code, code, "{what}: {refused:?}");
        ensure!(refused.message.contains(reason), "{what}: {refused:?}");
    }
    let mut more_dimensions = embedder_manifest(&mut client, "m", &good)?;
    more_dimensions["output"]["dimensions"] = json!(5);
    let mut other_output = embedder_manifest(&mut client, "m", &good)?;
    other_output["output"]["name"] = json!("features");
    let detector = detector_manifest(&mut client, "m", &good)?;
    for (manifest, reason) in [
        (more_dimensions, "5"),
        (other_output, "features"),
        (detector, "boxes"),
    ] {
        let refused = refusal(import(&mut client, "m", &manifest, &good))?;
        assert_eq!(refused.code, "22023", "{refused:?}");
        ensure!(
            refused.message.contains("does not match its manifest"),
            "{refused:?}"
        );
        ensure!(refused.message.contains(reason), "{refused:?}");
    }
    assert_eq!(backend_pid(&mut client)?, pid);
    Ok(())
}

#[test]
fn rows_that_come_in_by_insert_update_or_copy_are_checked_too() -> Result<()> {
    let database = Cluster::shared()?.database("checked_rows")?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    for (sql, code) in [
        (
            "UPDATE lookbook_model SET onnx = 'x' WHERE name = 'mean'",
            "22023",
        ),
        (
            "UPDATE lookbook_model SET sha256 = repeat('0', 64) WHERE name = 'mean'",
            "22023",
        ),
        (
            "UPDATE lookbook_model SET kind = 'detector' WHERE name = 'mean'",
            "22023",
        ),
        (
            "UPDATE lookbook_model SET name = 'other' WHERE name = 'mean'",
            "22023",
        ),
        (
            "UPDATE lookbook_model SET manifest = '{}' WHERE name = 'mean'",
            "22023",
        ),
        (
            "UPDATE lookbook_model SET shipped = true WHERE name = 'mean'",
            "42501",
        ),
        (
            "INSERT INTO lookbook_model SELECT 'other', kind, sha256, manifest, onnx FROM lookbook_model WHERE name = 'mean'",
            "22023",
        ),
        (
            "INSERT INTO lookbook_model SELECT 'other', kind, sha256, NULL, onnx FROM lookbook_model WHERE name = 'mean'",
            "22004",
        ),
    ] {
        let refused = refusal(client.batch_execute(sql)).context(sql)?;
        assert_eq!(refused.code, code, "{sql}: {refused:?}");
    }
    let copied = database.try_psql("COPY lookbook_model (name, kind, sha256, manifest, onnx) FROM stdin;\nm\tembedder\t0\t{}\t\\\\x00\n\\.\n")?;
    ensure!(
        !copied.success && copied.stderr.contains("manifest"),
        "{copied:?}"
    );
    Ok(())
}

#[test]
fn only_owners_and_grantees_see_use_or_change_a_model() -> Result<()> {
    let database = Cluster::shared()?.database("privileges")?;
    roles(&database, &["p_owner", "p_team", "p_stranger"])?;
    database.psql("CREATE ROLE p_member LOGIN IN ROLE p_team")?;
    let mut owner = database.connect_as("p_owner")?;
    let mut member = database.connect_as("p_member")?;
    let mut stranger = database.connect_as("p_stranger")?;
    let image = bmp(4, 4, [255, 0, 0]);
    import_embedder(&mut owner, "mine", AVERAGE)?;
    let mine = Some("mine");

    assert_eq!(names(&mut stranger)?, Vec::<String>::new());
    let refused = refusal(embed(&mut stranger, &image, mine))?;
    assert_eq!(
        (refused.code.as_str(), refused.message.as_str()),
        ("42501", "permission denied for model \"mine\"")
    );
    ensure!(
        refused
            .hint
            .contains("lookbook_model_grant('mine', 'p_stranger')"),
        "{refused:?}"
    );
    for sql in [
        "SELECT lookbook_model_export('mine')",
        "SELECT lookbook_model_drop('mine')",
        "SELECT lookbook_model_grant('mine', 'p_stranger')",
        "SELECT lookbook_model_revoke('mine', 'p_team')",
    ] {
        assert_eq!(
            refusal(stranger.batch_execute(sql)).context(sql)?.code,
            "42501",
            "{sql}"
        );
    }
    assert_eq!(
        stranger.execute("UPDATE lookbook_model SET grantees = '{p_stranger}'", &[])?,
        0
    );
    assert_eq!(stranger.execute("DELETE FROM lookbook_model", &[])?, 0);
    import_embedder(&mut stranger, "copy", MAXIMUM)?;
    let forged = r#"INSERT INTO lookbook_model (name, kind, sha256, manifest, onnx, owner)
                    SELECT 'forged', kind, sha256, manifest || '{"name": "forged"}', onnx, 'p_owner'
                    FROM lookbook_model WHERE name = 'copy'"#;
    for sql in [
        forged,
        "UPDATE lookbook_model SET owner = 'p_owner' WHERE name = 'copy'",
    ] {
        assert_eq!(
            refusal(stranger.batch_execute(sql)).context(sql)?.code,
            "42501",
            "{sql}"
        );
    }
    stranger.batch_execute("SELECT lookbook_model_drop('copy')")?;

    owner.batch_execute("SELECT lookbook_model_grant('mine', 'p_team')")?;
    assert_eq!(names(&mut member)?, ["mine"]);
    assert_eq!(embed(&mut member, &image, mine)?.len(), 3);
    assert_eq!(
        refusal(member.batch_execute("SELECT lookbook_model_drop('mine')"))?.code,
        "42501"
    );
    assert_eq!(
        member.execute(
            "UPDATE lookbook_model SET grantees = '{public}' WHERE name = 'mine'",
            &[]
        )?,
        0
    );
    assert_eq!(refusal(embed(&mut stranger, &image, mine))?.code, "42501");

    owner.batch_execute("SELECT lookbook_model_revoke('mine', 'p_team')")?;
    assert_eq!(
        refusal(embed(&mut member, &image, mine))?.code,
        "42501",
        "what was remembered is kept from who may not"
    );
    owner.batch_execute("SELECT lookbook_model_grant('mine', 'PUBLIC')")?;
    assert_eq!(embed(&mut stranger, &image, mine)?.len(), 3);
    assert_eq!(
        refusal(owner.batch_execute("SELECT lookbook_model_grant('mine', 'nobody_at_all')"))?.code,
        "42704"
    );
    Ok(())
}

#[test]
fn optional_models_are_imported_and_used_by_name() -> Result<()> {
    let database = Cluster::shared()?.database("optional")?;
    let mut client = database.connect()?;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/optional");
    let manifest = std::fs::read_to_string(format!("{folder}/attention-texture.json"))?;
    let onnx = std::fs::read(format!("{folder}/attention-texture.onnx"))?;
    let name = "attention-texture";
    import(&mut client, name, &serde_json::from_str(&manifest)?, &onnx)?;
    let vector = embed(&mut client, &bmp(32, 48, [10, 90, 200]), Some(name))?;
    assert_eq!(vector.len(), 512);
    let length: f32 = vector.iter().map(|value| value * value).sum();
    ensure!((length - 1.0).abs() < 1e-3, "{length}");
    Ok(())
}

#[test]
fn shipped_models_are_registered_usable_by_all_and_changed_by_nobody() -> Result<()> {
    let database = Cluster::shared()?.database("shipped")?;
    roles(&database, &["s_user"])?;
    let mut user = database.connect_as("s_user")?;
    let shipped = "SELECT string_agg(name || ' ' || kind, ', ' ORDER BY name) FROM lookbook_model
                   WHERE shipped AND sha256 = encode(sha256(onnx), 'hex') AND sha256 = manifest ->> 'sha256'
                     AND name IN ('full-front-pose', 'garment-detector', 'garment-embedder', 'resnet-preact-64')";
    assert_eq!(
        user.query_one(shipped, &[])?
            .get::<_, Option<String>>(0)
            .as_deref(),
        Some(
            "full-front-pose pose, garment-detector detector, garment-embedder embedder, resnet-preact-64 embedder"
        )
    );
    assert_eq!(
        embed(&mut user, &bmp(32, 48, [10, 90, 200]), None)?.len(),
        256
    );
    let named = embed(
        &mut user,
        &bmp(32, 48, [10, 90, 200]),
        Some("resnet-preact-64"),
    )?;
    assert_eq!(named.len(), 64);
    let mut superuser = database.connect()?;
    for client in [&mut user, &mut superuser] {
        for sql in [
            "SELECT lookbook_model_drop('garment-embedder')",
            "SELECT lookbook_model_grant('garment-embedder', 's_user')",
            "SELECT lookbook_shipped_models()",
        ] {
            assert_eq!(
                refusal(client.batch_execute(sql)).context(sql)?.code,
                "42501",
                "{sql}"
            );
        }
    }
    let changed = refusal(superuser.batch_execute("UPDATE lookbook_model SET shipped = false"))?;
    assert_eq!(changed.code, "42501");
    assert_eq!(
        refusal(superuser.batch_execute("DELETE FROM lookbook_model"))?.code,
        "42501"
    );
    Ok(())
}

#[test]
fn the_default_is_chosen_by_setting_then_by_table() -> Result<()> {
    let database = Cluster::shared()?.database("defaults")?;
    roles(&database, &["f_user"])?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_embedder(&mut client, "max", MAXIMUM)?;
    import_detector(&mut client, "boxes")?;
    client.batch_execute(
        "SELECT lookbook_model_default('mean'); SELECT lookbook_model_default('boxes')",
    )?;
    // One black pixel in red: the mean is below the maximum.
    let image = bmp(16, 16, [255, 0, 0]);
    let mean = embed(&mut client, &image, None)?;
    ensure!(mean[0] < 0.999 && mean[0] > 0.9, "{mean:?}");
    client.batch_execute("SET lookbook.embed_model = 'max'")?;
    assert_eq!(embed(&mut client, &image, None)?, [1.0, 0.0, 0.0]);
    client.batch_execute("BEGIN; SET LOCAL lookbook.embed_model = 'mean'")?;
    assert_eq!(embed(&mut client, &image, None)?, mean);
    client.batch_execute("ROLLBACK")?;
    assert_eq!(embed(&mut client, &image, None)?, [1.0, 0.0, 0.0]);
    client.batch_execute("RESET lookbook.embed_model")?;
    assert_eq!(embed(&mut client, &image, None)?, mean);

    let wrong = refusal(embed(&mut client, &image, Some("boxes")))?;
    assert_eq!(wrong.code, "22023");
    ensure!(wrong.message.contains("is of kind detector"), "{wrong:?}");
    let missing = refusal(embed(&mut client, &image, Some("nix")))?;
    assert_eq!(missing.code, "42704");
    ensure!(missing.hint.contains("'mean'"), "{missing:?}");

    let mut user = database.connect_as("f_user")?;
    let refused = refusal(user.batch_execute("SELECT lookbook_model_default('garment-embedder')"))?;
    assert_eq!(refused.code, "42501");
    let advice = refused.hint.split_once(": ");
    let (_, advice) = advice.with_context(|| format!("{refused:?}"))?;
    ensure!(advice.contains("lookbook.embed_model"), "{refused:?}");
    user.batch_execute(advice)?;
    client.batch_execute("ALTER ROLE f_user RESET ALL")?;
    client.batch_execute("SELECT lookbook_model_drop('mean')")?;
    let left =
        "SELECT count(*) FROM lookbook_default_model WHERE kind = 'embedder' AND NOT shipped";
    assert_eq!(
        client.query_one(left, &[])?.get::<_, i64>(0),
        0,
        "the shipped default counts again"
    );
    Ok(())
}

#[test]
fn pg_dump_keeps_what_users_own_and_leaves_out_what_is_shipped() -> Result<()> {
    let cluster = Cluster::shared()?;
    let database = cluster.database("dumped")?;
    roles(&database, &["u_owner"])?;
    let mut owner = database.connect_as("u_owner")?;
    import_embedder(&mut owner, "mine", AVERAGE)?;
    owner.batch_execute("SELECT lookbook_model_grant('mine', 'public')")?;
    let mut client = database.connect()?;
    client.batch_execute(
        "SELECT lookbook_model_default('mine');
         CREATE TABLE garment (id int, embedding embedding(3));
         CREATE TABLE dropped (embedding embedding(3));
         INSERT INTO lookbook_embedding_column VALUES ('garment', 'embedding', 'mine', repeat('a', 64)),
                                                      ('dropped', 'embedding', 'mine', repeat('a', 64));
         DROP TABLE dropped",
    )?;
    let dump = check_output(database.program("pg_dump").arg("--format=plain"))?.stdout;
    let dump = String::from_utf8(dump)?;
    ensure!(
        !dump.contains("garment-embedder\tembedder"),
        "a shipped model was dumped"
    );
    let restored = cluster.empty_database("restored")?;
    restored.psql(&dump)?;
    let rows = "SELECT name, owner, grantees, shipped, md5(onnx), manifest FROM lookbook_model ORDER BY name";
    assert_eq!(restored.psql(rows)?, database.psql(rows)?);
    let defaults = "SELECT * FROM lookbook_default_model ORDER BY kind, shipped";
    assert_eq!(restored.psql(defaults)?, database.psql(defaults)?);
    assert_eq!(
        restored.psql("SELECT relation, attribute, model_name FROM lookbook_embedding_column")?,
        "garment|embedding|mine"
    );
    let image = bmp(8, 8, [1, 2, 3]);
    assert_eq!(
        embed(&mut restored.connect()?, &image, None)?,
        embed(&mut client, &image, None)?
    );
    Ok(())
}

#[test]
fn the_model_of_a_column_is_recorded_by_who_owns_the_table() -> Result<()> {
    let database = Cluster::shared()?.database("columns")?;
    roles(&database, &["c_owner", "c_other"])?;
    database.psql("GRANT CREATE ON SCHEMA public TO c_owner")?;
    let record = "INSERT INTO lookbook_embedding_column VALUES ('garment', 'embedding', 'm', repeat('a', 64))";
    let mut owner = database.connect_as("c_owner")?;
    owner.batch_execute("CREATE TABLE garment (embedding embedding(3))")?;
    let mut other = database.connect_as("c_other")?;
    assert_eq!(refusal(other.batch_execute(record))?.code, "42501");
    owner.batch_execute(record)?;
    assert_eq!(
        other
            .query("SELECT * FROM lookbook_embedding_column", &[])?
            .len(),
        1
    );
    assert_eq!(
        other.execute("DELETE FROM lookbook_embedding_column", &[])?,
        0
    );
    Ok(())
}

#[test]
fn dropping_the_extension_takes_everything_along() -> Result<()> {
    let database = Cluster::shared()?.database("dropped_extension")?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    client.batch_execute("ALTER EXTENSION lookbook UPDATE")?;
    embed(&mut client, &bmp(4, 4, [1, 2, 3]), Some("mean"))?;
    client.batch_execute("DROP EXTENSION lookbook")?;
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'lookbook%'
                UNION ALL SELECT count(*) FROM pg_proc WHERE proname LIKE 'lookbook%' OR proname LIKE '%embed_image'";
    for row in client.query(left, &[])? {
        assert_eq!(row.get::<_, i64>(0), 0);
    }
    client.batch_execute(
        "CREATE SCHEMA \"Look Book\"; CREATE EXTENSION lookbook SCHEMA \"Look Book\"",
    )?;
    client.batch_execute("SET search_path = \"Look Book\"")?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    client.batch_execute("RESET search_path")?;
    let sql = "SELECT \"Look Book\".embed_image($1, 'mean')::text";
    client.query_one(sql, &[&bmp(4, 4, [1, 2, 3])])?;
    Ok(())
}

#[test]
fn a_model_whose_vectors_hang_on_the_rest_of_the_batch_is_refused() -> Result<()> {
    let database = Cluster::shared()?.database("leaky")?;
    let mut client = database.connect()?;
    let model = onnx::leaky_embedder();
    let manifest = embedder_manifest(&mut client, "leaky", &model)?;
    let refused = refusal(import(&mut client, "leaky", &manifest, &model))?;
    assert_eq!(refused.code, "0A000");
    ensure!(
        refused
            .message
            .contains("depends on the other photos of a batch"),
        "{refused:?}"
    );
    ensure!(refused.message.contains("evaluation mode"), "{refused:?}");
    Ok(())
}
