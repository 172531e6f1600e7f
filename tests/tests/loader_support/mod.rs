//! What the suites of the loader share: a shop with photos and a database, and runs of `lookbook`.
#![allow(dead_code, reason = "each suite uses its part")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lookbook_tests::{Cluster, Database, loader};
use postgres::Client;

use crate::sql_support::{bmp, import_detector, import_embedder};

pub const AVERAGE: &str = "GlobalAveragePool";
pub const MAXIMUM: &str = "GlobalMaxPool";
const PATIENCE: Duration = Duration::from_secs(60);

/// A database, and a folder with photos and everything that a run of the loader writes.
pub struct Shop<'c> {
    pub database: Database<'c>,
    folder: tempfile::TempDir,
}

/// What a run of `lookbook` said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Photos in the table; `None`: there is no table yet.
fn count_photos(client: &mut Client) -> Result<Option<i64>> {
    let has_table = client.query_one("SELECT to_regclass('public.photo') IS NOT NULL", &[])?;
    if !has_table.get::<_, bool>(0) {
        return Ok(None);
    }
    Ok(client.query_one("SELECT count(*) FROM photo", &[])?.get(0))
}

impl<'c> Shop<'c> {
    /// With the shipped models as defaults.
    pub fn with_shipped_models(cluster: &'c Cluster, name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("lookbook-shop-")
            .tempdir()?;
        fs::create_dir(folder.path().join("photos"))?;
        Ok(Self {
            database: cluster.database(name)?,
            folder,
        })
    }

    /// On a server that knows nothing of us.
    pub fn without_extension(cluster: &'c Cluster, name: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("lookbook-shop-")
            .tempdir()?;
        fs::create_dir(folder.path().join("photos"))?;
        Ok(Self {
            database: cluster.empty_database(name)?,
            folder,
        })
    }

    /// With models so small that a load takes no time: `mean` averages the colours, `boxes` finds
    /// garments by colour; no pose is looked for.
    pub fn with_tiny_models(cluster: &'c Cluster, name: &str) -> Result<Self> {
        let shop = Self::with_shipped_models(cluster, name)?;
        let mut client = shop.database.connect()?;
        import_embedder(&mut client, "mean", AVERAGE)?;
        import_detector(&mut client, "boxes")?;
        client.batch_execute(
            "SELECT lookbook_model_default('mean'); SELECT lookbook_model_default('boxes');
             DELETE FROM lookbook_default_model WHERE kind = 'pose'",
        )?;
        Ok(shop)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn photos(&self) -> PathBuf {
        self.path("photos")
    }

    /// Writes a photo file of any content; folders are made.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let file = self.photos().join(name);
        fs::create_dir_all(file.parent().context("a file lies in a folder")?)?;
        fs::write(&file, bytes).with_context(|| format!("writing {}", file.display()))?;
        Ok(file)
    }

    /// As many photos of different colours, links to a few files.
    pub fn put_many(&self, count: usize) -> Result<()> {
        for colour in 0..16_u8 {
            self.put(
                &format!("{colour:05}.bmp"),
                &bmp(8, 8, [colour * 16, 90, 200]),
            )?;
        }
        for number in 16..count {
            let target = self.photos().join(format!("{:05}.bmp", number % 16));
            fs::hard_link(target, self.photos().join(format!("{number:05}.bmp")))?;
        }
        Ok(())
    }

