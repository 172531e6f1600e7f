//! `lookbook reembed`: every garment gets the vector of another model, while readers go on.
//!
//! Invariants: it can be killed at any moment and goes on where it was; nothing is swapped while one row
//! lacks its new vector.

mod fill;

use std::{fmt, time::Instant};

use anyhow::{Context, Error, Result, bail, ensure};
use fill::Filler;
use lookbook_vision::{Limits, decode_side};
use postgres::Client;
use serde_json::json;

use crate::{
    args::ReembedArgs,
    database::{
        IndexWatcher, Journal, ModelKind, ModelRow, RunEnd, RunStart, Shadow, Swap, Target,
        connect_to_target, embedding_column_model,
    },
    interrupt::{self, Interrupted},
    load::{BatchSize, Books, Reporter, Share, Stop, Tally, engines, was_canceled, watched},
    messages::{self, Ending, count},
    opened::Opened,
    runtime,
    shelf::Shelf,
    source::Source,
};

/// Rows that others write meanwhile are filled again; who writes faster than that wins.
const MAX_ROUNDS: usize = 20;
/// Rounds in a row in which no row took its vector, though some lack it.
const MAX_IDLE_ROUNDS: usize = 2;
/// Where more than this share of the photos is not found, they hardly came from that folder.
const MOST: f64 = 0.5;

pub fn run(args: &ReembedArgs) -> Result<Ending> {
    interrupt::listen()?;
    change(args).or_else(end_interrupted)
}

/// What Ctrl-C ended, wherever it was, is kept.
fn end_interrupted(error: Error) -> Result<Ending> {
    let is_canceled = interrupt::is_requested() && was_canceled(&error);
    if !error.is::<Interrupted>() && !is_canceled {
        return Err(error);
    }
    messages::note(
        "interrupted; the vectors that were made are kept, run the same command again to go on",
    );
    Ok(Ending::Partial)
}

fn change(args: &ReembedArgs) -> Result<Ending> {
    let start = Instant::now();
    let url = args.database.url.as_deref();
    let Opened {
        mut client,
        target,
        shelf,
    } = Opened::new(&args.database, &args.target)?;
    ensure!(
        target.extension.is_some() || !args.make_default,
        "--make-default chooses the model of embed_image, and this database has no lookbook extension"
    );
    target.require(&mut client)?;
    target.lock(&mut client, None)?;
    if args.abandon {
        let was_there = Shadow::abandon(&mut client, &target)?;
        messages::note(match was_there {
            true => "the vectors that were made for another model are gone",
            false => "no change of models was begun",
        });
        return Ok(Ending::Complete);
    }
    let model = shelf.choose(
        &mut client,
        ModelKind::Embedder,
        args.embed_model.as_deref(),
    )?;
    let old = embedding_column_model(&mut client, &target)?;
    if old
        .as_ref()
        .is_some_and(|(_, sha256)| *sha256 == model.sha256)
    {
        messages::note(format_args!(
            "{}.{} is of model {:?} already: nothing to do",
            target.garment,
            target.embedding(),
            model.name
        ));
        if let Some((begun, _)) = Shadow::begun(&mut client, &target)? {
            messages::note(format_args!(
                "a change to model {begun:?} was begun: --embed-model {begun} goes on with it, --abandon forgets what was made"
            ));
        }
        return Ok(Ending::Complete);
    }
    let photos_of = Photos(args);
    // Mistakes in it, before anything is done.
    let opened = photos_of.open()?;
    let filler = filler(args, &mut client, (&target, &shelf), &model)?;
    let shadow = Shadow::open(&mut client, &target, &model, filler.dimensions())?;
    let books = Books::new(Journal::open(
        url,
        &args.target.schema,
        &RunStart {
            verb: "reembed",
            source: &photos_of.to_string(),
            shard: None,
            models: [None, Some((&model.name, &model.sha256))],
            devices: filler.devices(),
        },
    ));
    let (photos, garments) = shadow.count_stale(&mut client)?;
    let tally = Tally::recorded(photos);
    let work = Work {
        args,
        photos: photos_of,
        target: &target,
        shelf: &shelf,
        shadow: &shadow,
        model: &model,
        tally: &tally,
    };
    let mut books = books;
    tracing::info!(
        photos,
        garments,
        model = model.name,
        run = books.run(),
        "reembedding"
    );
    let ended = work
        .run(&mut client, (filler, opened), &mut books)
        .or_else(end_interrupted);
    let counts = tally.counts();
    let wall = start.elapsed().as_secs_f64();
    let status = match &ended {
        Ok(Ending::Complete) => "complete",
        Ok(Ending::Partial) => "interrupted",
        Err(_) => "failed",
    };
    let rate = counts.loaded as f64 / wall.max(1e-9);
    books.close(
        &tally,
        0,
        &RunEnd {
            status,
            error: ended.as_ref().err().map(messages::render),
            images_per_second: rate,
            report: json!({"wall_seconds": wall, "old_model": old.map(|(name, _)| name)}),
        },
    );
    if ended.is_ok() {
        messages::print(format_args!(
            "{} of {} got vectors of model {} in {wall:.1} s: {rate:.1} images/s",
            count(counts.garments, "garment"),
            count(counts.loaded, "photo"),
            model.name
        ))?;
    }
    ended
}

