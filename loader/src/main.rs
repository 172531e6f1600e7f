//! The `lookbook` command: catalogue photos into PostgreSQL, and what a person does around that.
//!
//! Here only: parse, run the verb, hand the ending to [`messages`], which alone decides what the
//! user reads on standard error and which code the process ends with.

#![forbid(unsafe_code)]

mod args;
mod database;
mod detect;
mod interrupt;
mod load;
mod messages;
mod model;
mod model_cache;
mod runtime;
mod search;
mod source;

use std::process::ExitCode;

use args::{Args, Verb};
use clap::Parser;
use messages::Ending;

fn main() -> ExitCode {
    messages::finish(|| {
        let args = Args::try_parse()?;
        messages::set_verbosity(args.quiet, args.verbose);
        run(&args.verb)
    })
}

fn run(verb: &Verb) -> anyhow::Result<Ending> {
    match verb {
        Verb::Load(args) => load::run(args),
        Verb::Detect(args) => detect::run(args),
        Verb::Search(args) => search::run(args),
        Verb::Model(args) => model::run(args),
    }
}
