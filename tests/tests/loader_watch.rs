//! `sync --watch`: tables that follow their folder, whatever becomes of it.

mod loader_support;
mod sql_support;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Result, ensure};
use loader_support::{Outcome, Shop};
use lookbook_tests::{Cluster, signal};
use sql_support::bmp;

const RED: [u8; 3] = [255, 0, 0];
const BLUE: [u8; 3] = [0, 0, 255];
const PATIENCE: Duration = Duration::from_secs(90);

fn tiny(name: &str) -> Result<Shop<'static>> {
    Shop::with_tiny_models(Cluster::shared()?, name)
}

/// Runs while `follow` does something to the folder and waits for what comes of it; gives what it said, and that it
/// ended by itself with `code`.
fn watch(
    shop: &Shop<'_>,
    command: &mut Command,
    code: i32,
    follow: impl FnOnce(&mut Child) -> Result<()>,
) -> Result<Outcome> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let at_rest = "SELECT every(status <> 'running') FROM lookbook_run";
    // Told to stop in the middle of a round it would end as partial.
    let followed = follow(&mut child).and_then(|()| shop.wait_until(&mut child, at_rest, PATIENCE));
    let told = signal("INT", child.id());
    let ended = Outcome::from(child.wait_with_output()?);
    followed
        .and(told)
        .map_err(|error| error.context(ended.to_string()))?;
    ended.expect(code)
}

#[test]
fn a_watching_sync_follows_a_folder_until_it_is_told_to_stop() -> Result<()> {
    let shop = tiny("watched")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    let args = ["sync", "photos", "--watch", "--prune", "--prune-limit", "1"];
    watch(&shop, &mut shop.lookbook(args)?, 0, |child| {
        shop.wait_until(child, "SELECT count(*) = 1 FROM photo", PATIENCE)?;
        shop.put("deep/er/b.bmp", &bmp(16, 16, RED))?;
        shop.wait_until(child, "SELECT count(*) = 2 FROM photo", PATIENCE)?;
        shop.put("deep/er/b.bmp", &bmp(30, 20, RED))?;
        shop.wait_until(
            child,
            "SELECT width = 30 FROM photo WHERE path = 'deep/er/b.bmp'",
            PATIENCE,
        )?;
        fs::rename(shop.photos().join("deep"), shop.photos().join("moved"))?;
        let moved =
            "SELECT array_agg(path ORDER BY path) = ARRAY['a.bmp', 'moved/er/b.bmp'] FROM photo";
        shop.wait_until(child, moved, PATIENCE)?;
        fs::remove_file(shop.photos().join("a.bmp"))?;
        shop.wait_until(child, "SELECT count(*) = 1 FROM photo", PATIENCE)?;
        // The whole folder is exchanged for another.
        let [old, new] = ["photos.old", "photos.new"].map(|name| shop.path(name));
        fs::create_dir(&new)?;
        fs::write(new.join("c.bmp"), bmp(16, 16, BLUE))?;
        fs::rename(shop.photos(), old)?;
        fs::rename(new, shop.photos())?;
        let exchanged = "SELECT array_agg(path) = ARRAY['c.bmp'] FROM photo";
        shop.wait_until(child, exchanged, PATIENCE)?;
        shop.put("d.bmp", &bmp(16, 16, RED))?;
        shop.wait_until(child, "SELECT count(*) = 2 FROM photo", PATIENCE)
    })?;
    Ok(())
}

