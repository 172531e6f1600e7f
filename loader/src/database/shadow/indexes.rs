//! The indexes of the new column: the like of those on the old one.

use anyhow::{Context, Result, bail};
use postgres::{Client, GenericClient};

use super::{SUFFIX, Shadow};
use crate::database::quoted;

/// An index on the old column.
pub(super) struct Index {
    name: String,
    /// What its like on the new column is called until the swap.
    next: String,
    /// Makes that.
    statement: String,
    comment: Option<String>,
}

impl Shadow {
    /// Makes for the new column what the old one has in indexes, without keeping anybody out; of a partitioned table,
    /// whose indexes cannot be made so, without keeping readers out. A valid one of an earlier run is kept.
    pub fn make_indexes(&self, client: &mut Client) -> Result<u32> {
        let mut made = 0;
        for Index {
            next, statement, ..
        } in self.index_statements(client)?
        {
            let found = client.query_opt(
                "SELECT i.indexrelid::pg_catalog.regclass::text, i.indisvalid FROM pg_catalog.pg_index i \
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[&self.target.garment, &next],
            )?;
            match found {
                Some(row) if row.get(1) => continue,
                Some(row) => {
                    let broken: String = row.get(0);
                    client.batch_execute(&format!("DROP INDEX {broken}"))?;
                }
                None => {}
            }
            client
                .batch_execute(&statement)
                .with_context(|| format!("cannot make the index of the new column: {statement}"))?;
            made += 1;
        }
        Ok(made)
    }

    /// The indexes on the old column.
    pub(super) fn index_statements(&self, client: &mut impl GenericClient) -> Result<Vec<Index>> {
        let rows = client.query(
            "SELECT c.relname::text, pg_catalog.quote_ident(c.relname), \
               CASE WHEN pg_catalog.octet_length(c.relname::text) + pg_catalog.octet_length($2) < 64 THEN c.relname || $2 \
                 ELSE 'lookbook_next_' || c.oid END, \
               pg_catalog.pg_get_indexdef(i.indexrelid), pg_catalog.obj_description(c.oid, 'pg_class') \
             FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid \
             WHERE i.indrelid = pg_catalog.to_regclass($1) AND EXISTS ( \
               SELECT FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attribute a \
                 ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid \
               WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid \
                 AND d.refobjid = i.indrelid AND a.attname = $3::text) \
             ORDER BY c.relname",
            &[&self.target.garment, &SUFFIX, &self.target.embedding()],
        )?;
        rows.iter()
            .map(|row| {
                let (name, quoted_name, next): (String, String, String) =
                    (row.get(0), row.get(1), row.get(2));
                let definition: String = row.get(3);
                let statement = definition.split_once(&format!("INDEX {quoted_name} ON "));
                let Some((verb, rest)) = statement else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                let Some((table, columns)) = rest.split_once(" USING ") else {
                    bail!("the definition of index {name} is not understood: {definition}");
                };
                // So the index of a partitioned table is written, which those of the partitions belong to.
                let (option, table) = match table.strip_prefix("ONLY ") {
                    Some(table) => ("", table),
                    None => ("CONCURRENTLY ", table),
                };
                let columns = self.with_next(columns);
                Ok(Index {
                    statement: format!(
                        "{verb}INDEX {option}{} ON {table} USING {columns}",
                        quoted(&next)
                    ),
                    name,
                    next,
                    comment: row.get(4),
                })
            })
            .collect()
    }

    /// Those that were made take the names and comments of the old ones, which went with the old column.
    pub(super) fn rename_indexes(
        &self,
        change: &mut impl GenericClient,
        indexes: &[Index],
    ) -> Result<()> {
        for Index {
            name,
            next,
            comment,
            ..
        } in indexes
        {
            let rename = change.query_opt(
                "SELECT pg_catalog.format('ALTER INDEX %s RENAME TO %I', i.indexrelid::pg_catalog.regclass, $3::text) \
                   || coalesce(pg_catalog.format('; COMMENT ON INDEX %I.%I IS %L', n.nspname, $3::text, $4::text), '') \
                 FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid \
                 WHERE i.indrelid = pg_catalog.to_regclass($1) AND c.relname = $2",
                &[&self.target.garment, next, name, comment],
            )?;
            if let Some(rename) = rename {
                change.batch_execute(&rename.get::<_, String>(0))?;
            }
        }
        Ok(())
    }

    /// A part of a definition with the new column in the place of the old one.
    fn with_next(&self, definition: &str) -> String {
        let old = self.target.embedding();
        let is_word = old.chars().all(|c| c.is_alphanumeric() || c == '_');
        match is_word {
            true => with_word(definition, old, &self.next),
            false => definition.replace(&quoted(old), &quoted(&self.next)),
        }
    }
}

/// `text` with one name in the place of another, where it stands as a whole word.
fn with_word(text: &str, word: &str, replacement: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, found) = rest.split_at(at);
        let after = &found[word.len()..];
        let starts = !before.chars().next_back().is_some_and(is_part);
        let ends = !after.chars().next().is_some_and(is_part);
        result.push_str(before);
        result.push_str(if starts && ends { replacement } else { word });
        rest = after;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_words_are_replaced() {
        assert_eq!(
            with_word(
                "lookbook (embedding embedding_ip_ops, my_embedding) WHERE (embedding IS NOT NULL)",
                "embedding",
                "embedding_next"
            ),
            "lookbook (embedding_next embedding_ip_ops, my_embedding) WHERE (embedding_next IS NOT NULL)"
        );
    }
}
