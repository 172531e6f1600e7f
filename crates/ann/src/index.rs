//! An index as an operation sees it: the meta page and the geometry it implies.
//!
//! Owns what is worth keeping between operations. Invariant: `space` belongs to `meta`. Neither is
//! ever wrong for long: whoever meets a page that was freed meanwhile refreshes and starts again.

use std::sync::{Arc, Mutex, PoisonError};

use crate::calibration::Calibration;
use crate::catalogue::Catalogue;
use crate::error::{Error, Result};
use crate::page::meta::{META, Meta};
use crate::page::{self, PageRef, frame};
use crate::space::Space;
use crate::store::{PAGE_BYTES, PageBytes, PageStore, PageTxn};

use crate::options::{Columns, Options};

/// How often an operation starts again before it gives up.
pub(crate) const ATTEMPTS: usize = 1000;

/// The state of an index that may be kept between operations: by a scan, by a statement that inserts.
#[derive(Clone, Debug)]
pub struct Index {
    pub(crate) meta: Meta,
    /// Shared, so that a scan may keep its own copy of the index for nothing.
    pub(crate) space: Arc<Space>,
    /// What the searches of this index and its copies learnt of the lists.
    catalogue: Arc<Mutex<Option<Arc<Catalogue>>>>,
}

/// The meta page of an empty index: its first and only page. An index is created by writing this to block 0.
///
/// # Errors
/// [`Error::Option`].
pub fn empty_index(options: &Options) -> Result<Box<PageBytes>> {
    options.validate()?;
    let mut page = Box::new([0; PAGE_BYTES]);
    Meta::empty(options).write(&mut page);
    Ok(page)
}

impl Index {
    /// Reads the meta page and the frame.
    ///
    /// # Errors
    /// [`Error::Corrupt`], or whatever the store says.
    pub fn open<S: PageStore>(store: &S) -> Result<Index> {
        let mut missed = None;
        for _ in 0..ATTEMPTS {
            let meta = Meta::read(&*store.read(META)?)?;
            // A frame is given up after the meta page leads to another.
            if let Some(frame) = missed.filter(|_| missed == meta.frame) {
                return Err(Error::Corrupt {
                    block: frame.block,
                    offset: 4,
                    what: "a page of the frame that begins here",
                    found: u64::from(frame.block.0),
                    expected: "the page that is linked to",
                });
            }
            missed = meta.frame;
            if let Some(frame) = read_frame(store, &meta)? {
                let space = Arc::new(Space::new(meta.options, frame));
                return Ok(Index {
                    meta,
                    space,
                    catalogue: Arc::default(),
                });
            }
            store.check_interrupts()?;
        }
        Err(Error::Contended {
            operation: "opening",
            attempts: ATTEMPTS,
        })
    }

    /// Is this what the columns of the index say?
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn expect(&self, columns: Columns) -> Result<()> {
        self.meta.expect(columns)
    }

    /// Reads the meta page again, and the frame if it is another.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn refresh<S: PageStore>(&mut self, store: &S) -> Result<()> {
        let meta = Meta::read(&*store.read(META)?)?;
        if meta.frame == self.meta.frame && meta.options == self.meta.options {
            self.meta = meta;
            return Ok(());
        }
        *self = Index::open(store)?;
        Ok(())
    }

    /// The lists of a directory: as they are kept, or read anew. `None`: the directory was replaced.
    pub(crate) fn catalogue<S: PageStore>(
        &self,
        store: &S,
        directory: PageRef,
        fresh: bool,
    ) -> Result<Option<Arc<Catalogue>>> {
        let moves = self.meta.moves;
        let kept = || {
            self.catalogue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        let fits =
            |known: &Arc<Catalogue>| !fresh && known.directory == directory && known.moves == moves;
        let known = kept().clone().filter(fits);
        if known.is_some() {
            return Ok(known);
        }
        let read = Catalogue::read(store, &self.space, directory, moves)?.map(Arc::new);
        kept().clone_from(&read);
        Ok(read)
    }

    /// About the bytes that this and its copies take of memory.
    pub fn kept_bytes(&self) -> usize {
        let kept = self.catalogue.lock();
        let kept = kept.unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().map_or(0, |catalogue| catalogue.bytes())
    }

    /// The slack for each recall.
    pub fn calibration(&self) -> &Calibration {
        &self.meta.calibration
    }

    /// What the index was created with.
    pub fn options(&self) -> &Options {
        &self.meta.options
    }
}

/// Changes the meta page in a record of its own.
pub(crate) fn change_meta<S: PageStore, T>(
    store: &S,
    change: impl FnOnce(&mut Meta) -> T,
) -> Result<T> {
    let mut txn = store.begin();
    let handle = txn.lock(META)?;
    let mut meta = Meta::read(txn.page(handle))?;
    let result = change(&mut meta);
    meta.write(txn.page_mut(handle));
    txn.commit()?;
    Ok(result)
}

/// `None`: the frame was replaced since the meta page was read.
fn read_frame<S: PageStore>(store: &S, meta: &Meta) -> Result<Option<Vec<f32>>> {
    let dims = meta.options.padded();
    let mut elements = Vec::new();
    let mut link: Option<PageRef> = meta.frame;
    while let Some(name) = link {
        let page = store.read(name.block)?;
        if !page::opened(&page, name) {
            return Ok(None);
        }
        let before = elements.len();
        frame::read(&page, name.block, dims - before, &mut elements)?;
        link = page::next(&page);
        if link.is_some() == (elements.len() == dims) || elements.len() == before {
            return Err(Error::Corrupt {
                block: name.block,
                offset: 8,
                what: "the length of the frame",
                found: elements.len() as u64,
                expected: "the dimensions of the index",
            });
        }
    }
    Ok(Some(elements))
}
