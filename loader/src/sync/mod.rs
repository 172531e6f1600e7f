//! `lookbook sync`: a source and its tables kept in step, once or for as long as it runs.

mod changes;
mod folders;
mod inotify;
mod watch;

use anyhow::{Result, bail};

use crate::{
    args::SyncArgs,
    interrupt,
    load::{Job, Prune},
    messages::{self, Ending},
};

pub fn run(args: &SyncArgs) -> Result<Ending> {
    if args.prune && args.load.limit.is_some() {
        bail!(
            "--prune and --limit do not go together: photos beyond the limit would seem to be gone"
        );
    }
    if args.watch && args.load.source.folder().is_none() {
        bail!(
            "--watch needs a folder, and {} is none: run lookbook sync again when it changes",
            args.load.source
        );
    }
    if args.poll.is_some() && !args.watch {
        messages::warn("--poll does nothing without --watch");
    }
    interrupt::listen()?;
    let job = Job {
        args: &args.load,
        verb: "sync",
        prune: Some(Prune {
            is_wanted: args.prune,
            limit: args.prune_limit,
        }),
        only: None,
    };
    match args.watch {
        true => watch::run(args, &job),
        false => job.run(),
    }
}
