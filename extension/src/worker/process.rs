//! The inference process: a child of the supervisor that keeps nothing of the server.
//!
//! Invariants: between fork and `_exit` the child calls PostgreSQL for nothing but its title; it holds
//! none of the server's files and no shared memory, so that native code gone wild cannot reach a
//! table; it dies with its parent.

use super::{EMPTY_FOLDER, INFERENCE_LOCK, lock, open_lock};
use lookbook_vision::SignalsBlocked;
use lookbook_worker::{Origin, Settings, serve};
use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{self, SigHandler, SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};
use pgrx::pg_sys;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How much likelier than the server's own processes the kernel takes this one when memory is short.
const OOM_SCORE: &str = "300";
/// Exit code of a process that ended for a run that did not stop.
const STUCK: i32 = 3;
/// Exit code of a process that ended for memory that nothing gave back.
const SPENT: i32 = 4;
/// How long the lock of a process that is still dying is waited for.
const LOCK_ATTEMPTS: u32 = 100;

/// The child as its parent knows it.
pub(super) struct InferenceProcess {
    pid: Pid,
    control: UnixStream,
}

/// How it ended.
pub(super) enum Ended {
    InGoodOrder,
    Badly(String),
    /// Before it could serve anybody.
    AtItsStart(String),
}

impl InferenceProcess {
    /// Forks. The caller has one thread.
    pub(super) fn start(
        listener: &UnixListener,
        settings: Settings,
        origin: Origin,
    ) -> io::Result<InferenceProcess> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let listener = listener.try_clone()?;
        let parent = getpid();
        // No handler of the server may run in the child.
        let blocked = SignalsBlocked::here();
        // SAFETY: the supervisor never starts a thread, so the child finds no lock held by one.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(blocked);
                Ok(InferenceProcess {
                    pid: child,
                    control: ours,
                })
            }
            ForkResult::Child => {
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    detach(parent, &[listener.as_raw_fd(), theirs.as_raw_fd()]);
                    let _shown = show();
                    leave_data_directory();
                    serve(listener, theirs, settings, origin)
                }));
                let code = match outcome {
                    Ok(lookbook_worker::Ended::Broken) | Err(_) => 1,
                    Ok(lookbook_worker::Ended::Stuck) => STUCK,
                    Ok(lookbook_worker::Ended::Spent) => SPENT,
                    Ok(_) => 0,
                };
                // SAFETY: ends the process without the server's exit handlers, which are not ours.
                unsafe { libc::_exit(code) }
            }
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// A line on its control socket. A process that does not listen any more is about to be reaped.
    pub(super) fn tell(&self, line: &str) {
        let _ = (&self.control).write_all(line.as_bytes());
    }

    pub(super) fn ended(&self) -> Option<Ended> {
        match self.status()? {
            Ended::Badly(how) if !self.has_begun() => Some(Ended::AtItsStart(how)),
            ended => Some(ended),
        }
    }

    /// Whether it said so, which it does before it accepts a connection.
    fn has_begun(&self) -> bool {
        matches!((&self.control).read(&mut [0; 1]), Ok(1))
    }

    fn status(&self) -> Option<Ended> {
        match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => None,
            Ok(WaitStatus::Exited(_, 0)) => Some(Ended::InGoodOrder),
            Ok(WaitStatus::Exited(_, STUCK)) => Some(Ended::Badly(
                "ended itself, because a cancelled run did not stop".to_owned(),
            )),
            Ok(WaitStatus::Exited(_, SPENT)) => Some(Ended::Badly(
                "ended itself, because a run that failed for want of memory left most of it booked"
                    .to_owned(),
            )),
            Ok(WaitStatus::Exited(_, code)) => {
                Some(Ended::Badly(format!("exited with exit code {code}")))
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                Some(Ended::Badly(format!("was terminated by {signal}")))
            }
            Ok(_) => None,
            Err(error) => Some(Ended::Badly(format!("is gone: {error}"))),
        }
    }

    pub(super) fn kill(self) {
        // It may have ended meanwhile.
        let _ = signal::kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Makes a process of its own out of a copy of a server process.
fn detach(parent: Pid, keep: &[RawFd]) {
    // Each of these makes things safer and none is needed to work: a kernel that refuses is no reason
    // to serve nobody.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid() != parent {
        // SAFETY: as at the end of the process.
        unsafe { libc::_exit(1) };
    }
    // SAFETY: a static string; the title is kept in this process's own memory.
    unsafe { pg_sys::init_ps_display(c"lookbook inference".as_ptr()) };
    let _ = prctl::set_name(c"lookbook-infer");
    let _ = prctl::set_no_new_privs();
    let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("lookbook inference process: {panic}");
    }));
    reset_signals();
    close_files(keep);
    unmap_shared_memory();
}

/// The postmaster signals our whole group: what tells a backend something is not for us. The parent
/// ends us by the control socket, by SIGKILL, or by its own end.
fn reset_signals() {
    let ignored = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
        Signal::SIGALRM,
    ];
    for signal in Signal::iterator() {
        let handler = if ignored.contains(&signal) {
            SigHandler::SigIgn
        } else {
            SigHandler::SigDfl
        };
        // SAFETY: neither is a function of ours. SIGKILL and SIGSTOP refuse, as they should.
        let _ = unsafe { signal::signal(signal, handler) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Closes everything but the standard streams and `keep`.
fn close_files(keep: &[RawFd]) {
    let Ok(entries) = fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for file in open {
        if file > 2 && !keep.contains(&file) {
            // SAFETY: whoever owns the number in this copy of the server's memory never runs here.
            unsafe { libc::close(file) };
        }
    }
}

/// Gives back every shared mapping: the server's buffers, its control blocks, its dynamic segments.
fn unmap_shared_memory() {
    let Ok(maps) = fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for line in maps.lines() {
        let Some((start, end)) = shared_range(line) else {
            continue;
        };
        // SAFETY: nothing that runs in this process from here on refers to shared memory: signal
        // handlers are reset, exit handlers are not run, and PostgreSQL is not called.
        unsafe { libc::munmap(start as *mut libc::c_void, end - start) };
    }
}

/// Start and end of a mapping with the flag `s`, from a line such as
/// `7f12a0000000-7f12a8000000 rw-s 00000000 00:01 1027 /dev/zero (deleted)`.
fn shared_range(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    if !fields.next()?.ends_with('s') {
        return None;
    }
    Some((
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    ))
}

/// Tells `lookbook_worker` that there is an inference process.
fn show() -> Option<File> {
    let file = open_lock(INFERENCE_LOCK).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        if lock(&file).is_ok_and(|is_ours| is_ours) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Some(file)
}

/// A relative path leads native code to no file of the server. As with the rest of `detach`, it is no reason to serve nobody.
fn leave_data_directory() {
    // Mostly there already.
    let _ = DirBuilder::new().mode(0o700).create(EMPTY_FOLDER);
    let _ = std::env::set_current_dir(EMPTY_FOLDER);
}
