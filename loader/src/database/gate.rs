//! Which photos of a batch the tables can take: those whose keys the columns can hold, and which the tables that they
//! refer to have.
//!
//! Invariant: one photo with a key of nothing is rejected alone, it never fails its batch.

use std::collections::HashSet;

use anyhow::{Context, Result};
use postgres::GenericClient;

use super::{
    PhotoRow, Role, Target,
    catalog::{Reference, columns_of, references_of},
    quoted,
    types::Uuid,
};
use crate::source::Reject;

const SKU_UNKNOWN: &str = "sku_unknown";
const SKU_MISSING: &str = "sku_missing";
const SKU_INVALID: &str = "sku_invalid";
const KEY_UNKNOWN: &str = "key_unknown";
const KEY_INVALID: &str = "key_invalid";

/// What all columns ask for.
#[derive(Debug, Default)]
pub struct Gate(Vec<Check>);

/// What one column asks for.
#[derive(Debug)]
struct Check {
    is_key: bool,
    /// In our own tables something stands in for a product; it must never be taken for one.
    has_stand_in: bool,
    is_not_null: bool,
    /// For messages.
    place: String,
    type_name: String,
    max_chars: Option<usize>,
    references: Vec<Reference>,
}

impl Gate {
    /// Of what the tables say; those that are not there ask for nothing.
    pub fn of(client: &mut impl GenericClient, target: &Target) -> Result<Self> {
        let mut places: Vec<(bool, &str, &str)> = Vec::new();
        for (table, column) in target.sku_columns() {
            places.push((false, table, column));
        }
        if let Some(column) = target.column(Role::Key) {
            places.push((true, &target.garment, column));
        }
        let mut checks = Vec::new();
        for (is_key, table, name) in places {
            let columns = columns_of(client, table)?;
            let Some(column) = columns.into_iter().find(|column| column.name == name) else {
                continue;
            };
            let references: Vec<Reference> = references_of(client, table)?
                .into_iter()
                .filter(|reference| reference.column == name)
                .collect();
            let is_own = !target.is_mapped || table == target.photo;
            checks.push(Check {
                is_key,
                has_stand_in: is_own && references.is_empty(),
                is_not_null: is_own || column.is_not_null,
                place: format!("{table}.{name}"),
                max_chars: column.most_characters(),
                type_name: column.type_name,
                references,
            });
        }
        Ok(Self(checks))
    }

    /// Takes out of `photos` those that cannot be written.
    pub fn refuse(
        &self,
        client: &mut impl GenericClient,
        photos: &mut Vec<PhotoRow>,
    ) -> Result<Vec<Reject>> {
        let mut refused = Vec::new();
        for check in &self.0 {
            photos.retain(|photo| {
                let Some(value) = check.value(photo) else {
                    if check.is_not_null {
                        let reason =
                            format!("the source says no product, and {} needs one", check.place);
                        refused.push(Reject::new(&photo.path, SKU_MISSING, reason));
                    }
                    return !check.is_not_null;
                };
                match check.misfit(value) {
                    None => true,
                    Some(reason) => {
                        let code = if check.is_key {
                            KEY_INVALID
                        } else {
                            SKU_INVALID
                        };
                        refused.push(Reject::new(&photo.path, code, reason));
                        false
                    }
                }
            });
            for reference in &check.references {
                let unknown = check.unknown(client, reference, photos)?;
                photos.retain(|photo| {
                    let value = check.value(photo);
                    let Some(value) = value.filter(|value| unknown.contains(*value)) else {
                        return true;
                    };
                    let code = if check.is_key {
                        KEY_UNKNOWN
                    } else {
                        SKU_UNKNOWN
                    };
                    let reason = format!(
                        "{} has no row whose {} is {value:?}, and {} refers to it",
                        reference.table, reference.referenced, check.place
                    );
                    refused.push(Reject::new(&photo.path, code, reason));
                    false
                });
            }
        }
        Ok(refused)
    }
}

impl Check {
    fn value<'a>(&self, photo: &'a PhotoRow) -> Option<&'a str> {
        match self.is_key {
            true => Some(&photo.path),
            false if self.has_stand_in => Some(photo.product()),
            false => photo.sku.as_deref(),
        }
    }

    /// Why the column cannot hold it. Keys have one way to be written only, so that two of them never
    /// become one.
    fn misfit(&self, value: &str) -> Option<String> {
        let fits = match self.type_name.as_str() {
            "int2" => value.parse::<i16>().is_ok_and(|n| n.to_string() == value),
            "int4" => value.parse::<i32>().is_ok_and(|n| n.to_string() == value),
            "int8" => value.parse::<i64>().is_ok_and(|n| n.to_string() == value),
            "uuid" => Uuid::parse(value).is_some_and(|uuid| uuid.to_string() == value),
            _ => self
                .max_chars
                .is_none_or(|most| value.chars().count() <= most),
        };
        (!fits).then(|| match self.max_chars {
            Some(most) => format!(
                "{value:?} is longer than the {most} characters of {}",
                self.place
            ),
            None => format!(
                "{value:?} is no {} as {} holds it",
                self.type_name, self.place
            ),
        })
    }

    /// Values that the other table does not have.
    fn unknown(
        &self,
        client: &mut impl GenericClient,
        reference: &Reference,
        photos: &[PhotoRow],
    ) -> Result<HashSet<String>> {
        let values: HashSet<&str> = photos
            .iter()
            .filter_map(|photo| self.value(photo))
            .collect();
        let values: Vec<&str> = values.into_iter().collect();
        let query = format!(
            "SELECT k.value FROM pg_catalog.unnest($1::pg_catalog.text[]) AS k (value) \
             WHERE NOT EXISTS (SELECT FROM {} r WHERE r.{} = k.value::{})",
            reference.table,
            quoted(&reference.referenced),
            reference.sql_type
        );
        let rows = client.query(&query, &[&values]).with_context(|| {
            format!(
                "cannot look into {}, to which {} refers",
                reference.table, self.place
            )
        })?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(type_name: &str, max_chars: Option<usize>) -> Check {
        Check {
            is_key: true,
            has_stand_in: false,
            is_not_null: true,
            place: "t.c".to_owned(),
            type_name: type_name.to_owned(),
            max_chars,
            references: Vec::new(),
        }
    }

    #[test]
    fn a_key_has_to_fit_its_column_and_to_be_written_in_its_one_way() {
        let uuid = "0f8fad5b-d9cb-469f-a165-70867728950e";
        for (type_name, max, good, bad) in [
            ("int4", None, "-7", "2147483648"),
            ("int4", None, "7", "007"),
            ("int2", None, "7", "+7"),
            ("int8", None, "2147483648", "photo.jpg"),
            ("uuid", None, uuid, "0F8FAD5B-D9CB-469F-A165-70867728950E"),
            ("varchar", Some(3), "äöü", "abcd"),
        ] {
            let check = check(type_name, max);
            assert_eq!(check.misfit(good), None, "{type_name} {good}");
            assert!(check.misfit(bad).is_some(), "{type_name} {bad}");
        }
    }
}
