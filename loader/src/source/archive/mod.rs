//! A tar archive as a source, plain or compressed by gzip: a packed folder, or a WebDataset shard.
//!
//! It is read once from front to back. Members that stand together and have one key (the name up to
//! its first dot) belong together, as in WebDataset: `.json`, `.txt` and `.cls` beside a photo say
//! more of it. Invariant: what is held is one such group, [`MAX_GROUP_BYTES`] at most and one photo.

mod metadata;
mod tape;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    io::{self, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use lookbook_vision::Group as Category;
use serde_json::{Map, Value};
use tape::{Gauge, Tape};

use super::{
    Entry, Found, Item, Opener, Part, Place, Reject, code,
    fetch::too_large,
    manifest::text_of,
    names::{is_hidden, is_photo_name, sku_of},
    patterns::Filter,
    producer::{Gone, Sink, produced},
};
use crate::args::Role;

/// Bytes of photos that may wait for what is said of them.
const MAX_GROUP_BYTES: usize = 128 << 20;
/// More than that in a `.json`, `.txt` or `.cls` is no description.
const MAX_METADATA_BYTES: u64 = 1 << 20;

pub fn part(file: &Path, opener: &Opener<'_>) -> Result<Part> {
    let mut bytes = tape::open(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let column = |role| opener.args.column(role).map(str::to_owned);
    let (sku, sells) = (column(Role::Sku), column(Role::Sells));
    let mut unseen: Vec<String> = sku.iter().chain(&sells).cloned().collect();
    let rules = Rules {
        prefix: match opener.args.name_by_shard {
            true => format!("{name}/"),
            false => String::new(),
        },
        sku: sku.unwrap_or_else(|| "sku".to_owned()),
        key: column(Role::Key),
        sells,
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
                unseen: &mut unseen,
                has_photos: false,
            };
            let read = members.read(&mut *bytes);
            let read = members.end(read);
            let reject = match read {
                Err(Ended::Damaged(error)) => {
                    let error = tape::said(&error);
                    let reason = format!(
                        "the archive is damaged or cut off: {error}; the photos before that are taken"
                    );
                    Reject::new(&archive, code::ARCHIVE_DAMAGED, reason)
                }
                Ok(()) if members.has_photos && !members.unseen.is_empty() => {
                    let reason = format!(
                        "nothing beside its photos has the name {}, which --map gives: mend --map and load it again",
                        members.unseen.join(" or ")
                    );
                    Reject::new(&archive, code::METADATA_INVALID, reason)
                }
                Ok(()) | Err(Ended::Unwanted) => return Ok(()),
            };
            // Nobody may be there to hear it.
            let _ = sink.give(Err(reject));
            Ok(())
        }),
        total: None,
        is_list: false,
        is_remote: false,
    })
}

/// Why an archive was not read to its end.
enum Ended {
    Damaged(io::Error),
    Unwanted,
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
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
    /// Names in what stands beside a photo.
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
    /// Why the photos cannot be taken: code and reason.
    wrong: Option<(&'static str, String)>,
}

/// The photos of an archive, in its order.
struct Members<'a> {
    sink: &'a Sink,
    rules: &'a Rules,
    group: Group,
    /// Names that were mapped and have not been found yet.
    unseen: &'a mut Vec<String>,
    has_photos: bool,
}

