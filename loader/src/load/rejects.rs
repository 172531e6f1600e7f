//! The list of rejected photos: a CSV file with path, code and reason, written as they happen so
//! that a killed run leaves it whole.

use std::{
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
    pub fn new(file: &Path) -> Result<Self> {
        let out = match File::open(file) {
            Ok(existing) => {
                let first = BufReader::new(existing).lines().next().transpose();
                let first = first.with_context(|| format!("cannot read {}", file.display()))?;
                if first.is_some_and(|line| line != HEADER) {
                    bail!(
                        "{} exists and is not a list of rejects: name another file with --rejects",
                        file.display()
                    );
                }
                fs::remove_file(file)
                    .with_context(|| format!("cannot remove {}", file.display()))?;
                None
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Found out now, not at the first reject, and without leaving an empty list.
                tempfile::tempfile_in(folder_of(file)).with_context(|| {
                    format!(
                        "cannot write {}: name another file with --rejects",
                        file.display()
                    )
                })?;
                None
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", file.display()));
            }
        };
        Ok(Self {
            file: file.to_owned(),
            out,
        })
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
            let mut rejects = RejectsFile::new(&file).unwrap();
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
    fn a_list_that_cannot_be_written_is_refused_before_the_first_reject() {
        let folder = tempfile::tempdir().unwrap();
        let error = RejectsFile::new(&folder.path().join("no/r.csv")).unwrap_err();
        assert!(error.to_string().contains("no/r.csv: name another file"));
        RejectsFile::new(&folder.path().join("r.csv")).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_that_is_not_a_list_of_rejects_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("thesis.csv");
        fs::write(&file, "years of work\n").unwrap();
        assert!(
            RejectsFile::new(&file)
                .unwrap_err()
                .to_string()
                .contains("thesis.csv exists")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "years of work\n");
    }
}
