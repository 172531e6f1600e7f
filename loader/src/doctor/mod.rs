//! `lookbook doctor`: whether everything that a load and a search need is there, and what to do.
//!
//! Invariant: it writes nothing, and a check that cannot be made is reported, not passed over.

mod client;
mod server;
mod target;

use anyhow::Result;

use crate::{args::DoctorArgs, findings::Report, messages::Ending};

pub fn run(args: &DoctorArgs) -> Result<Ending> {
    let mut report = Report::default();
    let models = server::check(args, &mut report);
    client::check(args, models.as_ref(), &mut report);
    report.finish(args.json)
}
