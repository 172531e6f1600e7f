//! The kernel's word on what changed under a folder.
//!
//! Knows nothing of loading. Invariant: a folder that appears is watched before it is listed, so that no
//! file in it is missed.

use std::{
    collections::HashMap,
    ffi::OsStr,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rustix::{
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
};
use walkdir::WalkDir;

use super::watch::Changes;

/// All folders under one.
pub struct Inotify {
    events: OwnedFd,
    folders: HashMap<i32, PathBuf>,
}

impl Inotify {
    pub fn new(root: &Path) -> Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .context("inotify is not available")?;
        let mut watched = Self {
            events,
            folders: HashMap::new(),
        };
        watched.add(root, &mut Changes::default())?;
        Ok(watched)
    }

    /// Watches `folder` and what is below it; the files that are there count as changed.
    fn add(&mut self, folder: &Path, changes: &mut Changes) -> Result<()> {
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        // Parents come before what is in them: each is watched, then listed.
        for item in WalkDir::new(folder).follow_links(true) {
            let Ok(item) = item else {
                // Gone meanwhile, or unreadable, which the load says.
                continue;
            };
            if !item.file_type().is_dir() {
                changes.add(item.path());
                continue;
            }
            match inotify::add_watch(&self.events, item.path(), flags) {
                Ok(watch) => {
                    self.folders.insert(watch, item.path().to_owned());
                }
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!(
                            "cannot watch {} (fs.inotify.max_user_watches limits their number)",
                            item.path().display()
                        )
                    });
                }
            }
        }
        Ok(())
    }

    /// Adds what happened since the last call.
    pub fn read(&mut self, changes: &mut Changes) -> Result<()> {
        let mut appeared = Vec::new();
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut reader = inotify::Reader::new(&self.events, &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error).context("cannot read what changed"),
            };
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes.lost();
                continue;
            }
            if what.contains(ReadFlags::IGNORED) {
                self.folders.remove(&event.wd());
                continue;
            }
            let Some(folder) = self.folders.get(&event.wd()) else {
                continue;
            };
            let Some(name) = event.file_name() else {
                continue;
            };
            let path = folder.join(OsStr::from_bytes(name.to_bytes()));
            let is_folder = what.contains(ReadFlags::ISDIR);
            if is_folder && what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
                appeared.push(path);
            } else {
                // Of a folder that went, nothing below it is named: the listing tells.
                changes.add(&path);
            }
        }
        for folder in appeared {
            self.add(&folder, changes)?;
        }
        Ok(())
    }
}
