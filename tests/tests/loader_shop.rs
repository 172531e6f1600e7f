//! The loader in a shop: products, variants, stock and thousands of photos, from every kind of source; killed with its
//! server in the middle; photos changed and deleted; products gone; the model swapped. After each step the tables are
//! what the shop's own records say, computed here and not by the loader.

mod loader_support;
mod shop_support;
mod sql_support;

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::Cluster;
use shop_support::{Catalogue, Expected, Naming, serve};
use sql_support::{embedder_manifest, import, onnx};

/// Photos of the shop: several batches of a load.
const PHOTOS: usize = 2_400;
const PATIENCE: Duration = Duration::from_secs(90);

/// A shop and its records.
struct World<'c> {
    shop: Shop<'c>,
    catalogue: Catalogue,
}

impl<'c> World<'c> {
    fn new(cluster: &'c Cluster, name: &str) -> Result<Self> {
        let shop = Shop::with_tiny_models(cluster, name)?;
        let mut client = shop.database.connect()?;
        let doubled = onnx::scaled_embedder(2.0);
        let manifest = embedder_manifest(&mut client, "doubled", &doubled)?;
        import(&mut client, "doubled", &manifest, &doubled)?;
        let world = Self {
            catalogue: Catalogue::new(PHOTOS),
            shop,
        };
        world.catalogue.create(&world.shop)?;
        Ok(world)
    }

    fn expect(&self, schema: &str, naming: Naming, factor: f32) -> Result<()> {
        let expected = Expected::of(&self.catalogue, naming, factor);
        expected.check(&mut self.shop.database.connect()?, schema)
    }

    /// SIGKILL for the loader, once some of its work is committed.
    fn kill_loader(&self, args: &[&str], is_work: &str, table: &str) -> Result<()> {
        let (mut child, hold) = self.shop.begin(args, is_work, table, PATIENCE)?;
        child.kill()?;
        child.wait()?;
        drop(hold);
        self.shop.wait_for_the_end(PATIENCE)
    }

    /// SIGKILL for every process of the server, once some of the loader's work is committed.
    fn kill_server(&self, args: &[&str], is_work: &str, table: &str) -> Result<()> {
        let cluster = self.shop.database.cluster();
        let (child, hold) = self.shop.begin(args, is_work, table, PATIENCE)?;
        cluster.kill_9_all()?;
        drop(hold);
        Outcome::from(child.wait_with_output()?)
            .expect(1)?
            .expect_stderr(&["run the same command again"])?;
        cluster.start_server()
    }

    /// Some of the photos are loaded, and not all.
    fn expect_some(&self, count: &str) -> Result<()> {
        let found: i64 = self.shop.database.psql(count)?.parse()?;
        ensure!(
            found > 0 && found < PHOTOS as i64,
            "{found} photos were committed before the kill, of {PHOTOS}"
        );
        Ok(())
    }
}

#[test]
fn every_kind_of_source_gives_the_rows_that_the_shops_records_say() -> Result<()> {
    let world = World::new(Cluster::shared()?, "shop_sources")?;
    let World { shop, catalogue } = &world;
    catalogue.write_manifests(shop, None)?;
    catalogue.pack(shop)?;
    let port = serve(shop.path("."))?;
    catalogue.write_manifests(shop, Some(port))?;
    let allow = "--allow-private-addresses=127.0.0.1";
    let query = "SELECT i.file AS id, i.sku, i.data AS image, p.price FROM product_image i JOIN product p USING (sku) \
                 ORDER BY i.id; -- all of them";
    let sources: [(&str, Naming, &[&str]); 9] = [
        ("folder", Naming::Folder, &["photos"]),
        ("globs", Naming::Folder, &["photos/**/*.png"]),
        ("csv", Naming::Texts, &["list.csv"]),
        ("tsv", Naming::Texts, &["list.tsv"]),
        ("jsonl", Naming::Numbers, &["list.jsonl"]),
        (
            "parquet",
            Naming::Numbers,
            &["list.parquet", "--map", "key=file"],
        ),
        ("tar", Naming::Folder, &["photos.tar"]),
        (
            "http",
            Naming::Texts,
            &["urls.csv", "--map", "key=file", allow],
        ),
        ("query", Naming::Numbers, &["--from-sql", query]),
    ];
    for (schema, naming, source) in sources {
        let mut args = vec!["load", "--schema", schema, "--no-index"];
        args.extend(source);
        shop.run(&args)?.expect(0)?;
        world
            .expect(schema, naming, 1.0)
            .map_err(|error| error.context(schema))?;
    }
    let mut store = shop.lookbook([
        "load",
        "s3://shelf/photos",
        "--schema",
        "s3",
        "--no-index",
        allow,
    ])?;
    store
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "shop")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    Outcome::of(&mut store)?.expect(0)?;
    world.expect("s3", Naming::Folder, 1.0)
}

