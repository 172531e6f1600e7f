//! Counting what an index holds, and the pages that nothing leads to.

use std::collections::HashSet;

use crate::calibration::Calibration;
use crate::chain::{self, ChainKind};
use crate::directory::{self, ListEntry};
use crate::error::{Error, Result};
use crate::index::{ATTEMPTS, Index};
use crate::insert::Aside;
use crate::options::Options;
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, tids};
use crate::step::Step;
use crate::store::{BlockId, PageStore};

/// What an index holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// What it was created with.
    pub options: Options,
    /// Rows that can be found.
    pub rows: usize,
    /// Entries whose rows were taken out and whose place is not yet used again.
    pub dead_rows: usize,
    /// Rows without codes: NULL, a zero vector under cosine, or too large or too small to compute with.
    pub aside_rows: usize,
    /// Lists.
    pub lists: usize,
    /// Rows of the longest list.
    pub longest_list: usize,
    /// All pages.
    pub pages: usize,
    /// Pages that are free to be used again.
    pub free_pages: usize,
    /// Pages that nothing leads to, and that are not free: a crash left them, and the next vacuum frees them.
    pub orphan_pages: usize,
    /// Are codes taken around a frame?
    pub has_frame: bool,
    /// How far the mean of the rows is from the frame that codes are taken around, in units of how far rows typically are from
    /// their mean: codes lose about log₂(1 + drift) bits. 0 before there is a frame.
    pub drift: f64,
    /// The slack for each recall.
    pub calibration: Calibration,
}

/// What is counted, and where.
pub(crate) struct Census {
    pub info: Info,
    pub free: Vec<BlockId>,
    /// Pages in use that nothing led to.
    pub orphans: Vec<PageRef>,
    /// Nothing was replaced while it was counted: what nothing led to belongs to nobody.
    pub is_whole: bool,
}

impl Index {
    /// Counts, without reading refinement codes. Waits for nobody and holds up nobody: numbers of an index that is
    /// written to meanwhile are near.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn info<S: PageStore>(&mut self, store: &S) -> Result<Info> {
        Ok(self.census(store)?.info)
    }

    /// Reads every page but those of refinement codes twice at most: what it is, then what leads to it. So a page that is
    /// taken into use between the two is never an orphan.
    pub(crate) fn census<S: PageStore>(&mut self, store: &S) -> Result<Census> {
        self.refresh(store)?;
        let blocks = store.block_count()?;
        let (mut free, mut used) = (Vec::new(), Vec::new());
        for block in (1..blocks).map(BlockId) {
            store.check_interrupts()?;
            let page = store.read(block)?;
            // A zero page was extended but not logged.
            if page::is_free(&page) && !page::is_new(&page) {
                free.push(block);
            } else {
                let incarnation = page::incarnation(&page);
                used.push(PageRef { block, incarnation });
            }
        }
        let lists = self.lists_now(store)?;
        let mut walk = Walk {
            info: Info::of(&self.meta, blocks as usize, free.len()),
            named: HashSet::from([META]),
            is_whole: true,
        };
        if let Some(directory) = self.meta.directory {
            walk.chain(store, directory, directory::entries(&self.space))?;
        }
        let mut spread = Spread::new(self.space.dims());
        for list in lists {
            let (live, total) = walk.chain(store, list.head, directory::lists(&self.space))?;
            walk.info.add_list(live, total);
            spread.add(store, self, &list, live)?;
        }
        walk.info.drift = spread.drift();
        let words = self.meta.options.filter_columns;
        for aside in Aside::ALL {
            walk.info.aside_rows += walk.links(store, aside.head(&self.meta), Some(words))?;
        }
        walk.links(store, self.meta.frame, None)?;
        let Walk {
            mut info,
            named,
            is_whole,
        } = walk;
        used.retain(|page| !named.contains(&page.block));
        info.orphan_pages = used.len();
        Ok(Census {
            info,
            free,
            orphans: used,
            is_whole,
        })
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
}

/// Where rows are, relative to the frame.
pub(crate) struct Spread {
    rows: f64,
    sum: Vec<f64>,
    /// Of the squared lengths.
    squares: f64,
}

