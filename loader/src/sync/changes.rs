//! What changed under a folder, as far as a pass cares.
//!
//! Invariant: a file that can be no photo by its name is no change: editors, copies and the loader itself write such
//! files beside photos all the time.

use std::{
    collections::HashSet,
    ffi::OsStr,
    path::{Component, Path, PathBuf},
};

use crate::source::{is_hidden, is_photo_name};

/// Photos and folders that changed, by their paths under the root.
#[derive(Debug, Default)]
pub struct Changes {
    root: PathBuf,
    paths: HashSet<String>,
    /// Some are not known: everything has to be looked at.
    is_lost: bool,
    /// Grows with each.
    count: usize,
}

impl Changes {
    pub fn under(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            ..Self::default()
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn add_file(&mut self, path: &Path) {
        if path.file_name().is_some_and(is_photo) {
            self.add_folder(path);
        }
    }

    /// One that came or went, or cannot be read. What is in it need not be named: the listing tells what went, and a
    /// pass says of the folder itself what is wrong with it.
    pub fn add_folder(&mut self, path: &Path) {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        let parts = below.components().filter_map(|part| match part {
            // A name that is not UTF-8 cannot be a photo's.
            Component::Normal(name) => Some(name.to_str().filter(|name| !is_hidden(name))),
            _ => None,
        });
        if let Some(parts) = parts.collect::<Option<Vec<&str>>>() {
            self.paths.insert(parts.join("/"));
            self.count += 1;
        }
    }

    pub fn lost(&mut self) {
        self.is_lost = true;
        self.count += 1;
    }

    /// How many there were, the same one more than once.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What a pass has to look at; `None`: everything.
    pub fn only(&self) -> Option<&HashSet<String>> {
        (!self.is_lost).then_some(&self.paths)
    }
}

fn is_photo(name: &OsStr) -> bool {
    name.to_str().is_some_and(is_photo_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_no_photo_is_no_change() {
        let mut changes = Changes::under(Path::new("./photos"));
        for name in [".a.jpg.swp", ".a.jpg", "notes.txt", ".thumbs/a.jpg", "x"] {
            changes.add_file(&Path::new("./photos").join(name));
        }
        assert_eq!(changes.count(), 0);
        changes.add_file(Path::new("./photos/new/a.JPG"));
        changes.add_folder(Path::new("./photos/x"));
        let expected = ["new/a.JPG", "x"].map(str::to_owned);
        assert_eq!(changes.only(), Some(&HashSet::from(expected)));
        changes.lost();
        assert_eq!((changes.only(), changes.count()), (None, 3));
    }
}
