//! What already has the name of a file that a run writes beside its tables.
//!
//! Invariant: only a regular file is ever emptied, removed or replaced, and never a link to it.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl, fstat};

pub enum Named {
    Nothing,
    /// A regular file, by its name behind links.
    File(PathBuf),
    /// A device, a pipe, or where our own output goes: written to as it is.
    Stream(File),
}

impl Named {
    pub fn of(name: &Path) -> io::Result<Self> {
        let about = match fs::metadata(name) {
            Ok(about) => about,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::Nothing),
            Err(error) => return Err(error),
        };
        if about.is_file() && !is_our_output(&about) {
            return Ok(Self::File(fs::canonicalize(name)?));
        }
        // A pipe that nobody reads is an error and not waited for.
        let mut options = OpenOptions::new();
        let waits_not = OFlags::NONBLOCK.bits().cast_signed();
        options.append(true).custom_flags(waits_not);
        let stream = options.open(name)?;
        fcntl_setfl(&stream, fcntl_getfl(&stream)? - OFlags::NONBLOCK)?;
        Ok(Self::Stream(stream))
    }
}

/// Whether standard output or standard error goes there, as in `--rejects /dev/stdout > FILE`.
fn is_our_output(about: &Metadata) -> bool {
    let (out, errors) = (io::stdout(), io::stderr());
    [out.as_fd(), errors.as_fd()].iter().any(|stream| {
        fstat(stream).is_ok_and(|of| (of.st_dev, of.st_ino) == (about.dev(), about.ino()))
    })
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
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn a_pipe_is_written_to_where_somebody_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let refused = Named::of(&pipe).err().expect("nobody reads it");
        assert_eq!(refused.raw_os_error(), Some(6), "{refused}");
        let reader = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&pipe)
            .unwrap();
        assert!(matches!(Named::of(&pipe).unwrap(), Named::Stream(_)));
        drop(reader);
    }

    #[test]
    fn a_file_is_known_behind_its_links() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (file, link) = (folder.join("a"), folder.join("link"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(Named::of(&link).unwrap(), Named::Nothing));
        fs::write(&file, "").unwrap();
        assert!(matches!(Named::of(&link).unwrap(), Named::File(found) if found == file));
    }
}