impl Spread {
    pub fn new(dims: usize) -> Spread {
        Spread {
            rows: 0.0,
            sum: vec![0.0; dims],
            squares: 0.0,
        }
    }

    /// Adds a list of so many rows.
    pub fn add<S: PageStore>(
        &mut self,
        store: &S,
        index: &Index,
        list: &ListEntry,
        rows: usize,
    ) -> Result<()> {
        let centroid = match index.meta.frame {
            Some(_) => directory::centroid(store, &index.space, list.place)?,
            None => None,
        };
        let Some(centroid) = centroid else {
            return Ok(());
        };
        let (rows, typical) = (rows as f64, f64::from(list.shape.typical));
        let mut square = 0.0;
        for (sum, c) in self.sum.iter_mut().zip(centroid) {
            *sum += rows * f64::from(c);
            square += f64::from(c) * f64::from(c);
        }
        self.rows += rows;
        self.squares += rows * (square + typical * typical);
        Ok(())
    }

    /// See [`Info::drift`].
    pub fn drift(&self) -> f64 {
        let square = self
            .sum
            .iter()
            .map(|sum| (sum / self.rows).powi(2))
            .sum::<f64>();
        let spread = self.squares / self.rows - square;
        match square.sqrt() / spread.max(0.0).sqrt() {
            drift if drift.is_finite() => drift,
            _ => 0.0,
        }
    }
}

/// A walk from the meta page to everything it leads to.
struct Walk {
    info: Info,
    named: HashSet<BlockId>,
    is_whole: bool,
}

impl Walk {
    /// Names the pages of a chain of leaves; gives live entries and all slots. Of a chain that is replaced meanwhile,
    /// what was seen until then.
    fn chain<S: PageStore>(
        &mut self,
        store: &S,
        head: PageRef,
        kind: ChainKind<'_>,
    ) -> Result<(usize, usize)> {
        let (mut live, mut total) = (0, 0);
        let end = chain::walk(store, head, kind, |name, leaf, _| {
            self.named.insert(name.block);
            let used = leaf.count().div_ceil(kind.layout.per_refinement) * kind.layout.spans;
            self.named.extend((0..used).map(|index| leaf.link(index)));
            total += leaf.count();
            live += (0..leaf.count())
                .filter(|&slot| leaf.tid(slot).is_some())
                .count();
            Ok(())
        })?;
        self.is_whole &= end.is_some();
        Ok((live, total))
    }

    /// Names the pages of a chain without leaves; gives its entries, if they are rows with so many `words`.
    fn links<S: PageStore>(
        &mut self,
        store: &S,
        head: Option<PageRef>,
        words: Option<usize>,
    ) -> Result<usize> {
        let (mut entries, mut next) = (0, head.map(Step::from));
        while let Some(here) = next {
            store.check_interrupts()?;
            let name = here.name;
            let page = store.read(name.block)?;
            // Given up by a vacuum since.
            if !page::opened(&page, name) {
                self.is_whole = false;
                break;
            }
            self.named.insert(name.block);
            next = match words {
                Some(words) => {
                    tids::check(&page, name.block, words)?;
                    entries += page::count(&page);
                    here.next(&page)?
                }
                // A page of the frame is its own.
                None => here.along(page::next(&page))?,
            };
        }
        Ok(entries)
    }
}

impl Info {
    pub(crate) fn of(meta: &Meta, pages: usize, free_pages: usize) -> Info {
        Info {
            options: meta.options,
            rows: 0,
            dead_rows: 0,
            aside_rows: 0,
            lists: 0,
            longest_list: 0,
            pages,
            free_pages,
            orphan_pages: 0,
            has_frame: meta.frame.is_some(),
            drift: 0.0,
            calibration: meta.calibration,
        }
    }

    pub(crate) fn add_list(&mut self, live: usize, total: usize) {
        self.lists += 1;
        self.rows += live;
        self.dead_rows += total - live;
        self.longest_list = self.longest_list.max(live);
    }
}
