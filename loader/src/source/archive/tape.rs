//! The bytes of an archive: what they are compressed by, how much may stand before a member, and where they end.
//!
//! Invariants: [`MAX_HEADER_BYTES`] is the most that the reader of the format holds beside a member; an archive counts
//! as whole only with its end mark, a block of zeros.

use std::{
    cell::Cell,
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::Path,
};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;

/// The format's unit.
const BLOCK: usize = 512;
/// What may stand before a member: its header, with names and attributes that did not fit into it.
const MAX_HEADER_BYTES: u64 = 1 << 20;
const GZIP: &[u8] = &[0x1f, 0x8b];
/// How files begin that are packed otherwise, and by what.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
];

/// The bytes of a file, without gzip.
pub fn open(file: &Path) -> Result<Box<dyn Read + Send>> {
    let wrong = || format!("cannot read {}", file.display());
    let mut start = Vec::new();
    let opened = File::open(file).with_context(wrong)?;
    opened.take(8).read_to_end(&mut start).with_context(wrong)?;
    let other = OTHERS.iter().find(|(magic, _)| start.starts_with(magic));
    if let Some((_, name)) = other {
        bail!(
            "{} is packed by {name}, which is not read: unpack it, or pack it as .tar or .tar.gz",
            file.display()
        );
    }
    let reader = BufReader::with_capacity(1 << 16, File::open(file).with_context(wrong)?);
    Ok(match start.starts_with(GZIP) {
        true => Box::new(MultiGzDecoder::new(reader)),
        false => Box::new(reader),
    })
}

/// How far an archive has been read, and may be.
#[derive(Debug)]
pub struct Gauge {
    at: Cell<u64>,
    limit: Cell<u64>,
    is_cut: Cell<bool>,
}

impl Gauge {
    pub fn new() -> Self {
        Self {
            at: Cell::new(0),
            limit: Cell::new(MAX_HEADER_BYTES),
            is_cut: Cell::new(false),
        }
    }

    /// Lets a member be read, and what may stand before the next one.
    pub fn allow<R: Read>(&self, member: &tar::Entry<'_, R>) -> io::Result<()> {
        // A sparse file says how long it would be.
        let bytes = match member.header().entry_type().is_gnu_sparse() {
            true => member.header().entry_size()?,
            false => member.size(),
        };
        let limit = member.raw_file_position().saturating_add(bytes);
        self.limit.set(limit.saturating_add(MAX_HEADER_BYTES));
        Ok(())
    }

    /// Whether the bytes ended where there should have been a mark.
    pub fn is_cut(&self) -> bool {
        self.is_cut.get()
    }
}

/// An archive as it is read.
pub struct Tape<'a, R> {
    pub bytes: R,
    pub gauge: &'a Gauge,
}

impl<R: Read> Read for Tape<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Gauge { at, limit, is_cut } = self.gauge;
        if at.get() >= limit.get() {
            let reason = format!("the header of a member is longer than {MAX_HEADER_BYTES} bytes");
            return Err(io::Error::other(reason));
        }
        let count = self.bytes.read(buffer)?;
        at.set(at.get() + count as u64);
        is_cut.set(count == 0 && !buffer.is_empty());
        Ok(count)
    }
}

/// The name of a sparse file in the form of pax, which the reader of the format takes for another of its map and its bytes.
pub fn sparse_name<R: Read>(member: &mut tar::Entry<'_, R>) -> io::Result<Option<Vec<u8>>> {
    let (mut name, mut is_sparse) = (None, false);
    for pair in member.pax_extensions()?.into_iter().flatten().flatten() {
        is_sparse |= pair.key_bytes().starts_with(b"GNU.sparse.");
        if pair.key_bytes() == b"GNU.sparse.name" {
            name = Some(pair.value_bytes().to_vec());
        }
    }
    let own = || member.path_bytes().into_owned();
    Ok(is_sparse.then(|| name.unwrap_or_else(own)))
}

/// What is wrong with an archive, without bytes of it that are no text.
pub fn said(error: &io::Error) -> String {
    let said = error.to_string();
    let is_odd = |c: char| c.is_control() || c == char::REPLACEMENT_CHARACTER;
    match said.split_once(':') {
        Some((said, rest)) if rest.contains(is_odd) => said.to_owned(),
        _ => said,
    }
}

/// Archives may stand one behind another, padded with zeros: the beginning of the next one, if there is one.
pub fn next_archive(bytes: &mut dyn Read) -> io::Result<Option<Cursor<Vec<u8>>>> {
    loop {
        let mut block = Vec::with_capacity(BLOCK);
        bytes.take(BLOCK as u64).read_to_end(&mut block)?;
        if block.iter().any(|byte| *byte != 0) {
            return Ok(Some(Cursor::new(block)));
        }
        if block.is_empty() {
            return Ok(None);
        }
    }
}
