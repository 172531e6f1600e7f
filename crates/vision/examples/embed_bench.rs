//! Times decode + prepare + inference of photos, one by one, as a caller of this crate does it:
//! `embed_bench ONNXRUNTIME MODEL.onnx MODEL.json THREADS CALLS FILE…`.
//!
//! Prints one line of JSON: the milliseconds of every call after the first, and the mean processor time of a call.
//! `scripts/bench/worker` compares them with `embed_image`.

use std::path::Path;
use std::time::Instant;

use lookbook_vision::{
    Device, Embedder, Limits, Manifest, Runtime, SessionOptions, decode, decode_side,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, onnx, manifest, threads, calls, files @ ..] = arguments.as_slice() else {
        return Err(
            "usage: embed_bench ONNXRUNTIME MODEL.onnx MODEL.json THREADS CALLS FILE...".into(),
        );
    };
    let photos = files
        .iter()
        .map(std::fs::read)
        .collect::<Result<Vec<_>, _>>()?;
    let runtime = Runtime::load(Path::new(library))?;
    let manifest = Manifest::from_json(&std::fs::read_to_string(manifest)?)?;
    let options = SessionOptions {
        device: Device::Cpu,
        threads: threads.parse()?,
    };
    let mut embedder = Embedder::open(&runtime, manifest, &std::fs::read(onnx)?, &options)?;
    let side = decode_side(None, &embedder);
    let mut embed = |photo: &[u8]| -> Result<f32, lookbook_vision::Error> {
        let photo = decode(photo, &Limits::default(), Some(side))?;
        let vectors = embedder.embed(&[photo.whole()])?;
        Ok(vectors[0][0])
    };
    let calls: usize = calls.parse()?;
    let mut checksum = embed(photos.first().ok_or("no photo")?)?;
    let (mut wall_ms, cpu_before_ms) = (Vec::new(), cpu_ms()?);
    for photo in photos.iter().cycle().take(calls) {
        let started = Instant::now();
        checksum += embed(photo)?;
        wall_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = (cpu_ms()? - cpu_before_ms) / calls as f64;
    println!(
        "{}",
        serde_json::json!({"wall_ms": wall_ms, "cpu_ms": cpu, "checksum": checksum})
    );
    Ok(())
}

/// Processor time of all threads of this process, by the kernel's scheduler.
fn cpu_ms() -> Result<f64, Box<dyn std::error::Error>> {
    let mut nanoseconds = 0_u64;
    for task in std::fs::read_dir("/proc/self/task")? {
        let line = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let ran = line.split(' ').next().ok_or("an empty schedstat")?;
        nanoseconds += ran.parse::<u64>()?;
    }
    Ok(nanoseconds as f64 / 1e6)
}