impl Members<'_> {
    fn read(&mut self, bytes: &mut dyn Read) -> Result<(), Ended> {
        let mut start = io::Cursor::new(Vec::new());
        loop {
            let gauge = Gauge::new();
            let bytes_of_one = Tape {
                bytes: start.chain(&mut *bytes),
                gauge: &gauge,
            };
            for member in tar::Archive::new(bytes_of_one).entries()? {
                let mut member = member?;
                gauge.allow(&member)?;
                self.member(&mut member)?;
            }
            if gauge.is_cut() {
                let reason = "its end mark is missing";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason).into());
            }
            match tape::next_archive(bytes)? {
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    }

    /// What came before the end is whole; what came right before a damage may lack what stood beside it.
    fn end(&mut self, read: Result<(), Ended>) -> Result<(), Ended> {
        if let Err(Ended::Damaged(_)) = &read {
            let reason = "the archive is damaged or cut off right behind it: what is said of it may be missing";
            self.group.wrong = Some((code::ARCHIVE_DAMAGED, reason.to_owned()));
        }
        self.flush()?;
        read
    }

    fn member(&mut self, member: &mut tar::Entry<'_, impl Read>) -> Result<(), Ended> {
        let kind = member.header().entry_type();
        let sparse = tape::sparse_name(member)?;
        let name = match &sparse {
            Some(name) => Cow::Borrowed(&name[..]),
            None => member.path_bytes(),
        };
        let is_utf8 = std::str::from_utf8(&name).is_ok();
        let path = clean(&String::from_utf8_lossy(&name));
        let mut parts = path.split('/');
        if kind.is_dir()
            || kind.is_pax_global_extensions()
            || parts.clone().any(|part| part != ".." && is_hidden(part))
        {
            return Ok(());
        }
        if is_photo_name(&path) {
            if is_utf8 && !self.rules.filter.wants(&path) {
                return Ok(());
            }
            let size = member.size();
            return if !is_utf8 {
                let reason = "the name is not UTF-8, so it cannot be stored as text";
                self.refuse(&path, code::PATH_NOT_UTF8, reason)
            } else if parts.any(|part| part == "..") {
                let reason = "the name has a part .. and so leaves its folder";
                self.refuse(&path, code::PATH_OUTSIDE, reason)
            } else if sparse.is_some() {
                let reason =
                    "a sparse file in the form of pax, which is not read: pack it without --sparse";
                self.refuse(&path, code::NOT_A_FILE, reason)
            } else if kind.is_hard_link() {
                let reason = "a hard link, whose bytes the archive has under another name only: pack it with --hard-dereference";
                self.refuse(&path, code::NOT_A_FILE, reason)
            } else if !kind.is_file() {
                let reason = "a link or a special file, which has no bytes in the archive";
                self.refuse(&path, code::NOT_A_FILE, reason)
            } else if size > self.rules.max_bytes {
                let (code, reason) = too_large(size, self.rules.max_bytes);
                self.refuse(&path, &code, &reason)
            } else {
                self.add_photo(path, member)
            };
        }
        match metadata::ending(&path) {
            Some(ending) => self.add_metadata(&path, ending, member)?,
            None => {
                self.rules.ignored.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn refuse(&mut self, path: &str, code: &str, reason: &str) -> Result<(), Ended> {
        let path = format!("{}{path}", self.rules.prefix);
        Ok(self.sink.give(Err(Reject::new(path, code, reason)))?)
    }

    fn add_photo(
        &mut self,
        path: String,
        member: &mut tar::Entry<'_, impl Read>,
    ) -> Result<(), Ended> {
        self.begin(&path)?;
        let bytes = whole(member)?;
        let held: usize = self.group.photos.iter().map(|(_, held)| held.len()).sum();
        if held + bytes.len() > MAX_GROUP_BYTES {
            self.flush()?;
            self.group.key = key_of(&path).to_owned();
        }
        self.group.photos.push((path, bytes));
        Ok(())
    }

    fn add_metadata(
        &mut self,
        path: &str,
        ending: &str,
        member: &mut tar::Entry<'_, impl Read>,
    ) -> Result<(), Ended> {
        self.begin(path)?;
        let wrong = if !member.header().entry_type().is_file() {
            Some("is a link or a special file, which has no bytes in the archive".to_owned())
        } else if member.size() > MAX_METADATA_BYTES {
            Some(format!("is longer than {MAX_METADATA_BYTES} bytes"))
        } else {
            let described = metadata::describe(&mut self.group.metadata, ending, &whole(member)?);
            described.err().map(|error| format!("{error:#}"))
        };
        if let Some(wrong) = wrong {
            let reason = format!("{path} beside it {wrong}");
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
        let group = std::mem::take(&mut self.group);
        if group.photos.is_empty() {
            return Ok(());
        }
        self.has_photos = true;
        self.unseen
            .retain(|name| !group.metadata.contains_key(name));
        let said = self.rules.said(group.metadata, group.wrong);
        for (path, bytes) in group.photos {
            let found = self.rules.item(&said, path, bytes);
            self.sink.give(found)?;
        }
        Ok(())
    }
}

/// What stands beside the photos of a group.
struct Said {
    sku: Option<String>,
    key: Option<String>,
    sells: Option<Category>,
    attributes: Option<Value>,
    wrong: Option<(&'static str, String)>,
}

impl Rules {
    fn said(
        &self,
        mut metadata: Map<String, Value>,
        mut wrong: Option<(&'static str, String)>,
    ) -> Said {
        // A name may have two roles.
        let mut of = |name: Option<&String>| {
            let name = name?;
            let value = metadata.get(name).cloned().unwrap_or_default();
            text_of(value).unwrap_or_else(|error| {
                let reason = format!("{name} beside it {error}");
                wrong.get_or_insert((code::METADATA_INVALID, reason));
                None
            })
        };
        let (sku, key) = (of(Some(&self.sku)), of(self.key.as_ref()));
        let sells = of(self.sells.as_ref()).map(|text| text.parse()).transpose();
        let sells = sells.unwrap_or_else(|reason| {
            wrong.get_or_insert((code::CATEGORY_INVALID, reason));
            None
        });
        if let (Some(name), None) = (&self.key, &key) {
            let cause = wrong.map(|(_, reason)| format!(": {reason}"));
            let cause = cause.unwrap_or_default();
            let reason = format!("nothing beside it says its key, {name}{cause}");
            wrong = Some((code::KEY_MISSING, reason));
        }
        let is_role = |name: &String| {
            *name == self.sku
                || [&self.key, &self.sells]
                    .into_iter()
                    .flatten()
                    .any(|role| role == name)
        };
        metadata.retain(|name, value| !is_role(name) && !value.is_null());
        Said {
            sku,
            key,
            sells,
            attributes: (!metadata.is_empty()).then_some(Value::Object(metadata)),
            wrong,
        }
    }

    fn item(&self, said: &Said, path: String, bytes: Vec<u8>) -> Found {
        // What stands in for a product is made of a file's name, never of a key.
        let stand_in = self.key.is_none().then(|| sku_of(&path).to_owned());
        let own = match &said.key {
            Some(key) => key.clone(),
            None => format!("{}{path}", self.prefix),
        };
        if let Some((code, reason)) = &said.wrong {
            return Err(Reject::new(own, code, reason));
        }
        Ok(Item {
            entry: Entry {
                sku: said.sku.clone().or(stand_in),
                path: own,
                sells: said.sells,
                attributes: said.attributes.clone(),
            },
            place: Place::Held(bytes),
        })
    }
}

/// The bytes of a member, all of them.
fn whole(member: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let size = usize::try_from(member.size()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(size.min(MAX_GROUP_BYTES));
    member.read_to_end(&mut bytes)?;
    if bytes.len() < size {
        let reason = "a member is not whole";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
    }
    Ok(bytes)
}

/// WebDataset's key: the path up to the first dot of the file name.
fn key_of(path: &str) -> &str {
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    path[name..]
        .find('.')
        .map_or(path, |dot| &path[..name + dot])
}

/// `./a//b.jpg` is `a/b.jpg`.
fn clean(path: &str) -> String {
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    parts.join("/")
}
