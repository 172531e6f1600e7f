//! Reading an index over: what it holds, and whether every invariant does.

use std::collections::HashSet;

use crate::calibration::Calibration;
use crate::chain::{self, ChainKind};
use crate::cluster::squared_distance;
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::index::{ATTEMPTS, Index};
use crate::insert::Aside;
use crate::options::Options;
use crate::page::leaf::Leaf;
use crate::page::{self, Kind, PageRef, f32_at, refinement, tids, u16_at, u48_at};
use crate::rounding::bf16;
use crate::store::{BlockId, PageBytes, PageStore};
use crate::structure;

/// What an index holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// What it was created with.
    pub options: Options,
    /// Rows that can be found.
    pub rows: usize,
    /// Entries whose rows were taken out and whose place is not yet used again.
    pub dead_rows: usize,
    /// Rows without codes: NULL, a zero vector under cosine, or too large to compute with.
    pub aside_rows: usize,
    /// Lists.
    pub lists: usize,
    /// Rows of the longest list.
    pub longest_list: usize,
    /// All pages.
    pub pages: usize,
    /// Pages that are free to be used again.
    pub free_pages: usize,
    /// Pages that a crash left and the next vacuum frees.
    pub orphan_pages: usize,
    /// Are codes taken around a mean?
    pub has_frame: bool,
    /// The slack for each recall.
    pub calibration: Calibration,
}

impl Index {
    /// Reads every page and checks every invariant. Holds the latch: rows may be added meanwhile, but no list is split.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the first page that breaks one.
    pub fn check<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        let _latch = store.latch()?;
        self.refresh(store)?;
        let mut checker = Checker {
            index: self,
            named: HashSet::new(),
            tids: Vec::new(),
        };
        checker.run(store)
    }

    /// Counts, without reading refinement codes. Waits for nobody and holds up nobody: numbers of an index that is
    /// written to meanwhile are near.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn info<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        self.refresh(store)?;
        let mut info = self.empty_info(store)?;
        for list in self.lists_now(store)? {
            let (live, total) = chain::occupancy(store, list.head, directory::lists(&self.space))?;
            info.add_list(live, total);
        }
        for mut link in Aside::ALL.map(|aside| aside.head(&self.meta)) {
            while let Some(name) = link {
                store.check_interrupts()?;
                let page = store.read(name.block)?;
                // Given up by a vacuum since.
                if !page::opened(&page, name) {
                    break;
                }
                tids::check(&page, name.block, self.meta.options.filter_columns)?;
                info.aside_rows += page::count(&page);
                link = page::next(&page);
            }
        }
        Ok(info)
    }

    /// All live lists, whoever replaces the directory meanwhile.
    fn lists_now<S: PageStore>(&mut self, store: &S) -> Result<Vec<ListEntry>> {
        for _ in 0..ATTEMPTS {
            self.refresh(store)?;
            let Some(directory) = self.meta.directory else {
                return Ok(Vec::new());
            };
            if let Some(lists) = directory::all(store, &self.space, directory)? {
                return Ok(lists);
            }
        }
        Err(Error::Contended {
            operation: "counting",
            attempts: ATTEMPTS,
        })
    }

    fn empty_info<S: PageStore>(&self, store: &S) -> Result<Info> {
        let pages = store.block_count()? as usize;
        let mut free_pages = 0;
        for block in (1..pages as u32).map(BlockId) {
            store.check_interrupts()?;
            free_pages += usize::from(page::is_free(&*store.read(block)?));
        }
        Ok(Info {
            options: self.meta.options,
            rows: 0,
            dead_rows: 0,
            aside_rows: 0,
            lists: 0,
            longest_list: 0,
            pages,
            free_pages,
            orphan_pages: 0,
            has_frame: self.meta.frame.is_some(),
            calibration: self.meta.calibration,
        })
    }
}

