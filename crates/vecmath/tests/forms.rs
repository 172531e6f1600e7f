//! The text and wire forms: what is accepted, what is refused and how, and that nothing is lost.
//! The cases are those that pgvector documents for `vector` (`test/sql/vector_type.sql`).

use lookbook_vecmath::{Error, MAX_DIMENSIONS, text, wire};
use proptest::prelude::*;

fn parse(literal: &str) -> Result<Vec<f32>, Error> {
    text::parse(literal.as_bytes())
}

fn message(literal: &str) -> String {
    parse(literal).expect_err(literal).to_string()
}

#[test]
fn numbers_are_read_as_strtof_reads_them() {
    let cases: [(&str, &[f32]); 12] = [
        ("[1,2,3]", &[1.0, 2.0, 3.0]),
        ("[-1,-2,+3]", &[-1.0, -2.0, 3.0]),
        ("[1.,2.,.5]", &[1.0, 2.0, 0.5]),
        (" [ 1,  2 ,    3  ] ", &[1.0, 2.0, 3.0]),
        ("\t[\n1\r,\u{b}2\u{c}]\n", &[1.0, 2.0]),
        ("[1.23456]", &[1.23456]),
        ("[1.5e38,-1.5E+38]", &[1.5e38, -1.5e38]),
        ("[1.5e-38]", &[1.5e-38]),
        ("[1e-46,1]", &[0.0, 1.0]),
        ("[3.4028235e38]", &[f32::MAX]),
        ("[1e-45]", &[1e-45]),
        ("[00012,1e00001]", &[12.0, 10.0]),
    ];
    for (literal, expected) in cases {
        assert_eq!(parse(literal).as_deref(), Ok(expected), "{literal}");
    }
    let negative_zero = parse("[-1e-46]").expect("too small is zero");
    assert!(negative_zero[0].is_sign_negative());
}

/// `strtof` rounds once. Via double precision this would round down to the even neighbour.
#[test]
fn numbers_are_rounded_once() {
    assert_eq!(parse("[1.000000059604644775390626]"), Ok(vec![1.000_000_1]));
}

#[test]
fn what_is_not_a_vector_is_a_syntax_error() {
    let cases = [
        "[hello,1]",
        "[1,2,3",
        "[",
        "[ ",
        "[,",
        "[,]",
        "[1,]",
        "[1a]",
        "[1,,3]",
        "[1, ,3]",
        "[1 2]",
        "[+]",
        "[.]",
        "[e5]",
        "[1e]",
        "[1e+]",
        "[--1]",
        "[0x10]",
        "[1;2]",
        "[[1]]",
        "[1}",
        "[n]",
        "[\u{a0}1]",
    ];
    for literal in cases {
        assert_eq!(
            parse(literal),
            Err(Error::Syntax {
                literal: literal.to_owned(),
                detail: None
            }),
            "{literal}"
        );
    }
}

#[test]
fn the_frame_of_a_vector_is_explained() {
    for literal in ["", "1,2,3", "{1,2,3}", "(1)"] {
        let detail = Some("Embedding contents must start with \"[\".");
        assert_eq!(
            parse(literal),
            Err(Error::Syntax {
                literal: literal.to_owned(),
                detail
            })
        );
    }
    for literal in ["[1,2,3]9", "[1]]", "[1] x", "[1],[2]"] {
        let detail = Some("Junk after closing right brace.");
        assert_eq!(
            parse(literal),
            Err(Error::Syntax {
                literal: literal.to_owned(),
                detail
            })
        );
    }
    assert_eq!(
        message("[1"),
        "invalid input syntax for type embedding: \"[1\""
    );
}

#[test]
fn what_is_not_finite_is_refused() {
    for literal in ["[NaN,1]", "[nan]", "[-NaN]", "[+nan]"] {
        assert_eq!(
            message(literal),
            "NaN not allowed in embedding",
            "{literal}"
        );
    }
    for literal in ["[Infinity,1]", "[-Infinity,1]", "[inf]", "[+INF]"] {
        assert_eq!(
            message(literal),
            "infinite value not allowed in embedding",
            "{literal}"
        );
    }
    assert_eq!(
        message("[4e38,1]"),
        "\"4e38\" is out of range for type embedding"
    );
    assert_eq!(
        message("[1,-4e38]"),
        "\"-4e38\" is out of range for type embedding"
    );
}

