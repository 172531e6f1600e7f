//! Which folders are watched, by their paths and by the kernel's numbers for them.
//!
//! Invariant: a folder has one number and, by links, any number of paths; both ways of asking agree.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
};

#[derive(Debug, Default)]
pub struct Folders {
    /// In the order of their parts, so that what is below a folder follows it.
    watches: BTreeMap<PathBuf, i32>,
    paths: HashMap<i32, BTreeSet<PathBuf>>,
}

impl Folders {
    pub fn add(&mut self, path: &Path, watch: i32) {
        // Another folder may have been there.
        self.remove(path);
        self.watches.insert(path.to_owned(), watch);
        self.paths.entry(watch).or_default().insert(path.to_owned());
    }

    pub fn holds(&self, path: &Path) -> bool {
        self.watches.contains_key(path)
    }

    pub fn paths(&self, watch: i32) -> impl Iterator<Item = &Path> {
        self.paths
            .get(&watch)
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }

    /// Forgets a folder and what is below it; gives the numbers that are of no path any more.
    pub fn remove_tree(&mut self, path: &Path) -> Vec<i32> {
        let tree = self.watches.range(path.to_owned()..);
        let tree = tree.take_while(|(below, _)| below.starts_with(path));
        let tree: Vec<PathBuf> = tree.map(|(below, _)| below.clone()).collect();
        tree.iter().filter_map(|below| self.remove(below)).collect()
    }

    /// The kernel watches it no more.
    pub fn remove_watch(&mut self, watch: i32) {
        for path in self.paths.remove(&watch).unwrap_or_default() {
            self.watches.remove(&path);
        }
    }

    fn remove(&mut self, path: &Path) -> Option<i32> {
        let watch = self.watches.remove(path)?;
        let paths = self.paths.get_mut(&watch)?;
        paths.remove(path);
        if !paths.is_empty() {
            return None;
        }
        self.paths.remove(&watch);
        Some(watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_goes_takes_along_what_is_below_it_and_leaves_its_other_paths() {
        let mut folders = Folders::default();
        for (path, watch) in [("r", 1), ("r/a", 2), ("r/a/b", 3), ("r/a.b", 4), ("r/z", 3)] {
            folders.add(Path::new(path), watch);
        }
        assert_eq!(folders.remove_tree(Path::new("r/a")), [2]);
        assert!(!folders.holds(Path::new("r/a/b")) && folders.holds(Path::new("r/a.b")));
        assert_eq!(folders.paths(3).collect::<Vec<_>>(), [Path::new("r/z")]);
        folders.remove_watch(3);
        assert!(!folders.holds(Path::new("r/z")) && folders.paths(3).next().is_none());
    }
}
