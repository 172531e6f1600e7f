//! What verbs that write or read a catalogue begin with: the database, the target in it, and the models.

use anyhow::Result;
use postgres::Client;

use crate::{
    args::{DatabaseArgs, TargetArgs},
    database::{Target, VectorKind, connect_to_target},
    messages,
    shelf::Shelf,
};

pub struct Opened {
    pub client: Client,
    pub target: Target,
    pub shelf: Shelf,
}

impl Opened {
    pub fn new(database: &DatabaseArgs, args: &TargetArgs) -> Result<Self> {
        let url = database.url.as_deref();
        let (mut client, extensions) = connect_to_target(url, args.may_lack_extension())?;
        let shelf = Shelf::of(extensions.lookbook.is_some(), &args.model_file)?;
        let target = match &args.into {
            Some(table) => {
                let target =
                    Target::mapped(&mut client, &args.schema, table, &args.roles(), &extensions)?;
                if let Some(statement) = target.missing_index(&mut client)? {
                    messages::warn(format_args!(
                        "no index finds the rows of a photo in {}: whenever one is replaced the whole table is read; {statement}",
                        target.garment
                    ));
                }
                target
            }
            None => {
                let vector = match args.pgvector {
                    true => VectorKind::Vector,
                    false => VectorKind::Embedding,
                };
                Target::own(&args.schema, vector, &extensions)?
            }
        };
        Ok(Self {
            client,
            target,
            shelf,
        })
    }
}
