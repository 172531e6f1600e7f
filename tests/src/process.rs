//! Running programs so that a failure shows everything: command line, status, both outputs.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};

/// Runs `command` to its end and returns its output; a failure carries all that it printed.
pub fn check_output(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}\n--- stdout\n{}--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(output)
}

/// What `command` printed, without the line end.
pub(crate) fn line_of(command: &mut Command) -> Result<String> {
    let output = check_output(command)?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// Sends `name` ("KILL", "TERM", "INT", ...) to the process `pid`.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    check_output(Command::new("kill").args(["-s", name]).arg(pid.to_string()))?;
    Ok(())
}
