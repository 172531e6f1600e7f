//! The rows of a query as a source: photos, or where they are, that already sit in PostgreSQL.
//!
//! The query runs once, in a read-only transaction, and its rows are read as they are needed: what is
//! held is the row at hand. Invariant: nothing is written to the database that is read.

use std::path::Path;

use anyhow::{Context, Result, bail};
use postgres::{Client, Row, fallible_iterator::FallibleIterator, types::Type};
use serde_json::Value;

use super::{
    Entry, Found, Item, Part, Place, Reject, code,
    decimal::{inexact, too_long},
    fetch::too_large,
    json, name_of,
    names::{distinct, sku_of},
    producer::{Sink, cancellable},
    statement,
};
use crate::{
    args::{Role, SourceArgs},
    database::{OWN_PATH, connect_anywhere, quoted},
    messages,
};

/// Names of columns where none is mapped, the first that is there.
const IMAGE_COLUMNS: &[&str] = &["image", "path", "url"];
const KEY_COLUMNS: &[&str] = &["id", "key"];
const SKU_COLUMN: &str = "sku";
const AS_TEXT: &str = "cast its column to text";
/// Pairs that one call of a function takes.
const MAX_PAIRS: usize = 50;

pub fn part(query: &str, url: Option<&str>, args: &SourceArgs, max_bytes: u64) -> Result<Part> {
    let query = statement::without_end(query);
    let mut client = connect_anywhere(url)?;
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    client.batch_execute(OWN_PATH)?;
    let plan = Plan::of(&mut client, query, args).context("--from-sql")?;
    let has_bytes = plan.has_bytes;
    let root = args.image_root.clone().unwrap_or_default();
    let url = url.map(str::to_owned);
    let own: i32 = client
        .query_one("SELECT pg_catalog.pg_backend_pid()", &[])?
        .get(0);
    let rows = move |sink: &Sink| {
        let limit = i64::try_from(max_bytes).unwrap_or(i64::MAX);
        let mut rows = client
            .query_raw(&plan.sql, [&limit])
            .context("--from-sql")?;
        let mut number = 0;
        while let Some(row) = rows.next().context("--from-sql")? {
            number += 1;
            let found = plan.found(&row, number, max_bytes, &root);
            if sink.give(found).is_err() {
                break;
            }
        }
        Ok(())
    };
    // Else it is waited for, and what is left of the answer read to its end.
    let cancel = move || {
        let cancel = "SELECT pg_catalog.pg_cancel_backend($1)";
        let cancelled =
            connect_anywhere(url.as_deref()).and_then(|mut c| Ok(c.execute(cancel, &[&own])?));
        if let Err(error) = cancelled {
            messages::detail(messages::render(&error));
        }
    };
    Ok(Part {
        items: cancellable(rows, cancel),
        total: None,
        is_list: true,
        is_remote: !has_bytes,
    })
}

/// What is asked, and what the answer means.
struct Plan {
    /// Gives: key, sku, bytes or text of the image, its size, attributes, what it sells. $1 is the largest size wanted.
    sql: String,
    has_bytes: bool,
    has_key: bool,
}

impl Plan {
    fn of(client: &mut Client, query: &str, args: &SourceArgs) -> Result<Self> {
        let statement = client.prepare(query)?;
        let columns = statement.columns();
        if columns.is_empty() {
            bail!("the query gives no columns: give a SELECT");
        }
        if !statement.params().is_empty() {
            bail!("the query has parameters, and there is nothing to put into them");
        }
        let names: Vec<&str> = columns.iter().map(postgres::Column::name).collect();
        distinct(&names)?;
        let find = |role, defaults: &[&str]| -> Result<Option<String>> {
            let has = |name: &&str| names.contains(name);
            match args.column(role) {
                Some(mapped) if !has(&mapped) => {
                    bail!(
                        "no column named {mapped}; the columns are {}",
                        names.join(", ")
                    )
                }
                Some(mapped) => Ok(Some(mapped.to_owned())),
                None => Ok(defaults
                    .iter()
                    .copied()
                    .find(|name| has(name))
                    .map(str::to_owned)),
            }
        };
        let Some(image) = find(Role::Image, IMAGE_COLUMNS)? else {
            bail!(
                "no column named image; the columns are {} (--map image=COLUMN says which is the photo's)",
                names.join(", ")
            );
        };
        let key = find(Role::Key, KEY_COLUMNS)?;
        let sku = find(Role::Sku, &[SKU_COLUMN])?;
        let sells = find(Role::Sells, &[])?;
        let has_bytes = match columns.iter().find(|column| column.name() == image) {
            Some(column) if *column.type_() == Type::BYTEA => true,
            Some(column) if [Type::TEXT, Type::VARCHAR, Type::BPCHAR].contains(column.type_()) => {
                false
            }
            Some(column) => bail!(
                "column {image} is of type {}: it must be bytea (lo_get(...) makes it from a large object), or a text with a path or a URL",
                column.type_()
            ),
            None => bail!("no column named {image}"),
        };
        if has_bytes && key.is_none() {
            bail!(
                "the photos have no names: select a column id, or say which column is their identity with --map key=COLUMN"
            );
        }
        let is_role = |name: &&str| {
            [Some(&image), key.as_ref(), sku.as_ref(), sells.as_ref()]
                .iter()
                .flatten()
                .any(|role| role == name)
        };
        let others: Vec<&str> = names
            .iter()
            .copied()
            .filter(|name| !is_role(name))
            .collect();
        let text_of = |column: &Option<String>| match column {
            Some(column) => format!("q.{}::pg_catalog.text", quoted(column)),
            None => "NULL::pg_catalog.text".to_owned(),
        };
        let image = format!("q.{}", quoted(&image));
        let (value, size) = if has_bytes {
            (
                format!(
                    "CASE WHEN pg_catalog.octet_length({image}) <= $1::pg_catalog.int8 THEN {image} END"
                ),
                format!("pg_catalog.octet_length({image})::pg_catalog.int8"),
            )
        } else {
            (
                format!("CASE WHEN $1::pg_catalog.int8 > 0 THEN {image}::pg_catalog.text END"),
                "NULL::pg_catalog.int8".to_owned(),
            )
        };
        let sql = format!(
            "SELECT {}, {}, {value}, {size}, {}, {} FROM (\n{query}\n) AS q",
            text_of(&key),
            text_of(&sku),
            attributes(&others),
            text_of(&sells)
        );
        let reads = client.prepare(&sql);
        reads.context("the query has to be one that reads, SELECT say")?;
        Ok(Self {
            sql,
            has_bytes,
            has_key: key.is_some(),
        })
    }