#[test]
fn dimensions_are_one_to_sixteen_thousand() {
    assert_eq!(parse("[]"), Err(Error::NoDimensions));
    assert_eq!(parse("[ ]"), Err(Error::NoDimensions));
    let literal = |dimensions| format!("[{}]", vec!["0"; dimensions].join(","));
    assert_eq!(
        parse(&literal(MAX_DIMENSIONS)).map(|values| values.len()),
        Ok(MAX_DIMENSIONS)
    );
    assert_eq!(
        parse(&literal(MAX_DIMENSIONS + 1)),
        Err(Error::TooManyDimensions)
    );
    assert_eq!(
        Error::TooManyDimensions.to_string(),
        "embedding cannot have more than 16000 dimensions"
    );
}

#[test]
fn text_in_another_encoding_can_be_named() {
    let error = text::parse(b"[\xe9]").expect_err("not a number");
    assert_eq!(
        error.to_string(),
        "invalid input syntax for type embedding: \"[\\xe9]\""
    );
}

/// The bytes of pgvector's `vector_send('[1,-2]')`.
#[test]
fn the_wire_form_is_that_of_pgvector() {
    let mut bytes = Vec::new();
    wire::encode(&[1.0, -2.0], &mut bytes).expect("two dimensions");
    assert_eq!(bytes, [0, 2, 0, 0, 0x3f, 0x80, 0, 0, 0xc0, 0, 0, 0]);
    assert_eq!(wire::decode(&bytes), Ok((vec![1.0, -2.0], 12)));
}

#[test]
fn a_message_that_is_not_a_vector_is_refused() {
    let cases: [(&[u8], Error); 9] = [
        (&[], Error::Truncated),
        (&[0, 1, 0], Error::Truncated),
        (&[0, 1, 0, 0, 0x3f, 0x80, 0], Error::Truncated),
        (&[0, 0, 0, 0], Error::NoDimensions),
        (&[0xff, 0xff, 0, 0], Error::NoDimensions),
        (&[0x7f, 0xff, 0, 0], Error::TooManyDimensions),
        (
            &[0, 1, 0, 7, 0x3f, 0x80, 0, 0],
            Error::Reserved { found: 7 },
        ),
        (&[0, 1, 0, 0, 0x7f, 0xc0, 0, 0], Error::NotANumber),
        (&[0, 1, 0, 0, 0xff, 0x80, 0, 0], Error::Infinite),
    ];
    for (bytes, error) in cases {
        assert_eq!(wire::decode(bytes), Err(error), "{bytes:?}");
    }
    assert_eq!(wire::encode(&[], &mut Vec::new()), Err(Error::NoDimensions));
    let long = vec![0.0; MAX_DIMENSIONS + 1];
    assert_eq!(
        wire::encode(&long, &mut Vec::new()),
        Err(Error::TooManyDimensions)
    );
}

#[test]
fn what_follows_a_message_is_left_alone() {
    let mut bytes = Vec::new();
    wire::encode(&[1.0], &mut bytes).expect("one dimension");
    bytes.push(42);
    assert_eq!(wire::decode(&bytes), Ok((vec![1.0], 8)));
}

proptest! {
    #[test]
    fn text_round_trips(values in vector()) {
        let literal = format!("{values:?}");
        let parsed = parse(&literal).expect("finite numbers");
        prop_assert!(parsed.iter().zip(&values).all(|(x, y)| x.to_bits() == y.to_bits()));
    }

    #[test]
    fn the_wire_form_round_trips(values in vector()) {
        let mut bytes = Vec::new();
        wire::encode(&values, &mut bytes).expect("a vector");
        prop_assert_eq!(bytes.len(), wire::encoded_bytes(values.len()));
        let (decoded, read) = wire::decode(&bytes).expect("what was encoded");
        prop_assert_eq!(read, bytes.len());
        prop_assert!(decoded.iter().zip(&values).all(|(x, y)| x.to_bits() == y.to_bits()));
    }

    #[test]
    fn no_text_panics(literal in "[\\[\\],.+\\-eEinfNa0-9x \\t\u{e9}]{0,40}") {
        let _ = parse(&literal);
    }

    #[test]
    fn no_message_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = wire::decode(&bytes);
    }
}

fn vector() -> impl Strategy<Value = Vec<f32>> {
    let finite = any::<f32>().prop_filter("finite", |x| x.is_finite());
    prop::collection::vec(finite, 1..50)
}
