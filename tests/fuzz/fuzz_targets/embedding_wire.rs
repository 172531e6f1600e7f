//! Any bytes as the binary form of an embedding: elements that encode to the same bytes, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lookbook_vecmath::{MAX_DIMENSIONS, wire};

fuzz_target!(|message: &[u8]| {
    let Ok((values, read)) = wire::decode(message) else {
        return;
    };
    assert!((1..=MAX_DIMENSIONS).contains(&values.len()));
    assert!(values.iter().all(|value| value.is_finite()));
    let mut again = Vec::new();
    wire::encode(&values, &mut again).expect("what was decoded can be encoded");
    assert_eq!(again, message[..read]);
});
