//! `lookbook doctor`: whether everything that a load and a search need is there, and what to do.
//!
//! Invariant: it writes nothing, and a check that cannot be made is reported, not passed over.

mod client;
mod server;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::{
    args::DoctorArgs,
    messages::{self, Ending},
};

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    /// Works, and something should be looked at.
    Warning,
    /// A load or a search would fail.
    Failure,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Check {
    check: &'static str,
    status: Status,
    found: String,
    /// What to do; empty when nothing is.
    advice: String,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default)]
struct Report(Vec<Check>);

impl Report {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Status::Ok, found, "");
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Status::Warning, found, advice);
    }

    fn fail(&mut self, check: &'static str, found: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Status::Failure, found, advice);
    }

    fn add(
        &mut self,
        check: &'static str,
        status: Status,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.0.push(Check {
            check,
            status,
            found: found.into(),
            advice: advice.into(),
        });
    }

    fn count(&self, status: Status) -> usize {
        self.0.iter().filter(|check| check.status == status).count()
    }

    fn worst(&self) -> Status {
        match (self.count(Status::Failure), self.count(Status::Warning)) {
            (0, 0) => Status::Ok,
            (0, _) => Status::Warning,
            _ => Status::Failure,
        }
    }

    fn to_text(&self) -> String {
        let line = |check: &Check| {
            let sign = match check.status {
                Status::Ok => "ok     ",
                Status::Warning => "warning",
                Status::Failure => "FAILURE",
            };
            let advice = match check.advice.as_str() {
                "" => String::new(),
                advice => format!("\n{:26}-> {advice}", ""),
            };
            format!("{sign}  {:<15}  {}{advice}", check.check, check.found)
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

pub fn run(args: &DoctorArgs) -> Result<Ending> {
    let mut report = Report::default();
    let models = server::check(args, &mut report);
    client::check(args, models.as_ref(), &mut report);
    let worst = report.worst();
    if args.json {
        messages::print(json!({"status": worst, "checks": report.0}))?;
    } else {
        messages::print(report.to_text())?;
    }
    match worst {
        Status::Ok => Ok(Ending::Complete),
        Status::Warning => Ok(Ending::Partial),
        Status::Failure => bail!(
            "{} of {} checks failed",
            report.count(Status::Failure),
            report.0.len()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_finding_decides() {
        let mut report = Report::default();
        report.ok("a", "is there");
        assert_eq!(report.worst(), Status::Ok);
        report.warn("b", "is old", "renew it");
        assert_eq!(report.worst(), Status::Warning);
        report.fail("c", "is gone", "bring it back");
        assert_eq!(report.worst(), Status::Failure);
        let text = report.to_text();
        assert!(
            text.contains("FAILURE  c") && text.contains("-> bring it back"),
            "{text}"
        );
    }
}
