//! Times decode + preprocess of one image file: `decode_bench FILE WIDTH HEIGHT AT_LEAST ROUNDS`.
//!
//! Prints one line of JSON with the milliseconds of every round; `scripts/bench/decode` compares
//! them with Pillow's. `AT_LEAST` 0 decodes at full size.

use std::time::Instant;

use lookbook_vision::{Limits, Manifest, Preprocessor, decode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, width, height, at_least, rounds] = arguments.as_slice() else {
        return Err("usage: decode_bench FILE WIDTH HEIGHT AT_LEAST ROUNDS".into());
    };
    let bytes = std::fs::read(file)?;
    let at_least = Some(at_least.parse::<u32>()?).filter(|&side| side > 0);
    let preprocessor = Preprocessor::new(&manifest(width.parse()?, height.parse()?)?);
    let (mut decoding, mut preparing) = (Vec::new(), Vec::new());
    let mut checksum = 0.0;
    for _ in 0..rounds.parse::<usize>()? {
        let started = Instant::now();
        let photo = decode(&bytes, &Limits::default(), at_least)?;
        let decoded = Instant::now();
        let tensor = preprocessor.prepare(&photo.whole());
        preparing.push(decoded.elapsed().as_secs_f64() * 1e3);
        decoding.push((decoded - started).as_secs_f64() * 1e3);
        checksum += f64::from(tensor.to_f32()[0]);
    }
    println!(
        "{}",
        serde_json::json!({"decode_ms": decoding, "prepare_ms": preparing, "checksum": checksum})
    );
    Ok(())
}

fn manifest(width: u32, height: u32) -> Result<Manifest, lookbook_vision::Error> {
    let document = serde_json::json!({
        "format": 1, "name": "bench", "version": "1", "kind": "embedder", "description": "bench",
        "licence": "none", "source": "bench", "sha256": lookbook_vision::sha256_hex(b""),
        "input": {
            "name": "image", "width": width, "height": height, "layout": "nchw", "dtype": "f32",
            "colour": "rgb", "resize": "stretch", "filter": "bilinear",
            "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
        },
        "output": {"name": "x", "dimensions": 1, "pool": "none", "normalize": false}
    });
    Manifest::from_json(&document.to_string())
}