#[test]
fn kills_changes_deletions_and_a_new_model_leave_what_the_shops_records_say() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let mut world = World::new(&cluster, "shop_life")?;
    world.catalogue.write_manifests(&world.shop, None)?;
    let load = [
        "load",
        "list.csv",
        "--sku-references",
        "public.product(sku)",
    ];
    let loaded = "SELECT count(*) > 0 FROM photo";

    // The loader dies, then the server, then all is there.
    world.kill_loader(&load, loaded, "photo")?;
    world.expect_some("SELECT count(*) FROM photo")?;
    world.shop.database.psql("TRUNCATE photo, garment")?;
    world.kill_server(&load, loaded, "photo")?;
    world.expect_some("SELECT count(*) FROM photo")?;
    world.shop.run(load)?.expect(0)?;
    world.expect("public", Naming::Texts, 1.0)?;

    // Photos change, go and come; a sync that is killed in the middle is done again.
    let sync = [
        "sync",
        "list.csv",
        "--sku-references",
        "public.product(sku)",
        "--prune",
    ];
    world.catalogue.change(&world.shop)?;
    world.catalogue.write_manifests(&world.shop, None)?;
    let synced = "SELECT count(*) > 0 FROM photo WHERE loaded_at > (SELECT max(started_at) FROM lookbook_run WHERE verb = 'sync')";
    world.kill_loader(&sync, synced, "photo")?;
    world.shop.run(sync)?.expect(0)?;
    world.expect("public", Naming::Texts, 1.0)?;

    // A product goes: its photos go with it, and what the source still says of them are rejects.
    let gone = world.catalogue.delete_products(&world.shop)?;
    world.expect("public", Naming::Texts, 1.0)?;
    world
        .shop
        .run(sync)?
        .expect(2)?
        .expect_stdout(&[&format!("{gone} rejected")])?;
    let rejects = world.shop.rejects()?;
    ensure!(rejects.len() == gone && rejects.iter().all(|[_, code, _]| code == "sku_unknown"));
    world.expect("public", Naming::Texts, 1.0)?;

    // Another model, with kills in between; readers see one model or the other.
    let reembed = [
        "reembed",
        "--embed-model",
        "doubled",
        "--root",
        ".",
        "--make-default",
    ];
    let filled = "SELECT count(*) > 0 FROM garment WHERE embedding_next IS NOT NULL";
    world.kill_loader(&reembed, filled, "garment")?;
    world.expect("public", Naming::Texts, 1.0)?;
    let filled: i64 = world
        .shop
        .database
        .psql("SELECT count(embedding_next) FROM garment")?
        .parse()?;
    let more = format!("SELECT count(embedding_next) > {filled} FROM garment");
    world.kill_server(&reembed, &more, "garment")?;
    world.expect("public", Naming::Texts, 1.0)?;
    world.shop.run(reembed)?.expect(0)?;
    world.expect("public", Naming::Texts, 2.0)?;
    world.catalogue.write_manifests(&world.shop, None)?;
    world
        .shop
        .run(sync)?
        .expect(0)?
        .expect_stdout(&["loaded 0 photos"])?;
    let history = world.shop.database.psql(
        "SELECT string_agg(verb || ' ' || status, ', ' ORDER BY id) FROM lookbook_run;
         SELECT lookbook_index_check('garment_embedding_category_label_idx') = (SELECT count(*) FROM garment)",
    )?;
    ensure!(
        history
            == "load killed, load killed, load complete, sync killed, sync complete, sync partial, reembed killed, \
                reembed killed, reembed complete, sync complete\nt",
        "{history}"
    );
    Ok(())
}

