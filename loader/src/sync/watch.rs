//! `lookbook sync --watch`: a pass over everything, then one over what changed, for ever.
//!
//! Invariant: what changed during a pass, or during one that failed, is in the next.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Error, Result, bail};
use walkdir::WalkDir;

use super::{changes::Changes, inotify::Inotify};
use crate::{
    args::SyncArgs,
    interrupt,
    load::{Job, Verdict},
    messages::{self, Ending},
};

/// How often to look for interrupts and events.
const TICK: Duration = Duration::from_millis(100);
/// A pass begins when nothing changed for that long, or at the latest after the second.
const QUIET: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(10);
/// Between polls where the kernel does not tell.
const POLL: Duration = Duration::from_secs(10);
/// After a pass that failed, where nothing else changes; doubles each time.
const RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(300);

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
            Err(error) => Self::poll_instead(root, &error),
        }
    }

    fn poll_instead(root: &Path, error: &Error) -> Self {
        messages::warn(format_args!(
            "{error:#}: looking every {} s instead",
            POLL.as_secs()
        ));
        Self::poll(root, POLL)
    }

    fn poll(root: &Path, period: Duration) -> Self {
        Self::Poll {
            period,
            due: Instant::now() + period,
            seen: snapshot(root),
        }
    }

    fn look(&mut self, changes: &mut Changes) {
        match self {
            Self::Kernel(inotify) => {
                if let Err(error) = inotify.read(changes) {
                    *self = Self::poll_instead(changes.root(), &error);
                    changes.lost();
                }
            }
            Self::Poll { period, due, seen } => {
                if Instant::now() >= *due {
                    let now = snapshot(changes.root());
                    let differs = |path: &&PathBuf| now.get(*path) != seen.get(*path);
                    now.keys()
                        .chain(seen.keys())
                        .filter(differs)
                        .for_each(|path| changes.add_file(path));
                    *seen = now;
                    *due = Instant::now() + *period;
                }
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
    let mut ending = pass(job)?;
    let mut changes = Changes::under(root);
    let mut pause = None;
    messages::note(format_args!("watching {}: Ctrl-C ends it", root.display()));
    while wait(&mut teller, &mut changes, pause) {
        let only = changes.only();
        match pass(&Job { only, ..*job }) {
            Ok(passed) => {
                ending = passed;
                changes = Changes::under(root);
                pause = None;
            }
            Err(error) => {
                let next = pause.map_or(RETRY, |pause: Duration| (pause * 2).min(LONGEST_RETRY));
                messages::warn(format_args!(
                    "{}; trying again in {} s, or when something changes",
                    messages::render(&error),
                    next.as_secs()
                ));
                pause = Some(next);
            }
        }
    }
    Ok(ending)
}

/// A verdict on the photos is said, and no reason to try again.
fn pass(job: &Job<'_>) -> Result<Ending> {
    match job.run() {
        Err(error) if error.is::<Verdict>() => {
            messages::warn(messages::render(&error));
            Ok(Ending::Partial)
        }
        ended => ended,
    }
}

/// Waits for more changes, at most for the pause, if there is one; false when asked to stop.
fn wait(teller: &mut Teller, changes: &mut Changes, pause: Option<Duration>) -> bool {
    let start = Instant::now();
    let mut known = changes.count();
    // The first change and the last.
    let mut since: Option<[Instant; 2]> = None;
    while !interrupt::is_requested() {
        teller.look(changes);
        if changes.count() != known {
            known = changes.count();
            let now = Instant::now();
            since = Some([since.map_or(now, |[first, _]| first), now]);
        }
        let is_due = since
            .is_some_and(|[first, last]| last.elapsed() >= QUIET || first.elapsed() >= PATIENCE);
        if is_due || pause.is_some_and(|pause| start.elapsed() >= pause) {
            return true;
        }
        thread::sleep(TICK);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn looked(teller: &mut Teller, root: &Path) -> Changes {
        let mut changes = Changes::under(root);
        teller.look(&mut changes);
        changes
    }

    fn changed(teller: &mut Teller, root: &Path) -> Vec<String> {
        let changes = looked(teller, root);
        let mut paths: Vec<String> = changes.only().unwrap().iter().cloned().collect();
        paths.sort();
        paths
    }

    fn watched(root: &Path) -> Teller {
        let teller = Teller::new(root, None);
        assert!(matches!(teller, Teller::Kernel(_)));
        teller
    }

    #[test]
    fn the_kernel_tells_of_files_written_moved_and_removed_at_any_depth() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir(root.join("a")).unwrap();
        fs::write(root.join("a/old.jpg"), b"x").unwrap();
        let mut teller = watched(root);
        assert!(changed(&mut teller, root).is_empty());
        fs::write(root.join("a/new.jpg"), b"x").unwrap();
        fs::remove_file(root.join("a/old.jpg")).unwrap();
        assert_eq!(changed(&mut teller, root), ["a/new.jpg", "a/old.jpg"]);
        fs::create_dir_all(root.join("b/c")).unwrap();
        fs::write(root.join("b/c/deep.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, root), ["b", "b/c/deep.jpg"]);
        fs::write(root.join("b/c/later.jpg"), b"x").unwrap();
        fs::rename(root.join("a/new.jpg"), root.join("moved.jpg")).unwrap();
        let expected = ["a/new.jpg", "b/c/later.jpg", "moved.jpg"];
        assert_eq!(changed(&mut teller, root), expected);
        // A folder is told of by the name that it has now.
        fs::rename(root.join("b"), root.join("d")).unwrap();
        let expected = ["b", "d", "d/c/deep.jpg", "d/c/later.jpg"];
        assert_eq!(changed(&mut teller, root), expected);
        fs::remove_file(root.join("d/c/later.jpg")).unwrap();
        assert_eq!(changed(&mut teller, root), ["d/c/later.jpg"]);
    }

    #[test]
    fn the_kernel_tells_of_what_is_behind_links_by_each_of_its_names() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = folder.path();
        fs::create_dir(root.join("real")).unwrap();
        symlink("real", root.join("alias")).unwrap();
        let mut teller = watched(root);
        fs::write(root.join("real/a.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, root), ["alias/a.jpg", "real/a.jpg"]);
        fs::write(other.path().join("b.jpg"), b"x").unwrap();
        symlink(other.path(), root.join("link")).unwrap();
        assert_eq!(changed(&mut teller, root), ["link", "link/b.jpg"]);
        fs::write(other.path().join("c.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, root), ["link/c.jpg"]);
        fs::remove_file(root.join("link")).unwrap();
        assert_eq!(changed(&mut teller, root), ["link"]);
        fs::write(other.path().join("d.jpg"), b"x").unwrap();
        assert!(changed(&mut teller, root).is_empty());
    }

    #[test]
    fn the_kernel_goes_on_telling_of_a_root_that_was_exchanged() {
        let folder = tempfile::tempdir().unwrap();
        let [root, one, two] = ["root", "one", "two"].map(|name| folder.path().join(name));
        fs::create_dir(&one).unwrap();
        symlink(&one, &root).unwrap();
        let mut teller = watched(&root);
        fs::remove_file(&root).unwrap();
        assert!(changed(&mut teller, &root).is_empty());
        fs::create_dir(&two).unwrap();
        symlink(&two, &root).unwrap();
        assert_eq!(looked(&mut teller, &root).only(), None);
        fs::write(two.join("a.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, &root), ["a.jpg"]);
        // File systems give a folder the number of one that is gone.
        let mut teller = watched(&one);
        fs::remove_dir(&one).unwrap();
        fs::create_dir(&one).unwrap();
        let told = [(); 2].map(|()| looked(&mut teller, &one).only().is_none());
        assert!(told.contains(&true));
        fs::write(one.join("a.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, &one), ["a.jpg"]);
    }

    #[test]
    fn folders_that_came_while_the_kernel_lost_count_are_watched() {
        let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut teller = watched(root);
        // One after the other of the same kind would be one.
        for number in 0..=limit.trim().parse().unwrap() {
            fs::write(root.join(format!("{}.jpg", number % 2)), b"x").unwrap();
        }
        fs::create_dir(root.join("new")).unwrap();
        assert_eq!(looked(&mut teller, root).only(), None);
        fs::write(root.join("new/late.jpg"), b"x").unwrap();
        assert_eq!(changed(&mut teller, root), ["new/late.jpg"]);
    }

    #[test]
    fn where_the_kernel_tells_no_more_a_poll_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut teller = watched(root);
        if let Teller::Kernel(inotify) = &mut teller {
            inotify.break_off();
        }
        assert_eq!(looked(&mut teller, root).only(), None);
        assert!(matches!(teller, Teller::Poll { .. }));
    }

    #[test]
    fn a_pause_ends_when_something_changes() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut teller = watched(root);
        let mut changes = Changes::under(root);
        changes.add_file(&root.join("failed.jpg"));
        let start = Instant::now();
        assert!(wait(&mut teller, &mut changes, Some(TICK)));
        fs::write(root.join("failed.jpg"), b"x").unwrap();
        assert!(wait(&mut teller, &mut changes, Some(LONGEST_RETRY)));
        assert!(start.elapsed() < LONGEST_RETRY);
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
