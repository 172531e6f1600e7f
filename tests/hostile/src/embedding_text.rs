//! Any bytes as the text of an embedding: elements that print and parse to themselves, or refused.

use lookbook_vecmath::{MAX_DIMENSIONS, text};

/// Whether they are one.
pub fn embedding_text(literal: &[u8]) -> bool {
    let Ok(values) = text::parse(literal) else {
        return false;
    };
    assert!((1..=MAX_DIMENSIONS).contains(&values.len()));
    assert!(values.iter().all(|value| value.is_finite()));
    let again =
        text::parse(format!("{values:?}").as_bytes()).expect("what was parsed parses again");
    assert!(
        values
            .iter()
            .zip(&again)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
    true
}
