//! A writer that remembers what was acknowledged, so that it can be told from what was not.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Result, anyhow};
use lookbook_tests::Random;
use postgres::Client;

use super::{Counts, Known};

/// Rows of a writer: its numbers go from `writer * SPAN` on.
const SPAN: i64 = 1_000_000;
/// Of these numbers, so many are used: the table stays about as large as it is.
const NUMBERS: i64 = 1_200;
/// With more rows a writer mostly deletes.
const MANY_ROWS: usize = 800;

/// (n, category) by number.
type Rows = BTreeMap<i64, (i64, i32)>;

/// What a writer did.
#[derive(Debug)]
pub struct Journal {
    writer: i64,
    random: Random,
    known: Known<Rows>,
}

impl Journal {
    pub fn new(writer: i64, random: Random) -> Journal {
        Journal {
            writer,
            random,
            known: Known::new(Rows::new()),
        }
    }

    /// Changes rows until the server is gone.
    pub fn write(&mut self, client: &mut Client, counts: &Counts) -> Result<()> {
        loop {
            let mut after = self.known.committed.clone();
            let changed = self.change(client, &mut after);
            if !self.known.note(after, changed)? {
                return Ok(());
            }
            Counts::add(&counts.changes);
        }
    }

    /// The rows are those that were committed, and those of the change under way either all or not at all.
    pub fn check(&mut self, client: &mut Client) -> Result<usize> {
        let (first, end) = (self.writer * SPAN, (self.writer + 1) * SPAN);
        let rows = client.query(
            "SELECT id, n, category FROM look WHERE id >= $1 AND id < $2",
            &[&first, &end],
        )?;
        let found: Rows = rows
            .iter()
            .map(|row| (row.get(0), (row.get(1), row.get(2))))
            .collect();
        let settled = self.known.settle(found);
        settled.map_err(|(found, pending)| {
            anyhow!(
                "writer {}: lost or changed, and not known: {:?} of what was committed, {:?} of what was pending",
                self.writer,
                differences(&self.known.committed, &found),
                pending.map(|pending| differences(&pending, &found))
            )
        })?;
        Ok(self.known.committed.len())
    }

    fn n(&mut self) -> i64 {
        1 + self.random.below(1_000_000_000)
    }

    /// A number, used or not.
    fn number(&mut self) -> i64 {
        self.writer * SPAN + self.random.below(NUMBERS)
    }

    /// So many rows, about, that are there.
    fn some(&mut self, rows: &Rows, wanted: i64) -> Vec<i64> {
        let from = self.number();
        let chosen = rows.range(from..).chain(rows.range(..from));
        chosen.map(|row| *row.0).take(wanted as usize).collect()
    }

    /// New rows, about so many.
    fn new_rows(&mut self, rows: &Rows, wanted: i64) -> Rows {
        let mut new = Rows::new();
        for _ in 0..wanted {
            let (id, row) = (self.number(), (self.n(), self.random.below(10) as i32));
            if !rows.contains_key(&id) {
                new.insert(id, row);
            }
        }
        new
    }

    /// One transaction, and what the rows are after it.
    fn change(&mut self, client: &mut Client, after: &mut Rows) -> Result<(), postgres::Error> {
        if after.len() > MANY_ROWS && self.random.below(3) > 0 {
            return self.delete(client, after, 150);
        }
        match self.random.below(10) {
            0 => self.copy(client, after),
            1..4 => self.insert(client, after, 4),
            4..7 => self.update(client, after),
            7 => self.delete(client, after, 20),
            8 => self.rolled_back(client, after),
            _ => self.together(client, after),
        }
    }

    fn copy(&mut self, client: &mut Client, after: &mut Rows) -> Result<(), postgres::Error> {
        let new = self.new_rows(after, 120);
        let mut lines = client.copy_in("COPY look (id, n, category) FROM STDIN")?;
        for (id, (n, category)) in &new {
            // What the server says of a lost connection comes at the end.
            if writeln!(lines, "{id}\t{n}\t{category}").is_err() {
                break;
            }
        }
        after.extend(new);
        lines.finish().map(drop)
    }

    fn insert(
        &mut self,
        client: &mut Client,
        after: &mut Rows,
        most: i64,
    ) -> Result<(), postgres::Error> {
        let new = self.new_rows(after, 1 + most);
        let ids: Vec<i64> = new.keys().copied().collect();
        let ns: Vec<i64> = new.values().map(|row| row.0).collect();
        let categories: Vec<i32> = new.values().map(|row| row.1).collect();
        after.extend(new);
        let sql = "INSERT INTO look (id, n, category) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::int[])";
        client.execute(sql, &[&ids, &ns, &categories]).map(drop)
    }

    /// Of the vector, of another column only, or by an insert that finds the row there.
    fn update(&mut self, client: &mut Client, after: &mut Rows) -> Result<(), postgres::Error> {
        let ids = self.some(after, 6);
        let n = self.n();
        let (sql, what) = match self.random.below(3) {
            0 => (
                "UPDATE look SET category = (category + 1) % 10 WHERE id = ANY($1) AND $2::bigint > 0",
                None,
            ),
            1 => (
                "UPDATE look SET n = $2 + id WHERE id = ANY($1)",
                Some(n),
            ),
            _ => (
                "INSERT INTO look (id, n, category) SELECT id, $2 + id, 0 FROM unnest($1::bigint[]) id
                 ON CONFLICT (id) DO UPDATE SET n = excluded.n",
                Some(n),
            ),
        };
        for id in &ids {
            after.entry(*id).and_modify(|row| match what {
                None => row.1 = (row.1 + 1) % 10,
                Some(n) => row.0 = n + id,
            });
        }
        client.execute(sql, &[&ids, &n]).map(drop)
    }

    fn delete(
        &mut self,
        client: &mut Client,
        after: &mut Rows,
        wanted: i64,
    ) -> Result<(), postgres::Error> {
        let ids = self.some(after, wanted);
        after.retain(|id, _| !ids.contains(id));
        client
            .execute("DELETE FROM look WHERE id = ANY($1)", &[&ids])
            .map(drop)
    }

    /// Rows that were never there, but their entries were.
    fn rolled_back(
        &mut self,
        client: &mut Client,
        after: &mut Rows,
    ) -> Result<(), postgres::Error> {
        client.batch_execute("BEGIN")?;
        let mut never = after.clone();
        self.insert(client, &mut never, 100)?;
        self.update(client, &mut never)?;
        client.batch_execute("ROLLBACK")
    }

    /// Several changes in one transaction, some of them taken back.
    fn together(&mut self, client: &mut Client, after: &mut Rows) -> Result<(), postgres::Error> {
        client.batch_execute("BEGIN")?;
        self.insert(client, after, 30)?;
        client.batch_execute("SAVEPOINT here")?;
        let mut never = after.clone();
        self.update(client, &mut never)?;
        self.delete(client, &mut never, 10)?;
        client.batch_execute("ROLLBACK TO here")?;
        self.update(client, after)?;
        self.delete(client, after, 25)?;
        client.batch_execute("COMMIT")
    }
}

/// Numbers of rows that one has and the other has not, or has otherwise; and the other way round.
fn differences(one: &Rows, other: &Rows) -> (Vec<i64>, Vec<i64>) {
    let of = |a: &Rows, b: &Rows| -> Vec<i64> {
        a.iter()
            .filter(|(id, row)| b.get(id) != Some(row))
            .map(|(id, _)| *id)
            .collect()
    };
    (of(one, other), of(other, one))
}
