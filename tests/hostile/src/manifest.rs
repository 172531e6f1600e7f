//! Any bytes as a model's manifest: one that survives being written and read again, or refused.

use lookbook_vision::{Manifest, Preprocessor};

/// Whether they are one.
pub fn manifest(bytes: &[u8]) -> bool {
    let Ok(json) = std::str::from_utf8(bytes) else {
        return false;
    };
    let Ok(manifest) = Manifest::from_json(json) else {
        return false;
    };
    let written = manifest.to_json();
    let again = Manifest::from_json(&written).expect("a manifest of ours is a manifest");
    assert_eq!(again.to_json(), written);
    let _ = Preprocessor::new(&manifest);
    true
}
