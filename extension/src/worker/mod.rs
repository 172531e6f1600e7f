//! The inference worker as PostgreSQL sees it.
//!
//! Two processes. The *supervisor* is a background worker: it stands in `pg_stat_activity`, owns the
//! socket, and starts the *inference process* when somebody connects. That one is its child, has let
//! go of shared memory and of every file of the server, and runs the models: when native code crashes
//! or the kernel kills it for its memory, the server goes on, those who waited get an error, and the
//! next connection to the socket starts it again.
//!
//! Neither of them is connected to a database; rows and privileges are the callers' affair.

mod process;
mod registration;
mod stats;
mod supervisor;

pub(crate) use registration::{Start, Starting, register};

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};

/// In the data directory, which is every server process's working directory: a relative path is never
/// too long for a socket. Base backups leave out what is named so.
const FOLDER: &str = "pgsql_tmp.lookbook";
/// Where callers connect.
pub(crate) const SOCKET: &str = "pgsql_tmp.lookbook/socket";
/// Locked by the supervisor, and holds its process id.
const SUPERVISOR_LOCK: &str = "pgsql_tmp.lookbook/supervisor";
/// Locked by the inference process.
const INFERENCE_LOCK: &str = "pgsql_tmp.lookbook/inference";
/// Where the inference process stands; nothing is ever in it.
const EMPTY_FOLDER: &str = "pgsql_tmp.lookbook/empty";
/// Locked by the connection that starts the supervisor.
const START_LOCK: &str = "pgsql_tmp.lookbook/start";

/// The folder, entered by the server's user alone.
fn make_folder() -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(FOLDER) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(FOLDER, Permissions::from_mode(0o700))
        }
        made => made,
    }
}

fn open_lock(path: &str) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// The lock, unless another process has it.
fn try_lock(path: &str) -> io::Result<Option<File>> {
    let file = open_lock(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}
