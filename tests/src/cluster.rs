//! A throw-away cluster: its folder, its server process, and their end.
//!
//! It listens on a unix socket in a folder that only its user may enter; no port is opened. A
//! keeper process waits for the pipe from the test to close, then kills the server and removes the
//! folder: this holds for a dropped cluster, for one kept in a static, and for a test killed by -9.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use postgres::{Client, Config, NoTls};

use crate::database::Database;
use crate::installation::Installation;
use crate::process::{check_output, children_of, signal, signal_if_there};

/// Durability against power loss is not what these suites test; a killed process loses nothing.
const SETTINGS: &[&str] = &[
    "listen_addresses=''",
    "fsync=off",
    "max_connections=50",
    "shared_buffers=64MB",
    "jit=off",
    "timezone=UTC",
    "lc_messages=C",
    "log_line_prefix='%m [%p] %d '",
    "log_error_verbosity=verbose",
];

/// How long a server may take to come up or to go down on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const KEEPER: &str = r#"
trap "" INT TERM HUP
cat >/dev/null
"$1" -D "$2/data" -m immediate stop >/dev/null 2>&1
rm -rf "$2"
"#;

/// A running PostgreSQL of its own, owned by one suite or one test.
#[derive(Debug)]
pub struct Cluster {
    installation: Installation,
    folder: PathBuf,
    /// Of its socket, and of TCP where a test listens there.
    port: u16,
    keeper: Child,
    postmaster: Mutex<Option<Child>>,
}

impl Cluster {
    /// The cluster that all tests of this binary share. Each takes its own [`Database`] in it, and
    /// none stops it.
    pub fn shared() -> Result<&'static Self> {
        static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
        SHARED
            .get_or_init(|| Self::start(&[]).map_err(|error| format!("{error:?}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("the shared cluster did not start: {error}"))
    }

    /// A new cluster with further settings (`"work_mem='1MB'"`), for a test that stops or kills it.
    pub fn start(settings: &[&str]) -> Result<Self> {
        let mut cluster = Self::folder_with_keeper(Installation::under_test()?)?;
        if let Some(port) = settings.iter().find_map(|item| item.strip_prefix("port=")) {
            cluster.port = port.parse().context("a port")?;
        }
        cluster.init()?;
        cluster.configure(settings)?;
        cluster.start_server()?;
        Ok(cluster)
    }

    fn init(&self) -> Result<()> {
        check_output(
            self.installation
                .server_program("initdb")
                .args([
                    "--username=postgres",
                    "--auth=trust",
                    "--encoding=UTF8",
                    "--no-locale",
                ])
                .args(["--no-sync", "-D"])
                .arg(self.data()),
        )?;
        self.configure(SETTINGS)
    }

    /// What `pg_upgrade` makes of this cluster, which is stopped for good, in a newer PostgreSQL.
    pub fn upgraded_to(&self, newer: Installation) -> Result<Self> {
        let upgraded = Self::folder_with_keeper(newer)?;
        upgraded.init()?;
        self.stop()?;
        let mut upgrade = upgraded.installation.server_program("pg_upgrade");
        // It writes beside itself, and its sockets go there too.
        upgrade
            .current_dir(&upgraded.folder)
            .args(["--username=postgres", "--no-sync", "--socketdir"])
            .arg(&upgraded.folder)
            .arg("--old-bindir")
            .arg(self.installation.programs())
            .arg("--new-bindir")
            .arg(upgraded.installation.programs())
            .arg("--old-datadir")
            .arg(self.data())
            .arg("--new-datadir")
            .arg(upgraded.data());
        check_output(&mut upgrade).with_context(|| upgraded.upgrade_log())?;
        upgraded.start_server()?;
        Ok(upgraded)
    }

    /// What `pg_upgrade` wrote down of each database, which its own output only names.
    fn upgrade_log(&self) -> String {
        let runs = fs::read_dir(self.data().join("pg_upgrade_output.d"));
        let files = runs
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|run| fs::read_dir(run.path().join("log")).ok())
            .flatten()
            .flatten();
        let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
        texts.collect::<Vec<_>>().join("\n")
    }

    /// A streaming replica of this cluster with the same settings and further ones; it takes read-only
    /// connections.
    pub fn replica(&self, settings: &[&str]) -> Result<Self> {
        let replica = Self::folder_with_keeper(self.installation.clone())?;
        check_output(
            replica
                .installation
                .server_program("pg_basebackup")
                .args(["--username=postgres", "--write-recovery-conf", "--no-sync"])
                .args(["--checkpoint=fast", "--wal-method=stream", "-h"])
                .arg(self.socket_folder())
                .arg("-D")
                .arg(replica.data()),
        )?;
        replica.configure(settings)?;
        replica.start_server()?;
        Ok(replica)
    }

    /// Everything of a cluster but its data.
    fn folder_with_keeper(installation: Installation) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("lookbook-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in("/tmp")
            .context("making a folder for the cluster")?
            .keep();
        installation.give_to_server_user(&folder)?;
        let keeper = start_keeper(&installation, &folder)?;
        Ok(Self {
            installation,
            folder,
            port: 5432,
            keeper,
            postmaster: Mutex::new(None),
        })
    }

    /// A new database with `CREATE EXTENSION lookbook`. `name` is unique within the cluster.
    pub fn database(&self, name: &str) -> Result<Database<'_>> {
        let database = self.empty_database(name)?;
        database
            .connect()?
            .batch_execute("CREATE EXTENSION lookbook")?;
        Ok(database)
    }

