//! What verbs that write or read a catalogue begin with: the database, the target in it, and the models.

use anyhow::Result;
use postgres::Client;

use crate::{
    args::{DatabaseArgs, TargetArgs},
    database::{Target, VectorKind, connect_to_target},
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
        let (mut client, has_extension) = connect_to_target(url, args.may_lack_extension())?;
        let shelf = Shelf::of(has_extension, &args.model_file)?;
        let target = match &args.into {
            Some(table) => Target::mapped(
                &mut client,
                &args.schema,
                table,
                &args.into_map,
                has_extension,
            )?,
            None => {
                let vector = match args.pgvector {
                    true => VectorKind::Vector,
                    false => VectorKind::Embedding,
                };
                Target::own(&args.schema, vector, has_extension)
            }
        };
        Ok(Self {
            client,
            target,
            shelf,
        })
    }
}
