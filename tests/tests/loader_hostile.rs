//! What others put where the loader looks: never run, never shown raw, and the shop's own is still found.

mod loader_support;
mod sql_support;

use anyhow::{Result, ensure};
use loader_support::{AVERAGE, Shop};
use lookbook_tests::Cluster;
use sql_support::{bmp, embedder_manifest, import, import_detector, import_embedder, onnx};

/// By a role that may create in `public`, which comes before the extension's schema in every search path: each that is
/// run says so, with the rights of whoever ran it.
const TRAPS: &str = "
    CREATE TABLE trapped (by name, what text);
    GRANT INSERT ON trapped TO PUBLIC;
    CREATE FUNCTION caught(what text) RETURNS void LANGUAGE plpgsql AS
      $$ BEGIN INSERT INTO public.trapped VALUES (current_user, what); END $$;
    CREATE FUNCTION lookbook_model_default(text) RETURNS void LANGUAGE sql AS $$ SELECT public.caught('default') $$;
    CREATE FUNCTION lookbook_model_drop(text) RETURNS void LANGUAGE sql AS $$ SELECT public.caught('drop') $$;
    CREATE TABLE lookbook_default_model (kind text, name text, shipped boolean);
    INSERT INTO lookbook_default_model VALUES ('embedder', 'theirs', false), ('detector', 'theirs', false);
    CREATE TABLE lookbook_model (name text, kind text, sha256 text, manifest jsonb, onnx bytea, shipped boolean, owner name);
    CREATE TABLE lookbook_embedding_column (relation regclass, attribute name, model_name text, model_sha256 text);
    CREATE FUNCTION lookbook_index_check(oid) RETURNS bigint LANGUAGE plpgsql AS
      $$ BEGIN PERFORM public.caught('check'); RETURN 0; END $$;
    CREATE FUNCTION unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql AS
      $$ BEGIN PERFORM public.caught('unnest'); RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
    CREATE FUNCTION same(oid, regclass) RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM public.caught('='); RETURN $1 = $2::oid; END $$;
    CREATE OPERATOR = (LEFTARG = oid, RIGHTARG = regclass, FUNCTION = same);
    CREATE FUNCTION same(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS
      $$ BEGIN PERFORM public.caught('= of keys'); RETURN $1::text = $2::text; END $$;
    CREATE OPERATOR = (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = same);
    CREATE FUNCTION near(ext.embedding, ext.embedding) RETURNS float8 LANGUAGE plpgsql AS
      $$ BEGIN PERFORM public.caught('<->'); RETURN 0; END $$;
    CREATE OPERATOR <-> (LEFTARG = ext.embedding, RIGHTARG = ext.embedding, FUNCTION = near);
    CREATE DOMAIN embedding AS text";

#[test]
fn nothing_that_others_put_into_the_search_path_is_run() -> Result<()> {
    let shop = Shop::without_extension(Cluster::shared()?, "trapped")?;
    let mut client = shop.database.connect()?;
    client.batch_execute(
        "CREATE SCHEMA ext; CREATE EXTENSION lookbook SCHEMA ext; SET search_path = ext; GRANT USAGE ON SCHEMA ext TO PUBLIC",
    )?;
    import_embedder(&mut client, "mean", AVERAGE)?;
    import_detector(&mut client, "boxes")?;
    let doubled = onnx::scaled_embedder(2.0);
    let manifest = embedder_manifest(&mut client, "doubled", &doubled)?;
    import(&mut client, "doubled", &manifest, &doubled)?;
    client.batch_execute(
        "DELETE FROM lookbook_default_model WHERE kind = 'pose'; RESET search_path;
         CREATE ROLE trap_setter; GRANT CREATE ON SCHEMA public TO trap_setter",
    )?;
    client.batch_execute(&format!("SET ROLE trap_setter; {TRAPS}; RESET ROLE"))?;
    // The shop's own names are found where its sessions find them, those in its triggers, too.
    client.batch_execute(
        "CREATE TABLE audit (what text);
         CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN INSERT INTO audit VALUES (TG_OP); RETURN coalesce(NEW, OLD); END $$;
         CREATE TABLE image (id text, sku text, image bytea);
         CREATE TABLE look (key varchar(40), sku text, category text, embedding ext.embedding(3), box box);
         CREATE INDEX ON look (key); CREATE INDEX ON look USING lookbook (embedding);
         CREATE TRIGGER noted BEFORE INSERT OR UPDATE OR DELETE ON look FOR EACH ROW EXECUTE FUNCTION noted()",
    )?;
    let photo = bmp(16, 16, [255, 0, 0]);
    client.execute(
        "INSERT INTO image VALUES ('1', 'a', $1), ('2', 'b', $1), ('3', 'c', $1)",
        &[&photo],
    )?;
    shop.put("query.bmp", &photo)?;
    let run = |args: &[&str]| shop.run(args)?.expect(0);
    run(&["model", "default", "mean"])?;
    run(&["model", "default", "boxes"])?;
    run(&["model", "list"])?.expect_stdout(&["mean", "boxes", "doubled"])?;
    let rows = ["--from-sql", "SELECT id, sku, image FROM image"];
    for target in [&[][..], &["--into", "look"]] {
        let with =
            |verb: &[&'static str], more: &[&'static str]| run(&[verb, target, more].concat());
        with(&["load"], &rows)?.expect_stdout(&["loaded 3 photos with 6 garments"])?;
        client.batch_execute("UPDATE image SET sku = sku || 'x' WHERE id = '2'")?;
        with(&["load"], &rows)?.expect_stdout(&["(1 replaced)"])?;
        with(&["search", "photos/query.bmp"], &[])?;
        if target.is_empty() {
            // Else the doctor would say so, and be right.
            client.batch_execute("SELECT ext.lookbook_map_catalogue('reco', 'public.garment')")?;
        }
        with(&["doctor"], &[])?;
        with(&["reembed", "--embed-model", "doubled"], &rows)?
            .expect_stdout(&["6 garments of 3 photos"])?;
    }
    run(&["model", "default", "doubled"])?;
    run(&["model", "remove", "mean"])?;
    let found = shop.database.psql(
        "SELECT DISTINCT by, what FROM trapped;
         SELECT string_agg(DISTINCT what, ' ' ORDER BY what) FROM audit;
         SELECT DISTINCT model_name FROM ext.lookbook_embedding_column",
    )?;
    client.batch_execute("DROP OWNED BY trap_setter CASCADE; DROP ROLE trap_setter")?;
    ensure!(found == "DELETE INSERT UPDATE\ndoubled", "{found}");
    Ok(())
}

#[test]
fn what_a_terminal_would_obey_is_shown_and_programs_get_it_exactly() -> Result<()> {
    let shop = Shop::with_tiny_models(Cluster::shared()?, "obeyed")?;
    let name = "e\u{1b}[31mRED\u{1b}]0;pwned\u{7}\u{202e}a\nlookbook: error: x";
    let (good, bad) = (format!("{name}.bmp"), format!("{name}.jpg"));
    let photo = bmp(16, 16, [255, 0, 0]);
    shop.put(&good, &photo)?;
    shop.put(&bad, b"no photo")?;
    let [good_path, bad_path] = [&good, &bad].map(|name| format!("photos/{name}"));
    let shown = r"e\u{1b}[31mRED\u{1b}]0;pwned\u{7}\u{202e}a\nlookbook: error: x";
    let (shown_good, shown_bad) = (format!("{shown}.bmp"), format!("{shown}.jpg"));
    let is_clean = |outcome: loader_support::Outcome| {
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        let is_obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        ensure!(!said.contains(is_obeyed), "{said:?}");
        ensure!(!said.contains("\nlookbook: error: x"), "{said:?}");
        Ok(outcome)
    };
    is_clean(shop.load()?.expect(2)?)?.expect_stderr(&[&shown_bad])?;
    let rejects = std::fs::read_to_string(shop.path("lookbook-rejects.csv"))?;
    ensure!(rejects.contains(&format!("\"{bad}\",")), "{rejects:?}");
    is_clean(shop.run(["detect", &good_path, &bad_path])?.expect(2)?)?
        .expect_stdout(&[&shown_good])?
        .expect_stderr(&[&shown_bad])?;
    is_clean(shop.run(["search", &good_path, &good_path])?.expect(0)?)?
        .expect_stdout(&[&shown_good])?;
    Ok(())
}
