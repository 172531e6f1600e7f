//! Decode + prepare + inference of photos, one by one, as a caller of this crate does it:
//! `embed_bench ONNXRUNTIME MODEL.onnx MODEL.json THREADS`.
//!
//! Each line of standard input names a photo; each is answered with the milliseconds that the call took, reading of
//! the file not counted. Who writes the lines sets the pace. `scripts/bench/worker` compares it with `embed_image`.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use lookbook_vision::{
    Device, Embedder, Limits, Manifest, Runtime, SessionOptions, decode, decode_side,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, onnx, manifest, threads] = arguments.as_slice() else {
        return Err("usage: embed_bench ONNXRUNTIME MODEL.onnx MODEL.json THREADS".into());
    };
    let runtime = Runtime::load(Path::new(library))?;
    let manifest = Manifest::from_json(&std::fs::read_to_string(manifest)?)?;
    let options = SessionOptions {
        device: Device::Cpu,
        threads: threads.parse()?,
        batch: 0,
    };
    let mut embedder = Embedder::open(&runtime, manifest, &std::fs::read(onnx)?, &options)?;
    let side = decode_side(None, &embedder);
    let mut output = std::io::stdout().lock();
    for path in std::io::stdin().lines() {
        let photo = std::fs::read(path?)?;
        let started = Instant::now();
        let photo = decode(&photo, &Limits::default(), Some(side))?;
        let vectors = embedder.embed(&[photo.whole()])?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        std::hint::black_box(vectors);
        writeln!(output, "{milliseconds}")?;
        output.flush()?;
    }
    Ok(())
}
