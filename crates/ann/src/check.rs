//! Reading an index over: does every invariant hold?
//!
//! Under the latch no list is replaced and no row moves, but rows are added, chains grow, radii are raised, and a vacuum
//! that has begun buries rows whose TIDs are soon those of new ones. None of that is damage: what was read at two moments is
//! read again before it is called so.

use std::collections::HashSet;

use crate::census::{Info, Spread};
use crate::chain::{self, ChainKind};
use crate::cluster::squared_distance;
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::insert::Aside;
use crate::page::leaf::Leaf;
use crate::page::{self, Kind, PageRef, f32_at, refinement, tids, u16_at};
use crate::rounding::bf16;
use crate::store::{BlockId, HeapTid, PageBytes, PageStore};
use crate::structure;

impl Index {
    /// Reads every page and checks every invariant. Holds the latch: rows may be added and deleted meanwhile, but no list
    /// is split.
    ///
    /// # Errors
    /// [`Error::Corrupt`] names the first page that breaks one.
    pub fn check<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        let _latch = store.latch()?;
        self.refresh(store)?;
        let mut checker = Checker {
            index: self,
            named: HashSet::new(),
            entries: Vec::new(),
        };
        checker.run(store)
    }
}

struct Checker<'a> {
    index: &'a Index,
    named: HashSet<BlockId>,
    entries: Vec<Entry>,
}

/// An entry of a row, and where it was seen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    tid: HeapTid,
    page: PageRef,
    /// Of a leaf; entries without codes move within their page.
    slot: Option<u16>,
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
        let mut info = Info::of(meta, 0, 0);
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
            let mut spread = Spread::new(self.index.space.dims());
            for list in lists {
                let (live, total) = self.list(store, &list)?;
                info.add_list(live, total);
                spread.add(store, self.index, &list, live)?;
            }
            info.drift = spread.drift();
        }
        let words = meta.options.filter_columns;
        for head in Aside::ALL.iter().filter_map(|aside| aside.head(meta)) {
            let mut link = Some(head);
            while let Some(name) = link {
                let mut found = Vec::new();
                link = self.page(store, name, |page| {
                    tids::check(page, name.block, words)?;
                    page::expect_owner(page, name.block, head)?;
                    found.extend((0..page::count(page)).map(|s| tids::tid(page, words, s)));
                    Ok(())
                })?;
                info.aside_rows += found.len();
                self.entries.extend(found.into_iter().map(|tid| Entry {
                    tid,
                    page: name,
                    slot: None,
                }));
            }
        }
        self.each_row_once(store)?;
        self.pages(store, &mut info)?;
        Ok(info)
    }

    /// No two entries are of one row. An entry seen before another of the same row, and still there after that one was
    /// seen again, was there with it: slots are not used twice.
    fn each_row_once<S: PageStore>(&mut self, store: &S) -> Result<()> {
        self.entries.sort_unstable();
        for pair in self.entries.windows(2) {
            let [one, other] = [pair[0], pair[1]];
            if one.tid == other.tid
                && self.is_there(store, one)?
                && self.is_there(store, other)?
                && self.is_there(store, one)?
            {
                return Err(broken(
                    other.page.block,
                    0,
                    "a row that is there twice",
                    other.tid.0,
                    "one entry per row",
                ));
            }
        }
        Ok(())
    }

    fn is_there<S: PageStore>(&self, store: &S, entry: Entry) -> Result<bool> {
        let Some(slot) = entry.slot else {
            let page = store.read(entry.page.block)?;
            let words = self.index.meta.options.filter_columns;
            return Ok(page::opened(&page, entry.page)
                && (0..page::count(&page)).any(|s| tids::tid(&page, words, s) == entry.tid));
        };
        let lists = directory::lists(&self.index.space);
        let tid = chain::with_leaf(store, entry.page, lists, |leaf, _| {
            Ok(leaf.tid(usize::from(slot)))
        })?;
        Ok(tid.flatten() == Some(entry.tid))
    }

    /// No page that something leads to is free; counts those that nothing leads to.
    fn pages<S: PageStore>(&self, store: &S, info: &mut Info) -> Result<()> {
        info.pages = store.block_count()? as usize;
        for block in (1..info.pages as u32).map(BlockId) {
            store.check_interrupts()?;
            let page = store.read(block)?;
            let is_named = self.named.contains(&block);
            if page::is_free(&page) && is_named {
                return Err(broken(
                    block,
                    2,
                    "a page in use",
                    2,
                    "a page that is not free",
                ));
            }
            let free = page::is_free(&page) && !page::is_new(&page);
            info.free_pages += usize::from(free);
            info.orphan_pages += usize::from(!free && !is_named);
        }
        Ok(())
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
                page::expect_owner(page, name.block, head)?;
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
        // The head said where the tail was before we came there: it is asked again if that is elsewhere.
        let is_end =
            |tail: Option<PageRef>, leaves| tail == names.last().copied() && leaves == names.len();
        if !is_end(tail, leaves) {
            let again = chain::with_leaf(store, head, kind, |leaf, _| {
                Ok((leaf.tail(), leaf.leaves()))
            })?;
            let has_grown = |leaves| leaves > names.len();
            if !again.is_some_and(|(tail, leaves)| is_end(tail, leaves) || has_grown(leaves)) {
                return Err(broken(
                    head.block,
                    32,
                    "the tail or its number",
                    leaves as u64,
                    "the last leaf",
                ));
            }
        }
        Ok(())
    }

    /// Checks a list and its rows; gives how many live and how many entries there are.
    fn list<S: PageStore>(&mut self, store: &S, list: &ListEntry) -> Result<(usize, usize)> {
        let space = &self.index.space;
        let lists = directory::lists(space);
        self.chain(store, list.head, lists)?;
        let replaced = || {
            broken(
                list.head.block,
                18,
                "a list that the directory names",
                1,
                "a list that was not replaced",
            )
        };
        let centroid = directory::centroid(store, space, list.place)?.ok_or_else(replaced)?;
        let copy = structure::copy(store, lists, list.head, None)?;
        let structure::Copy { rows, strays, .. } = copy.ok_or_else(replaced)?;
        // Not before: slots fill up meanwhile.
        let (_, total) = chain::occupancy(store, list.head, lists)?;
        if total < rows.len() {
            return Err(broken(
                list.head.block,
                16,
                "the entries of a list",
                total as u64,
                "those that were read before",
            ));
        }
        // As wide as it was when the last of these rows came, or wider.
        let list = &structure::still_there(store, space, list)?.unwrap_or(*list);
        for row in &rows {
            self.row(list, &centroid, row)?;
        }
        self.entries.extend(strays.iter().map(|stray| Entry {
            tid: stray.tid,
            page: stray.place.leaf,
            slot: u16::try_from(stray.place.slot).ok(),
        }));
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
