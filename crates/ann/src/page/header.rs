//! The first 32 bytes of every page: magic, kind, version, incarnation, chain link, owner.
//!
//! A page is named by its block *and* its incarnation ([`PageRef`]). Freeing a page raises the
//! incarnation, so whoever comes with an old name sees that the page is gone, whatever it holds now.
//! That is how pages are reused at once and without knowing who still reads.

use super::bytes::{put_u16, put_u32, u16_at, u32_at};
use crate::error::{Error, Result};
use crate::store::{BlockId, PageBytes};

/// "lk", little-endian.
const MAGIC: u16 = 0x6b6c;
const VERSION: u8 = 1;

const KIND: usize = 2;
const VERSION_AT: usize = 3;
const INCARNATION: usize = 4;
const NEXT: usize = 8;
const COUNT: usize = 16;
const FLAGS: usize = 18;
const MOVED: usize = 19;
const OWNER: usize = 24;
/// Where the part begins that belongs to the kind.
pub(super) const HEADER_BYTES: usize = 32;

const RETIRED: u8 = 1;

/// What a page is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Meta = 1,
    Free = 2,
    List = 3,
    Directory = 4,
    Refinement = 5,
    Tids = 6,
    Frame = 7,
}

/// A page as it was when somebody linked to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageRef {
    pub block: BlockId,
    pub incarnation: u32,
}

impl PageRef {
    const NO_BLOCK: u32 = u32::MAX;
    /// The name of no page.
    pub const NOWHERE: PageRef = PageRef {
        block: BlockId(Self::NO_BLOCK),
        incarnation: 0,
    };

    pub(super) fn read(bytes: &[u8], at: usize) -> Option<PageRef> {
        let block = u32_at(bytes, at);
        (block != Self::NO_BLOCK).then(|| PageRef {
            block: BlockId(block),
            incarnation: u32_at(bytes, at + 4),
        })
    }

    pub(super) fn write(link: Option<PageRef>, bytes: &mut [u8], at: usize) {
        put_u32(bytes, at, link.map_or(Self::NO_BLOCK, |link| link.block.0));
        put_u32(bytes, at + 4, link.map_or(0, |link| link.incarnation));
    }
}

/// An all-zero page: extended, but nothing was logged before the crash.
pub(crate) fn is_new(page: &PageBytes) -> bool {
    page.iter().all(|&byte| byte == 0)
}

/// May the page be given out?
pub(crate) fn is_free(page: &PageBytes) -> bool {
    is_new(page) || (u16_at(page, 0) == MAGIC && page[KIND] == Kind::Free as u8)
}

/// Starts a page anew, keeping its incarnation; `owner` is what its name is checked against when it has
/// no name of its own. Gives the name of the page.
pub(crate) fn format(
    page: &mut PageBytes,
    block: BlockId,
    kind: Kind,
    owner: Option<PageRef>,
) -> PageRef {
    let incarnation = incarnation(page).max(1);
    page.fill(0);
    put_u16(page, 0, MAGIC);
    page[KIND] = kind as u8;
    page[VERSION_AT] = VERSION;
    put_u32(page, INCARNATION, incarnation);
    PageRef::write(None, page, NEXT);
    let name = PageRef { block, incarnation };
    PageRef::write(Some(owner.unwrap_or(name)), page, OWNER);
    name
}

/// Makes the page free under a new incarnation. What it held stays behind the header: wiping it would put as many
/// bytes into the log as writing it did.
pub(crate) fn free(page: &mut PageBytes, block: BlockId) {
    let incarnation = incarnation(page).wrapping_add(1).max(1);
    page[..HEADER_BYTES].fill(0);
    put_u16(page, 0, MAGIC);
    page[KIND] = Kind::Free as u8;
    page[VERSION_AT] = VERSION;
    put_u32(page, INCARNATION, incarnation);
    PageRef::write(None, page, NEXT);
    PageRef::write(Some(PageRef { block, incarnation }), page, OWNER);
}

pub(crate) fn incarnation(page: &PageBytes) -> u32 {
    u32_at(page, INCARNATION)
}

