//! Any bytes as a model's manifest: one that survives being written and read again, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lookbook_vision::{Manifest, Preprocessor};

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(manifest) = Manifest::from_json(json) else {
        return;
    };
    let written = manifest.to_json();
    let again = Manifest::from_json(&written).expect("a manifest of ours is a manifest");
    assert_eq!(again.to_json(), written);
    let _ = Preprocessor::new(&manifest);
});
