//! One database of a cluster, and the ways into it: a connection, psql, a URL.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use postgres::Client;

use crate::cluster::Cluster;

/// A database of a running [`Cluster`]. At its end it prints what the server logged meanwhile, which
/// the test runner shows when the test failed.
#[derive(Debug)]
pub struct Database<'c> {
    cluster: &'c Cluster,
    name: String,
    log_before_bytes: Option<usize>,
}

/// What psql said.
#[derive(Debug)]
pub struct PsqlOutput {
    /// Rows, one per line, fields separated by `|`.
    pub stdout: String,
    /// Errors and notices.
    pub stderr: String,
    /// Whether every statement succeeded; the first error ends the run.
    pub success: bool,
}

impl<'c> Database<'c> {
    pub(crate) fn new(cluster: &'c Cluster, name: &str) -> Self {
        Self {
            cluster,
            name: name.to_owned(),
            log_before_bytes: Some(cluster.log().len()),
        }
    }

    /// Prints no log at the end: for runners that capture no output.
    pub fn without_log(mut self) -> Self {
        self.log_before_bytes = None;
        self
    }

    /// A connection as superuser.
    pub fn connect(&self) -> Result<Client> {
        self.connect_as("postgres")
    }

    /// A connection as `user`.
    pub fn connect_as(&self, user: &str) -> Result<Client> {
        self.cluster.connect(user, &self.name)
    }

    /// The URL that a user would give to the loader.
    pub fn url(&self) -> String {
        let socket = self.cluster.socket_folder().display();
        format!("postgresql:///{}?host={socket}&user=postgres", self.name)
    }

    /// The cluster it is in.
    pub fn cluster(&self) -> &'c Cluster {
        self.cluster
    }

    /// A client program (`pg_dump`, ...) that finds this database by its environment.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.cluster.program(name);
        command.env("PGDATABASE", &self.name);
        command
    }

    /// Runs SQL from psql's standard input; a failing statement is not an error of the call.
    pub fn try_psql(&self, sql: &str) -> Result<PsqlOutput> {
        let mut psql = self.program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"]);
        let mut child = psql
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("psql has a standard input")?;
        let sql = sql.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let output = child.wait_with_output()?;
        // psql that stops at an error leaves the rest unread: a broken pipe is not ours to report.
        let _ = writer.join();
        Ok(PsqlOutput {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            success: output.status.success(),
        })
    }

    /// Runs SQL through psql and returns its rows; any error fails with psql's message.
    pub fn psql(&self, sql: &str) -> Result<String> {
        let output = self.try_psql(sql)?;
        ensure!(output.success, "psql failed on {sql}\n{}", output.stderr);
        Ok(output.stdout.trim_end().to_owned())
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        if let Some(start) = self.log_before_bytes {
            let log = self.cluster.log();
            let since = log.get(start..).unwrap_or(&log);
            eprintln!("--- log of the server during this test\n{since}");
        }
    }
}
