//! `lookbook eval`: how good the models of a database are, on photos that people judged.
//!
//! Everything measured here goes the way of a user's photo: the database's own models, its index, its
//! `ORDER BY embedding <-> …`. Knows nothing of training.

pub mod args;
mod average_precision;
mod coco;
mod detection;
mod lists;
mod retrieval;
mod table;
mod vectors;
mod workers;

use anyhow::Result;
use args::{EvalArgs, EvalVerb};

use crate::messages::Ending;

pub fn run(args: &EvalArgs) -> Result<Ending> {
    match &args.verb {
        EvalVerb::Detection(args) => detection::run(args),
        EvalVerb::Retrieval(args) => retrieval::run(args),
    }
}
