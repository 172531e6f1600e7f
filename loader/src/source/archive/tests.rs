//! Archives as others write, cut and forge them.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use super::*;
use crate::{
    args::SourceArgs,
    source::{Found, Source},
};

fn packed(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in members {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, *bytes).unwrap();
    }
    archive.into_inner().unwrap()
}

fn read(name: &str, bytes: &[u8], args: SourceArgs) -> (Vec<Found>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, bytes).unwrap();
    let args = SourceArgs {
        sources: vec![file],
        ..args
    };
    let mut source = Source::open(&args, None, 100).unwrap();
    let found = source.by_ref().map(Result::unwrap).collect();
    (found, source.ignored())
}

#[test]
fn a_packed_folder_names_its_photos_as_the_folder_does() {
    let bytes = packed(&[
        ("./a.jpg", b"A"),
        ("shoes/b.v2.png", b"B"),
        ("shoes/._b.png", b"hidden"),
        ("notes.md", b"other"),
        ("big.jpg", &[0; 101]),
    ]);
    let mut zipped = GzEncoder::new(Vec::new(), Compression::fast());
    zipped.write_all(&bytes).unwrap();
    for (name, bytes) in [("a.tar", bytes), ("a.tar.gz", zipped.finish().unwrap())] {
        let (found, ignored) = read(name, &bytes, SourceArgs::default());
        let paths: Vec<Result<(&str, &str), &str>> = found
            .iter()
            .map(|found| match found {
                Ok(item) => Ok((item.entry.path.as_str(), item.entry.product())),
                Err(reject) => Err(reject.code.as_str()),
            })
            .collect();
        assert_eq!(ignored, 1);
        // A reject does not wait for its neighbours.
        assert_eq!(paths.len(), 3);
        assert!(paths.contains(&Ok(("a.jpg", "a"))));
        assert!(paths.contains(&Ok(("shoes/b.v2.png", "shoes/b.v2"))));
        assert!(paths.contains(&Err("image_too_large")));
    }
}