#[test]
fn a_table_of_the_shop_goes_through_the_same() -> Result<()> {
    let cluster = Cluster::start(&[])?;
    let mut world = World::new(&cluster, "shop_table")?;
    world.shop.database.psql(
        "CREATE TABLE product_look (look_id bigserial PRIMARY KEY, image_id int NOT NULL REFERENCES product_image ON DELETE CASCADE,
           sku text NOT NULL REFERENCES product ON DELETE CASCADE, category text, place box, embedding embedding(3));
         CREATE INDEX ON product_look (image_id)",
    )?;
    let query = "SELECT id, sku, data AS image FROM product_image ORDER BY id";
    let into = [
        "--into",
        "product_look",
        "--into-map",
        "key=image_id,box=place",
    ];
    let load = [&["load", "--from-sql", query][..], &into].concat();
    let loaded = "SELECT count(*) > 0 FROM product_look";
    let count = "SELECT count(DISTINCT image_id) FROM product_look";
    world.kill_loader(&load, loaded, "product_look")?;
    world.expect_some(count)?;
    let begun: i64 = world
        .shop
        .database
        .psql("SELECT count(*) FROM product_look_photo")?
        .parse()?;
    let more = format!("SELECT count(*) > {begun} FROM product_look_photo");
    world.kill_server(&load, &more, "product_look")?;
    world.expect_some(count)?;
    world.shop.run(&load)?.expect(0)?;
    let check = |world: &World<'_>, factor: f32| {
        let expected = Expected::of(&world.catalogue, Naming::Numbers, factor);
        expected.check_looks(&mut world.shop.database.connect()?)
    };
    check(&world, 1.0)?;
    world.catalogue.change(&world.shop)?;
    let sync = [&["sync", "--prune", "--from-sql", query][..], &into].concat();
    let synced = "SELECT count(*) > 0 FROM product_look_photo WHERE loaded_at > (SELECT max(started_at) FROM lookbook_run WHERE verb = 'sync')";
    world.kill_loader(&sync, synced, "product_look")?;
    world.shop.run(&sync)?.expect(0)?;
    check(&world, 1.0)?;
    world.catalogue.delete_products(&world.shop)?;
    check(&world, 1.0)?;
    // What the shop deleted is gone from the list of photos, too; what it deleted of a photo that is there comes back.
    world
        .shop
        .database
        .psql("DELETE FROM product_look WHERE image_id % 10 = 0")?;
    world.shop.run(&sync)?.expect(0)?;
    check(&world, 1.0)?;
    // Another model, its photos by the same query, with a kill in between.
    let reembed = ["reembed", "--embed-model", "doubled", "--from-sql", query];
    let reembed = [&reembed[..], &into].concat();
    let filled = "SELECT count(*) > 0 FROM product_look WHERE embedding_next IS NOT NULL";
    world.kill_loader(&reembed, filled, "product_look")?;
    check(&world, 1.0)?;
    world.shop.run(&reembed)?.expect(0)?;
    check(&world, 2.0)?;
    let stale = world.shop.database.psql(
        "SELECT (SELECT count(*) FROM product_look_photo) - (SELECT count(*) FROM product_image)",
    )?;
    ensure!(stale == "0", "{stale} photos are listed that are gone");
    fs::remove_file(world.shop.path("lookbook-rejects.csv")).ok();
    Ok(())
}
