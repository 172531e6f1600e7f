//! What a verb that only looks found out: `doctor`, `model check`.
//!
//! Owns their common form on a terminal and in JSON, and the exit code: 0 all is well, 2 something should be looked at,
//! 1 something failed.

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::messages::{self, Ending};

/// How one thing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// Works, and something should be looked at.
    Warning,
    /// What was looked at cannot be used.
    Failure,
}

/// One finding.
#[derive(Debug, Serialize)]
pub struct Check {
    check: &'static str,
    status: Status,
    found: String,
    /// What to do; empty when nothing is.
    advice: String,
}

/// Findings in the order in which they were made.
#[derive(Debug, Default)]
pub struct Report(Vec<Check>);

impl Report {
    pub fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.add(check, Status::Ok, found, "");
    }

    pub fn warn(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Status::Warning, found, advice);
    }

    pub fn fail(
        &mut self,
        check: &'static str,
        found: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(check, Status::Failure, found, advice);
    }

    pub fn add(
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

    /// Prints them, as text or as one JSON object. Failures are an error, warnings a partial ending.
    pub fn finish(&self, as_json: bool) -> Result<Ending> {
        if as_json {
            messages::print_exactly(json!({"status": self.worst(), "checks": self.0}))?;
        } else {
            messages::print(self.to_text())?;
        }
        match self.worst() {
            Status::Ok => Ok(Ending::Complete),
            Status::Warning => Ok(Ending::Partial),
            Status::Failure => bail!(
                "{} of {} checks failed",
                self.count(Status::Failure),
                self.0.len()
            ),
        }
    }

    /// One line for each, with what to do below it.
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
