//! What a load says at its end: counts, rates, where the time went, and how to go on.

use std::{
    fmt::Write,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use lookbook_vision::Provider;
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use super::{
    Verdict,
    index::IndexReport,
    pipeline::Meters,
    prune::{Prune, Pruned},
    stage::Meter,
    tally::Counts,
};
use crate::{
    database::RunEnd,
    messages::{self, Ending, count},
};

/// Everything there is to say about a load.
pub struct Summary<'a> {
    pub counts: Counts,
    pub times: Times,
    pub threads: usize,
    pub meters: &'a Meters,
    /// Where the detector and the embedder ran.
    pub providers: [Provider; 2],
    pub models: [&'a str; 2],
    pub pose_model: Option<&'a str>,
    pub ignored: usize,
    pub rejects_file: &'a Path,
    /// `None` when the load failed or no photo is there.
    pub index: Option<IndexReport>,
    /// What became of photos that are gone; `None` when nobody looked.
    pub pruned: Option<Pruned>,
    pub prune: Option<Prune>,
    pub is_dry_run: bool,
    /// The number of its record in `lookbook_run`.
    pub run: Option<i64>,
    /// Decoders that were let run at once in the end.
    pub decoders_at_once: usize,
    pub is_interrupted: bool,
}

/// How long a load took.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Of the whole command without the index, and of it what passed before the first photo was read.
    pub wall: Duration,
    pub started_up: Duration,
    pub pipeline_wall: Duration,
    /// Processor time of the pipeline, over all threads.
    pub processor: Duration,
}

/// Runs from the first photo to the last.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    command: Instant,
    pipeline: Instant,
    processor: Duration,
}

impl Clock {
    /// Of a command that began at `command`.
    pub fn after(command: Instant) -> Self {
        Self {
            command,
            pipeline: Instant::now(),
            processor: processor_time(),
        }
    }

    pub fn stop(self) -> Times {
        Times {
            wall: self.command.elapsed(),
            started_up: self.pipeline.duration_since(self.command),
            pipeline_wall: self.pipeline.elapsed(),
            processor: processor_time().saturating_sub(self.processor),
        }
    }
}

/// Processor time that this process used until now.
pub fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// The largest resident memory of this process until now.
pub fn peak_memory_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = peak.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kilobytes << 10)
}

