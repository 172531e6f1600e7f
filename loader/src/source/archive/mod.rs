//! A tar archive as a source, plain or compressed by gzip: a packed folder, or a WebDataset shard.
//!
//! It is read once from front to back. Members that stand together and have one key (the name up to
//! its first dot) belong together, as in WebDataset: `.json`, `.txt` and `.cls` beside a photo say
//! more of it. Invariant: what is held is one such group, [`MAX_GROUP_BYTES`] at most and one photo.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use serde_json::{Map, Value};

use super::{
    Entry, Item, Opener, Part, Place, Reject, code,
    decimal::{inexact, rounded},
    fetch::too_large,
    names::{has_zero, is_hidden, is_photo_name, sku_of},
    patterns::Filter,
    producer::{Gone, Sink, produced},
};
use crate::args::Role;

/// Bytes of photos that may wait for what is said of them.
const MAX_GROUP_BYTES: usize = 128 << 20;
/// More than that in a `.json`, `.txt` or `.cls` is no description.
const MAX_METADATA_BYTES: u64 = 1 << 20;
/// How a gzip file begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

pub fn part(file: &Path, opener: &Opener<'_>) -> Result<Part> {
    let wrong = || format!("cannot read {}", file.display());
    let mut bytes = File::open(file).with_context(wrong)?;
    let mut start = [0; 2];
    let is_gzip = bytes.read(&mut start).with_context(wrong)? == 2 && start == GZIP;
    let file_reader = BufReader::with_capacity(1 << 16, File::open(file).with_context(wrong)?);
    let reader: Box<dyn Read + Send> = if is_gzip {
        Box::new(MultiGzDecoder::new(file_reader))
    } else {
        Box::new(file_reader)
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let column = |role, default: &str| opener.args.column(role).unwrap_or(default).to_owned();
    let rules = Rules {
        prefix: match opener.args.name_by_shard {
            true => format!("{name}/"),
            false => String::new(),
        },
        sku: column(Role::Sku, "sku"),
        key: opener.args.column(Role::Key).map(str::to_owned),
        sells: opener.args.column(Role::Sells).map(str::to_owned),
        filter: opener.filter()?,
        max_bytes: opener.max_bytes,
        ignored: opener.ignored.clone(),
    };
    let archive = file.display().to_string();
    Ok(Part {
        items: produced(move |sink| {
            let mut members = Members {
                sink,
                rules: &rules,
                group: Group::default(),
            };
            let read = members.read(reader);
            // What came before the end, or before the damage, is whole.
            if members.flush().is_err() {
                return Ok(());
            }
            match read {
                Err(Ended::Damaged(error)) => {
                    let reason = format!(
                        "the archive is damaged or cut off: {error}; the photos before that are taken"
                    );
                    let reject = Reject::new(&archive, code::ARCHIVE_DAMAGED, reason);
                    // Nobody may be there to hear it.
                    let _ = sink.give(Err(reject));
                    Ok(())
                }
                Ok(()) | Err(Ended::Unwanted) => Ok(()),
            }
        }),
        total: None,
        is_list: false,
        is_remote: false,
    })
}

/// Why an archive was not read to its end.
enum Ended {
    Damaged(std::io::Error),
    Unwanted,
}

impl From<std::io::Error> for Ended {
    fn from(error: std::io::Error) -> Self {
        Self::Damaged(error)
    }
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Unwanted
    }
}

/// How members become photos.
struct Rules {
    prefix: String,
    /// Keys of the JSON beside a photo.
    sku: String,
    key: Option<String>,
    sells: Option<String>,
    filter: Filter,
    max_bytes: u64,
    ignored: Arc<AtomicUsize>,
}

/// Members of one key.
#[derive(Default)]
struct Group {
    key: String,
    /// Path and bytes.
    photos: Vec<(String, Vec<u8>)>,
    metadata: Map<String, Value>,
    /// Why the metadata cannot be used: code and reason.
    wrong: Option<(&'static str, String)>,
}

/// The photos of an archive, in its order.
struct Members<'a> {
    sink: &'a Sink,
    rules: &'a Rules,
    group: Group,
}

