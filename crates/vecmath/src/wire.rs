//! The binary form, byte for byte that of pgvector's `vector_send` and `vector_recv`
//! (`src/vector.c`): dimensions as `int16`, a reserved `int16` that is 0, then that many `float4`,
//! all big-endian. Loaders write it into binary COPY, the extension sends and receives it.
//!
//! Invariant: what `decode` returns has 1 to [`MAX_DIMENSIONS`](crate::MAX_DIMENSIONS) finite
//! elements.

use crate::{Error, check_dimensions, check_finite};

/// Bytes before the first element.
pub const HEADER_BYTES: usize = 4;

/// Bytes of the message for that many elements.
pub const fn encoded_bytes(dimensions: usize) -> usize {
    HEADER_BYTES + dimensions * size_of::<f32>()
}

/// Appends the message for `values` to `message`.
///
/// # Errors
/// [`Error::NoDimensions`], [`Error::TooManyDimensions`]: nothing is appended then.
pub fn encode(values: &[f32], message: &mut Vec<u8>) -> Result<(), Error> {
    check_dimensions(values.len())?;
    let dimensions = u16::try_from(values.len()).map_err(|_| Error::TooManyDimensions)?;
    message.reserve(encoded_bytes(values.len()));
    message.extend_from_slice(&dimensions.to_be_bytes());
    message.extend_from_slice(&[0, 0]);
    message.extend(values.iter().flat_map(|value| value.to_be_bytes()));
    Ok(())
}

/// Reads the message at the start of `message`: the elements and the bytes it took.
///
/// # Errors
/// [`Error::Truncated`], [`Error::Reserved`], [`Error::NoDimensions`],
/// [`Error::TooManyDimensions`], [`Error::NotANumber`], [`Error::Infinite`].
pub fn decode(message: &[u8]) -> Result<(Vec<f32>, usize), Error> {
    let (header, elements) = message.split_first_chunk().ok_or(Error::Truncated)?;
    let [high, low, reserved @ ..]: [u8; HEADER_BYTES] = *header;
    // Signed, as pgvector reads it: a negative count has no dimensions.
    let dimensions = i16::from_be_bytes([high, low]);
    let dimensions = usize::try_from(dimensions).map_err(|_| Error::NoDimensions)?;
    check_dimensions(dimensions)?;
    match u16::from_be_bytes(reserved) {
        0 => {}
        found => return Err(Error::Reserved { found }),
    }
    let (elements, _) = elements.as_chunks();
    let elements = elements.get(..dimensions).ok_or(Error::Truncated)?;
    let values: Vec<f32> = elements
        .iter()
        .map(|bytes| f32::from_be_bytes(*bytes))
        .collect();
    // First all together, without a branch for each.
    let all_are_finite = values.iter().fold(true, |all, x| all & x.is_finite());
    if !all_are_finite {
        values.iter().try_for_each(|&value| check_finite(value))?;
    }
    Ok((values, encoded_bytes(dimensions)))
}