pub(crate) fn next(page: &PageBytes) -> Option<PageRef> {
    PageRef::read(page, NEXT)
}

pub(crate) fn set_next(page: &mut PageBytes, link: Option<PageRef>) {
    PageRef::write(link, page, NEXT);
}

/// What the page says it is for.
pub(crate) fn kind(page: &PageBytes) -> u8 {
    page[KIND]
}

pub(crate) fn owner(page: &PageBytes) -> Option<PageRef> {
    PageRef::read(page, OWNER)
}

pub(crate) fn count(page: &PageBytes) -> usize {
    usize::from(u16_at(page, COUNT))
}

pub(super) fn set_count(page: &mut PageBytes, count: usize) {
    put_u16(page, COUNT, count as u16);
}

/// Was the chain that ends here replaced by another?
pub(crate) fn is_retired(page: &PageBytes) -> bool {
    page[FLAGS] & RETIRED != 0
}

pub(crate) fn retire(page: &mut PageBytes) {
    page[FLAGS] |= RETIRED;
}

/// In the tail of a list: the stamp of the last row that moved to or from another list; 0: none did.
pub(crate) fn moved(page: &PageBytes) -> u64 {
    u64::from(u32_at(page, MOVED)) | u64::from(page[MOVED + 4]) << 32
}

/// Forty bits last for a million millions of moves.
pub(crate) fn set_moved(page: &mut PageBytes, stamp: u64) {
    page[MOVED..MOVED + 5].copy_from_slice(&stamp.to_le_bytes()[..5]);
}

/// Is this still the page that `name` named? `false`: it was freed since, which is no damage. A page that
/// was freed and not reused has a higher incarnation already.
pub(crate) fn opened(page: &PageBytes, name: PageRef) -> bool {
    u16_at(page, 0) == MAGIC && incarnation(page) == name.incarnation
}

/// Checks magic, version, kind and the number of entries.
pub(crate) fn expect(page: &PageBytes, block: BlockId, kind: Kind, most: usize) -> Result<()> {
    let corrupt = |offset, what, found, expected| {
        Err(Error::Corrupt {
            block,
            offset,
            what,
            found,
            expected,
        })
    };
    if u16_at(page, 0) != MAGIC {
        return corrupt(0, "the magic number", u64::from(u16_at(page, 0)), "27500");
    }
    if page[VERSION_AT] != VERSION {
        return corrupt(
            VERSION_AT,
            "the format version",
            u64::from(page[VERSION_AT]),
            "1",
        );
    }
    if page[KIND] != kind as u8 {
        let expected = match kind {
            Kind::Meta => "1 (meta page)",
            Kind::Free => "2 (free page)",
            Kind::List => "3 (list)",
            Kind::Directory => "4 (directory)",
            Kind::Refinement => "5 (refinement codes)",
            Kind::Tids => "6 (rows without vector)",
            Kind::Frame => "7 (frame)",
        };
        return corrupt(KIND, "the kind of page", u64::from(page[KIND]), expected);
    }
    if count(page) > most {
        return corrupt(
            COUNT,
            "the number of entries",
            count(page) as u64,
            "at most what fits",
        );
    }
    Ok(())
}

/// Checks that the page belongs to the chain that begins at `head`.
pub(crate) fn expect_owner(page: &PageBytes, block: BlockId, head: PageRef) -> Result<()> {
    let found = owner(page);
    if found == Some(head) {
        return Ok(());
    }
    Err(Error::Corrupt {
        block,
        offset: OWNER,
        what: "the owner",
        found: u64::from(found.unwrap_or(PageRef::NOWHERE).block.0),
        expected: "the head of the chain",
    })
}

/// Checks a number of the kind's own part.
pub(super) fn expect_bound(
    block: BlockId,
    offset: usize,
    what: &'static str,
    found: u64,
    range: std::ops::RangeInclusive<u64>,
    expected: &'static str,
) -> Result<()> {
    if range.contains(&found) {
        return Ok(());
    }
    Err(Error::Corrupt {
        block,
        offset,
        what,
        found,
        expected,
    })
}
