//! Reading one photo: its bytes and their sha256, or why not.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

use lookbook_vision::ErrorCode;
use sha2::{Digest, Sha256};

use crate::source::{Refusal, code};

/// A photo's bytes and their digest, or why there are none.
pub fn read(file: &Path, max_bytes: u64) -> Result<(Vec<u8>, [u8; 32]), Refusal> {
    // Asked before opening: opening a named pipe would wait for a writer.
    let about = std::fs::metadata(file).map_err(|error| refusal(&error))?;
    if !about.is_file() {
        return Err((code::NOT_A_FILE, "not a regular file".to_owned()));
    }
    if about.len() > max_bytes {
        let reason = format!("{} bytes, the limit is {max_bytes}", about.len());
        return Err((ErrorCode::ImageTooLarge.as_str(), reason));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(about.len()).unwrap_or(0));
    File::open(file)
        // A file that grows meanwhile is cut one byte past the limit, and decoding refuses it.
        .and_then(|file| file.take(max_bytes + 1).read_to_end(&mut bytes))
        .map_err(|error| refusal(&error))?;
    let sha256 = Sha256::digest(&bytes).into();
    Ok((bytes, sha256))
}

fn refusal(error: &std::io::Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound => (code::NOT_FOUND, "there is no such file".to_owned()),
        _ => (code::UNREADABLE, format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_has_a_code() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.jpg");
        assert_eq!(read(&file, 10).unwrap_err().0, code::NOT_FOUND);
        assert_eq!(read(folder.path(), 10).unwrap_err().0, code::NOT_A_FILE);
        std::fs::write(&file, [0; 11]).unwrap();
        assert_eq!(read(&file, 10).unwrap_err().0, "image_too_large");
        let (bytes, sha256) = read(&file, 11).unwrap();
        assert_eq!((bytes.len(), sha256), (11, Sha256::digest([0; 11]).into()));
    }
}
