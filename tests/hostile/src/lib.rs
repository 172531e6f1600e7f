//! Readers of bytes that come from outside, each as a function of any bytes.
//!
//! Owns what has to hold for whatever comes in: a function panics when it does not. Knows nothing of where bytes come
//! from: libFuzzer (`tests/fuzz`) and the short run (`tests/short.rs`) call the same functions, from the same seeds.

mod embedding_text;
mod embedding_wire;
mod image;
mod index_pages;
mod manifest;
mod onnx_header;
mod worker_protocol;

pub use embedding_text::embedding_text;
pub use embedding_wire::embedding_wire;
pub use image::image;
pub use index_pages::index_pages;
pub use manifest::manifest;
pub use onnx_header::onnx_header;
pub use worker_protocol::worker_protocol;
