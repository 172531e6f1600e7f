//! A list of photos as a source: rows with a column for the photo, perhaps one for the product, and
//! any further columns, which become the photo's attributes.
//!
//! Invariant: a manifest is taken whole or refused with the number of the line to mend; a wrong
//! manifest must not half load. So it is read twice: checked, then loaded row by row.

mod csv;
mod jsonl;
mod parquet;

use std::{
    collections::{HashMap, hash_map},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::{
    Entry, Item, Part, Place, name_of,
    names::{Fingerprint, normalised, sku_of},
};
use crate::args::{Role, SourceArgs};

/// Names of the column of the photo where none is mapped, the first that is there.
const IMAGE_COLUMNS: &[&str] = &["path", "image", "url"];
const SKU_COLUMN: &str = "sku";

pub fn csv(file: &Path, delimiter: Option<u8>, args: &SourceArgs) -> Result<Part> {
    let roles = Roles::of(args, file);
    twice(file, "line", move |file| csv::rows(file, delimiter, &roles))
}

pub fn jsonl(file: &Path, args: &SourceArgs) -> Result<Part> {
    let roles = Roles::of(args, file);
    twice(file, "line", move |file| jsonl::rows(file, &roles))
}

pub fn parquet(file: &Path, args: &SourceArgs) -> Result<Part> {
    let roles = Roles::of(args, file);
    twice(file, "row", move |file| parquet::rows(file, &roles))
}

/// The lines of a list in CSV or TSV with what they say of a photo, which several may name: for evaluations.
pub fn lines(file: &Path) -> Result<Vec<(u64, Entry)>> {
    let is_tsv = file
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("tsv"));
    let roles = Roles {
        image: Some(IMAGE_COLUMNS[0].to_owned()),
        key: None,
        sku: None,
        sells: None,
        folder: PathBuf::new(),
    };
    let rows = csv::rows(file, is_tsv.then_some(b'\t'), &roles)?;
    let local = rows.map(|row| match row? {
        (line, item) if matches!(item.place, Place::File(_) | Place::Elsewhere(_)) => {
            Ok((line, item.entry))
        }
        (line, item) => bail!(
            "line {line}: {} is an address; expected the path of a file",
            item.entry.path
        ),
    });
    local.collect()
}

/// A row: where it stands, and the photo.
type Row = (u64, Item);

/// Reads all rows to check them, and again to give them out.
fn twice<Rows>(
    file: &Path,
    unit: &str,
    open: impl Fn(&Path) -> Result<Rows> + Send + 'static,
) -> Result<Part>
where
    Rows: Iterator<Item = Result<Row>> + Send + 'static,
{
    let name = format!("manifest {}", file.display());
    let mut first_line: HashMap<Fingerprint, u64> = HashMap::new();
    let (mut total, mut is_remote) = (0, false);
    for row in open(file).with_context(|| name.clone())? {
        let (line, item) = row.with_context(|| name.clone())?;
        let path = &item.entry.path;
        let fingerprint = Fingerprint::of(&normalised(path).to_string_lossy());
        match first_line.entry(fingerprint) {
            hash_map::Entry::Vacant(vacant) => vacant.insert(line),
            hash_map::Entry::Occupied(first) => bail!(
                "{name}, {unit} {line}: path {path:?} is already on {unit} {}; a photo is named once",
                first.get()
            ),
        };
        total += 1;
        is_remote |= matches!(item.place, Place::Remote(_));
    }
    let rows = open(file).with_context(|| name.clone())?;
    let changed = move || format!("{name} has changed since it was checked");
    Ok(Part {
        items: Box::new(
            rows.map(move |row| Ok(Ok(row.with_context(&changed)?.1)))
                .take(total),
        ),
        total: Some(total),
        is_list: true,
        is_remote,
    })
}

/// Columns in this order: image, key, sku, sells.
type Found = [Option<String>; 4];

/// Which columns say what.
#[derive(Debug, Clone)]
struct Roles {
    image: Option<String>,
    key: Option<String>,
    sku: Option<String>,
    sells: Option<String>,
    /// Paths are relative to the manifest's folder.
    folder: PathBuf,
}

impl Roles {
    fn of(args: &SourceArgs, file: &Path) -> Self {
        let column = |role| args.column(role).map(str::to_owned);
        Self {
            image: column(Role::Image),
            key: column(Role::Key),
            sku: column(Role::Sku),
            sells: column(Role::Sells),
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
        }
    }

    /// Names of the columns. What was mapped must be among `names`, but for the product and its category where rows
    /// may leave things out.
    fn find(&self, names: &[&str], rows_are_alike: bool) -> Result<Found> {
        let has = |name: &&str| names.contains(name);
        let always = [&self.image, &self.key];
        let needed = [&self.sku, &self.sells]
            .into_iter()
            .filter(|_| rows_are_alike);
        for mapped in always.into_iter().chain(needed).flatten() {
            if !has(&mapped.as_str()) {
                bail!(
                    "no column named {mapped}; the columns are {}",
                    names.join(", ")
                );
            }
        }
        let default = || IMAGE_COLUMNS.iter().copied().find(has).map(str::to_owned);
        let Some(image) = self.image.clone().or_else(default) else {
            bail!(
                "no column named path; the columns are {} (--map image=COLUMN says which is the photo's)",
                names.join(", ")
            );
        };
        let sku = has(&SKU_COLUMN).then(|| SKU_COLUMN.to_owned());
        Ok([
            Some(image),
            self.key.clone(),
            self.sku.clone().or(sku),
            self.sells.clone(),
        ])
    }

    /// The photo of a row whose columns have been found; `held` when its bytes are in the row.
    fn item(
        &self,
        columns @ [image, key, sku, sells]: &Found,
        mut row: Map<String, Value>,
        held: Option<Vec<u8>>,
        has_others: bool,
    ) -> Result<Item> {
        let take = |name: &Option<String>| -> Result<Option<String>> {
            let Some(name) = name else { return Ok(None) };
            // A column may have two roles.
            let value = row.get(name).cloned().unwrap_or_default();
            text_of(value).with_context(|| format!("column {name}"))
        };
        let (image_text, key_text, sku_text) = (take(image)?, take(key)?, take(sku)?);
        let name = image_text.as_deref().map(name_of);
        let sells = take(sells)?.map(|text| text.parse()).transpose();
        let sells = sells.map_err(|reason| anyhow!("what it sells: {reason}"))?;
        if key.is_some() && key_text.is_none() {
            bail!("the key is empty");
        }
        let place = match (held, &image_text) {
            (Some(bytes), _) => Place::Held(bytes),
            (None, Some(text)) => Place::of_text(text, &self.folder)?,
            (None, None) => bail!("the path is empty"),
        };
        // What stands in for a product is made of a file's name, never of a key.
        let stand_in = name.as_deref().filter(|_| key.is_none()).map(sku_of);
        let product = sku_text.or(stand_in.map(str::to_owned));
        let Some(path) = key_text.or(name) else {
            bail!("the photo has no name: --map key=COLUMN says which column is its identity");
        };
        for role in columns.iter().flatten() {
            row.remove(role);
        }
        row.retain(|_, value| !value.is_null() && value.as_str() != Some(""));
        Ok(Item {
            place,
            entry: Entry {
                path,
                sku: product,
                sells,
                attributes: has_others.then_some(Value::Object(row)),
            },
        })
    }
}

/// Text, or a number as text; empty is nothing.
pub(super) fn text_of(value: Value) -> Result<Option<String>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text).filter(|text| !text.is_empty())),
        Value::Number(number) => Ok(Some(number.to_string())),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => bail!("must be a text or a number"),
    }
}
