//! The loader's side of PostgreSQL: connecting, the tables, the model rows, what is loaded already,
//! and writing batches. Knows nothing of photos' pixels or of threads.

mod catalog;
mod column;
mod connect;
mod gate;
mod index;
mod journal;
mod known;
mod libpq;
mod list;
mod lock;
mod mapped;
mod models;
mod retry;
mod rights;
mod shadow;
mod tables;
mod target;
mod tls;
mod types;
mod writer;

pub use column::{
    check_embedding_column, claim_embedding_column, embedding_column_model, has_rows,
    name_of_filler, unrecorded_model,
};
pub use connect::{
    Extensions, OWN_PATH, connect, connect_anywhere, connect_to_server, connect_to_target, ours,
};
pub use index::{FoundIndex, IndexBuilder, IndexProgress, IndexWatcher};
pub use journal::{Journal, RecordedRun, RunCounts, RunEnd, RunStart, last_run};
pub use known::{Known, Models};
pub use models::{
    ModelKind, ModelRow, choose_model, choose_model_if_any, fetch_onnx, model_by_sha256,
    model_of_name,
};
pub use rights::{READ_ONLY, WRITE, is_read_only_by_default, refuse_read_only};
pub use shadow::{NewVector, Shadow, Stale, StaleGarment, Swap};
pub use tables::ProductKey;
pub use target::{Role, RoleColumn, Target, VectorKind};
pub use types::{Box2, EmbeddingRef};
pub use writer::{GarmentRow, PhotoRow, ROW_REFUSED, Writer, refusal};

/// Category and label of a photo in which nothing was found.
pub const WHOLE_PHOTO: &str = "photo";

/// An SQL identifier, quoted.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
