//! Writing sorted records as pages, in order, each once.
//!
//! A leaf is followed by its refinement pages, and those by the next leaf, so every link is known before the page
//! is written. Invariant: nothing written here is reachable until [`BulkWriter::finish`] changes the meta page.

use super::{Clusters, Target};
use crate::chain;
use crate::code::RowRecord;
use crate::directory;
use crate::error::{Error, Result};
use crate::founding;
use crate::index::Index;
use crate::index::change_meta;
use crate::insert::{Aside, EMPTY_SHAPE};
use crate::page::leaf::{self, Leaf};
use crate::page::meta::Meta;
use crate::page::{self, Kind, PageRef, refinement, tids, u32_at, u48_at};
use crate::query::Shape;
use crate::store::{AppendPages, BlockId, HeapTid, PAGE_BYTES, PageBytes, PageStore, PageTxn};
use crate::structure::point;

/// Leaves of one list that are kept until it is finished, so that its head can name the tail; a longer list's head is
/// changed afterwards.
const KEPT_PAGES: usize = 512;

/// A list being written.
struct Open {
    list: u32,
    head: PageRef,
    shape: Shape,
    squares: f64,
    count: usize,
    /// Rows that it is going to have at the most.
    share: usize,
    leaves: usize,
    /// The name and rows of the leaf being filled.
    leaf: PageRef,
    rows: Vec<RowRecord>,
    /// Finished pages of the list that are not yet written; empty once the list is too long for that.
    kept: Vec<Box<PageBytes>>,
    head_written: bool,
}

/// A chain of rows without codes being written.
struct OpenAside {
    aside: Aside,
    head: PageRef,
    /// The page being filled, and its name.
    last: PageRef,
    page: Box<PageBytes>,
}

/// Writes an index. Records are pushed in the order of their [`Target`].
pub struct BulkWriter<'c, W> {
    pages: W,
    clusters: &'c Clusters,
    open: Option<Open>,
    entries: Vec<RowRecord>,
    /// Heads of long lists and what they should say.
    patches: Vec<(PageRef, PageRef, usize)>,
    aside: Option<OpenAside>,
    /// Finished chains of rows without codes: head and tail.
    asides: Vec<(Aside, PageRef, PageRef)>,
    rows: usize,
}

impl<W> std::fmt::Debug for BulkWriter<'_, W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a bulk writer at row {}", self.rows)
    }
}

