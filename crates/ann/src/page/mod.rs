//! Page codecs: what the bytes of each kind of page mean. `docs/on-disk-format.md` has the tables.
//!
//! Owns every offset of the on-disk format. Must not know how pages are found or changed atomically.
//! Invariant: reading any bytes at all gives a value or [`Error::Corrupt`](crate::Error::Corrupt), never
//! a panic.

mod bytes;
pub(crate) mod frame;
mod header;
mod layout;
pub(crate) mod leaf;
pub(crate) mod meta;
pub(crate) mod refinement;
pub(crate) mod tids;

pub(crate) use bytes::{
    f32_at, put_f32, put_u16, put_u32, put_u48, put_u64, u16_at, u32_at, u48_at, u64_at,
};
pub(crate) use header::{
    Kind, PageRef, count, expect, expect_owner, format, free, incarnation, is_free, is_new,
    is_retired, kind, moved, next, opened, owner, retire, set_moved, set_next,
};
pub(crate) use layout::Layout;