/// Opens the model, and what tells at which scale photos are looked at.
fn filler(
    args: &ReembedArgs,
    client: &mut Client,
    (target, shelf): (&Target, &Shelf),
    model: &ModelRow,
) -> Result<Filler> {
    let files = shelf.files(client, model)?;
    let threads = runtime::threads(&args.runtime);
    let runtime = runtime::load(&args.runtime)?;
    let embedders = engines::open_embedders(&runtime, &args.runtime, &files, threads)?;
    let Some(first) = embedders.first() else {
        bail!("no model was opened");
    };
    // A load looks at photos at a scale that suits both of its models; the vectors shall be the same.
    let detector = match target.detect_model(client)? {
        Some(sha256) => shelf.by_sha256(client, &sha256)?,
        None => None,
    };
    let detector = match detector {
        Some(row) => row,
        None => shelf.choose(client, ModelKind::Detector, None)?,
    };
    let detector = shelf
        .files(client, &detector)?
        .open_detector(&runtime, &Default::default())?;
    let side = decode_side(Some(&detector), first);
    let is_on_cpu = !first.provider().is_gpu();
    let sizes = BatchSize::of_garments(args.batch, is_on_cpu, first.batch_size());
    Ok(Filler::new(embedders, side, threads, sizes))
}

/// Where the photos are.
#[derive(Clone, Copy)]
struct Photos<'a>(&'a ReembedArgs);

impl<'a> Photos<'a> {
    fn is_folder(self) -> bool {
        self.0.source.sources.is_empty() && self.0.source.from_sql.is_none()
    }

    /// A source is read from its beginning each time.
    fn open(self) -> Result<fill::Photos<'a>> {
        let Self(args) = self;
        if self.is_folder() {
            return Ok(fill::Photos::Folder(&args.root));
        }
        let database = args.database.url.as_deref();
        let source = Source::open(&args.source, database, Limits::default().max_bytes)?;
        Ok(fill::Photos::Source(source))
    }
}

impl fmt::Display for Photos<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_folder() {
            true => self.0.root.display().fmt(f),
            false => self.0.source.fmt(f),
        }
    }
}

struct Work<'a> {
    args: &'a ReembedArgs,
    photos: Photos<'a>,
    target: &'a Target,
    shelf: &'a Shelf,
    shadow: &'a Shadow,
    model: &'a ModelRow,
    tally: &'a Tally,
}

