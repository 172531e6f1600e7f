//! One SQL statement as text: where it ends.
//!
//! Knows the lexical rules of PostgreSQL (quotes, dollar quotes, comments that nest), and nothing of grammar.

/// The statement without the semicolons, blanks and comments after it. Where more follows the first semicolon,
/// everything is left as it is, for the server to refuse.
pub fn without_end(text: &str) -> &str {
    let mut end = 0;
    let mut is_ended = false;
    let mut rest = text;
    while !rest.is_empty() {
        let (length, kind) = token(rest);
        match kind {
            Token::Nothing => {}
            Token::Semicolon => is_ended = true,
            Token::Something if is_ended => return text.trim(),
            Token::Something => end = text.len() - rest.len() + length,
        }
        rest = &rest[length..];
    }
    text[..end].trim_start()
}

enum Token {
    /// Blanks or a comment.
    Nothing,
    Semicolon,
    Something,
}

/// How long the first token is, and what it is. What does not end goes to the end of the text.
fn token(text: &str) -> (usize, Token) {
    let first = text.chars().next().unwrap_or(' ');
    let until = |length: Option<usize>| length.unwrap_or(text.len());
    match first {
        ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c' => (1, Token::Nothing),
        ';' => (1, Token::Semicolon),
        '-' if text.starts_with("--") => (until(text.find('\n')), Token::Nothing),
        '/' if text.starts_with("/*") => (until(comment(text)), Token::Nothing),
        '\'' | '"' => (until(quote(text, first, false)), Token::Something),
        'e' | 'E' if text[1..].starts_with('\'') => (
            until(quote(&text[1..], '\'', true).map(|length| length + 1)),
            Token::Something,
        ),
        '$' => (dollar_quote(text), Token::Something),
        _ if is_of_word(first) => (
            until(text.find(|c| !is_of_word(c) && c != '$')),
            Token::Something,
        ),
        _ => (first.len_utf8(), Token::Something),
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || !c.is_ascii()
}

/// The length of a comment, comments in it included.
fn comment(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let open = rest.find("/*");
        let close = rest.find("*/")?;
        if open.is_some_and(|open| open < close) {
            depth += 1;
            at += open? + 2;
        } else {
            depth = depth.checked_sub(1)?;
            at += close + 2;
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of a text between quotes, of which a doubled one is a part.
fn quote(text: &str, mark: char, has_escapes: bool) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == mark && chars.next_if(|(_, next)| *next == mark).is_none() {
            return Some(at + 1);
        }
        if has_escapes && c == '\\' {
            chars.next();
        }
    }
    None
}

/// The length of `$tag$ ... $tag$`, else of the dollar.
fn dollar_quote(text: &str) -> usize {
    let tag = text[1..].find('$').map(|end| &text[..end + 2]);
    let is_tag = |tag: &&str| {
        let name = &tag[1..tag.len() - 1];
        name.chars().all(is_of_word) && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    match tag.filter(is_tag) {
        Some(tag) => match text[tag.len()..].find(tag) {
            Some(end) => end + 2 * tag.len(),
            None => text.len(),
        },
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_a_statement_is_left_out_and_what_is_in_it_stays() {
        for (text, statement) in [
            ("SELECT 1", "SELECT 1"),
            (" SELECT 1 ;; \n", "SELECT 1"),
            ("SELECT 1; -- the newest; ones", "SELECT 1"),
            ("SELECT 1 -- no end", "SELECT 1"),
            ("SELECT 1 /* a /* b */ ; */ ; /* c */ -- d\n", "SELECT 1"),
            ("SELECT '; -- x' ;", "SELECT '; -- x'"),
            ("SELECT 'it''s; ' ;", "SELECT 'it''s; '"),
            (r"SELECT E'\'; ' ; -- x", r"SELECT E'\'; '"),
            (r"SELECT E'a''\'b' ; -- x", r"SELECT E'a''\'b'"),
            (r"SELECT 'a\' ; -- x", r"SELECT 'a\'"),
            ("SELECT \"a;b\" ;", "SELECT \"a;b\""),
            ("SELECT $x$ ; -- $$ $x$ ; --", "SELECT $x$ ; -- $$ $x$"),
            ("SELECT $$;$$;", "SELECT $$;$$"),
            ("SELECT a$b FROM größe; -- x", "SELECT a$b FROM größe"),
            ("SELECT 1; SELECT 2;", "SELECT 1; SELECT 2;"),
            ("SELECT 'open ; ", "SELECT 'open ; "),
            ("-- first\nSELECT 1;", "-- first\nSELECT 1"),
            ("", ""),
        ] {
            assert_eq!(without_end(text), statement, "{text}");
        }
    }
}
