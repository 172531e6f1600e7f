//! Any bytes as the text of an embedding: elements that print and parse to themselves, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lookbook_vecmath::{MAX_DIMENSIONS, text};

fuzz_target!(|literal: &[u8]| {
    let Ok(values) = text::parse(literal) else {
        return;
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
});
