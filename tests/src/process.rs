//! Running programs so that a failure shows everything: command line, status, both outputs.

use std::fs;
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

/// As [`signal`]; a process that has ended by itself is no failure.
pub(crate) fn signal_if_there(name: &str, pid: u32) -> Result<()> {
    match signal(name, pid) {
        Err(error) if fs::exists(format!("/proc/{pid}"))? => Err(error),
        _ => Ok(()),
    }
}

/// The processes that `parent` started.
pub(crate) fn children_of(parent: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // `pid (name) state parent ...`; the name may hold anything. Processes end while we look.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map(|(_, after)| after);
        let its_parent = after_name.and_then(|after| after.split_whitespace().nth(1));
        if its_parent.and_then(|its| its.parse().ok()) == Some(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}