impl Info {
    fn add_list(&mut self, live: usize, total: usize) {
        self.lists += 1;
        self.rows += live;
        self.dead_rows += total - live;
        self.longest_list = self.longest_list.max(live);
    }
}

struct Checker<'a> {
    index: &'a Index,
    named: HashSet<BlockId>,
    tids: Vec<(u64, BlockId)>,
}

fn broken(
    block: BlockId,
    offset: usize,
    what: &'static str,
    found: u64,
    expected: &'static str,
) -> Error {
    Error::Corrupt {
        block,
        offset,
        what,
        found,
        expected,
    }
}

impl Checker<'_> {
    fn run<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        let meta = &self.index.meta;
        let mut info = self.index.empty_info(store)?;
        self.name(BlockId(0))?;
        let mut link = meta.frame;
        while let Some(name) = link {
            link = self.page(store, name, |page| {
                page::expect(page, name.block, Kind::Frame, usize::MAX)
            })?;
        }
        if let Some(directory) = meta.directory {
            let entries = directory::entries(&self.index.space);
            self.chain(store, directory, entries)?;
            let lists = directory::all(store, &self.index.space, directory)?;
            let lists = lists.ok_or_else(|| {
                broken(
                    directory.block,
                    18,
                    "the directory",
                    1,
                    "a directory that was not replaced",
                )
            })?;
            for list in lists {
                let (live, total) = self.list(store, &list)?;
                info.add_list(live, total);
            }
        }
        let words = meta.options.filter_columns;
        for head in Aside::ALL.map(|aside| aside.head(meta)) {
            let mut link = head;
            while let Some(name) = link {
                let mut found = Vec::new();
                link = self.page(store, name, |page| {
                    tids::check(page, name.block, words)?;
                    found.extend((0..page::count(page)).map(|s| tids::tid(page, words, s).0));
                    Ok(())
                })?;
                info.aside_rows += found.len();
                self.tids
                    .extend(found.into_iter().map(|tid| (tid, name.block)));
            }
        }
        self.tids.sort_unstable();
        if let Some(pair) = self.tids.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(broken(
                pair[1].1,
                0,
                "a row that is there twice",
                pair[1].0,
                "one entry per row",
            ));
        }
        for block in (1..store.block_count()?).map(BlockId) {
            store.check_interrupts()?;
            let page = store.read(block)?;
            if page::is_free(&page) && self.named.contains(&block) {
                return Err(broken(
                    block,
                    2,
                    "a page in use",
                    2,
                    "a page that is not free",
                ));
            }
            let free = page::is_free(&page) && !page::is_new(&page);
            info.orphan_pages += usize::from(!free && !self.named.contains(&block));
        }
        Ok(info)
    }

    fn name(&mut self, block: BlockId) -> Result<()> {
        if self.named.insert(block) {
            return Ok(());
        }
        Err(broken(
            block,
            0,
            "a page that is named twice",
            u64::from(block.0),
            "one place",
        ))
    }

    /// Checks a page of a chain by `check` and gives the link to the next.
    fn page<S: PageStore>(
        &mut self,
        store: &S,
        name: PageRef,
        check: impl FnOnce(&PageBytes) -> Result<()>,
    ) -> Result<Option<PageRef>> {
        store.check_interrupts()?;
        self.name(name.block)?;
        let page = store.read(name.block)?;
        if !page::opened(&page, name) {
            let found = u64::from(page::incarnation(&page));
            return Err(broken(
                name.block,
                4,
                "the incarnation",
                found,
                "the one that is linked to",
            ));
        }
        check(&page)?;
        Ok(page::next(&page))
    }

    /// Checks the pages of a chain: names, owners, links, tail, number of leaves.
    fn chain<S: PageStore>(&mut self, store: &S, head: PageRef, kind: ChainKind<'_>) -> Result<()> {
        let (mut next, mut names) = (Some(head), Vec::new());
        let (mut tail, mut leaves) = (None, 0);
        while let Some(name) = next {
            let mut links = Vec::new();
            names.push(name);
            next = self.page(store, name, |page| {
                let leaf = Leaf::new(page, name.block, kind.kind, kind.layout)?;
                if page::owner(page) != Some(head) {
                    return Err(broken(
                        name.block,
                        24,
                        "the owner",
                        0,
                        "the head of the chain",
                    ));
                }
                if page::is_retired(page) {
                    return Err(broken(
                        name.block,
                        18,
                        "a live chain",
                        1,
                        "a page not retired",
                    ));
                }
                if name == head {
                    (tail, leaves) = (leaf.tail(), leaf.leaves());
                }
                let used = leaf.count().div_ceil(kind.layout.per_refinement) * kind.layout.spans;
                links.extend((0..used).map(|index| leaf.link(index)));
                if page::next(page).is_some() && leaf.count() != kind.layout.rows {
                    let found = leaf.count() as u64;
                    return Err(broken(
                        name.block,
                        16,
                        "entries before the tail",
                        found,
                        "a full leaf",
                    ));
                }
                Ok(())
            })?;
            for block in links {
                self.name(block)?;
                let page = store.read(block)?;
                if !refinement::belongs(&page, block, name)? {
                    return Err(chain::foreign(block, &page));
                }
            }
        }
        if tail != names.last().copied() || leaves != names.len() {
            return Err(broken(
                head.block,
                32,
                "the tail or its number",
                leaves as u64,
                "the last leaf",
            ));
        }
        Ok(())
    }

    /// Checks a list and its rows; gives how many live and how many entries there are.
    fn list<S: PageStore>(&mut self, store: &S, list: &ListEntry) -> Result<(usize, usize)> {
        let space = &self.index.space;
        let lists = directory::lists(space);
        self.chain(store, list.head, lists)?;
        let centroid = directory::centroid(store, space, list.place)?.unwrap_or_default();
        let mut total = 0;
        chain::walk(store, list.head, lists, |_, leaf, _| {
            total += leaf.count();
            Ok(())
        })?;
        let copy = structure::copy(store, lists, list.head, None)?;
        let rows = copy.map(|copy| copy.rows).unwrap_or_default();
        for row in &rows {
            self.row(list, &centroid, row)?;
            self.tids.push((u48_at(row, 0), list.head.block));
        }
        Ok((rows.len(), total))
    }

    /// The sign code must fit the refinement code, and both the list.
    fn row(&self, list: &ListEntry, centroid: &[f32], row: &[u8]) -> Result<()> {
        let space = &self.index.space;
        let fields = space.layout.row();
        let (y, error) = structure::point(space, row);
        let block = list.head.block;
        let distance = f64::from(squared_distance(&y, centroid)).sqrt();
        let scale = distance + crate::rounding::norm(centroid) + crate::rounding::norm(&y);
        let tolerance = 1e-4 * scale + error;
        if distance > f64::from(list.shape.radius) + tolerance {
            return Err(broken(
                block,
                0,
                "the distance of a row",
                1,
                "at most the list's radius",
            ));
        }
        let factor = f64::from(bf16(u16_at(row, fields.factor)));
        let along: f64 = centroid
            .iter()
            .enumerate()
            .map(|(i, &c)| {
                if row[fields.code + i / 8] >> (i % 8) & 1 == 1 {
                    f64::from(c)
                } else {
                    -f64::from(c)
                }
            })
            .sum();
        let expected = distance * distance + factor * along;
        let found = f64::from(f32_at(row, fields.constant));
        let allowed = 2.0 * tolerance * (scale + tolerance) + 1e-5 * (factor * along).abs() + 1e-30;
        // Also false for NaN.
        if (found - expected).abs() <= allowed {
            return Ok(());
        }
        Err(broken(
            block,
            0,
            "the sign code of a row",
            1,
            "the signs of its refinement code",
        ))
    }
}
