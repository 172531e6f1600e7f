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

use nix::libc;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
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

/// One of fcntl's commands for open file descriptions, about an exclusive lock of the whole file; what it answers.
fn ask_for_lock(file: &File, command: libc::c_int) -> io::Result<libc::flock> {
    let mut whole = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: an open file, and a structure that outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut whole) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(whole),
    }
}

/// Whether this open file has the lock now.
fn lock(file: &File) -> io::Result<bool> {
    match ask_for_lock(file, libc::F_OFD_SETLK) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        asked => asked.map(|_| true),
    }
}

/// The lock, unless another process has it.
fn try_lock(path: &str) -> io::Result<Option<File>> {
    let file = open_lock(path)?;
    Ok(lock(&file)?.then_some(file))
}

/// Whether a process holds the lock. Looking takes nothing, so that however many look, nobody is kept from it.
fn is_locked(path: &str) -> bool {
    File::open(path)
        .and_then(|file| ask_for_lock(&file, libc::F_OFD_GETLK))
        .is_ok_and(|found| found.l_type != libc::F_UNLCK as libc::c_short)
}
