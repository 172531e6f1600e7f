//! The list of rejected photos: a CSV file with path, code and reason, written as they happen so
//! that a killed run leaves it whole.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use super::named::{Named, folder_of};
use crate::source::Reject;

const HEADER: &str = "path,code,reason";

/// Fails where the file cannot be made; makes it at the first reject. A list of an earlier run is emptied at the start; any other
/// file of that name is left alone, and a device or pipe is written to.
#[derive(Debug)]
pub struct RejectsFile {
    file: PathBuf,
    /// What is there and stays there.
    stream: Option<File>,
    out: Option<csv::Writer<File>>,
}

impl RejectsFile {
    /// Of a run over `only` these photos the earlier list keeps what it says of others.
    pub fn new(file: &Path, only: Option<&HashSet<String>>) -> Result<Self> {
        let mut rejects = Self {
            file: file.to_owned(),
            stream: None,
            out: None,
        };
        let advice = || {
            format!(
                "cannot write {}: name another file with --rejects",
                file.display()
            )
        };
        match Named::of(file).with_context(advice)? {
            Named::File(there) => {
                let kept = rejects.of_others(&there, only)?;
                fs::remove_file(&there)
                    .with_context(|| format!("cannot remove {}", there.display()))?;
                kept.iter().try_for_each(|reject| rejects.add(reject))?;
            }
            // Found out now, not at the first reject, and without leaving an empty list.
            Named::Nothing => drop(tempfile::tempfile_in(folder_of(file)).with_context(advice)?),
            Named::Stream(stream) => rejects.stream = Some(stream),
        }
        Ok(rejects)
    }

    /// What an existing list says of photos that this run does not look at.
    fn of_others(&self, there: &Path, only: Option<&HashSet<String>>) -> Result<Vec<Reject>> {
        let wrong = || format!("cannot read {}", self.file.display());
        let mut existing = BufReader::new(File::open(there).with_context(wrong)?);
        // Any file may have that name, and one line of any length.
        let mut first = Vec::new();
        let mut head = existing.by_ref().take(HEADER.len() as u64 + 2);
        head.read_until(b'\n', &mut first).with_context(wrong)?;
        if !first.is_empty() && first.trim_ascii_end() != HEADER.as_bytes() {
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
                let file = match self.stream.take() {
                    Some(stream) => stream,
                    None => File::create(&self.file)?,
                };
                let mut out = csv::Writer::from_writer(file);
                out.write_record(HEADER.split(','))?;
                empty.insert(out)
            }
        };
        out.write_record([&reject.path, &reject.code, &reject.reason])?;
        Ok(out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileTypeExt;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

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
    fn what_is_no_file_is_written_to_and_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (list, link) = (folder.path().join("list"), folder.path().join("link"));
        std::os::unix::fs::symlink(&list, &link).unwrap();
        let reject = Reject::new("a.jpg", "not_an_image", "");
        for _ in 0..2 {
            RejectsFile::new(&link, None).unwrap().add(&reject).unwrap();
            assert!(link.is_symlink());
            let read = fs::read_to_string(&list).unwrap();
            assert_eq!(read, format!("{HEADER}\na.jpg,not_an_image,\n"));
        }
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut options = fs::OpenOptions::new();
        let mut reader = options.read(true).write(true).open(&pipe).unwrap();
        let mut rejects = RejectsFile::new(&pipe, None).unwrap();
        rejects.add(&reject).unwrap();
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let mut read = [0; HEADER.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read, HEADER.as_bytes());
    }

    #[test]
    fn a_file_that_is_not_a_list_of_rejects_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("thesis.csv");
        fs::write(&file, "years of work\n").unwrap();
        // Not read to the end of its line, which may be far away.
        let long = folder.path().join("long");
        File::create(&long).unwrap().set_len(1 << 40).unwrap();
        let error = RejectsFile::new(&long, None).unwrap_err().to_string();
        assert!(error.contains("long exists"), "{error}");
        assert!(
            RejectsFile::new(&file, None)
                .unwrap_err()
                .to_string()
                .contains("thesis.csv exists")
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "years of work\n");
    }
}
