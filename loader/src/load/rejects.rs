//! The list of rejected photos: a CSV file with path, code and reason, written as they happen so
//! that a killed run leaves it whole.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::source::Reject;

const HEADER: &str = "path,code,reason";

/// Fails where the file cannot be made; makes it at the first reject. A list of an earlier run is emptied at the start; any other
/// file of that name is left alone.
#[derive(Debug)]
pub struct RejectsFile {
    file: PathBuf,
    out: Option<csv::Writer<File>>,
}

impl RejectsFile {
    /// Of a run over `only` these photos the earlier list keeps what it says of others.
    pub fn new(file: &Path, only: Option<&HashSet<String>>) -> Result<Self> {
        let mut rejects = Self {
            file: file.to_owned(),
            out: None,
        };
        match File::open(file) {
            Ok(existing) => {
                let kept = rejects.of_others(existing, only)?;
                fs::remove_file(file)
                    .with_context(|| format!("cannot remove {}", file.display()))?;
                kept.iter().try_for_each(|reject| rejects.add(reject))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Found out now, not at the first reject, and without leaving an empty list.
                tempfile::tempfile_in(folder_of(file)).with_context(|| {
                    format!(
                        "cannot write {}: name another file with --rejects",
                        file.display()
                    )
                })?;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", file.display()));
            }
        }
        Ok(rejects)
    }

    /// What an existing list says of photos that this run does not look at.
    fn of_others(&self, existing: File, only: Option<&HashSet<String>>) -> Result<Vec<Reject>> {
        let wrong = || format!("cannot read {}", self.file.display());
        let mut existing = BufReader::new(existing);
        let mut first = String::new();
        existing.read_line(&mut first).with_context(wrong)?;
        if !first.is_empty() && first.trim_end() != HEADER {
            bail!(
                "{} exists and is not a list of rejects: name another file with --rejects",
                self.file.display()
            );
        }
        let Some(only) = only else {
            return Ok(Vec::new());
        };
        // A folder stands for what is in it.
        let is_looked_at = |path: &str| {
            let mut folders = path.match_indices('/').map(|(end, _)| &path[..end]);
            only.contains(path) || folders.any(|folder| only.contains(folder))
        };
        let mut lines = csv::ReaderBuilder::new();
        let mut lines = lines.has_headers(false).from_reader(existing);
        let rejects = lines.deserialize().map(|line| {
            let (path, code, reason): (String, String, String) = line.with_context(wrong)?;
            Ok(Reject { path, code, reason })
        });
        let others = rejects.filter(|reject: &Result<Reject>| {
            reject
                .as_ref()
                .map_or(true, |reject| !is_looked_at(&reject.path))
        });
        others.collect()
    }

    pub fn add(&mut self, reject: &Reject) -> Result<()> {
        self.append(reject)
            .with_context(|| format!("cannot write {}", self.file.display()))
    }

    fn append(&mut self, reject: &Reject) -> Result<()> {
        let out = match &mut self.out {
            Some(out) => out,
            empty => {
                let mut out = csv::Writer::from_path(&self.file)?;
                out.write_record(HEADER.split(','))?;
                empty.insert(out)
            }
        };
        out.write_record([&reject.path, &reject.code, &reject.reason])?;
        Ok(out.flush()?)
    }
}

/// The folder of a file that is named with or without one.
pub fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_holds_the_rejects_of_its_own_run_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rejects.csv");
        for name in ["a,b.jpg", "line\nbreak.jpg"] {
            let mut rejects = RejectsFile::new(&file, None).unwrap();
            assert!(!file.exists());
            rejects
                .add(&Reject::new(name, "not_an_image", "it is \"text\""))
                .unwrap();
            let read: Vec<Vec<String>> = csv::Reader::from_path(&file)
                .unwrap()
                .deserialize()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(read, [[name, "not_an_image", "it is \"text\""]]);
        }
    }

    #[test]
    fn a_run_over_some_photos_keeps_what_the_list_says_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rejects.csv");
        let mut rejects = RejectsFile::new(&file, None).unwrap();
        for path in ["a.jpg", "b\n.jpg", "new/c.jpg", "newer.jpg"] {
            rejects.add(&Reject::new(path, "not_an_image", "")).unwrap();
        }
        let listed = |only: &[&str]| {
            let only = only.iter().map(|path| (*path).to_owned()).collect();
            RejectsFile::new(&file, Some(&only)).unwrap();
            fs::read_to_string(&file).unwrap_or_default()
        };
        let [head, b, newer] = [
            HEADER,
            "\"b\n.jpg\",not_an_image,",
            "newer.jpg,not_an_image,",
        ];
        assert_eq!(listed(&["a.jpg", "new"]), format!("{head}\n{b}\n{newer}\n"));
        assert_eq!(listed(&[]), format!("{head}\n{b}\n{newer}\n"));
        assert_eq!(listed(&["newer.jpg", "b\n.jpg"]), "");
        assert!(!file.exists());
    }

    #[test]
    fn a_list_that_cannot_be_written_is_refused_before_the_first_reject() {
        let folder = tempfile::tempdir().unwrap();
        let error = RejectsFile::new(&folder.path().join("no/r.csv"), None).unwrap_err();
        assert!(error.to_string().contains("no/r.csv: name another file"));
        RejectsFile::new(&folder.path().join("r.csv"), None).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_not_a_list_of_rejects_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("thesis.csv");
        fs::write(&file, "years of work\n").unwrap();
        assert!(
            RejectsFile::new(&file, None)
                .unwrap_err()
                .to_string()
                .contains("thesis.csv exists")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "years of work\n");
    }
}