impl<'c, W: AppendPages> BulkWriter<'c, W> {
    /// Writes behind the meta page of an empty index.
    pub fn new(pages: W, clusters: &'c Clusters) -> BulkWriter<'c, W> {
        BulkWriter {
            pages,
            clusters,
            open: None,
            entries: Vec::new(),
            patches: Vec::new(),
            aside: None,
            asides: Vec::new(),
            rows: 0,
        }
    }

    /// Adds a record; targets never fall.
    ///
    /// # Errors
    /// What the store says.
    pub fn push(&mut self, target: Target, record: &[u8]) -> Result<()> {
        self.rows += 1;
        let list = match target {
            Target::List(list) => list,
            Target::Nulls => return self.push_aside(Aside::Nulls, record),
            Target::Unordered => return self.push_aside(Aside::Unordered, record),
            Target::Boundless => return self.push_aside(Aside::Boundless, record),
        };
        let mut open = match self.open.take() {
            Some(open) if open.list == list && open.count < open.share => open,
            other => {
                self.finish_list(other)?;
                self.open_list(list)?
            }
        };
        if open.rows.len() == self.clusters.space.layout.rows {
            self.finish_leaf(&mut open, true)?;
        }
        let dims = self.clusters.space.dims();
        let centroid = &self.clusters.centroids[list as usize * dims..][..dims];
        let (y, error) = point(&self.clusters.space, record);
        let reach = crate::code::reach(&y, error, centroid);
        open.shape.radius = open.shape.radius.max(reach);
        open.squares += f64::from(reach).powi(2);
        open.count += 1;
        open.rows.push(record.to_vec());
        self.open = Some(open);
        Ok(())
    }

    /// Rows without codes come behind all lists and fill pages one after the other.
    fn push_aside(&mut self, aside: Aside, record: &[u8]) -> Result<()> {
        let open = self.open.take();
        self.finish_list(open)?;
        let layout = &self.clusters.space.layout;
        let words: Vec<u32> = (0..layout.words)
            .map(|w| u32_at(record, layout.row().words + 4 * w))
            .collect();
        let mut open = match self.aside.take() {
            Some(open) if open.aside == aside => open,
            other => {
                self.finish_aside(other)?;
                let block = self.pages.next_block()?;
                let mut page = Box::new([0; PAGE_BYTES]);
                let head = tids::format_page(&mut page, block, None);
                OpenAside {
                    aside,
                    head,
                    last: head,
                    page,
                }
            }
        };
        if page::count(&open.page) == tids::capacity(layout.words) {
            let next = BlockId(open.last.block.0 + 1);
            let mut page = Box::new([0; PAGE_BYTES]);
            let name = tids::format_page(&mut page, next, Some(open.head));
            page::set_next(&mut open.page, Some(name));
            self.pages.append(&open.page)?;
            (open.page, open.last) = (page, name);
        }
        tids::push(&mut open.page, HeapTid(u48_at(record, 0)), &words);
        self.aside = Some(open);
        Ok(())
    }

    fn finish_aside(&mut self, open: Option<OpenAside>) -> Result<()> {
        let Some(open) = open else { return Ok(()) };
        self.pages.append(&open.page)?;
        self.asides.push((open.aside, open.head, open.last));
        Ok(())
    }

    fn open_list(&mut self, list: u32) -> Result<Open> {
        let head = PageRef {
            block: self.pages.next_block()?,
            incarnation: 1,
        };
        Ok(Open {
            list,
            head,
            shape: EMPTY_SHAPE,
            squares: 0.0,
            count: 0,
            share: self.clusters.share(list),
            leaves: 0,
            leaf: head,
            rows: Vec::new(),
            kept: Vec::new(),
            head_written: false,
        })
    }

    /// Makes the pages of the leaf being filled.
    fn finish_leaf(&mut self, open: &mut Open, more: bool) -> Result<()> {
        let layout = &self.clusters.space.layout;
        let groups = open.rows.len().div_ceil(layout.per_refinement);
        let after = open.leaf.block.0 + 1 + (groups * layout.spans) as u32;
        let mut page = Box::new([0; PAGE_BYTES]);
        let owner = (open.leaf != open.head).then_some(open.head);
        leaf::format_leaf(&mut page, open.leaf.block, Kind::List, owner);
        let next = PageRef {
            block: BlockId(after),
            incarnation: 1,
        };
        page::set_next(&mut page, more.then_some(next));
        for row in &open.rows {
            leaf::push_row(&mut page, layout, row);
        }
        for link in 0..groups * layout.spans {
            leaf::set_link(
                &mut page,
                link,
                BlockId(open.leaf.block.0 + 1 + link as u32),
            );
        }
        open.kept.push(page);
        for (group, records) in open.rows.chunks(layout.per_refinement).enumerate() {
            for span in 0..layout.spans {
                let link = (group * layout.spans + span) as u32;
                let mut page = Box::new([0; PAGE_BYTES]);
                let block = BlockId(open.leaf.block.0 + 1 + link);
                page::format(&mut page, block, Kind::Refinement, Some(open.leaf));
                for (slot, row) in records.iter().enumerate() {
                    let bytes = &row[layout.row().refinement..];
                    refinement::put_record(&mut page, layout, slot, span, bytes);
                }
                open.kept.push(page);
            }
        }
        open.leaves += 1;
        open.rows.clear();
        if more {
            open.leaf = next;
            if open.kept.len() > KEPT_PAGES {
                self.write_kept(open)?;
            }
        }
        Ok(())
    }

    fn write_kept(&mut self, open: &mut Open) -> Result<()> {
        for page in open.kept.drain(..) {
            self.pages.append(&page)?;
        }
        open.head_written = true;
        Ok(())
    }

    fn finish_list(&mut self, open: Option<Open>) -> Result<()> {
        let Some(mut open) = open else { return Ok(()) };
        self.finish_leaf(&mut open, false)?;
        if open.head_written {
            self.patches.push((open.head, open.leaf, open.leaves));
        } else {
            leaf::set_tail(&mut open.kept[0], open.leaf, open.leaves);
        }
        self.write_kept(&mut open)?;
        open.shape.typical = (open.squares / open.count.max(1) as f64).sqrt() as f32;
        let space = &self.clusters.space;
        let centroid =
            &self.clusters.centroids[open.list as usize * space.dims()..][..space.dims()];
        self.entries
            .push(directory::record(space, open.head, open.shape, centroid));
        Ok(())
    }

    /// Writes frame and directory and makes everything visible. `store` is what the pages were appended to. Gives
    /// the index and the number of rows.
    ///
    /// # Errors
    /// What the store says.
    pub fn finish<S: PageStore>(mut self, store: &S) -> Result<(Index, usize)> {
        let (open, aside) = (self.open.take(), self.aside.take());
        self.finish_list(open)?;
        self.finish_aside(aside)?;
        let space = &self.clusters.space;
        for &(_, head, tail) in &self.asides {
            let mut txn = store.begin();
            let handle = txn.lock(head.block)?;
            tids::check(txn.page(handle), head.block, space.layout.words)?;
            tids::set_tail(txn.page_mut(handle), tail);
            txn.commit()?;
        }
        for &(head, tail, leaves) in &self.patches {
            let mut txn = store.begin();
            let handle = txn.lock(head.block)?;
            Leaf::new(txn.page(handle), head.block, Kind::List, &space.layout)?;
            leaf::set_tail(txn.page_mut(handle), tail, leaves);
            txn.commit()?;
        }
        let lists = if self.entries.is_empty() {
            None
        } else {
            let directory = chain::write(store, directory::entries(space), &self.entries)?;
            Some((directory, founding::write_frame(store, &space.frame)?))
        };
        // One record makes everything visible.
        let is_empty = change_meta(store, |meta| {
            let is_empty = *meta == Meta::empty(&meta.options);
            if !is_empty {
                return false;
            }
            if let Some((directory, frame)) = lists {
                (meta.directory, meta.frame) = (Some(directory), Some(frame));
            }
            for &(aside, head, _) in &self.asides {
                *aside.head_mut(meta) = Some(head);
            }
            true
        })?;
        if !is_empty {
            return Err(Error::Contended {
                operation: "building into a used index",
                attempts: 1,
            });
        }
        Ok((Index::open(store)?, self.rows))
    }
}