#[test]
fn a_watching_sync_of_the_folder_it_writes_into_goes_on_beside_bad_photos() -> Result<()> {
    let shop = tiny("watched_bad")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    let list = shop.photos().join("lookbook-rejects.csv");
    let is_listed = |path: &str| fs::read_to_string(&list).is_ok_and(|list| list.contains(path));
    let runs = "SELECT count(*) FROM lookbook_run";
    let args = [
        "sync",
        ".",
        "--watch",
        "--prune",
        "--metrics-file",
        "m.prom",
    ];
    let said = watch(
        &shop,
        shop.lookbook(args)?.current_dir(shop.photos()),
        2,
        |child| {
            shop.wait_until(child, "SELECT count(*) = 1 FROM photo", PATIENCE)?;
            shop.put("bad.jpg", b"junk")?;
            let rejected =
                "SELECT count(*) = 1 FROM lookbook_run WHERE rejected = 1 AND status <> 'running'";
            shop.wait_until(child, rejected, PATIENCE)?;
            shop.put("b.bmp", &bmp(16, 16, BLUE))?;
            shop.wait_until(child, "SELECT count(*) = 2 FROM photo", PATIENCE)?;
            ensure!(is_listed("bad.jpg"), "another photo's pass forgot bad.jpg");
            // What the loader and others write beside photos is no change.
            shop.put("notes.txt", b"x")?;
            shop.put(".b.bmp.swp", b"x")?;
            // A photo that is written as it was makes a pass, and that leaves no record.
            shop.put("b.bmp", &bmp(16, 16, BLUE))?;
            sleep(Duration::from_secs(3));
            assert_eq!(shop.database.psql(runs)?, "3");
            // One of two is more than may be deleted; that keeps nothing else waiting.
            fs::remove_file(shop.photos().join("a.bmp"))?;
            let refused =
                "SELECT count(*) = 1 FROM lookbook_run WHERE error LIKE '%--prune-limit%'";
            shop.wait_until(child, refused, PATIENCE)?;
            shop.put("bad.jpg", &bmp(16, 16, RED))?;
            shop.wait_until(child, "SELECT count(*) = 3 FROM photo", PATIENCE)?;
            ensure!(!is_listed("bad.jpg"), "bad.jpg is good now");
            Ok(())
        },
    )?;
    let said = said.expect_stderr(&["none of 1 photo could be loaded", "--prune-limit 0.2"])?;
    ensure!(!said.stderr.contains("trying again"), "{said}");
    Ok(())
}

#[test]
fn a_watching_sync_goes_on_without_a_folder_that_it_may_not_read() -> Result<()> {
    let shop = tiny("watched_private")?;
    shop.put("a.bmp", &bmp(16, 16, RED))?;
    let args = ["sync", "photos", "--watch"];
    let private = shop.photos().join("private");

    watch(&shop, &mut shop.lookbook(args)?, 0, |child| {
        shop.wait_until(child, "SELECT count(*) = 1 FROM photo", PATIENCE)?;
        fs::DirBuilder::new().mode(0o000).create(&private)?;
        sleep(Duration::from_secs(1));
        shop.put("b.bmp", &bmp(16, 16, BLUE))?;
        shop.wait_until(child, "SELECT count(*) = 2 FROM photo", PATIENCE)?;
        fs::set_permissions(&private, fs::Permissions::from_mode(0o755))?;
        shop.put("private/c.bmp", &bmp(16, 16, BLUE))?;
        shop.wait_until(child, "SELECT count(*) = 3 FROM photo", PATIENCE)
    })?;
    Ok(())
}

#[test]
fn a_watching_sync_follows_links_to_folders() -> Result<()> {
    let shop = tiny("watched_links")?;
    shop.put("real/a.bmp", &bmp(16, 16, RED))?;
    let other = shop.path("other");
    fs::create_dir(&other)?;
    fs::write(other.join("b.bmp"), bmp(16, 16, BLUE))?;
    let args = ["sync", "photos", "--watch"];
    watch(&shop, &mut shop.lookbook(args)?, 0, |child| {
        shop.wait_until(child, "SELECT count(*) = 1 FROM photo", PATIENCE)?;
        symlink(&other, shop.photos().join("link"))?;
        symlink("real", shop.photos().join("alias"))?;
        let linked = "SELECT array_agg(path ORDER BY path) = ARRAY['alias/a.bmp', 'link/b.bmp', 'real/a.bmp'] FROM photo";
        shop.wait_until(child, linked, PATIENCE)?;
        fs::write(other.join("c.bmp"), bmp(16, 16, BLUE))?;
        shop.put("real/d.bmp", &bmp(16, 16, RED))?;
        let followed = "SELECT count(*) = 3 FROM photo WHERE path IN ('link/c.bmp', 'alias/d.bmp', 'real/d.bmp')";
        shop.wait_until(child, followed, PATIENCE)
    })?;
    Ok(())
}