    /// A new database without lookbook. `name` is unique within the cluster.
    pub fn empty_database(&self, name: &str) -> Result<Database<'_>> {
        self.connect("postgres", "postgres")?
            .batch_execute(&format!("CREATE DATABASE \"{name}\""))
            .with_context(|| format!("creating database {name}"))?;
        Ok(Database::new(self, name))
    }

    /// A database that is there already, as in a [`Self::replica`].
    pub fn existing_database(&self, name: &str) -> Database<'_> {
        Database::new(self, name)
    }

    /// A connection as `user`; `postgres` is the superuser.
    pub fn connect(&self, user: &str, database: &str) -> Result<Client> {
        Config::new()
            .host_path(self.socket_folder())
            .port(self.port)
            .user(user)
            .dbname(database)
            .connect(NoTls)
            .with_context(|| format!("connecting to database {database} as {user}"))
    }

    /// Starts the server after [`Self::stop`] or [`Self::kill_9`]; returns when it takes connections.
    pub fn start_server(&self) -> Result<()> {
        let mut running = self.running();
        ensure!(running.is_none(), "the server runs already");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log_before_bytes = self.log().len();
            if let Some(postmaster) = self.try_start(deadline)? {
                *running = Some(postmaster);
                return Ok(());
            }
            // Of a killed server, the last processes may take a moment to notice.
            let log = self.log();
            let said = log.get(log_before_bytes..).unwrap_or_default();
            let is_waiting = said.contains("pre-existing shared memory block");
            ensure!(
                is_waiting && Instant::now() < deadline,
                "the server does not come up:\n{log}"
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// A postmaster that takes connections, or `None` if it ended at once.
    fn try_start(&self, deadline: Instant) -> Result<Option<Child>> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join("log"))?;
        let mut server = self.installation.server_program("postgres");
        server.arg("-D").arg(self.data()).process_group(0);
        server
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut postmaster = server.spawn().context("starting postgres")?;
        while self.connect("postgres", "postgres").is_err() {
            if postmaster.try_wait()?.is_some() {
                return Ok(None);
            }
            ensure!(
                Instant::now() < deadline,
                "the server does not come up:\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20));
        }
        Ok(Some(postmaster))
    }

    /// Stops the server the `fast` way: sessions are ended, everything is written.
    ///
    /// Told so after a crash, between reinitializing and the start of its recovery, PostgreSQL 16 waits
    /// for ever for its checkpointer, which nobody ends (postmaster.c: `PM_WAIT_BACKENDS` with
    /// `FatalError`). A test that may come there sets `restart_after_crash=off`.
    pub fn stop(&self) -> Result<()> {
        let mut postmaster = self.running().take().context("the server does not run")?;
        signal("INT", postmaster.id())?;
        let deadline = Instant::now() + PATIENCE;
        while postmaster.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                signal("QUIT", postmaster.id())?;
                postmaster.wait()?;
                bail!("the server does not stop:\n{}", self.log());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Stops and starts the server.
    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start_server()
    }

    /// Kills the postmaster with SIGKILL; its other processes end as they notice.
    pub fn kill_9(&self) -> Result<()> {
        let mut postmaster = self.running().take().context("the server does not run")?;
        postmaster.kill()?;
        postmaster.wait()?;
        Ok(())
    }

    /// Kills the postmaster and all its processes with SIGKILL, each where it is.
    pub fn kill_9_all(&self) -> Result<()> {
        let children = children_of(self.postmaster()?)?;
        self.kill_9()?;
        for child in children {
            signal_if_there("KILL", child)?;
        }
        Ok(())
    }

    /// Process id of the postmaster.
    pub fn postmaster(&self) -> Result<u32> {
        Ok(self
            .running()
            .as_ref()
            .context("the server does not run")?
            .id())
    }

    /// Everything that the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log"))
            .unwrap_or_else(|error| format!("(no server log: {error})"))
    }

    /// The PostgreSQL that this cluster runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// A client program that finds this cluster by its environment.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.installation.program(name);
        command
            .env("PGHOST", self.socket_folder())
            .env("PGUSER", "postgres");
        command
    }

    /// Where the server's socket lies.
    pub fn socket_folder(&self) -> &Path {
        &self.folder
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Further settings, which count from the next start.
    pub fn configure(&self, settings: &[&str]) -> Result<()> {
        let file = self.data().join("postgresql.conf");
        let mut content = fs::read_to_string(&file).context("reading postgresql.conf")?;
        for setting in settings {
            content.push_str(&format!("{setting}\n"));
        }
        content.push_str(&format!(
            "unix_socket_directories='{}'\n",
            self.folder.display()
        ));
        fs::write(&file, content).context("writing postgresql.conf")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        if !std::thread::panicking() {
            // The keeper cleans up even if nobody waits for it: there is no error to report.
            let _ = self.keeper.wait();
            let _ = self
                .running()
                .take()
                .map(|mut postmaster| postmaster.wait());
        }
    }
}

fn start_keeper(installation: &Installation, folder: &Path) -> Result<Child> {
    let pg_ctl = installation.server_program("pg_ctl");
    let mut keeper = Command::new("sh");
    keeper
        .args(["-c", KEEPER, "keeper"])
        .arg(pg_ctl.get_program())
        .arg(folder);
    installation.become_server_user(&mut keeper);
    keeper
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the keeper of the cluster")
}
