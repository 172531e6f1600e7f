//! The type `embedding`: everything between its SQL and `vecmath`.
//!
//! Behaviour and wording are pgvector's `vector` (`src/vector.c`), and so is the storage, so that
//! the two types can be binary-coercible. [`value`] alone touches the stored bytes.

mod aggregates;
mod arithmetic;
mod arrays;
mod casts;
mod comparison;
mod distances;
mod errors;
mod io;
mod novelty;
mod value;

pub(crate) use value::{Embedding, NewEmbedding};