impl Members<'_> {
    fn read(&mut self, reader: Box<dyn Read + Send>) -> Result<(), Ended> {
        for member in tar::Archive::new(reader).entries()? {
            let mut member = member?;
            let (path, is_utf8) = match std::str::from_utf8(&member.path_bytes()) {
                Ok(path) => (clean(path), true),
                Err(_) => (String::from_utf8_lossy(&member.path_bytes()).into(), false),
            };
            let kind = member.header().entry_type();
            if kind.is_dir() || path.split('/').any(is_hidden) {
                continue;
            }
            let size = member.size();
            let is_photo = is_photo_name(&path);
            if is_photo && is_utf8 && !self.rules.filter.wants(&path) {
                continue;
            }
            if is_photo && !is_utf8 {
                let reason = "the name is not UTF-8, so it cannot be stored as text";
                self.refuse(&path, code::PATH_NOT_UTF8, reason)?;
            } else if is_photo && !kind.is_file() {
                let reason = "a link or a special file, which has no bytes in the archive";
                self.refuse(&path, code::NOT_A_FILE, reason)?;
            } else if is_photo && size > self.rules.max_bytes {
                let (code, reason) = too_large(size, self.rules.max_bytes);
                self.refuse(&path, &code, &reason)?;
            } else if is_photo {
                let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
                member.read_to_end(&mut bytes)?;
                self.add_photo(path, bytes)?;
            } else if is_metadata_name(&path) && kind.is_file() && size <= MAX_METADATA_BYTES {
                let mut bytes = Vec::new();
                member.read_to_end(&mut bytes)?;
                self.add_metadata(&path, &bytes)?;
            } else {
                self.rules.ignored.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, path: &str, code: &str, reason: &str) -> Result<(), Gone> {
        let path = format!("{}{path}", self.rules.prefix);
        self.sink.give(Err(Reject::new(path, code, reason)))
    }

    fn add_photo(&mut self, path: String, bytes: Vec<u8>) -> Result<(), Gone> {
        self.begin(&path)?;
        let held: usize = self.group.photos.iter().map(|(_, held)| held.len()).sum();
        if held + bytes.len() > MAX_GROUP_BYTES {
            self.flush()?;
            self.group.key = key_of(&path).to_owned();
        }
        self.group.photos.push((path, bytes));
        Ok(())
    }

    fn add_metadata(&mut self, path: &str, bytes: &[u8]) -> Result<(), Gone> {
        self.begin(path)?;
        let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
        if let Err(error) = describe(&mut self.group.metadata, extension, bytes) {
            let reason = format!("{path} beside it {error:#}");
            self.group.wrong = Some((code::METADATA_INVALID, reason));
        }
        Ok(())
    }

    /// A new key ends the group before it.
    fn begin(&mut self, path: &str) -> Result<(), Gone> {
        let key = key_of(path);
        if key != self.group.key {
            self.flush()?;
            self.group.key = key.to_owned();
        }
        Ok(())
    }

    /// The group is complete.
    fn flush(&mut self) -> Result<(), Gone> {
        let Group {
            photos,
            mut metadata,
            mut wrong,
            ..
        } = std::mem::take(&mut self.group);
        let text = |value: Value| match value {
            Value::String(text) if !text.is_empty() => Some(text),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let sku = metadata.remove(&self.rules.sku).and_then(text);
        let mut take = |name: &Option<String>| {
            let name = name.as_ref()?;
            metadata.remove(name).and_then(text)
        };
        let (named, sells) = (take(&self.rules.key), take(&self.rules.sells));
        let sells = match sells.map(|text| text.parse()).transpose() {
            Ok(sells) => sells,
            Err(reason) => {
                wrong.get_or_insert((code::CATEGORY_INVALID, reason));
                None
            }
        };
        metadata.retain(|_, value| !value.is_null());
        let has_one = photos.len() == 1;
        for (path, bytes) in photos {
            let own = match &named {
                Some(named) if has_one => named.clone(),
                _ => format!("{}{path}", self.rules.prefix),
            };
            if let Some((code, reason)) = &wrong {
                let reject = Reject::new(own, code, reason);
                self.sink.give(Err(reject))?;
                continue;
            }
            self.sink.give(Ok(Item {
                entry: Entry {
                    sku: Some(sku.clone().unwrap_or_else(|| sku_of(&path).to_owned())),
                    path: own,
                    sells,
                    attributes: (!metadata.is_empty()).then(|| Value::Object(metadata.clone())),
                },
                place: Place::Held(bytes),
            }))?;
        }
        Ok(())
    }
}

/// WebDataset's key: the path up to the first dot of the file name.
fn key_of(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path[name..]
        .find('.')
        .map_or(path, |dot| &path[..name + dot])
}

/// Adds what a file beside a photo says: the pairs of a JSON object, else one of the file's own name.
fn describe(metadata: &mut Map<String, Value>, extension: &str, bytes: &[u8]) -> Result<()> {
    if extension == "json" {
        let object: Map<String, Value> =
            serde_json::from_slice(bytes).context("is not a JSON object")?;
        let number = std::str::from_utf8(bytes).ok().and_then(inexact);
        if let Some(number) = number {
            anyhow::bail!("is refused: {}", rounded(number));
        }
        metadata.extend(object);
    } else {
        let text = std::str::from_utf8(bytes).context("is not UTF-8")?.trim();
        let value = match (extension, text.parse::<i64>()) {
            ("cls", Ok(number)) => Value::from(number),
            _ => Value::from(text),
        };
        metadata.insert(extension.to_owned(), value);
    }
    let has_zero = metadata
        .iter()
        .any(|(name, value)| name.contains('\0') || has_zero(value));
    anyhow::ensure!(
        !has_zero,
        "has a zero character, which PostgreSQL cannot store"
    );
    Ok(())
}

/// `./a//b.jpg` is `a/b.jpg`.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}

fn is_metadata_name(path: &str) -> bool {
    [".json", ".txt", ".cls"]
        .iter()
        .any(|end| path.ends_with(end))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use serde_json::json;

    use super::*;
    use crate::{
        args::SourceArgs,
        source::{Found, Source},
    };

    fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (path, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, *bytes).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn read(name: &str, bytes: &[u8], args: SourceArgs) -> (Vec<Found>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let args = SourceArgs {
            sources: vec![file],
            ..args
        };
        let mut source = Source::open(&args, None, 100).unwrap();
        let found = source.by_ref().map(Result::unwrap).collect();
        (found, source.ignored())
    }

    #[test]
    fn a_packed_folder_names_its_photos_as_the_folder_does() {
        let bytes = packed(&[
            ("./a.jpg", b"A"),
            ("shoes/b.v2.png", b"B"),
            ("shoes/._b.png", b"hidden"),
            ("notes.md", b"other"),
            ("big.jpg", &[0; 101]),
        ]);
        let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
        zipped.write_all(&bytes).unwrap();
        for (name, bytes) in [("a.tar", bytes), ("a.tar.gz", zipped.finish().unwrap())] {
            let (found, ignored) = read(name, &bytes, SourceArgs::default());
            let paths: Vec<Result<(&str, &str), &str>> = found
                .iter()
                .map(|found| match found {
                    Ok(item) => Ok((item.entry.path.as_str(), item.entry.product())),
                    Err(reject) => Err(reject.code.as_str()),
                })
                .collect();
            assert_eq!(ignored, 1);
            // A reject does not wait for its neighbours.
            assert_eq!(paths.len(), 3);
            assert!(paths.contains(&Ok(("a.jpg", "a"))));
            assert!(paths.contains(&Ok(("shoes/b.v2.png", "shoes/b.v2"))));
            assert!(paths.contains(&Err("image_too_large")));
        }
    }

    #[test]
    fn what_stands_beside_a_photo_in_a_shard_belongs_to_it() {
        let bytes = packed(&[
            ("000.json", br#"{"product": 7, "price": 9.5}"#),
            ("000.jpg", b"A"),
            ("000.cls", b"3\n"),
            ("001.jpg", b"B"),
            ("001.txt", b"a red dress\n"),
            ("002.jpg", b"C"),
            ("002.json", b"[]"),
        ]);
        let args = SourceArgs {
            map: vec!["sku=product".parse().unwrap()],
            name_by_shard: true,
            ..SourceArgs::default()
        };
        let (found, _) = read("s-1.tar", &bytes, args);
        let [Ok(first), Ok(second), Err(third)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(
            (first.entry.path.as_str(), first.entry.product()),
            ("s-1.tar/000.jpg", "7")
        );
        assert_eq!(
            first.entry.attributes,
            Some(json!({"price": 9.5, "cls": 3}))
        );
        assert_eq!(
            (second.entry.product(), &second.entry.attributes),
            ("001", &Some(json!({"txt": "a red dress"})))
        );
        assert_eq!(third.code, code::METADATA_INVALID);
        assert!(third.reason.contains("002.json"), "{}", third.reason);
    }

    #[test]
    fn a_cut_archive_gives_what_it_has_and_says_so() {
        let bytes = packed(&[("a.jpg", b"A"), ("b.jpg", &[1; 99])]);
        let (found, _) = read("a.tar", &bytes[..1100], SourceArgs::default());
        let [Ok(first), Err(damage)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(first.entry.path, "a.jpg");
        assert_eq!(damage.code, code::ARCHIVE_DAMAGED);
    }
}
