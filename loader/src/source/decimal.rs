//! Numbers as decimal digits: what JSON and PostgreSQL mean by them, before a program makes a binary number of them.

/// A number by its digits: 1.50, 15e-1 and 1.5 are one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decimal {
    is_negative: bool,
    /// Without zeros at either end; empty for 0.
    digits: String,
    exponent: i64,
}

impl Decimal {
    /// Of a number of JSON.
    pub fn of(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let unsigned = whole.trim_start_matches('-');
        let all = format!("{unsigned}{fraction}");
        let significant = all.trim_end_matches('0');
        let digits = significant.trim_start_matches('0').to_owned();
        let dropped = all.len() - significant.len();
        let scale =
            i64::try_from(dropped).unwrap_or(0) - i64::try_from(fraction.len()).unwrap_or(0);
        let exponent: i64 = exponent.parse().unwrap_or(0);
        Self {
            is_negative: whole.starts_with('-') && !digits.is_empty(),
            exponent: match digits.is_empty() {
                true => 0,
                false => exponent.saturating_add(scale),
            },
            digits,
        }
    }
}

/// A whole number in the text of a JSON value of which digits would be lost, because it needs more than 64 bits: an
/// identifier, most likely. Fractions are kept to the 17 digits of an f64.
pub fn inexact(json: &str) -> Option<&str> {
    numbers(json).find(|text| {
        let is_whole = !text.contains(['.', 'e', 'E']);
        is_whole && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
    })
}

/// What to say of such a number in a text of JSON.
pub fn rounded(number: &str) -> String {
    format!("{}: write it as a text, in quotes", too_long(number))
}

/// The same of any.
pub fn too_long(number: &str) -> String {
    format!("the number {number} has more digits than are kept")
}

/// The numbers outside of strings.
fn numbers(json: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.' | 'e' | 'E');
    let mut rest = json;
    std::iter::from_fn(move || {
        loop {
            let start = rest.find(|c: char| c == '"' || c == '-' || c.is_ascii_digit())?;
            rest = &rest[start..];
            if let Some(inside) = rest.strip_prefix('"') {
                rest = after_string(inside);
                continue;
            }
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let (number, behind) = rest.split_at(end);
            rest = behind;
            return Some(number);
        }
    })
}

/// What follows a string whose beginning was read.
fn after_string(text: &str) -> &str {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => drop(characters.next()),
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_its_digits_however_it_is_written() {
        for (a, b) in [
            ("1.50", "15e-1"),
            ("1e16", "10000000000000000"),
            ("-0.0", "0"),
            ("0.0012E3", "1.2"),
        ] {
            assert_eq!(Decimal::of(a), Decimal::of(b), "{a} {b}");
        }
        for (a, b) in [("1", "-1"), ("1", "10"), ("1.01", "1.1")] {
            assert_ne!(Decimal::of(a), Decimal::of(b), "{a} {b}");
        }
    }

    #[test]
    fn numbers_that_would_be_rounded_are_found_and_others_are_not() {
        let exact = r#"{"a": 9.5, "b": [1e16, -0.0, 18446744073709551615, 3.3333333333333333], "c": "12345678901234567890123 \\"}"#;
        assert_eq!(inexact(exact), None);
        for text in ["12345678901234567890123", "-98765432109876543210"] {
            let json = format!(r#"{{"quoted\"": "1", "ean": {text}}}"#);
            assert_eq!(inexact(&json), Some(text));
        }
    }
}
