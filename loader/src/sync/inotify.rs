//! The kernel's word on what changed under a folder.
//!
//! Knows nothing of loading. Invariants: a folder that appears is watched before it is listed, so that no file in it is
//! missed; what the kernel could not tell counts as lost, and everything is watched anew.

use std::{
    ffi::{OsStr, OsString},
    fs,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use walkdir::WalkDir;

use super::{changes::Changes, folders::Folders};
use crate::{messages, source::is_hidden};

const COMES: ReadFlags = ReadFlags::CREATE.union(ReadFlags::MOVED_TO);
const GOES: ReadFlags = ReadFlags::DELETE.union(ReadFlags::MOVED_FROM);

/// All folders under one, and behind the links in them.
pub struct Inotify {
    root: PathBuf,
    /// Which folder the root's path leads to; `None`: to none.
    identity: Option<(u64, u64)>,
    events: OwnedFd,
    folders: Folders,
}

/// One of the kernel's.
struct Event {
    watch: i32,
    what: ReadFlags,
    /// Of what is in the folder that is watched; empty: it is about the folder.
    name: OsString,
}

impl Inotify {
    pub fn new(root: &Path) -> Result<Self> {
        let mut watched = Self {
            root: root.to_owned(),
            identity: identity(root),
            events: events()?,
            folders: Folders::default(),
        };
        watched.add(root, &mut Changes::default())?;
        Ok(watched)
    }

    /// Adds what happened since the last call.
    pub fn read(&mut self, changes: &mut Changes) -> Result<()> {
        self.follow_root(changes)?;
        for event in self.read_events()? {
            if event.what.contains(ReadFlags::QUEUE_OVERFLOW) {
                return self.start_anew(changes);
            }
            self.take(&event, changes)?;
        }
        Ok(())
    }

    /// A link that was turned, or a folder that was exchanged, tells of nothing.
    fn follow_root(&mut self, changes: &mut Changes) -> Result<()> {
        let now = identity(&self.root);
        if now == self.identity {
            return Ok(());
        }
        if now.is_some() {
            return self.start_anew(changes);
        }
        self.identity = None;
        messages::warn(format_args!(
            "{} is gone: nothing is loaded until it is back",
            self.root.display()
        ));
        Ok(())
    }

    fn start_anew(&mut self, changes: &mut Changes) -> Result<()> {
        *self = Self::new(&self.root)?;
        changes.lost();
        Ok(())
    }

    fn read_events(&self) -> Result<Vec<Event>> {
        let mut events = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes());
                    events.push(Event {
                        watch: event.wd(),
                        what: event.events(),
                        name: OsStr::from_bytes(name.unwrap_or_default()).to_owned(),
                    });
                }
                Err(Errno::AGAIN) => return Ok(events),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot read what changed"),
            }
        }
    }

    fn take(&mut self, event: &Event, changes: &mut Changes) -> Result<()> {
        let Event { watch, what, name } = event;
        if what.contains(ReadFlags::IGNORED) {
            if self.folders.paths(*watch).any(|path| path == self.root) {
                // Deleted: one that is made anew may get its number.
                self.identity = None;
            }
            self.folders.remove_watch(*watch);
        }
        if name.is_empty() || is_hidden(&name.to_string_lossy()) {
            return Ok(());
        }
        let paths = self.folders.paths(*watch).map(|folder| folder.join(name));
        for path in paths.collect::<Vec<_>>() {
            let is_watched = self.folders.holds(&path);
            let is_folder = what.contains(ReadFlags::ISDIR);
            if what.intersects(GOES) && (is_folder || is_watched) {
                changes.add_folder(&path);
                for watch in self.folders.remove_tree(&path) {
                    // Those of deleted folders are gone already.
                    let _ = inotify::remove_watch(&self.events, watch);
                }
            } else if what.intersects(COMES) && (is_folder || path.is_dir()) {
                changes.add_folder(&path);
                self.add(&path, changes)?;
            } else if !is_folder {
                changes.add_file(&path);
            } else if !is_watched {
                // It may be readable now.
                self.add(&path, changes)?;
            }
        }
        Ok(())
    }

    /// Watches `folder` and what is below it; the files that are there count as changed.
    fn add(&mut self, folder: &Path, changes: &mut Changes) -> Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        let items = WalkDir::new(folder).follow_links(true).into_iter();
        let items = items.filter_entry(|item| {
            item.depth() == 0 || !is_hidden(&item.file_name().to_string_lossy())
        });
        // Parents come before what is in them: each is watched, then listed.
        for item in items {
            let item = match item {
                Ok(item) => item,
                Err(error) => {
                    // Gone meanwhile, or unreadable, which a pass says.
                    error
                        .path()
                        .into_iter()
                        .for_each(|path| changes.add_folder(path));
                    continue;
                }
            };
            let path = item.path();
            if !item.file_type().is_dir() {
                changes.add_file(path);
                continue;
            }
            match inotify::add_watch(&self.events, path, flags) {
                Ok(watch) => self.folders.add(path, watch),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(Errno::ACCESS) => changes.add_folder(path),
                Err(error) => {
                    let limit = match error {
                        Errno::NOSPC => " (fs.inotify.max_user_watches limits their number)",
                        _ => "",
                    };
                    return Err(error)
                        .with_context(|| format!("cannot watch {}{limit}", path.display()));
                }
            }
        }
        Ok(())
    }
}

fn events() -> Result<OwnedFd> {
    inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).context("inotify is not available")
}

/// Device and number of a folder.
fn identity(folder: &Path) -> Option<(u64, u64)> {
    let about = fs::metadata(folder).ok()?;
    Some((about.dev(), about.ino()))
}

#[cfg(test)]
impl Inotify {
    /// What the kernel says cannot be read any more.
    pub fn break_off(&mut self) {
        self.events = fs::File::open("/dev/null").unwrap().into();
    }
}
