//! Which model a statement sees: by its role, its transaction and its snapshot, whatever the session looked up before.

mod sql_support;

use anyhow::{Result, ensure};
use lookbook_tests::Cluster;
use serde_json::json;
use sql_support::{bmp, embed, embedder_manifest, import, import_embedder, onnx, refusal, roles};

const AVERAGE: &str = "GlobalAveragePool";
const MAXIMUM: &str = "GlobalMaxPool";

#[test]
fn the_role_that_runs_decides_also_inside_functions() -> Result<()> {
    let database = Cluster::shared()?.database("definer")?;
    roles(&database, &["d_owner", "d_user"])?;
    database.psql("GRANT CREATE ON SCHEMA public TO d_owner")?;
    let mut owner = database.connect_as("d_owner")?;
    import_embedder(&mut owner, "mine", AVERAGE)?;
    owner.batch_execute(
        "CREATE FUNCTION as_definer(bytea) RETURNS embedding LANGUAGE sql SECURITY DEFINER AS $$ SELECT embed_image($1, 'mine') $$;
         CREATE FUNCTION as_invoker(bytea) RETURNS embedding LANGUAGE plpgsql AS $$ BEGIN RETURN embed_image($1, 'mine'); END $$",
    )?;
    let image = bmp(4, 4, [9, 9, 9]);
    let mut user = database.connect_as("d_user")?;
    user.query_one("SELECT as_definer($1)::text", &[&image])?;
    let refused = refusal(user.query("SELECT as_invoker($1)::text", &[&image]))?;
    assert_eq!(refused.code, "42501");
    let mut both = database.connect()?;
    both.batch_execute("SET ROLE d_owner")?;
    embed(&mut both, &image, Some("mine"))?;
    both.batch_execute("SET ROLE d_user")?;
    assert_eq!(
        refusal(embed(&mut both, &image, Some("mine")))?.code,
        "42501"
    );
    Ok(())
}

#[test]
fn a_model_replaced_in_the_same_transaction_is_noticed() -> Result<()> {
    let database = Cluster::shared()?.database("replaced")?;
    let mut client = database.connect()?;
    let image = bmp(16, 16, [255, 0, 0]);
    import_embedder(&mut client, "m", AVERAGE)?;
    let mean = embed(&mut client, &image, Some("m"))?;
    client.batch_execute("BEGIN; SELECT lookbook_model_drop('m')")?;
    import_embedder(&mut client, "m", MAXIMUM)?;
    assert_eq!(embed(&mut client, &image, Some("m"))?, [1.0, 0.0, 0.0]);
    client.batch_execute("SAVEPOINT s; SELECT lookbook_model_drop('m')")?;
    assert_eq!(
        refusal(embed(&mut client, &image, Some("m")))?.code,
        "42704"
    );
    client.batch_execute("ROLLBACK TO s")?;
    assert_eq!(embed(&mut client, &image, Some("m"))?, [1.0, 0.0, 0.0]);
    client.batch_execute("ROLLBACK")?;
    // The same without a command of this session that writes: another one's commit hides the end of the subtransaction.
    import_embedder(&mut client, "other", MAXIMUM)?;
    client.batch_execute(
        "BEGIN; CREATE TEMP TABLE writes (n int); SELECT lookbook_model_default('m'); SAVEPOINT s;
         SELECT lookbook_model_default('other')",
    )?;
    database
        .connect()?
        .batch_execute("CREATE TABLE written_meanwhile (n int)")?;
    assert_eq!(embed(&mut client, &image, None)?, [1.0, 0.0, 0.0]);
    client.batch_execute("ROLLBACK TO s")?;
    assert_eq!(embed(&mut client, &image, None)?, mean);
    client.batch_execute("ROLLBACK")?;
    assert_eq!(
        embed(&mut client, &image, Some("m"))?,
        mean,
        "a rolled back import is undone"
    );
    // The same bytes under another manifest are another model.
    let model = onnx::embedder(AVERAGE);
    let mut manifest = embedder_manifest(&mut client, "half", &model)?;
    manifest["input"]["scale"] = json!(1.0 / 510.0);
    import(&mut client, "half", &manifest, &model)?;
    let half = embed(&mut client, &image, Some("half"))?;
    ensure!(
        (half[0] * 2.0 - mean[0]).abs() < 1e-4,
        "{half:?} against {mean:?}"
    );
    Ok(())
}

