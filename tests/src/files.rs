//! Where the suites find things: the checkout, the loader that was built, the shared data.

use std::env;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::installation::Installation;

/// The checkout.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests folder lies in the workspace")
}

/// Holds `sql/NAME.sql` and `expected/NAME.out`.
pub fn regression_folder() -> PathBuf {
    workspace().join("tests/regress")
}

/// The `lookbook` command, from the same target folder as the running test.
pub fn loader() -> Result<Command> {
    let test = env::current_exe().context("finding the running test")?;
    let profile = test
        .ancestors()
        .nth(2)
        .context("the test runs outside of a target folder")?;
    let binary = profile.join("lookbook");
    ensure!(
        binary.exists(),
        "{} does not exist: run `cargo build -p lookbook-loader` first",
        binary.display()
    );
    Ok(Command::new(binary))
}

/// A file or folder of the shared data (`LOOKBOOK_DATA`, else `../shared/data`).
///
/// `None` when this machine has no such data: the caller then returns, and what was not tested is
/// said past the capture of the test runner, once per call. With `LOOKBOOK_DATA` set, absence is an
/// error.
pub fn shared_data(relative: &str) -> Result<Option<PathBuf>> {
    let asked_for = env::var_os("LOOKBOOK_DATA").map(PathBuf::from);
    let root = asked_for
        .clone()
        .unwrap_or_else(|| workspace().join("../shared/data"));
    let path = root.join(relative);
    if path.exists() {
        return Ok(Some(path));
    }
    ensure!(
        asked_for.is_none(),
        "{} does not exist (LOOKBOOK_DATA is set)",
        path.display()
    );
    not_tested(&format!("{relative} of the shared data; set LOOKBOOK_DATA"))?;
    Ok(None)
}

/// The ONNX Runtime with OpenVINO that `scripts/setup test` fetches on x86_64. `None` elsewhere, as above.
pub fn openvino() -> Result<Option<PathBuf>> {
    let library = workspace().join(".lookbook/openvino/libonnxruntime.so");
    if library.exists() {
        return Ok(Some(library.canonicalize()?));
    }
    not_tested(&format!("{}: scripts/setup openvino", library.display()))?;
    Ok(None)
}

/// Whether the server under test offers pgvector; what needs it is said as above.
pub fn pgvector() -> Result<bool> {
    let is_offered = Installation::under_test()?.offers_extension("vector");
    if !is_offered {
        not_tested("pgvector in the server under test")?;
    }
    Ok(is_offered)
}

/// Says what the running test could not test, past the capture of the test runner.
pub fn not_tested(needed: &str) -> Result<()> {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "NOT TESTED: {test} needs {needed}")?;
    Ok(())
}
