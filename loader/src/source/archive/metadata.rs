//! What files beside a photo say of it.

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use super::super::{
    decimal::{inexact, rounded},
    json,
    names::has_zero,
};

const ENDINGS: &[&str] = &["json", "txt", "cls"];

/// The ending of a name that describes its photo, in lower case.
pub fn ending(path: &str) -> Option<&'static str> {
    let (_, own) = path.rsplit_once('.')?;
    let mut endings = ENDINGS.iter().copied();
    endings.find(|ending| ending.eq_ignore_ascii_case(own))
}

/// Adds what a file beside a photo says: the pairs of a JSON object, else one of the file's own ending.
pub fn describe(metadata: &mut Map<String, Value>, ending: &str, bytes: &[u8]) -> Result<()> {
    // Some editors of Windows begin every file with it.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    if ending == "json" {
        let object = json::object(bytes).context("is no JSON object that can be used")?;
        let number = std::str::from_utf8(bytes).ok().and_then(inexact);
        if let Some(number) = number {
            bail!("is refused: {}", rounded(number));
        }
        metadata.extend(object);
    } else {
        let text = std::str::from_utf8(bytes).context("is not UTF-8")?.trim();
        let value = match (ending, text.parse::<i64>()) {
            ("cls", Ok(number)) => Value::from(number),
            _ => Value::from(text),
        };
        metadata.insert(ending.to_owned(), value);
    }
    let has_zero = metadata
        .iter()
        .any(|(name, value)| name.contains('\0') || has_zero(value));
    if has_zero {
        bail!("has a zero character, which PostgreSQL cannot store");
    }
    Ok(())
}
