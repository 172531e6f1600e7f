//! SQL regression: each `regress/sql/NAME.sql` prints what `regress/expected/NAME.out` holds.
//!
//! Files run in a database of their own where `CREATE EXTENSION lookbook` was done, with the session
//! settings of PostgreSQL's pg_regress. `NAME_1.out` to `NAME_9.out` are accepted alternatives. With
//! `LOOKBOOK_REGRESS_UPDATE=1` the output becomes the expected one (`make regress-update`).

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use lookbook_tests::{Cluster, Installation, regression_folder, workspace};

fn main() -> Result<()> {
    let arguments = Arguments::from_args();
    let trials = scripts()?.into_iter().map(|script| {
        let name = script
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Trial::test(name, move || {
            run(&script).map_err(|error| Failed::from(format!("{error:?}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit()
}

fn scripts() -> Result<Vec<PathBuf>> {
    let folder = regression_folder().join("sql");
    let mut scripts = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("sql")) {
            scripts.push(path);
        }
    }
    scripts.sort();
    Ok(scripts)
}

fn run(script: &Path) -> Result<()> {
    let name = script
        .file_stem()
        .context("a script has a name")?
        .to_string_lossy()
        .into_owned();
    let expected = regression_folder().join("expected");
    let result = results_folder()?.join(format!("{name}.out"));
    run_into(script, &name, &result)?;
    if env::var_os("LOOKBOOK_REGRESS_UPDATE").is_some() {
        fs::copy(&result, expected.join(format!("{name}.out")))?;
        return Ok(());
    }
    let alternatives = (1..10).map(|n| expected.join(format!("{name}_{n}.out")));
    for candidate in alternatives.filter(|path| path.exists()) {
        if fs::read(candidate)? == fs::read(&result)? {
            return Ok(());
        }
    }
    let expected = expected.join(format!("{name}.out"));
    ensure!(
        expected.exists(),
        "{} is missing: run `make regress-update`",
        expected.display()
    );
    let diff = Command::new("diff")
        .arg("-U3")
        .arg(&expected)
        .arg(&result)
        .output()?;
    ensure!(
        diff.status.success(),
        "{}",
        String::from_utf8_lossy(&diff.stdout)
    );
    Ok(())
}

fn run_into(script: &Path, name: &str, result: &Path) -> Result<()> {
    let database = Cluster::shared()?
        .database(&format!("regress_{name}"))?
        .without_log();
    database.psql(&format!(
        "ALTER DATABASE regress_{name} SET bytea_output = 'hex';
         ALTER DATABASE regress_{name} SET timezone_abbreviations = 'Default';"
    ))?;
    let output = fs::File::create(result)?;
    let status = database
        .program("psql")
        .current_dir(regression_folder())
        .env("PGTZ", "America/Los_Angeles")
        .env("PGDATESTYLE", "Postgres, MDY")
        .env("PGOPTIONS", "-c intervalstyle=postgres_verbose")
        .args([
            "-X",
            "-a",
            "-q",
            "-v",
            "HIDE_TABLEAM=on",
            "-v",
            "HIDE_TOAST_COMPRESSION=on",
        ])
        .stdin(fs::File::open(script)?)
        // One file for both: an error belongs into its place between the rows.
        .stderr(output.try_clone()?)
        .stdout(output)
        .status()?;
    ensure!(
        status.success(),
        "psql {status}: {}",
        fs::read_to_string(result)?
    );
    Ok(())
}

fn results_folder() -> Result<PathBuf> {
    let major = Installation::under_test()?.major();
    let folder = workspace().join(format!("target/regress/pg{major}"));
    fs::create_dir_all(&folder)?;
    Ok(folder)
}
