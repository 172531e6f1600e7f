//! Any bytes as a photo: decoded within the limits and prepared for a model, or refused.

use std::sync::LazyLock;

use lookbook_vision::{Limits, Manifest, Preprocessor, decode};

static SHIPPED: LazyLock<[Preprocessor; 2]> = LazyLock::new(|| {
    [
        include_str!("../../../models/shipped/garment-detector.json"),
        include_str!("../../../models/shipped/garment-embedder.json"),
    ]
    .map(|json| Preprocessor::new(&Manifest::from_json(json).expect("a shipped manifest")))
});

/// Whether they are one.
pub fn image(bytes: &[u8]) -> bool {
    let mut is_photo = false;
    let limits = Limits {
        max_bytes: 1 << 20,
        max_pixels: 100_000,
    };
    for at_least in [None, Some(64)] {
        let Ok(photo) = decode(bytes, &limits, at_least) else {
            continue;
        };
        is_photo = true;
        let pixels = u64::from(photo.width()) * u64::from(photo.height());
        assert!(pixels <= limits.max_pixels, "{pixels} pixels");
        for preprocessor in &*SHIPPED {
            let prepared = preprocessor.prepare(&photo.whole()).to_f32();
            assert!(prepared.iter().all(|value| value.is_finite()));
        }
    }
    is_photo
}
