//! The dependency rule of `docs/architecture.md`, as Cargo and the sources see it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lookbook_tests::{check_output, workspace};

const ROOMS: [&str; 8] = [
    "lookbook-vecmath",
    "lookbook-ann",
    "lookbook-vision",
    "lookbook-worker",
    "lookbook-extension",
    "lookbook-loader",
    "lookbook-tests",
    "lookbook-hostile",
];

/// Every package that `room` is built from, itself included. `depth` 1: itself and what it names.
fn packages_of(room: &str, depth: Option<u32>) -> Result<BTreeSet<String>> {
    let mut tree = Command::new(env!("CARGO"));
    tree.current_dir(workspace())
        .args(["tree", "--locked", "--prefix=none", "--format={p}"]);
    tree.args(["--edges=normal,build", "--target=all", "-p", room]);
    if let Some(depth) = depth {
        tree.arg(format!("--depth={depth}"));
    }
    let output = String::from_utf8(check_output(&mut tree)?.stdout)?;
    let names: BTreeSet<_> = output
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    ensure!(
        names.contains(room),
        "cargo tree -p {room} printed: {output}"
    );
    Ok(names)
}

fn rooms_with(package: &str) -> Result<BTreeSet<&'static str>> {
    let mut rooms = BTreeSet::new();
    for room in ROOMS {
        if packages_of(room, None)?.contains(package) {
            rooms.insert(room);
        }
    }
    Ok(rooms)
}

#[test]
fn pgrx_is_known_to_the_extension_only() -> Result<()> {
    assert_eq!(rooms_with("pgrx")?, BTreeSet::from(["lookbook-extension"]));
    assert_eq!(
        rooms_with("pgrx-pg-sys")?,
        BTreeSet::from(["lookbook-extension"])
    );
    Ok(())
}

#[test]
fn a_postgresql_client_is_known_to_loader_and_tests_only() -> Result<()> {
    let allowed = BTreeSet::from(["lookbook-loader", "lookbook-tests"]);
    assert_eq!(rooms_with("postgres")?, allowed);
    assert_eq!(rooms_with("tokio-postgres")?, allowed);
    Ok(())
}

#[test]
fn rooms_depend_along_the_arrows_only() -> Result<()> {
    let arrows: [(&str, &[&str]); 8] = [
        ("lookbook-vecmath", &[]),
        ("lookbook-ann", &["lookbook-vecmath"]),
        ("lookbook-vision", &[]),
        ("lookbook-worker", &["lookbook-vision"]),
        (
            "lookbook-extension",
            &[
                "lookbook-vecmath",
                "lookbook-ann",
                "lookbook-vision",
                "lookbook-worker",
            ],
        ),
        ("lookbook-loader", &["lookbook-vecmath", "lookbook-vision"]),
        ("lookbook-tests", &[]),
        (
            "lookbook-hostile",
            &[
                "lookbook-vecmath",
                "lookbook-ann",
                "lookbook-vision",
                "lookbook-worker",
            ],
        ),
    ];
    for (room, allowed) in arrows {
        for package in packages_of(room, None)? {
            let is_room = ROOMS.contains(&package.as_str());
            ensure!(
                !is_room || package == room || allowed.contains(&package.as_str()),
                "{room} depends on {package}"
            );
        }
    }
    Ok(())
}

#[test]
fn onnx_runtime_is_named_in_one_file_of_vision_only() -> Result<()> {
    for room in ROOMS {
        let names_it = packages_of(room, Some(1))?.contains("ort");
        assert_eq!(names_it, room == "lookbook-vision", "{room}");
    }
    let mut files = Vec::new();
    for folder in ["crates", "extension", "loader", "tests"] {
        rust_files(&workspace().join(folder), &mut files)?;
    }
    let mut naming = BTreeSet::new();
    for file in files {
        let source = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        if source.lines().any(names_ort) {
            naming.insert(file.strip_prefix(workspace())?.to_owned());
        }
    }
    assert_eq!(
        naming,
        BTreeSet::from([PathBuf::from("crates/vision/src/session.rs")])
    );
    Ok(())
}

/// Whether a line uses the crate: a path `ort::…` or an import, outside of comments.
fn names_ort(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("ort").any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = &code[at + 3..];
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '"')
            && (after.starts_with("::") || code.trim_start().starts_with("use ort"))
    })
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name() != Some(OsStr::new("target")) {
            rust_files(&path, files)?;
        } else if path.extension() == Some(OsStr::new("rs")) {
            files.push(path);
        }
    }
    Ok(())
}
