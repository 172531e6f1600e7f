//! What a person or a program sees of a running load: a bar, or one JSON object per line.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::tally::Tally;
use crate::{args::Progress, database::IndexProgress, messages};

const JSON_PERIOD: Duration = Duration::from_secs(1);

/// Shows the counters of a [`Tally`].
pub struct Reporter<'a> {
    tally: &'a Tally,
    bar: Option<ProgressBar>,
    /// When the next line is due.
    json: Option<Instant>,
}

impl<'a> Reporter<'a> {
    /// `None`: a bar when standard error is a terminal.
    pub fn new(progress: Option<Progress>, tally: &'a Tally) -> Self {
        let progress = progress.unwrap_or(match stderr().is_terminal() {
            true => Progress::Bar,
            false => Progress::None,
        });
        let bar = (progress == Progress::Bar).then(|| {
            let (bar, template) = match tally.total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{bar:32} {pos}/{len} photos  {msg}  {elapsed}, {eta} left",
                ),
                None => (
                    ProgressBar::no_length(),
                    "{spinner} {pos} photos  {msg}  {elapsed}",
                ),
            };
            // The template is a constant that the tests parse.
            bar.set_style(
                ProgressStyle::with_template(template).unwrap_or(ProgressStyle::default_bar()),
            );
            messages::set_bar(Some(bar.clone()));
            bar
        });
        Self {
            tally,
            bar,
            json: (progress == Progress::Json).then(Instant::now),
        }
    }

    pub fn is_json(&self) -> bool {
        self.json.is_some()
    }

    /// Call a few times a second.
    pub fn tick(&mut self) {
        let counts = self.tally.counts();
        if let Some(bar) = &self.bar {
            bar.set_position(counts.done());
            bar.set_message(format!(
                "{} garments, {} rejected",
                counts.garments, counts.rejected
            ));
        }
        if self.is_due() {
            let _ = messages::print_exactly(json!({"event": "progress", "counts": counts}));
        }
    }

    /// The photos are done, the index is being made.
    pub fn start_index(&mut self) {
        self.tick();
        match &self.bar {
            Some(bar) => {
                let style = ProgressStyle::with_template("{bar:32} {msg}  {elapsed}");
                bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
                bar.reset();
                bar.set_message("making the index");
            }
            None => messages::note("making the index on garment.embedding"),
        }
    }

    /// Call a few times a second while the index is being made.
    pub fn tick_index(&mut self, progress: &IndexProgress) {
        if let Some(bar) = &self.bar {
            let (done, total, unit) = if progress.tuples_total > 0 {
                (progress.tuples_done, progress.tuples_total, "rows")
            } else {
                (progress.blocks_done, progress.blocks_total, "blocks")
            };
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!("{}, {done}/{total} {unit}", progress.phase));
        }
        if self.is_due() {
            let _ = messages::print_exactly(json!({"event": "index", "progress": progress}));
        }
    }

    /// Whether a line of JSON is due; whoever closed the pipe does not want to know, and the load goes on.
    fn is_due(&mut self) -> bool {
        let is_due = self.json.is_some_and(|due| Instant::now() >= due);
        if is_due {
            self.json = Some(Instant::now() + JSON_PERIOD);
        }
        is_due
    }

    pub fn finish(&mut self) {
        messages::set_bar(None);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
