//! A run as numbers for Prometheus, in a file for node_exporter's textfile collector.
//!
//! Invariant: whoever reads the file finds it whole: it is written beside itself and renamed. What is no
//! file is written to.

use std::{
    fmt::Write as _,
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};

use super::{
    named::{Named, folder_of},
    pipeline::Meters,
    summary,
    tally::Tally,
};
use crate::messages;

const PERIOD: Duration = Duration::from_secs(5);

/// Writes the numbers of one run.
pub struct Metrics {
    file: Option<PathBuf>,
    labels: String,
    started: SystemTime,
    start: Instant,
    due: Instant,
}

impl Metrics {
    /// Fails where the file cannot be written, before any work is done.
    pub fn new(file: Option<&Path>, verb: &str, schema: &str) -> Result<Self> {
        let metrics = Self {
            file: file.map(Path::to_owned),
            labels: format!("verb=\"{verb}\",schema=\"{}\"", escaped(schema)),
            started: SystemTime::now(),
            start: Instant::now(),
            due: Instant::now(),
        };
        metrics.save(&metrics.head(true))?;
        Ok(metrics)
    }

    /// Call a few times a second.
    pub fn tick(&mut self, tally: &Tally, meters: &Meters) {
        if self.file.is_some() && Instant::now() >= self.due {
            self.due = Instant::now() + PERIOD;
            self.write(tally, meters, None);
        }
    }

    /// The last numbers. `exit_code` is that of the process.
    pub fn finish(&self, tally: &Tally, meters: &Meters, exit_code: u8) {
        self.write(tally, meters, Some(exit_code));
    }

    fn write(&self, tally: &Tally, meters: &Meters, exit_code: Option<u8>) {
        let mut text = self.head(exit_code.is_none());
        if let Some(code) = exit_code {
            self.add(
                &mut text,
                "exit_code",
                "Exit code of the run: 0 complete, 1 error, 2 partial",
                &[("", code.into())],
            );
        }
        let counts = tally.counts();
        let states = [
            ("total", counts.total),
            ("loaded", counts.loaded),
            ("replaced", counts.replaced),
            ("skipped", counts.skipped),
            ("rejected", counts.rejected),
        ]
        .map(|(state, count)| (format!(",state=\"{state}\""), count as f64));
        self.add(
            &mut text,
            "photos",
            "Photos of the source by what became of them; replaced ones are loaded, too",
            &borrowed(&states),
        );
        self.add(
            &mut text,
            "garments",
            "Garment rows written",
            &[("", counts.garments as f64)],
        );
        let rate = counts.loaded as f64 / self.start.elapsed().as_secs_f64().max(1e-9);
        self.add(
            &mut text,
            "images_per_second",
            "Photos loaded per second since the start",
            &[("", rate)],
        );
        let codes: Vec<(String, f64)> = tally
            .rejects_by_code()
            .into_iter()
            .map(|(code, count)| (format!(",code=\"{}\"", escaped(&code)), count as f64))
            .collect();
        self.add(
            &mut text,
            "rejects",
            "Rejected photos by reason",
            &borrowed(&codes),
        );
        let stages = meters.all().map(|meter| {
            (
                format!(",stage=\"{}\"", meter.name),
                meter.busy().as_secs_f64(),
            )
        });
        self.add(
            &mut text,
            "stage_busy_seconds",
            "Time that the workers of a stage were busy, on average",
            &borrowed(&stages),
        );
        let peak = summary::peak_memory_bytes().unwrap_or(0);
        self.add(
            &mut text,
            "peak_memory_bytes",
            "Largest resident memory of the loader",
            &[("", peak as f64)],
        );
        if let Err(error) = self.save(&text) {
            messages::warn(messages::render(&error));
        }
    }

    fn head(&self, is_running: bool) -> String {
        let mut text = String::new();
        let since = |time: SystemTime| {
            time.duration_since(UNIX_EPOCH)
                .map_or(0.0, |time| time.as_secs_f64())
        };
        let running = f64::from(u8::from(is_running));
        self.add(
            &mut text,
            "running",
            "1 while the loader is at work",
            &[("", running)],
        );
        self.add(
            &mut text,
            "start_timestamp_seconds",
            "When the run began",
            &[("", since(self.started))],
        );
        self.add(
            &mut text,
            "update_timestamp_seconds",
            "When this file was written",
            &[("", since(SystemTime::now()))],
        );
        text
    }

    fn add(&self, text: &mut String, name: &str, help: &str, values: &[(&str, f64)]) {
        if values.is_empty() {
            return;
        }
        // Writing into a string does not fail.
        let _ = writeln!(
            text,
            "# HELP lookbook_run_{name} {help}.\n# TYPE lookbook_run_{name} gauge"
        );
        for (labels, value) in values {
            let _ = writeln!(
                text,
                "lookbook_run_{name}{{{}{labels}}} {value}",
                self.labels
            );
        }
    }

    fn save(&self, text: &str) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let wrong = || format!("cannot write the metrics file {}", file.display());
        let file = match Named::of(file).with_context(wrong)? {
            Named::File(there) => there,
            Named::Nothing => file.clone(),
            Named::Stream(mut stream) => {
                return stream.write_all(text.as_bytes()).with_context(wrong);
            }
        };
        let mut part = tempfile::NamedTempFile::new_in(folder_of(&file)).with_context(wrong)?;
        part.write_all(text.as_bytes()).with_context(wrong)?;
        // The collector is another user.
        fs::set_permissions(part.path(), Permissions::from_mode(0o644)).with_context(wrong)?;
        part.persist(&file).with_context(wrong)?;
        Ok(())
    }
}

fn borrowed(values: &[(String, f64)]) -> Vec<(&str, f64)> {
    values
        .iter()
        .map(|(labels, value)| (labels.as_str(), *value))
        .collect()
}

/// A label's value (Prometheus text format 0.0.4).
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::FileTypeExt};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn the_file_is_whole_and_readable_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lookbook.prom");
        let metrics = Metrics::new(Some(&file), "load", "sh\"op").unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(
            text.contains("lookbook_run_running{verb=\"load\",schema=\"sh\\\"op\"} 1\n"),
            "{text}"
        );
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        metrics.save("x 1\n").unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Metrics::new(Some(&folder.path().join("no/x.prom")), "load", "s").is_err());
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        Metrics::new(Some(&link), "load", "linked").unwrap();
        assert!(link.is_symlink() && fs::read_to_string(&file).unwrap().contains("linked"));
        let pipe = folder.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut options = fs::OpenOptions::new();
        let mut reader = options.read(true).write(true).open(&pipe).unwrap();
        Metrics::new(Some(&pipe), "load", "piped").unwrap();
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        let mut read = [0; 6];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"# HELP");
    }
}