impl Work<'_> {
    fn run(
        &self,
        client: &mut Client,
        (mut filler, opened): (Filler, fill::Photos<'_>),
        books: &mut Books,
    ) -> Result<Ending> {
        let mut reporter = Reporter::new(self.args.progress, self.tally);
        let ended = self.rounds(client, (&mut filler, opened), (books, &mut reporter));
        reporter.finish();
        ended?;
        self.target.analyze(client)?;
        self.say_default(client)?;
        Ok(Ending::Complete)
    }

    /// Until the new vectors are those of the table.
    fn rounds(
        &self,
        client: &mut Client,
        (filler, opened): (&mut Filler, fill::Photos<'_>),
        (books, reporter): (&mut Books, &mut Reporter<'_>),
    ) -> Result<()> {
        let mut opened = Some(opened);
        let mut idle = 0;
        for _ in 0..MAX_ROUNDS {
            let filled = self.tally.counts().garments;
            let photos = match opened.take() {
                Some(opened) => opened,
                None => self.photos.open()?,
            };
            let missing = self.fill(client, (filler, photos), (books, reporter))?;
            self.settle(client, missing)?;
            reporter.start_index();
            let watcher = IndexWatcher::of(client, self.args.database.url.as_deref());
            let swap = watched(watcher, reporter, || {
                self.shadow.make_indexes(client)?;
                self.shadow.swap(client, self.args.make_default)
            })?;
            if swap == Swap::Done {
                return Ok(());
            }
            tracing::debug!("rows were written meanwhile; filling again");
            idle = match self.tally.counts().garments == filled {
                true => idle + 1,
                false => 0,
            };
            if idle == MAX_IDLE_ROUNDS {
                bail!(
                    "{} do not take their vectors of model {:?}: a trigger or a policy keeps the update from them, or somebody writes \
                     them all the time; nothing was swapped, the other vectors are kept: mend that, then run the same command again",
                    self.shadow.lacking(client)?,
                    self.model.name
                );
            }
        }
        bail!(
            "rows are written into {} faster than they get vectors of model {:?}: stop the writers, then run this again",
            self.target.garment,
            self.model.name
        )
    }

    fn fill(
        &self,
        client: &mut Client,
        (filler, photos): (&mut Filler, fill::Photos<'_>),
        (books, reporter): (&mut Books, &mut Reporter<'_>),
    ) -> Result<fill::Missing> {
        let stop = Stop::default();
        let (mut lister, _) = connect_to_target(
            self.args.database.url.as_deref(),
            self.args.target.may_lack_extension(),
        )?;
        let jobs = fill::Jobs {
            photos,
            target: self.target,
            shadow: self.shadow,
            tally: self.tally,
            stop: &stop,
        };
        let missing = filler.fill(jobs, client, &mut lister, || {
            if interrupt::is_requested() {
                stop.request();
            }
            reporter.tick();
            books.tick(self.tally);
        });
        if let Some(error) = stop.take_error() {
            return Err(error.context(
                "the vectors that were made are kept; run the same command again to go on",
            ));
        }
        interrupt::check()?;
        Ok(missing)
    }

    /// Photos without their bytes: an end, or deleted.
    fn settle(&self, client: &mut Client, missing: fill::Missing) -> Result<()> {
        let fill::Missing { gone, other } = missing;
        let photos = &self.photos;
        if !other.is_empty() {
            bail!(
                "{} photos of {photos} are not those that were loaded, or cannot be read, embedded or written ({}): nothing was swapped; \
                 bring the tables up to date with lookbook sync and the model that they have, or mend what refuses the rows, then run \
                 this again",
                other.len(),
                some(&other)
            );
        }
        if gone.is_empty() {
            return Ok(());
        }
        let share = Share {
            gone: gone.len(),
            of: self.target.count_photos(client)?,
        };
        let limit = self.args.prune_limit;
        if self.args.drop_missing && !share.is_above(limit) {
            let ids: Vec<i64> = gone.iter().map(|(id, _)| *id).collect();
            let deleted = self.target.delete(client, &ids)?;
            if !deleted.kept.is_empty() {
                let (kept, reason) = (deleted.kept.len(), self.target.keeps());
                bail!(
                    "{kept} photos that are gone cannot be deleted: {reason}; nothing was swapped"
                );
            }
            messages::note(format_args!(
                "deleted {} gone from the source",
                count(deleted.photos, "photo")
            ));
            return Ok(());
        }
        let more = match self.args.drop_missing {
            true => format!(", more than --prune-limit {limit} allows"),
            false => String::new(),
        };
        let advice = if share.is_above(MOST) {
            String::new()
        } else if self.args.drop_missing {
            ", or, where they are gone for good, run this again with a higher limit".to_owned()
        } else {
            ", or delete their rows with --drop-missing".to_owned()
        };
        bail!(
            "{share} are not in {photos}{more} ({}): nothing was swapped or deleted; name what was loaded, as lookbook load \
             was given it, or its folder with --root{advice}",
            some(&gone)
        )
    }

    fn say_default(&self, client: &mut Client) -> Result<()> {
        if self.target.extension.is_none() {
            return Ok(());
        }
        let default = self
            .shelf
            .choose(client, ModelKind::Embedder, None)
            .context("the vectors are swapped; the default embedder cannot be read")?;
        if default.sha256 != self.model.sha256 {
            messages::warn(format_args!(
                "embed_image(image) uses model {:?} by default, whose vectors cannot be compared with the new ones: \
                 lookbook model default {}, or name the model in the query",
                default.name, self.model.name
            ));
        }
        Ok(())
    }
}

/// The first of them, by name.
fn some(photos: &[(i64, String)]) -> String {
    let names = photos.iter().take(5).map(|(_, path)| path.as_str());
    names.collect::<Vec<_>>().join(", ")
}
