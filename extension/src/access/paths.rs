//! Adding index conditions to a path of the planner that PostgreSQL did not match itself.
//!
//! The list of conditions of a path may be shared with others, so it is copied before it is changed.

use super::items;
use pgrx::pg_sys;
use std::ffi::c_void;
use std::ptr::null_mut;

/// Whether the path tests a condition of the query already.
///
/// # Safety
/// `path` is complete.
pub(super) unsafe fn tests(path: *mut pg_sys::IndexPath, rinfo: *mut pg_sys::RestrictInfo) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        items::<pg_sys::IndexClause>((*path).indexclauses).any(|known| (*known).rinfo == rinfo)
    }
}

/// `column operator value`.
///
/// # Safety
/// The operator gives a boolean and takes the operands.
pub(super) unsafe fn operation(
    operator: pg_sys::Oid,
    column: *mut pg_sys::Expr,
    value: *mut pg_sys::Expr,
) -> *mut pg_sys::Expr {
    let none = pg_sys::InvalidOid;
    // SAFETY: the caller's promise.
    unsafe {
        let operation =
            pg_sys::make_opclause(operator, pg_sys::BOOLOID, false, column, value, none, none);
        pg_sys::set_opfuncid(operation.cast());
        operation
    }
}

/// `clause`, which follows from `rinfo`: a copy of it with another clause, which is what `commute_restrictinfo` makes.
///
/// # Safety
/// `rinfo` is a condition of the query.
pub(super) unsafe fn implied(
    rinfo: *mut pg_sys::RestrictInfo,
    clause: *mut pg_sys::Expr,
) -> *mut pg_sys::RestrictInfo {
    // SAFETY: the caller's promise.
    unsafe {
        let implied: *mut pg_sys::RestrictInfo =
            pg_sys::palloc(size_of::<pg_sys::RestrictInfo>()).cast();
        *implied = *rinfo;
        (*implied).clause = clause;
        implied
    }
}

/// `clause`, which is true of every row and follows from nothing in the query.
///
/// # Safety
/// `clause` is an expression of the relation that is being planned.
pub(super) unsafe fn of_ours(clause: *mut pg_sys::Expr) -> *mut pg_sys::RestrictInfo {
    // SAFETY: a node of zeros is a condition of no relations that nothing is known of, as `make_restrictinfo` begins.
    unsafe {
        let ours: *mut pg_sys::RestrictInfo =
            pg_sys::palloc0(size_of::<pg_sys::RestrictInfo>()).cast();
        (*ours).type_ = pg_sys::NodeTag::T_RestrictInfo;
        (*ours).clause = clause;
        (*ours).is_pushed_down = true;
        (*ours).norm_selec = -1.0;
        (*ours).outer_selec = -1.0;
        ours
    }
}

/// Lets the path test `condition` on a column, from 0, for `rinfo`; lossy: `rinfo` stays a filter.
///
/// # Safety
/// `path` is complete, and its list of conditions may be replaced: the planner calls from `cost_index`.
pub(super) unsafe fn add(
    path: *mut pg_sys::IndexPath,
    rinfo: *mut pg_sys::RestrictInfo,
    condition: *mut pg_sys::RestrictInfo,
    column: usize,
    lossy: bool,
) {
    // SAFETY: the caller's promise; the node is made as `match_opclause_to_indexcol` (`indxpath.c`) makes it.
    unsafe {
        let clause: *mut pg_sys::IndexClause =
            pg_sys::palloc0(size_of::<pg_sys::IndexClause>()).cast();
        (*clause).type_ = pg_sys::NodeTag::T_IndexClause;
        (*clause).rinfo = rinfo;
        (*clause).indexquals = pg_sys::lappend(null_mut(), condition.cast::<c_void>());
        (*clause).lossy = lossy;
        (*clause).indexcol = column as pg_sys::AttrNumber;
        (*path).indexclauses =
            pg_sys::lappend(pg_sys::list_copy((*path).indexclauses), clause.cast());
    }
}
