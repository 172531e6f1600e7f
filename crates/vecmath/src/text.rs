//! The text form, `[1,2,3]`: parsing only. Owns the syntax, which is that of pgvector's `vector_in`
//! (`src/vector.c`): white space around every token, decimal numbers as `strtof` reads them. Not
//! accepted, though `strtof` would: hexadecimal floats.
//!
//! Formatting is left to the server, whose shortest float output (`common/f2s.c`) is the definition
//! of what users see.
//!
//! Invariant: what `parse` returns has 1 to [`MAX_DIMENSIONS`] elements, all finite.

use crate::{Error, MAX_DIMENSIONS, check_finite};

/// Parses `[1, 2.5, -3e4]`. Elements are rounded to the nearest `f32`; too small becomes 0.
///
/// # Errors
/// [`Error::Syntax`], [`Error::OutOfRange`], [`Error::NotANumber`], [`Error::Infinite`],
/// [`Error::NoDimensions`], [`Error::TooManyDimensions`]: the first that applies, left to right.
pub fn parse(literal: &[u8]) -> Result<Vec<f32>, Error> {
    let syntax = |detail| Error::Syntax {
        literal: printable(literal),
        detail,
    };

    let Some(inside) = skip_space(literal).strip_prefix(b"[") else {
        return Err(syntax(Some("Embedding contents must start with \"[\".")));
    };
    let mut rest = skip_space(inside);
    if rest.starts_with(b"]") {
        return Err(Error::NoDimensions);
    }

    // A guess from the text's length spares most reallocations and cannot be abused.
    let mut values = Vec::with_capacity((rest.len() / 4).min(MAX_DIMENSIONS));
    loop {
        if values.len() == MAX_DIMENSIONS {
            return Err(Error::TooManyDimensions);
        }
        rest = skip_space(rest);
        let number = number_prefix(rest).ok_or_else(|| syntax(None))?;
        values.push(number.value()?);
        rest = skip_space(&rest[number.text.len()..]);
        match rest.split_first() {
            Some((b',', tail)) => rest = tail,
            Some((b']', tail)) => {
                rest = tail;
                break;
            }
            _ => return Err(syntax(None)),
        }
    }
    if skip_space(rest).is_empty() {
        Ok(values)
    } else {
        Err(syntax(Some("Junk after closing right brace.")))
    }
}

/// The longest prefix that reads as a number.
struct Number<'a> {
    text: &'a str,
}

impl Number<'_> {
    fn value(&self) -> Result<f32, Error> {
        let out_of_range = || Error::OutOfRange {
            number: self.text.to_owned(),
        };
        let value: f32 = self.text.parse().map_err(|_| out_of_range())?;
        let spelled_out = !self.text.bytes().any(|byte| byte.is_ascii_digit());
        if value.is_infinite() && !spelled_out {
            return Err(out_of_range());
        }
        check_finite(value)?;
        Ok(value)
    }
}

/// Reads as `strtof` does: sign, then `nan`, `inf`, `infinity` in any case, or digits with an
/// optional point and exponent. An exponent without digits is not part of the number.
fn number_prefix(bytes: &[u8]) -> Option<Number<'_>> {
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let unsigned = &bytes[sign..];
    let word = [&b"infinity"[..], b"inf", b"nan"].into_iter().find(|word| {
        unsigned
            .get(..word.len())
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case(word))
    });
    let length = match word {
        Some(word) => word.len(),
        None => decimal_length(unsigned)?,
    };
    str::from_utf8(&bytes[..sign + length])
        .ok()
        .map(|text| Number { text })
}

fn decimal_length(bytes: &[u8]) -> Option<usize> {
    let whole = digits(bytes);
    let mut length = whole;
    let mut fraction = 0;
    if bytes.get(length) == Some(&b'.') {
        fraction = digits(&bytes[length + 1..]);
        length += 1 + fraction;
    }
    if whole + fraction == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = bytes.get(length) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(&bytes[length + 1 + sign..]);
        if exponent > 0 {
            length += 1 + sign + exponent;
        }
    }
    Some(length)
}

fn digits(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count()
}

/// PostgreSQL's `scanner_isspace`: ASCII white space and the vertical tab, whatever the locale.
fn skip_space(bytes: &[u8]) -> &[u8] {
    let space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c);
    &bytes[bytes.iter().take_while(space).count()..]
}

/// The literal for a message. In a database whose encoding is not UTF-8 its bytes may not be a Rust
/// string: then everything beyond ASCII is escaped.
fn printable(literal: &[u8]) -> String {
    match str::from_utf8(literal) {
        Ok(text) => text.to_owned(),
        Err(_) => literal.escape_ascii().to_string(),
    }
}