    fn found(&self, row: &Row, number: u64, max_bytes: u64, root: &Path) -> Found {
        let key: Option<String> = row.get(0);
        let sku: Option<String> = row.get(1);
        let size: Option<i64> = row.get(3);
        let nameless = || format!("row {number}");
        if self.has_key && key.is_none() {
            let reason = "the column of its identity is NULL";
            return Err(Reject::new(nameless(), code::KEY_MISSING, reason));
        }
        // PostgreSQL keeps numbers of any size, and nests deeper.
        let attributes = row.get::<_, Option<&str>>(4).map(serde_json::from_str);
        let mut attributes: Option<Value> = match attributes.transpose() {
            Ok(attributes) => attributes,
            Err(error) => {
                let fault = json::fault(&error);
                let reason = match fault.contains("out of range") {
                    true => format!("its other columns cannot be attributes: {fault}: {AS_TEXT}"),
                    false => format!("its other columns cannot be attributes: {fault}"),
                };
                let name = key.unwrap_or_else(nameless);
                return Err(Reject::new(name, code::METADATA_INVALID, reason));
            }
        };
        if let Some(number) = row.get::<_, Option<&str>>(4).and_then(inexact) {
            let name = key.unwrap_or_else(nameless);
            let reason = format!("{}: {AS_TEXT}", too_long(number));
            return Err(Reject::new(name, code::METADATA_INVALID, reason));
        }
        if let Some(Value::Object(pairs)) = &mut attributes {
            pairs.retain(|_, value| !value.is_null());
        }
        let sells: Option<String> = row.get(5);
        let sells = match sells
            .filter(|text| !text.is_empty())
            .map(|text| text.parse())
            .transpose()
        {
            Ok(sells) => sells,
            Err(reason) => {
                let name = key.unwrap_or_else(nameless);
                return Err(Reject::new(name, code::CATEGORY_INVALID, reason));
            }
        };
        let place = if self.has_bytes {
            let size = u64::try_from(size.unwrap_or(0)).unwrap_or(0);
            match row.get::<_, Option<Vec<u8>>>(2) {
                Some(bytes) => Ok((Place::Held(bytes), None)),
                None if size > max_bytes => Err(too_large(size, max_bytes)),
                None => Err((
                    code::IMAGE_MISSING.to_owned(),
                    "its image is NULL".to_owned(),
                )),
            }
        } else {
            match row
                .get::<_, Option<String>>(2)
                .filter(|text| !text.is_empty())
            {
                Some(text) => place_of(&text, root).map(|place| (place, Some(name_of(&text)))),
                None => Err((
                    code::IMAGE_MISSING.to_owned(),
                    "the column of its image is NULL or empty".to_owned(),
                )),
            }
        };
        let (place, text) = match place {
            Ok(place) => place,
            Err((code, reason)) => {
                return Err(Reject::new(key.unwrap_or_else(nameless), &code, reason));
            }
        };
        // What stands in for a product is made of a file's name, never of a key.
        let stand_in = text.as_deref().filter(|_| !self.has_key).map(sku_of);
        let sku = sku.or(stand_in.map(str::to_owned));
        let path = key.or(text).unwrap_or_else(nameless);
        Ok(Item {
            entry: Entry {
                path,
                sku,
                sells,
                attributes,
            },
            place,
        })
    }
}

/// A JSON object of the columns that have no role, as a text.
fn attributes(columns: &[&str]) -> String {
    if columns.is_empty() {
        return "NULL::pg_catalog.text".to_owned();
    }
    let literal = |text: &str| {
        let text = text.replace('\'', "''").replace('\\', "\\\\");
        format!("E'{text}'::pg_catalog.text")
    };
    let objects: Vec<String> = columns
        .chunks(MAX_PAIRS)
        .map(|chunk| {
            let pairs: Vec<String> = chunk
                .iter()
                .map(|column| format!("{}, q.{}", literal(column), quoted(column)))
                .collect();
            format!("pg_catalog.jsonb_build_object({})", pairs.join(", "))
        })
        .collect();
    format!("({})::pg_catalog.text", objects.join(" || "))
}

/// What a text of the database names. Rows may come from anybody whom the shop lets upload, so a path
/// stays below `root`.
fn place_of(text: &str, root: &Path) -> Result<Place, super::Refusal> {
    let refuse = |code: &str, reason: String| Err((code.to_owned(), reason));
    match Place::of_text(text, root) {
        Err(error) => refuse(super::remote::code::URL_INVALID, format!("{error:#}")),
        Ok(Place::Elsewhere(_)) => refuse(
            code::PATH_OUTSIDE,
            format!(
                "the path {text:?} leaves the folder of --image-root, and paths of a database must not"
            ),
        ),
        Ok(place) => Ok(place),
    }
}
