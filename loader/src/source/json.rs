//! JSON as sources hold it. Invariant: no name of an object stands for two values.

use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::names::REPEATED;

/// The pairs of an object.
pub fn object(text: &[u8]) -> serde_json::Result<Map<String, Value>> {
    let mut parser = serde_json::Deserializer::from_slice(text);
    let pairs = parser.deserialize_map(Distinct)?;
    parser.end()?;
    Ok(pairs)
}

struct Distinct;

impl<'de> Visitor<'de> for Distinct {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Map::new();
        while let Some((name, value)) = access.next_entry::<String, Value>()? {
            if pairs.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{REPEATED} {name:?}")));
            }
            pairs.insert(name, value);
        }
        Ok(pairs)
    }
}

/// The parser's words without its count of lines: what it is given here is one line.
pub fn fault(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let at = format!(" at line {} column {}", error.line(), error.column());
    said.strip_suffix(&at).unwrap_or(&said).to_owned()
}
