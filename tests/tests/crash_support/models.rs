//! Models that come, change and go, each in one transaction.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use lookbook_tests::Random;
use postgres::Client;
use postgres::error::SqlState;
use serde_json::{Value, json};

use super::{Counts, Known, until_gone};
use crate::sql_support::{bmp, embed, embedder_manifest, onnx, sha256};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// What a model is made of.
struct Kind {
    onnx: Vec<u8>,
    sha256: String,
    manifest: Value,
    /// What it makes of the photo.
    embedding: Vec<f32>,
}

/// Which kind each model is of, by name.
type Models = BTreeMap<&'static str, usize>;

/// Whoever changes models, and what was acknowledged.
pub struct Keeper {
    photo: Vec<u8>,
    kinds: Vec<Kind>,
    random: Random,
    known: Known<Models>,
}

impl Keeper {
    /// With two kinds of models, tried once.
    pub fn new(client: &mut Client, random: Random) -> Result<Keeper> {
        let photo = bmp(9, 7, [180, 20, 90]);
        let mut kinds = Vec::new();
        for pool in ["GlobalAveragePool", "GlobalMaxPool"] {
            let onnx = onnx::embedder(pool);
            let manifest = embedder_manifest(client, "made", &onnx)?;
            let sha256 = sha256(client, &onnx)?;
            let mut kind = Kind {
                onnx,
                sha256,
                manifest,
                embedding: Vec::new(),
            };
            import(client, "made", &kind)?;
            kind.embedding = embed(client, &photo, Some("made"))?;
            drop_model(client, "made")?;
            kinds.push(kind);
        }
        ensure!(kinds[0].embedding != kinds[1].embedding);
        Ok(Keeper {
            photo,
            kinds,
            random,
            known: Known::new(Models::new()),
        })
    }

    /// Changes models and uses them until the server is gone.
    pub fn keep_changing(&mut self, client: &mut Client, counts: &Counts) -> Result<()> {
        loop {
            let mut after = self.known.committed.clone();
            let changed = self.change(client, &mut after);
            let changed = last_word(client, changed);
            if !self.known.note(after, changed)? {
                return Ok(());
            }
            Counts::add(&counts.models);
            for (&name, &kind) in &self.known.committed {
                let embedded = embed(client, &self.photo, Some(name));
                match until_gone(last_word(client, embedded))? {
                    Some(embedding) => ensure!(embedding == self.kinds[kind].embedding, "{name}"),
                    None => return Ok(()),
                }
            }
            sleep(Duration::from_millis(self.random.below(40) as u64));
        }
    }

    /// The models are those that were committed, or those of the change under way, and work.
    pub fn check(&mut self, client: &mut Client) -> Result<()> {
        let rows = client.query(
            "SELECT name, sha256, encode(sha256(onnx), 'hex') FROM lookbook_model WHERE NOT shipped",
            &[],
        )?;
        let mut found = Models::new();
        for row in rows {
            let (name, noted, real): (String, String, String) =
                (row.get(0), row.get(1), row.get(2));
            ensure!(noted == real, "model {name} has other bytes than it says");
            let name = NAMES.into_iter().find(|known| *known == name);
            let kind = self.kinds.iter().position(|kind| kind.sha256 == real);
            let (Some(name), Some(kind)) = (name, kind) else {
                anyhow::bail!("an unknown model, {name:?} of kind {kind:?}");
            };
            let embedding = embed(client, &self.photo, Some(name))?;
            ensure!(embedding == self.kinds[kind].embedding, "model {name}");
            found.insert(name, kind);
        }
        self.known.settle(found).map_err(|(found, pending)| {
            anyhow!(
                "models {found:?}, which are not those committed, nor those pending: {pending:?}"
            )
        })
    }

    /// A model comes, goes, or is replaced by one of the other kind.
    fn change(&mut self, client: &mut Client, after: &mut Models) -> Result<(), postgres::Error> {
        let name = NAMES[self.random.below(NAMES.len() as i64) as usize];
        let kind = self.random.below(2) as usize;
        client.batch_execute("BEGIN")?;
        if after.remove(name).is_some() {
            drop_model(client, name)?;
        }
        if self.random.below(4) > 0 {
            import(client, name, &self.kinds[kind])?;
            after.insert(name, kind);
        }
        client.batch_execute("COMMIT")
    }
}

/// The inference worker goes with its server, and a backend may tell so (58000) before it goes, too: then what its connection says next
/// is what counts. A session that stays has lost its worker to something else.
fn last_word<T>(
    client: &mut Client,
    done: Result<T, postgres::Error>,
) -> Result<T, postgres::Error> {
    let is_of_the_worker = |error: &postgres::Error| error.code() == Some(&SqlState::SYSTEM_ERROR);
    if done.as_ref().is_err_and(is_of_the_worker) {
        for _ in 0..100 {
            client.batch_execute("ROLLBACK")?;
            sleep(Duration::from_millis(20));
        }
    }
    done
}

fn import(client: &mut Client, name: &str, kind: &Kind) -> Result<(), postgres::Error> {
    let mut manifest = kind.manifest.clone();
    manifest["name"] = json!(name);
    crate::sql_support::import(client, name, &manifest, &kind.onnx).map(drop)
}

fn drop_model(client: &mut Client, name: &str) -> Result<(), postgres::Error> {
    client
        .execute("SELECT lookbook_model_drop($1)", &[&name])
        .map(drop)
}