#[test]
fn what_one_transaction_may_use_is_nothing_to_the_next() -> Result<()> {
    // Alone in a server, so that no other transaction tells the snapshots apart.
    let cluster = Cluster::start(&[])?;
    let database = cluster.database("in_turn")?;
    roles(&database, &["t_user", "t_team"])?;
    let mut client = database.connect()?;
    let image = bmp(16, 16, [255, 0, 0]);
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_embedder(&mut client, "max", MAXIMUM)?;
    client.batch_execute("CREATE TABLE note (t text); GRANT INSERT ON note TO t_user")?;
    client.batch_execute("SELECT lookbook_model_default('mean')")?;
    let mean = embed(&mut client, &image, None)?;
    // An older transaction holds xmin, and the commit of another session xmax.
    let mut older = database.connect()?;
    older.batch_execute("BEGIN; SELECT pg_current_xact_id()")?;
    let mut other = database.connect()?;
    let mut commit = || other.batch_execute("INSERT INTO note VALUES ('x')");

    client.batch_execute("BEGIN; SELECT lookbook_model_default('max')")?;
    commit()?;
    assert_eq!(embed(&mut client, &image, None)?, [1.0, 0.0, 0.0]);
    client.batch_execute("ROLLBACK; BEGIN")?;
    for writes in 1..5 {
        client.batch_execute("INSERT INTO note VALUES ('y')")?;
        assert_eq!(embed(&mut client, &image, None)?, mean, "{writes} writes");
    }
    client.batch_execute("ROLLBACK")?;

    let granted = "BEGIN; SELECT lookbook_model_grant('max', 't_user')";
    client.batch_execute(granted)?;
    commit()?;
    client.batch_execute("SET LOCAL ROLE t_user")?;
    embed(&mut client, &image, Some("max"))?;
    client.batch_execute("ROLLBACK")?;
    for writes in 0..5 {
        client.batch_execute("BEGIN; SET LOCAL ROLE t_user")?;
        for _ in 0..writes {
            client.batch_execute("INSERT INTO note VALUES ('y')")?;
        }
        let refused = refusal(embed(&mut client, &image, Some("max")))?;
        assert_eq!(refused.code, "42501", "{writes} writes, never granted");
        client.batch_execute("ROLLBACK")?;
    }
    client.batch_execute(granted)?;
    commit()?;
    client.batch_execute("SET LOCAL ROLE t_user")?;
    embed(&mut client, &image, Some("max"))?;
    client.batch_execute("COMMIT; BEGIN; SELECT lookbook_model_revoke('max', 't_user')")?;
    client.batch_execute("SET LOCAL ROLE t_user")?;
    let refused = refusal(embed(&mut client, &image, Some("max")))?;
    assert_eq!(refused.code, "42501", "revoked");
    client.batch_execute("ROLLBACK; SELECT lookbook_model_revoke('max', 't_user')")?;

    // A membership counts as it is now, under the oldest snapshot.
    client.batch_execute("GRANT t_team TO t_user; SELECT lookbook_model_grant('max', 't_team')")?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SET LOCAL ROLE t_user")?;
    embed(&mut client, &image, Some("max"))?;
    other.batch_execute("REVOKE t_team FROM t_user")?;
    let refused = refusal(embed(&mut client, &image, Some("max")))?;
    assert_eq!(refused.code, "42501", "no member any more");
    Ok(())
}

#[test]
fn what_a_block_or_a_procedure_rolls_back_is_forgotten() -> Result<()> {
    let database = Cluster::shared()?.database("blocks")?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_embedder(&mut client, "max", MAXIMUM)?;
    client.batch_execute("SELECT lookbook_model_default('mean')")?;
    client.batch_execute("CREATE TABLE photo (image bytea)")?;
    client.execute("INSERT INTO photo VALUES ($1)", &[&bmp(9, 9, [255, 0, 0])])?;
    client.batch_execute(
        "DO $$
         DECLARE
           picture bytea := (SELECT image FROM photo);
           mean embedding := embed_image(picture);
         BEGIN
           FOR turn IN 1..3 LOOP
             BEGIN
               PERFORM lookbook_model_default('max');
               ASSERT embed_image(picture) <> mean, 'not the default of this block';
               RAISE division_by_zero;
             EXCEPTION WHEN division_by_zero THEN
               ASSERT embed_image(picture) = mean, 'the default of the block that failed';
             END;
             ASSERT embed_image(picture) = mean, 'the same behind it';
             PERFORM lookbook_model_default('max');
             ASSERT embed_image(picture) <> mean, 'not the default of this transaction';
             ROLLBACK;
             ASSERT embed_image(picture) = mean, 'the default of the transaction before';
           END LOOP;
         END $$",
    )?;
    Ok(())
}

#[test]
fn prepared_statements_follow_the_default() -> Result<()> {
    let database = Cluster::shared()?.database("prepared")?;
    let mut client = database.connect()?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_embedder(&mut client, "max", MAXIMUM)?;
    client.batch_execute("SELECT lookbook_model_default('mean')")?;
    let image = bmp(16, 16, [255, 0, 0]);
    let prepared = client.prepare("SELECT embed_image($1)::real[]")?;
    let before: Vec<f32> = client.query_one(&prepared, &[&image])?.get(0);
    let mut other = database.connect()?;
    other.batch_execute("SELECT lookbook_model_default('max')")?;
    let after: Vec<f32> = client.query_one(&prepared, &[&image])?.get(0);
    ensure!(before[0] < 0.999);
    assert_eq!(after, [1.0, 0.0, 0.0]);
    for _ in 0..7 {
        assert_eq!(
            client
                .query_one(&prepared, &[&image])?
                .get::<_, Vec<f32>>(0),
            after
        );
    }
    Ok(())
}

#[test]
fn a_look_up_sends_its_client_nothing() -> Result<()> {
    let database = Cluster::shared()?.database("quiet")?;
    let image: String = bmp(4, 4, [1, 2, 3])
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let output = database.try_psql(&format!(
        "SET client_min_messages = log; SET debug_print_parse = on; SET debug_print_plan = on;
         SELECT embedding_dims(embed_image('\\x{image}'));
         SHOW client_min_messages;"
    ))?;
    ensure!(
        output.success && output.stdout.ends_with("log\n"),
        "{}",
        output.stdout
    );
    ensure!(
        output.stderr.contains("parse tree"),
        "its own statement is shown"
    );
    // Who does not read them would keep all from the model that this connection sends.
    ensure!(
        !output.stderr.contains("lookbook_model"),
        "{}",
        output.stderr
    );
    Ok(())
}
