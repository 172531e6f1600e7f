//! The meta page, block 0: what the index is, where its parts begin, and the calibration.

use super::header::{HEADER_BYTES, Kind, PageRef, expect, expect_bound, format};
use super::{f32_at, put_f32, put_u32, put_u64, u32_at, u64_at};
use crate::calibration::{Calibration, LEVELS, Slack};
use crate::error::Result;
use crate::options::{Columns, Metric, Options};
use crate::store::{BlockId, PageBytes};

/// The block of the meta page.
pub(crate) const META: BlockId = BlockId(0);

const DIMENSIONS: usize = HEADER_BYTES;
const METRIC: usize = HEADER_BYTES + 4;
const BITS: usize = HEADER_BYTES + 5;
const FILTERS: usize = HEADER_BYTES + 6;
const STATE: usize = HEADER_BYTES + 7;
const LISTS: usize = HEADER_BYTES + 8;
const LIST_ROWS: usize = HEADER_BYTES + 12;
const SEED: usize = HEADER_BYTES + 16;
const DIRECTORY: usize = HEADER_BYTES + 24;
const FRAME: usize = HEADER_BYTES + 32;
const NULLS: usize = HEADER_BYTES + 40;
const UNORDERED: usize = HEADER_BYTES + 48;
const BOUNDLESS: usize = HEADER_BYTES + 56;
const CALIBRATED_LISTS: usize = HEADER_BYTES + 64;
const SLACKS: usize = HEADER_BYTES + 72;
const MOVES: usize = SLACKS + 8 * LEVELS.len();

/// Rows are moving between lists, or were when a crash came.
const MOVING: u8 = 1;
/// A vacuum walks the lists, or did when it was broken off: rows must not move behind it.
const VACUUMING: u8 = 2;

/// The meta page as a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Meta {
    pub options: Options,
    /// Chain of directory leaves.
    pub directory: Option<PageRef>,
    /// Chain of frame pages; `None`: the origin.
    pub frame: Option<PageRef>,
    /// Chain of the rows whose vector is NULL.
    pub nulls: Option<PageRef>,
    /// Chain of the rows that have no distance to anything (zero vectors under cosine).
    pub unordered: Option<PageRef>,
    /// Chain of the rows that are too large or too small to compute with.
    pub boundless: Option<PageRef>,
    /// The stamp of the last row that moved from one list to another.
    pub moves: u64,
    pub is_moving: bool,
    pub is_vacuuming: bool,
    pub calibration: Calibration,
}

impl Meta {
    /// Of an index without rows.
    pub fn empty(options: &Options) -> Meta {
        Meta {
            options: *options,
            directory: None,
            frame: None,
            nulls: None,
            unordered: None,
            boundless: None,
            moves: 0,
            is_moving: false,
            is_vacuuming: false,
            calibration: Calibration::unmeasured(options.metric),
        }
    }

    pub fn read(page: &PageBytes) -> Result<Meta> {
        expect(page, META, Kind::Meta, 0)?;
        let range = |at, what, found: u64, range, expected| {
            expect_bound(META, at, what, found, range, expected).map(|()| found)
        };
        let dimensions = range(
            DIMENSIONS,
            "dimensions",
            u64::from(u32_at(page, DIMENSIONS)),
            1..=16_000,
            "1 to 16000",
        )?;
        let metric = range(
            METRIC,
            "the metric",
            u64::from(page[METRIC]),
            0..=2,
            "0, 1 or 2",
        )?;
        let bits = range(BITS, "bits", u64::from(page[BITS]), 4..=8, "4 to 8")?;
        let filters = range(
            FILTERS,
            "filter columns",
            u64::from(page[FILTERS]),
            0..=8,
            "0 to 8",
        )?;
        let list_rows = range(
            LIST_ROWS,
            "rows of a list",
            u64::from(u32_at(page, LIST_ROWS)),
            16..=10_000,
            "16 to 10000",
        )?;
        let mut slacks = [Slack::CERTAIN; LEVELS.len()];
        let mut last = Slack::LEAST;
        for (i, slack) in slacks.iter_mut().enumerate() {
            let at = SLACKS + 8 * i;
            let (list, code) = (f32_at(page, at), f32_at(page, at + 4));
            let is_good = (last.list..=Slack::CERTAIN.list).contains(&list)
                && (last.code..=Slack::CERTAIN.code).contains(&code);
            let expected = "at least that of a lower recall";
            range(at, "a calibrated slack", is_good.into(), 1..=1, expected)?;
            last = Slack { list, code };
            *slack = last;
        }
        Ok(Meta {
            options: Options {
                dimensions: dimensions as usize,
                metric: [Metric::L2, Metric::Cosine, Metric::InnerProduct][metric as usize],
                bits: bits as u32,
                filter_columns: filters as usize,
                lists: u32_at(page, LISTS),
                list_rows: list_rows as u32,
                seed: u64_at(page, SEED),
            },
            directory: PageRef::read(page, DIRECTORY),
            frame: PageRef::read(page, FRAME),
            nulls: PageRef::read(page, NULLS),
            unordered: PageRef::read(page, UNORDERED),
            boundless: PageRef::read(page, BOUNDLESS),
            moves: u64_at(page, MOVES),
            is_moving: page[STATE] & MOVING != 0,
            is_vacuuming: page[STATE] & VACUUMING != 0,
            calibration: Calibration {
                lists: u32_at(page, CALIBRATED_LISTS),
                slacks,
            },
        })
    }

    /// Is this what the columns of the index say?
    pub fn expect(&self, columns: Columns) -> Result<()> {
        let found = self.options;
        let dimensions = columns.dimensions.unwrap_or(found.dimensions);
        for (at, what, found, declared) in [
            (DIMENSIONS, "dimensions", found.dimensions, dimensions),
            (
                METRIC,
                "the metric",
                found.metric as usize,
                columns.metric as usize,
            ),
            (
                FILTERS,
                "filter columns",
                found.filter_columns,
                columns.filter_columns,
            ),
        ] {
            let declared = declared as u64;
            let expected = "what the columns of the index say";
            expect_bound(META, at, what, found as u64, declared..=declared, expected)?;
        }
        Ok(())
    }

    pub fn write(&self, page: &mut PageBytes) {
        format(page, META, Kind::Meta, None);
        put_u32(page, DIMENSIONS, self.options.dimensions as u32);
        page[METRIC] = self.options.metric as u8;
        page[BITS] = self.options.bits as u8;
        page[FILTERS] = self.options.filter_columns as u8;
        put_u32(page, LISTS, self.options.lists);
        put_u32(page, LIST_ROWS, self.options.list_rows);
        put_u64(page, SEED, self.options.seed);
        PageRef::write(self.directory, page, DIRECTORY);
        PageRef::write(self.frame, page, FRAME);
        PageRef::write(self.nulls, page, NULLS);
        PageRef::write(self.unordered, page, UNORDERED);
        PageRef::write(self.boundless, page, BOUNDLESS);
        put_u64(page, MOVES, self.moves);
        let state = |bit, is_set| if is_set { bit } else { 0 };
        page[STATE] = state(MOVING, self.is_moving) | state(VACUUMING, self.is_vacuuming);
        put_u32(page, CALIBRATED_LISTS, self.calibration.lists);
        for (i, slack) in self.calibration.slacks.iter().enumerate() {
            put_f32(page, SLACKS + 8 * i, slack.list);
            put_f32(page, SLACKS + 8 * i + 4, slack.code);
        }
    }
}
