//! The `lookbook` command: catalogue photos into PostgreSQL, and what a person does around that.
//!
//! Here only: parse, run the verb, hand the ending to [`messages`], which alone decides what the
//! user reads on standard error and which code the process ends with.

#![forbid(unsafe_code)]

mod args;
mod cli;
mod config;
mod database;
mod detect;
mod devices;
mod doctor;
mod eval;
mod findings;
mod interrupt;
mod load;
mod logging;
mod messages;
mod model;
mod model_cache;
mod opened;
mod recommendations;
mod reembed;
mod runtime;
mod search;
mod shard;
mod shelf;
mod shell;
mod source;
mod sync;

use std::{env, process::ExitCode};

use args::Verb;
use messages::Ending;

fn main() -> ExitCode {
    lookbook_vision::keep_telemetry_off();
    messages::finish(|| {
        let args = cli::parse(env::args_os())?;
        messages::set_verbosity(args.quiet, args.verbose);
        logging::start(&args.log)?;
        cli::warn_of_slips();
        run(&args.verb)
    })
}

fn run(verb: &Verb) -> anyhow::Result<Ending> {
    match verb {
        Verb::Load(args) => load::run(args),
        Verb::Sync(args) => sync::run(args),
        Verb::Reembed(args) => reembed::run(args),
        Verb::Detect(args) => detect::run(args),
        Verb::Search(args) => search::run(args),
        Verb::Model(args) => model::run(args),
        Verb::Eval(args) => eval::run(args),
        Verb::Doctor(args) => doctor::run(args),
        Verb::Completions(args) => shell::completions(args),
        Verb::Man(args) => shell::man(args),
        Verb::BenchInference(args) => load::inference::run(args),
    }
}
