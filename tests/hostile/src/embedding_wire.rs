//! Any bytes as the binary form of an embedding: elements that encode to the same bytes, or refused.

use lookbook_vecmath::{MAX_DIMENSIONS, wire};

/// Whether they are one.
pub fn embedding_wire(message: &[u8]) -> bool {
    let Ok((values, read)) = wire::decode(message) else {
        return false;
    };
    assert!((1..=MAX_DIMENSIONS).contains(&values.len()));
    assert!(values.iter().all(|value| value.is_finite()));
    let mut again = Vec::new();
    wire::encode(&values, &mut again).expect("what was decoded can be encoded");
    assert_eq!(again, message[..read]);
    true
}
