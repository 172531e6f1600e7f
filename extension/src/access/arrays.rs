//! `WHERE category IN ('upper', 'lower') ORDER BY embedding <-> $1`: tested in the index.
//!
//! Before version 17 PostgreSQL's planner keeps `= ANY (array)` on any but the first column out of
//! ordered index paths, because it would break the order of a btree (`build_index_paths`,
//! `skip_lower_saop`). It breaks nothing here, so the path gets the condition from us.

use super::items;
use pgrx::pg_sys;
use std::ptr::null_mut;

/// Gives an ordered path the `= ANY` conditions on filter columns that it lacks.
///
/// # Safety
/// `path` is complete, and its list of conditions may be replaced: the planner calls from `cost_index`.
pub(super) unsafe fn push_down(root: *mut pg_sys::PlannerInfo, path: *mut pg_sys::IndexPath) {
    // SAFETY: the caller's promise; lists hold what their names say.
    unsafe {
        if (*path).indexorderbys.is_null() {
            return;
        }
        let index = (*path).indexinfo;
        // What comes from outside of a nested loop, and what is of the table alone.
        let parameters = (*path).path.param_info;
        let outer = match parameters.is_null() {
            true => null_mut(),
            false => (*parameters).ppi_clauses,
        };
        let of_table = items::<pg_sys::RestrictInfo>((*index).indrestrictinfo);
        for rinfo in of_table.chain(items(outer)) {
            let is_known = items::<pg_sys::IndexClause>((*path).indexclauses)
                .any(|clause| (*clause).rinfo == rinfo);
            if !is_known && let Some(column) = filter_column(root, index, rinfo) {
                let clause: *mut pg_sys::IndexClause =
                    pg_sys::palloc0(size_of::<pg_sys::IndexClause>()).cast();
                (*clause).type_ = pg_sys::NodeTag::T_IndexClause;
                (*clause).rinfo = rinfo;
                (*clause).indexquals = pg_sys::lappend(null_mut(), rinfo.cast());
                (*clause).indexcol = column as pg_sys::AttrNumber;
                (*path).indexclauses =
                    pg_sys::lappend(pg_sys::list_copy((*path).indexclauses), clause.cast());
            }
        }
    }
}

/// The column, from 0, that a condition `column = ANY (array)` is about, if the index can test it:
/// what `match_saopclause_to_indexcol` asks for.
unsafe fn filter_column(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    rinfo: *mut pg_sys::RestrictInfo,
) -> Option<usize> {
    // SAFETY: the planner's nodes are what their tags say; the arrays of the index have an entry for
    // each key column.
    unsafe {
        let clause = (*rinfo).clause;
        let is_secure = pg_sys::restriction_is_securely_promotable(rinfo, (*index).rel);
        if (*rinfo).pseudoconstant
            || !is_secure
            || !pgrx::is_a(clause.cast(), pg_sys::NodeTag::T_ScalarArrayOpExpr)
        {
            return None;
        }
        let clause = clause.cast::<pg_sys::ScalarArrayOpExpr>();
        let mut arguments = items::<pg_sys::Node>((*clause).args);
        let (left, right) = (arguments.next()?, arguments.next()?);
        if !(*clause).useOr || pg_sys::contain_volatile_functions(right) {
            return None;
        }
        let tables = pg_sys::pull_varnos(root, right);
        if pg_sys::bms_is_member((*(*index).rel).relid as i32, tables) {
            return None;
        }
        (1..(*index).nkeycolumns as usize).find(|&column| {
            let collation = *(*index).indexcollations.add(column);
            pg_sys::match_index_to_operand(left, column as i32, index)
                && (collation == pg_sys::InvalidOid || collation == (*clause).inputcollid)
                && pg_sys::op_in_opfamily((*clause).opno, *(*index).opfamily.add(column))
        })
    }
}
