//! Vectors in a temporary table with a lookbook index, and searches among them by SQL.

use anyhow::{Context, Result, ensure};
use postgres::{
    Client,
    binary_copy::BinaryCopyInWriter,
    types::{ToSql, Type},
};

use crate::database::{EmbeddingRef, ours};

/// The gallery of one evaluation; gone with the connection.
pub struct Gallery<'c> {
    client: &'c mut Client,
    search: postgres::Statement,
}

impl<'c> Gallery<'c> {
    /// Copies the vectors with their ids, makes the index, and prepares searches for `neighbours`.
    pub fn fill(
        client: &'c mut Client,
        dimensions: usize,
        vectors: &[(i32, &[f32])],
        neighbours: usize,
    ) -> Result<Self> {
        let (vector, distance) = (ours(client, "embedding")?, ours(client, "<->")?);
        client
            .batch_execute(&format!(
                "CREATE TEMPORARY TABLE lookbook_eval (id int NOT NULL, embedding {vector}({dimensions}) NOT NULL)"
            ))
            .context("cannot make a temporary table for the gallery")?;
        let column = client.prepare("SELECT embedding FROM lookbook_eval")?;
        let embedding = column.columns()[0].type_().clone();
        let copy = client.copy_in("COPY lookbook_eval FROM STDIN (FORMAT binary)")?;
        let mut out = BinaryCopyInWriter::new(copy, &[Type::INT4, embedding]);
        for (id, vector) in vectors {
            let row: [&(dyn ToSql + Sync); 2] = [id, &EmbeddingRef(vector)];
            out.write(&row)?;
        }
        out.finish()?;
        client
            .batch_execute(
                "CREATE INDEX lookbook_eval_embedding ON lookbook_eval USING lookbook (embedding);
                 ANALYZE lookbook_eval;
                 SET enable_seqscan = off; SET enable_sort = off",
            )
            .context("cannot make the index of the gallery")?;
        let sql = format!(
            "SELECT id FROM lookbook_eval WHERE id <> $2 \
             ORDER BY embedding OPERATOR({distance}) $1 LIMIT {neighbours}"
        );
        let plan = client.query(
            &format!(
                "EXPLAIN (COSTS off) {}",
                sql.replace("$1", "(SELECT embedding FROM lookbook_eval LIMIT 1)")
                    .replace("$2", "0")
            ),
            &[],
        )?;
        let uses_index = plan
            .iter()
            .any(|row| row.get::<_, &str>(0).contains("lookbook_eval_embedding"));
        ensure!(uses_index, "the planner does not use the gallery's index");
        let search = client.prepare(&sql)?;
        Ok(Self { client, search })
    }

    /// The share of the nearest vectors that a search finds on average.
    pub fn recall(&mut self) -> Result<f64> {
        let shown: String = self.client.query_one("SHOW lookbook.recall", &[])?.get(0);
        shown
            .parse()
            .with_context(|| format!("lookbook.recall is {shown:?}"))
    }

    /// Ids of the nearest vectors by Euclidean distance, nearest first, without `own`.
    pub fn nearest(&mut self, vector: &[f32], own: i32) -> Result<Vec<i32>> {
        let rows = self
            .client
            .query(&self.search, &[&EmbeddingRef(vector), &own])?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
