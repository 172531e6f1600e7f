//! The PostgreSQL under test: its programs, its version, and the user who may run its server.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};

use crate::files::workspace;
use crate::process::line_of;

/// One PostgreSQL installation into which `make install` has put lookbook.
#[derive(Clone, Debug)]
pub struct Installation {
    bin: PathBuf,
    extensions: PathBuf,
    major: u32,
    server_user: Option<ServerUser>,
}

/// PostgreSQL refuses to run as root, so root runs it as somebody else.
#[derive(Clone, Debug)]
struct ServerUser {
    uid: u32,
    gid: u32,
}

impl Installation {
    /// The one that `LOOKBOOK_PG_CONFIG` names, else the embedded PostgreSQL 16.
    pub fn under_test() -> Result<Self> {
        Self::at(env::var_os("LOOKBOOK_PG_CONFIG").map_or_else(embedded_pg_config, PathBuf::from))
    }

    /// The embedded PostgreSQL 16, whichever is under test; `None` where it is not set up or has no lookbook.
    pub fn embedded() -> Result<Option<Self>> {
        if !embedded_pg_config().exists() {
            return Ok(None);
        }
        let embedded = Self::at(embedded_pg_config())?;
        Ok(embedded.offers_extension("lookbook").then_some(embedded))
    }

    fn at(pg_config: PathBuf) -> Result<Self> {
        ensure!(
            pg_config.exists(),
            "{} does not exist: run `make setup install` first",
            pg_config.display()
        );
        let ask = |what: &str| line_of(Command::new(&pg_config).arg(what));
        let version = ask("--version")?;
        let major = version
            .trim_start_matches("PostgreSQL ")
            .split(|c: char| !c.is_ascii_digit())
            .next()
            .and_then(|digits| digits.parse().ok())
            .with_context(|| format!("pg_config says its version is '{version}'"))?;
        Ok(Self {
            bin: ask("--bindir")?.into(),
            extensions: Path::new(&ask("--sharedir")?).join("extension"),
            major,
            server_user: server_user()?,
        })
    }

    /// 14 to 18.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Whether `CREATE EXTENSION name` would find its files.
    pub fn offers_extension(&self, name: &str) -> bool {
        self.extensions.join(format!("{name}.control")).exists()
    }

    /// The folder of its programs.
    pub fn programs(&self) -> &Path {
        &self.bin
    }

    /// A client program (`psql`, `pg_dump`, ...), run as the caller.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        for (variable, _) in env::vars_os() {
            if variable.to_string_lossy().starts_with("PG") {
                command.env_remove(variable);
            }
        }
        command.env("LC_ALL", "C.UTF-8");
        command
    }

    /// A server program (`initdb`, `pg_ctl`, ...), run as the user who may run servers.
    pub(crate) fn server_program(&self, name: &str) -> Command {
        let mut command = self.program(name);
        self.become_server_user(&mut command);
        command
    }

    pub(crate) fn become_server_user(&self, command: &mut Command) {
        command.current_dir("/");
        if let Some(user) = &self.server_user {
            command.uid(user.uid).gid(user.gid).env("HOME", "/");
        }
    }

    /// Hands `path` to the user who runs the server.
    pub fn give_to_server_user(&self, path: &Path) -> Result<()> {
        let Some(user) = &self.server_user else {
            return Ok(());
        };
        std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
            .with_context(|| format!("giving {} to the cluster's user", path.display()))
    }
}

fn embedded_pg_config() -> PathBuf {
    workspace().join(".lookbook/pg16/bin/pg_config")
}

fn server_user() -> Result<Option<ServerUser>> {
    if fs::metadata("/proc/self")
        .context("asking who runs the tests")?
        .uid()
        != 0
    {
        return Ok(None);
    }
    let name = env::var("LOOKBOOK_USER").unwrap_or_else(|_| "lookbook".to_owned());
    let id = |flag| -> Result<u32> {
        let digits = line_of(Command::new("id").args([flag, name.as_str()]))
            .context("root needs a user for the cluster: `make setup` creates it")?;
        digits
            .parse()
            .with_context(|| format!("id {flag} {name} says '{digits}'"))
    };
    Ok(Some(ServerUser {
        uid: id("-u")?,
        gid: id("-g")?,
    }))
}