    /// `lookbook` in the shop's folder with its database and a cache of its own.
    pub fn lookbook<I: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
    ) -> Result<Command> {
        let mut command = loader()?;
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("LOOKBOOK_DATABASE", self.database.url())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("LOOKBOOK_DEVICE", "cpu")
            .env("RUST_BACKTRACE", "1");
        Ok(command)
    }

    /// Runs `lookbook` to its end.
    pub fn run<I: AsRef<std::ffi::OsStr>>(
        &self,
        args: impl IntoIterator<Item = I>,
    ) -> Result<Outcome> {
        Outcome::of(&mut self.lookbook(args)?)
    }

    /// `lookbook load photos`.
    pub fn load(&self) -> Result<Outcome> {
        self.run(["load", "photos"])
    }

    /// Starts `lookbook load photos`, waits until something is committed, and stops it there: as [`Self::begin`].
    pub fn start_load(&self) -> Result<(Child, Client)> {
        let is_work = "SELECT count(*) > 0 FROM photo";
        self.begin(&["load", "photos"], is_work, "photo", PATIENCE)
    }

    /// Starts `args`, waits until `is_work` sees something committed in `table`, and stops it there: it goes on when the
    /// session is dropped, which holds a lock on the table.
    pub fn begin(
        &self,
        args: &[&str],
        is_work: &str,
        table: &str,
        patience: Duration,
    ) -> Result<(Child, Client)> {
        let mut command = self.lookbook(args)?;
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut session = self.database.connect()?;
        let deadline = Instant::now() + patience;
        // The tables may only come into being.
        let is_at_work =
            |session: &mut Client| session.query_one(is_work, &[]).is_ok_and(|row| row.get(0));
        loop {
            if is_at_work(&mut session) {
                // Waits for the batch under way, and the next one for this.
                session.batch_execute(&format!("BEGIN; LOCK TABLE {table} IN SHARE MODE"))?;
                if is_at_work(&mut session) {
                    return Ok((child, session));
                }
                session.batch_execute("COMMIT")?;
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!(
                    "{args:?} committed nothing: {}",
                    Outcome::from(child.wait_with_output()?)
                );
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Waits, while the loader runs, until a query gives true.
    pub fn wait_until(&self, child: &mut Child, condition: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut client = self.database.connect()?;
        loop {
            // The tables come into being meanwhile.
            let is_true = client.query_one(condition, &[]).is_ok_and(|row| row.get(0));
            if is_true {
                return Ok(());
            }
            if child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("never true: {condition}");
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// The server notices that a killed loader is gone.
    pub fn wait_for_the_end(&self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        let mut client = self.database.connect()?;
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lookbook' AND datname = current_database()";
        while client.query_one(sessions, &[])?.get::<_, i64>(0) > 0 {
            ensure!(
                Instant::now() < deadline,
                "the sessions of a killed loader stay"
            );
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Photos in the table; 0 when there is no table yet.
    pub fn photo_count(&self) -> Result<i64> {
        Ok(count_photos(&mut self.database.connect()?)?.unwrap_or(0))
    }

    /// Every photo of the folder is loaded once, with garments, and nothing else is there.
    pub fn check_complete(&self, photos: usize) -> Result<()> {
        let counts = self.database.psql(
            "SELECT count(*), count(DISTINCT path),
               count(*) FILTER (WHERE EXISTS (SELECT FROM garment g WHERE g.photo_id = photo.id)),
               (SELECT count(*) FROM garment WHERE photo_id NOT IN (SELECT id FROM photo)),
               (SELECT count(*) FROM garment WHERE embedding_dims(embedding) IS NULL)
             FROM photo",
        )?;
        ensure!(
            counts == format!("{photos}|{photos}|{photos}|0|0"),
            "{counts}"
        );
        Ok(())
    }

    /// The rejects file: path, code, reason.
    pub fn rejects(&self) -> Result<Vec<[String; 3]>> {
        let text = fs::read_to_string(self.path("lookbook-rejects.csv"))?;
        let mut lines = text.lines();
        ensure!(lines.next() == Some("path,code,reason"), "{text}");
        // The names and reasons of the suites hold no line ends.
        lines
            .map(|line| {
                let mut fields = line
                    .splitn(3, ',')
                    .map(|field| field.trim_matches('"').to_owned());
                let mut next = || {
                    fields
                        .next()
                        .with_context(|| format!("three columns: {line}"))
                };
                Ok([next()?, next()?, next()?])
            })
            .collect()
    }
}

impl Outcome {
    pub fn of(command: &mut Command) -> Result<Self> {
        let output = command
            .output()
            .with_context(|| format!("starting {command:?}"))?;
        Ok(Self::from(output))
    }

    /// Ended with that exit code and without a trace of a panic.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(
            self.code == Some(code),
            "exit code {code} was expected: {self}"
        );
        for trace in [
            "panicked",
            "RUST_BACKTRACE",
            "stack backtrace",
            "internal error",
        ] {
            ensure!(!self.stderr.contains(trace), "{self}");
        }
        Ok(self)
    }

    /// Said all of that on standard error.
    pub fn expect_stderr(self, parts: &[&str]) -> Result<Self> {
        for part in parts {
            ensure!(self.stderr.contains(part), "{part:?} is missing: {self}");
        }
        Ok(self)
    }

    /// Said all of that on standard output.
    pub fn expect_stdout(self, parts: &[&str]) -> Result<Self> {
        for part in parts {
            ensure!(self.stdout.contains(part), "{part:?} is missing: {self}");
        }
        Ok(self)
    }
}

impl From<std::process::Output> for Outcome {
    fn from(output: std::process::Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "exit code {code:?}\n--- stdout\n{stdout}--- stderr\n{stderr}"
        )
    }
}

/// Photos of the drawn catalogue in the repository, sorted.
pub fn drawn_photos(count: usize) -> Result<Vec<PathBuf>> {
    let folder = lookbook_tests::workspace().join("tests/catalogue/photos");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|item| Ok(item?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    files.truncate(count);
    ensure!(
        files.len() == count,
        "the drawn catalogue has too few photos"
    );
    Ok(files)
}

pub fn name_of(file: &Path) -> Result<&str> {
    file.file_name()
        .and_then(|name| name.to_str())
        .context("a name in UTF-8")
}
