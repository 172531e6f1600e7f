//! A store's list of objects, made fit for the object-store crate, which refuses a whole page for one key that it cannot
//! hold: with an empty part, a slash at an end, `.` or `..` as a part, or a control character.
//!
//! Invariant: such a key goes through the crate in another form, and is told from a key of that form.

use object_store::path::Path;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Begins such a form; no key begins so unless it is brought into one.
const MARK: char = '\u{10fffd}';
const BEFORE: &str = "<Key>";
const BEHIND: &str = "</Key>";

/// A path that is the key, letter by letter.
pub fn path_of(key: &str) -> Option<Path> {
    Path::parse(key).ok().filter(|path| path.as_ref() == key)
}

/// A page in XML whose keys are all paths.
pub fn fitted(page: &str) -> String {
    let mut fitted = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((before, (key, behind))) = rest
        .split_once(BEFORE)
        .and_then(|(before, behind)| Some((before, behind.split_once(BEHIND)?)))
    {
        let is_fit = |key: &str| path_of(key).is_some() && !key.starts_with(MARK);
        let plain = unescaped(key);
        fitted.extend([before, BEFORE]);
        if is_fit(&plain) {
            fitted.push_str(key);
        } else {
            fitted.push(MARK);
            fitted.extend(utf8_percent_encode(&plain, NON_ALPHANUMERIC));
        }
        fitted.push_str(BEHIND);
        rest = behind;
    }
    fitted + rest
}

/// The key that a path of such a page stands for, if it is another.
pub fn unfit_key(path: &Path) -> Option<String> {
    let encoded = path.as_ref().strip_prefix(MARK)?;
    Some(percent_decode_str(encoded).decode_utf8_lossy().into_owned())
}

/// Text of XML without its entities.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        plain.push_str(before);
        let entity = behind.split_once(';');
        match entity.and_then(|(name, behind)| Some((character(name)?, behind))) {
            Some((character, behind)) => {
                plain.push(character);
                rest = behind;
            }
            None => {
                plain.push('&');
                rest = behind;
            }
        }
    }
    plain + rest
}

fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let number = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(number.ok()?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_no_paths_come_through_and_others_stay_as_they_are() {
        for (key, escaped) in [
            ("a//b.jpg", "a//b.jpg"),
            ("/a.jpg", "/a.jpg"),
            ("dir.jpg/", "dir.jpg/"),
            ("a/../b&c.jpg", "a/../b&amp;c.jpg"),
            ("a\u{1}.jpg", "a&#x1;.jpg"),
            ("\u{10fffd}a.jpg", "\u{10fffd}a.jpg"),
        ] {
            let page = fitted(&format!("<X><Key>{escaped}</Key><Size>1</Size></X>"));
            let path = page.strip_prefix("<X><Key>").unwrap();
            let path = path.strip_suffix("</Key><Size>1</Size></X>").unwrap();
            let path = path_of(path).unwrap();
            assert_eq!(unfit_key(&path).as_deref(), Some(key));
        }
        for page in [
            "<X><Key>a b/\u{fc}&amp;&#xe9;.jpg</Key><Key>c%20.jpg</Key></X>",
            "<Key>cut",
            "",
        ] {
            assert_eq!(fitted(page), page);
        }
        assert_eq!(unfit_key(&Path::from("a.jpg")), None);
    }
}
