//! The bytes of one photo, wherever they are, or why there are none.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Result;
use lookbook_vision::ErrorCode;

use super::{
    Place, Refusal, code,
    remote::{Remote, code as remote_code},
};
use crate::args::SourceArgs;

/// Gets bytes from any [`Place`]; shared by all readers.
#[derive(Debug)]
pub struct Fetcher {
    args: SourceArgs,
    max_bytes: u64,
    /// Set up when the first photo needs it.
    remote: Mutex<Option<Arc<Remote>>>,
}

impl Fetcher {
    /// Photos of more than `max_bytes` are refused.
    pub fn new(args: &SourceArgs, max_bytes: u64) -> Self {
        Self {
            args: args.clone(),
            max_bytes,
            remote: Mutex::default(),
        }
    }

    /// The way to the network.
    pub fn remote(&self) -> Result<Arc<Remote>> {
        let mut remote = self.remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = &*remote {
            return Ok(remote.clone());
        }
        let new = Arc::new(Remote::new(&self.args, self.max_bytes)?);
        Ok(remote.insert(new).clone())
    }

    /// Waits for them.
    pub fn fetch(&self, place: Place) -> Result<Vec<u8>, Refusal> {
        match place {
            Place::File(file) | Place::Elsewhere(file) => read(&file, self.max_bytes),
            Place::Held(bytes) => Ok(bytes),
            Place::Remote(address) => match self.remote() {
                Ok(remote) => remote.fetch(&address),
                Err(error) => Err((
                    remote_code::CONNECTION_FAILED.to_owned(),
                    format!("{error:#}"),
                )),
            },
        }
    }
}

/// What a photo of that size is told.
pub fn too_large(bytes: u64, max_bytes: u64) -> Refusal {
    let reason = format!("{bytes} bytes, the limit is {max_bytes}");
    (ErrorCode::ImageTooLarge.as_str().to_owned(), reason)
}

fn read(file: &Path, max_bytes: u64) -> Result<Vec<u8>, Refusal> {
    // Asked before opening: opening a named pipe would wait for a writer.
    let about = std::fs::metadata(file).map_err(|error| refusal(&error))?;
    if !about.is_file() {
        return Err((code::NOT_A_FILE.to_owned(), "not a regular file".to_owned()));
    }
    if about.len() > max_bytes {
        return Err(too_large(about.len(), max_bytes));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    File::open(file)
        // A file that grows meanwhile is cut one byte past the limit, and decoding refuses it.
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| refusal(&error))?;
    Ok(bytes)
}

fn refusal(error: &std::io::Error) -> Refusal {
    let (code, reason) = match error.kind() {
        ErrorKind::NotFound => (code::NOT_FOUND, "there is no such file".to_owned()),
        _ => (code::UNREADABLE, format!("cannot be read: {error}")),
    };
    (code.to_owned(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_has_a_code() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        let fetch = |file: &Path, max_bytes| {
            Fetcher::new(&SourceArgs::default(), max_bytes).fetch(Place::File(file.to_owned()))
        };
        assert_eq!(fetch(&file, 10).unwrap_err().0, code::NOT_FOUND);
        assert_eq!(fetch(folder.path(), 10).unwrap_err().0, code::NOT_A_FILE);
        std::fs::write(&file, [0; 11]).unwrap();
        assert_eq!(fetch(&file, 10).unwrap_err().0, "image_too_large");
        assert_eq!(fetch(&file, 11).unwrap(), [0; 11]);
    }
}