impl Summary<'_> {
    pub fn print(&self, as_json: bool) -> Result<()> {
        if as_json {
            messages::print_exactly(self.to_json())
        } else {
            messages::print(self.to_text())
        }
    }

    /// Partial when photos were rejected or not reached, or the index could not be made; an error when there is nothing else.
    pub fn ending(&self) -> Result<Ending> {
        let Counts {
            loaded,
            skipped,
            rejected,
            ..
        } = self.counts;
        if self.is_interrupted {
            return Ok(Ending::Partial);
        }
        if rejected > 0 && loaded + skipped == 0 {
            let list = self.rejects_file.display();
            let photos = count(rejected, "photo");
            bail!(Verdict(match self.is_dry_run {
                true => format!("none of {photos} could be loaded"),
                false => format!("none of {photos} could be loaded; {list} says why"),
            }));
        }
        let is_complete = self.index.as_ref().is_none_or(IndexReport::is_complete);
        Ok(if rejected == 0 && is_complete {
            Ending::Complete
        } else {
            Ending::Partial
        })
    }

    /// What the record of the run says of its end.
    pub fn run_end(&self, ending: &Result<Ending>) -> RunEnd {
        RunEnd {
            status: match ending {
                Ok(_) if self.is_interrupted => "interrupted",
                Ok(Ending::Complete) => "complete",
                Ok(Ending::Partial) => "partial",
                Err(_) => "failed",
            },
            error: ending.as_ref().err().map(messages::render),
            images_per_second: self.rate(),
            report: self.to_json(),
        }
    }

    /// Photos that went through the pipeline, per second of the whole command.
    pub fn rate(&self) -> f64 {
        per_second(self.counts.loaded, self.times.wall)
    }

    /// The stage that limits, when there was work for one.
    fn slowest(&self) -> Option<&Meter> {
        let slowest = self
            .meters
            .all()
            .into_iter()
            .max_by_key(|meter| meter.busy());
        slowest.filter(|meter| !meter.busy().is_zero())
    }

    /// Wall time over the busy time of the slowest stage: 1 when nothing waited that could overlap.
    fn overlap_ratio(&self) -> Option<f64> {
        let busy = self.slowest()?.busy();
        Some(self.times.pipeline_wall.as_secs_f64() / busy.as_secs_f64())
    }

    fn cores_used(&self) -> f64 {
        self.times.processor.as_secs_f64() / self.times.pipeline_wall.as_secs_f64().max(1e-9)
    }

    fn provider(&self, meter: &Meter) -> &str {
        match meter.name {
            "detect" => self.providers[0].as_str(),
            "embed" => self.providers[1].as_str(),
            _ => "",
        }
    }

    fn to_text(&self) -> String {
        let Counts {
            loaded,
            replaced,
            garments,
            skipped,
            rejected,
            total,
        } = self.counts;
        let mut text = format!(
            "{} {} with {}",
            if self.is_dry_run {
                "would load"
            } else {
                "loaded"
            },
            count(loaded, "photo"),
            count(garments, "garment")
        );
        let mut add = |part: std::fmt::Arguments<'_>| {
            // Writing into a string does not fail.
            let _ = text.write_fmt(part);
        };
        if replaced > 0 {
            add(format_args!(" ({replaced} replaced)"));
        }
        add(format_args!(
            ", {skipped} skipped as loaded before, {rejected} rejected"
        ));
        add(format_args!(" in {:.1} s", self.times.wall.as_secs_f64()));
        if loaded > 0 {
            add(format_args!(": {:.1} images/s", self.rate()));
        }
        add(format_args!("\n"));
        if self.ignored > 0 {
            add(format_args!(
                "{} without the name of a photo ignored\n",
                count(self.ignored as u64, "file")
            ));
        }
        if loaded > 0 {
            let [detector, embedder] = self.models;
            let pose = match self.pose_model {
                Some(pose) => format!(", {pose} (within detect; --no-pose leaves it out)"),
                None => String::new(),
            };
            add(format_args!(
                "models: {detector}, {embedder}{pose}; start-up {:.1} s\n",
                self.times.started_up.as_secs_f64()
            ));
            add(format_args!("stage    workers  images/s alone  busy\n"));
            for meter in self.meters.all() {
                add(format_args!(
                    "{:<8} {:>7}  {:>14.1}  {:>3.0} %  {}{}\n",
                    meter.name,
                    meter.workers,
                    per_second(meter.photos(), meter.busy()),
                    100.0 * self.busy_share(meter),
                    self.provider(meter),
                    if self
                        .slowest()
                        .is_some_and(|slowest| slowest.name == meter.name)
                    {
                        " <- limits"
                    } else {
                        ""
                    },
                ));
            }
            if let Some(ratio) = self.overlap_ratio() {
                add(format_args!(
                    "wall time is {ratio:.2} of the slowest stage's; {:.2} of {} cores used\n",
                    self.cores_used(),
                    self.threads
                ));
                add(format_args!(
                    "found out: batches of {} and {}, {} to decode at once; at most {} MB of memory\n",
                    self.meters.detect_batch.chosen(),
                    self.meters.embed_batch.chosen(),
                    count(self.decoders_at_once as u64, "thread"),
                    peak_memory_bytes().unwrap_or(0) >> 20
                ));
            }
        }
        if let (Some(pruned), Some(prune)) = (self.pruned, self.prune) {
            add(format_args!(
                "{}\n",
                pruned.to_text(self.is_dry_run, prune.is_wanted)
            ));
        }
        if self.is_dry_run {
            add(format_args!("dry run: nothing was written\n"));
        }
        if let Some(index) = &self.index {
            add(format_args!("{}\n", index.to_text()));
        }
        if rejected > 0 && !self.is_dry_run {
            add(format_args!(
                "rejected photos and reasons: {}\n",
                self.rejects_file.display()
            ));
        }
        if self.is_interrupted {
            let left = match total - self.counts.done() {
                0 => "more photos".to_owned(),
                left => count(left, "photo"),
            };
            add(format_args!(
                "interrupted with {left} to go: run the same command again to go on\n"
            ));
        }
        text.trim_end().to_owned()
    }

    pub fn to_json(&self) -> serde_json::Value {
        let stage = |meter: &Meter| {
            json!({
                "stage": meter.name,
                "workers": meter.workers,
                "photos": meter.photos(),
                "busy_seconds": meter.busy().as_secs_f64(),
                "busy_share": self.busy_share(meter),
                "processor_seconds": meter.processor().as_secs_f64(),
                "images_per_second_alone": per_second(meter.photos(), meter.busy()),
                "provider": self.provider(meter),
            })
        };
        json!({
            "event": "summary",
            "run": self.run,
            "dry_run": self.is_dry_run,
            "counts": self.counts,
            "pruned": self.pruned.map(Pruned::to_json),
            "peak_memory_bytes": peak_memory_bytes(),
            "ignored_files": self.ignored,
            "index": self.index.as_ref().map(IndexReport::to_json),
            "interrupted": self.is_interrupted,
            "wall_seconds": self.times.wall.as_secs_f64(),
            "startup_seconds": self.times.started_up.as_secs_f64(),
            "pipeline_seconds": self.times.pipeline_wall.as_secs_f64(),
            "images_per_second": self.rate(),
            "models": {"detector": self.models[0], "embedder": self.models[1], "pose": self.pose_model},
            "stages": self.meters.all().map(stage),
            "limited_by": self.slowest().map(|meter| meter.name),
            "wall_over_slowest_stage": self.overlap_ratio(),
            "cores_used": self.cores_used(),
            "cores": self.threads,
            "processor_seconds": self.times.processor.as_secs_f64(),
            "batch_sizes": {"detect": self.meters.detect_batch.chosen(), "embed": self.meters.embed_batch.chosen()},
            "decoders_at_once": self.decoders_at_once,
        })
    }

    fn busy_share(&self, meter: &Meter) -> f64 {
        meter.busy().as_secs_f64() / self.times.pipeline_wall.as_secs_f64().max(1e-9)
    }
}

fn per_second(photos: u64, time: Duration) -> f64 {
    if time.is_zero() {
        0.0
    } else {
        photos as f64 / time.as_secs_f64()
    }
}
