//! `lookbook sync --watch`: a pass over everything, then one over what changed, for ever.
//!
//! Invariant: what changed during a pass, or during one that failed, is in the next.

use std::{
    collections::{HashMap, HashSet},
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use walkdir::WalkDir;

use super::inotify::Inotify;
use crate::{
    args::SyncArgs,
    interrupt,
    load::Job,
    messages::{self, Ending},
};

/// How often to look for interrupts and events.
const TICK: Duration = Duration::from_millis(100);
/// A pass begins when nothing changed for that long, or at the latest after the second.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);
/// Between polls where the kernel does not tell.
const POLL: Duration = Duration::from_secs(10);
/// After a pass that failed; doubles each time.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

/// Files that changed, by their identities.
#[derive(Debug, Default)]
pub struct Changes {
    root: PathBuf,
    paths: HashSet<String>,
    /// Some are not known: everything has to be looked at.
    is_lost: bool,
}

impl Changes {
    fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ..Self::default()
        }
    }

    /// A name that is not UTF-8 cannot be a photo's.
    pub fn add(&mut self, path: &Path) {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let parts = below.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_str()),
            _ => None,
        });
        if let Some(parts) = parts.collect::<Option<Vec<&str>>>() {
            self.paths.insert(parts.join("/"));
        }
    }

    pub fn lost(&mut self) {
        self.is_lost = true;
    }

    fn is_empty(&self) -> bool {
        self.paths.is_empty() && !self.is_lost
    }
}

/// Who tells what changed.
enum Teller {
    Kernel(Inotify),
    Poll {
        period: Duration,
        due: Instant,
        seen: HashMap<PathBuf, (Option<SystemTime>, u64)>,
    },
}

impl Teller {
    fn new(root: &Path, poll: Option<u32>) -> Self {
        if let Some(seconds) = poll {
            return Self::poll(root, Duration::from_secs(seconds.into()));
        }
        match Inotify::new(root) {
            Ok(inotify) => Self::Kernel(inotify),
            Err(error) => {
                messages::warn(format_args!(
                    "{error:#}: looking every {} s instead",
                    POLL.as_secs()
                ));
                Self::poll(root, POLL)
            }
        }
    }

    fn poll(root: &Path, period: Duration) -> Self {
        Self::Poll {
            period,
            due: Instant::now() + period,
            seen: snapshot(root),
        }
    }

    fn look(&mut self, changes: &mut Changes) -> Result<()> {
        match self {
            Self::Kernel(inotify) => inotify.read(changes),
            Self::Poll { period, due, seen } => {
                if Instant::now() >= *due {
                    let now = snapshot(&changes.root);
                    let differs = |path: &&PathBuf| now.get(*path) != seen.get(*path);
                    now.keys()
                        .chain(seen.keys())
                        .filter(differs)
                        .for_each(|path| changes.add(path));
                    *seen = now;
                    *due = Instant::now() + *period;
                }
                Ok(())
            }
        }
    }
}

/// Time and size of every file.
fn snapshot(root: &Path) -> HashMap<PathBuf, (Option<SystemTime>, u64)> {
    let items = WalkDir::new(root).follow_links(true).into_iter().flatten();
    let files = items.filter(|item| !item.file_type().is_dir());
    files
        .map(|file| {
            let about = file.metadata().ok();
            let modified = about.as_ref().and_then(|about| about.modified().ok());
            let size = about.map_or(0, |about| about.len());
            (file.into_path(), (modified, size))
        })
        .collect()
}

/// Passes until the user asks to stop.
pub fn run(args: &SyncArgs, job: &Job<'_>) -> Result<Ending> {
    let Some(root) = args.load.source.folder() else {
        bail!("--watch needs a folder");
    };
    let mut teller = Teller::new(root, args.poll);
    let mut ending = job.run()?;
    let mut changes = Changes::under(root);
    let mut retry = RETRY;
    messages::note(format_args!("watching {}: Ctrl-C ends it", root.display()));
    while wait(&mut teller, &mut changes)? {
        let only = match changes.is_lost {
            true => None,
            false => Some(&changes.paths),
        };
        let pass = Job { only, ..*job };
        match pass.run() {
            Ok(passed) => {
                ending = passed;
                changes = Changes::under(root);
                retry = RETRY;
            }
            Err(error) => {
                messages::warn(format_args!(
                    "{}; trying again in {} s",
                    messages::render(&error),
                    retry.as_secs()
                ));
                pause(retry);
                retry = (retry * 2).min(LONGEST_RETRY);
            }
        }
    }
    Ok(ending)
}

/// Waits for changes; false when asked to stop.
fn wait(teller: &mut Teller, changes: &mut Changes) -> Result<bool> {
    let mut first = None;
    let mut last = Instant::now();
    let mut known = 0;
    while !interrupt::is_requested() {
        teller.look(changes)?;
        if changes.paths.len() != known {
            known = changes.paths.len();
            last = Instant::now();
        }
        if !changes.is_empty() {
            let first = *first.get_or_insert_with(Instant::now);
            if last.elapsed() >= QUIET || first.elapsed() >= PATIENCE {
                return Ok(true);
            }
        }
        thread::sleep(TICK);
    }
    Ok(false)
}

fn pause(time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && !interrupt::is_requested() {
        thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn changed(teller: &mut Teller, root: &Path) -> Vec<String> {
        let mut changes = Changes::under(root);
        teller.look(&mut changes).unwrap();
        let mut paths: Vec<String> = changes.paths.into_iter().collect();
        paths.sort();
        paths
    }

    #[test]
    fn the_kernel_tells_of_files_written_moved_and_removed_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/old.jpg"), b"x").unwrap();
        let mut teller = Teller::new(root, None);
        assert!(matches!(teller, Teller::Kernel(_)));
        assert!(changed(&mut teller, root).is_empty());
        fs::write(root.join("a/new.jpg"), b"x").unwrap();
        fs::remove_file(root.join("a/old.jpg")).unwrap();
        assert_eq!(changed(&mut teller, root), ["a/new.jpg", "a/old.jpg"]);
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::write(root.join("b/c/deep.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, root), ["b/c/deep.jpg"]);
        fs::write(root.join("b/c/later.jpg"), b"x").unwrap();
        fs::rename(root.join("a/new.jpg"), root.join("moved.jpg")).unwrap();
        let expected = ["a/new.jpg", "b/c/later.jpg", "moved.jpg"];
        assert_eq!(changed(&mut teller, root), expected);
    }

    #[test]
    fn a_poll_tells_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(root.join("old.jpg"), b"x").unwrap();
        fs::write(root.join("same.jpg"), b"x").unwrap();
        let mut teller = Teller::poll(root, Duration::ZERO);
        fs::write(root.join("new.jpg"), b"x").unwrap();
        fs::remove_file(root.join("old.jpg")).unwrap();
        assert_eq!(changed(&mut teller, root), ["new.jpg", "old.jpg"]);
        assert!(changed(&mut teller, root).is_empty());
    }
}