#[test]
fn what_stands_beside_a_photo_in_a_shard_belongs_to_it() {
    let bytes = packed(&[
        (
            "000.json",
            "\u{feff}{\"product\": 7, \"price\": 9.5}".as_bytes(),
        ),
        ("000.jpg", b"A"),
        ("000.cls", b"3\n"),
        ("001.jpg", b"B"),
        ("001.txt", b"a red dress\n"),
        ("002.jpg", b"C"),
        ("002.json", b"[]"),
    ]);
    let args = SourceArgs {
        map: vec!["sku=product".parse().unwrap()],
        name_by_shard: true,
        ..SourceArgs::default()
    };
    let (found, _) = read("s-1.tar", &bytes, args);
    let [Ok(first), Ok(second), Err(third)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(
        (first.entry.path.as_str(), first.entry.product()),
        ("s-1.tar/000.jpg", "7")
    );
    assert_eq!(
        first.entry.attributes,
        Some(json!({"price": 9.5, "cls": 3}))
    );
    assert_eq!(
        (second.entry.product(), &second.entry.attributes),
        ("001", &Some(json!({"txt": "a red dress"})))
    );
    assert_eq!(third.code, code::METADATA_INVALID);
    assert!(third.reason.contains("002.json"), "{}", third.reason);
}

/// Path and product, or path and code.
fn told(found: &[Found]) -> Vec<(&str, &str)> {
    let told = found.iter().map(|found| match found {
        Ok(item) => (item.entry.path.as_str(), item.entry.product()),
        Err(reject) => (
            reject.path.rsplit('/').next().unwrap(),
            reject.code.as_str(),
        ),
    });
    told.collect()
}

fn mapped(map: &str) -> SourceArgs {
    SourceArgs {
        map: map.split(',').map(|pair| pair.parse().unwrap()).collect(),
        ..SourceArgs::default()
    }
}

#[test]
fn a_cut_archive_gives_what_is_whole_and_says_so_wherever_it_is_cut() {
    let whole = packed(&[
        ("1.jpg", b"A"),
        ("1.json", br#"{"sku": "S1"}"#),
        ("2.jpg", b"B"),
        ("2.json", br#"{"sku": "S2"}"#),
    ]);
    let damaged = code::ARCHIVE_DAMAGED;
    let (first, second, archive) = (("1.jpg", "S1"), ("2.jpg", damaged), ("a.tar", damaged));
    // The second photo is at 4 blocks, what stands beside it at 6; each has a header and its bytes.
    for (length, expected) in [
        (0, vec![archive]),
        (512 * 5, vec![first, archive]),
        (512 * 6, vec![first, second, archive]),
        (512 * 6 + 100, vec![first, second, archive]),
        (512 * 8, vec![first, second, archive]),
        (512 * 9, vec![first, ("2.jpg", "S2")]),
    ] {
        let (found, _) = read("a.tar", &whole[..length], SourceArgs::default());
        assert_eq!(told(&found), expected, "{length}");
    }
}

#[test]
fn archives_one_behind_another_are_read_to_the_end() {
    let bytes = [
        packed(&[("a.jpg", b"A")]),
        vec![0; 9216],
        packed(&[("b.jpg", b"B")]),
    ];
    let (found, _) = read("a.tar", &bytes.concat(), SourceArgs::default());
    assert_eq!(told(&found), [("a.jpg", "a"), ("b.jpg", "b")]);
}

#[test]
fn names_and_attributes_of_any_length_are_not_held() {
    for kind in [b'L', b'x'] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_size(3 << 20);
        header.set_cksum();
        let bytes = [
            header.as_bytes().to_vec(),
            vec![b'a'; 3 << 20],
            packed(&[("a.jpg", b"A")]),
        ];
        let (found, _) = read("a.tar", &bytes.concat(), SourceArgs::default());
        let [Err(reject)] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(reject.code, code::ARCHIVE_DAMAGED);
        assert!(
            reject.reason.contains("longer than 1048576"),
            "{}",
            reject.reason
        );
    }
}

#[test]
fn what_is_packed_otherwise_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.tar");
    std::fs::write(&file, b"\x28\xb5\x2f\xfd and more").unwrap();
    let args = SourceArgs {
        sources: vec![file],
        ..SourceArgs::default()
    };
    let error = Source::open(&args, None, 100).unwrap_err().to_string();
    assert!(error.contains("packed by zstd"), "{error}");
}

#[test]
fn no_photo_goes_without_a_line() {
    let mut archive = tar::Builder::new(Vec::new());
    for name in [
        &b"./b\xff.jpg"[..],
        b"../up.jpg",
        b"x/../y.jpg",
        b"./good.jpg",
    ] {
        let mut header = tar::Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_size(1);
        header.set_cksum();
        archive.append(&header, &b"A"[..]).unwrap();
    }
    let bytes = archive.into_inner().unwrap();
    let (found, _) = read("a.tar", &bytes, SourceArgs::default());
    assert_eq!(
        told(&found),
        [
            ("b\u{fffd}.jpg", code::PATH_NOT_UTF8),
            ("up.jpg", code::PATH_OUTSIDE),
            ("y.jpg", code::PATH_OUTSIDE),
            ("good.jpg", "good"),
        ]
    );
}

#[test]
fn what_the_archive_has_in_another_form_says_how_to_pack_it() {
    let mut archive = tar::Builder::new(Vec::new());
    let sparse = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.name", &b"sparse.jpg"[..]),
    ];
    archive.append_pax_extensions(sparse).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(4);
    archive
        .append_data(&mut header, "GNUSparseFile.1/sparse.jpg", &b"0\n0\n"[..])
        .unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    archive
        .append_link(&mut header, "linked.jpg", "a.jpg")
        .unwrap();
    let bytes = archive.into_inner().unwrap();
    let (found, _) = read("a.tar", &bytes, SourceArgs::default());
    let [Err(sparse), Err(linked)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(
        (sparse.path.as_str(), sparse.code.as_str()),
        ("sparse.jpg", code::NOT_A_FILE)
    );
    assert!(
        sparse.reason.ends_with("without --sparse"),
        "{}",
        sparse.reason
    );
    assert_eq!(
        (linked.path.as_str(), linked.code.as_str()),
        ("linked.jpg", code::NOT_A_FILE)
    );
    assert!(
        linked.reason.ends_with("with --hard-dereference"),
        "{}",
        linked.reason
    );
}

#[test]
fn bytes_that_are_no_text_are_not_quoted() {
    let junk: Vec<u8> = (0..2048_u32)
        .map(|at| (at * 7 % 251) as u8 | 0x80)
        .collect();
    let (found, _) = read("junk.tar", &junk, SourceArgs::default());
    let [Err(reject)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!(reject.code, code::ARCHIVE_DAMAGED);
    assert!(reject.reason.is_ascii(), "{}", reject.reason);
}

#[test]
fn a_photo_has_the_key_and_the_product_that_stand_beside_it_or_none() {
    let bytes = packed(&[
        ("0.jpg", b"A"),
        ("0.json", br#"{"id": "K0"}"#),
        ("1.jpg", b"B"),
        ("1.json", br#"{"id": "K1", "prod": 7}"#),
        ("2.jpg", b"C"),
    ]);
    let (found, _) = read("a.tar", &bytes, mapped("key=id,sku=prod"));
    let [Ok(first), Ok(second), Err(third)] = found.as_slice() else {
        panic!("{found:?}")
    };
    assert_eq!((first.entry.path.as_str(), &first.entry.sku), ("K0", &None));
    assert_eq!(
        (second.entry.path.as_str(), second.entry.product()),
        ("K1", "7")
    );
    assert_eq!(third.code, code::KEY_MISSING);

    let (found, _) = read("a.tar", &bytes, mapped("sku=produkt"));
    let Some(Err(last)) = found.last() else {
        panic!("{found:?}")
    };
    assert_eq!(last.code, code::METADATA_INVALID);
    assert!(last.reason.contains("the name produkt"), "{}", last.reason);
}

#[test]
fn what_stands_beside_a_photo_and_cannot_be_used_refuses_it() {
    let long = format!(r#"{{"sku": "S", "x": "{}"}}"#, "y".repeat(1 << 20));
    let bytes = packed(&[
        ("0.jpg", b"A"),
        ("0.json", long.as_bytes()),
        ("1.jpg", b"B"),
        ("1.json", br#"{"sku": true}"#),
        ("2.jpg", b"C"),
        ("2.json", br#"{"sku": ["S"]}"#),
        ("3.jpg", b"D"),
        ("3.JSON", br#"{"sku": "S3"}"#),
    ]);
    let (found, _) = read("a.tar", &bytes, SourceArgs::default());
    let invalid = code::METADATA_INVALID;
    assert_eq!(
        told(&found),
        [
            ("0.jpg", invalid),
            ("1.jpg", invalid),
            ("2.jpg", invalid),
            ("3.jpg", "S3")
        ]
    );
}
