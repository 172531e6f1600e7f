//! `WHERE category IN ('upper', 'lower') AND in_stock ORDER BY embedding <-> $1`: tested in the index.
//!
//! Two kinds of conditions on filter columns are kept out of ordered index paths by older planners: before
//! version 17 `= ANY (array)` on any but the first column, because it would break the order of a btree
//! (`build_index_paths`, `skip_lower_saop`), and before 16 bare booleans, which PostgreSQL makes of
//! `in_stock = true`, for access methods other than its own (`IsBooleanOpfamily`). The path gets them from us.

use super::{items, paths};
use pgrx::pg_sys;
use std::ptr::null_mut;

/// `boolean = boolean` (`BooleanEqualOperator` of `pg_operator.dat`).
const BOOLEAN_EQUAL: u32 = 91;

/// Gives an ordered path the conditions on filter columns that it lacks.
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
            let may_come_first = pg_sys::restriction_is_securely_promotable(rinfo, (*index).rel);
            if paths::tests(path, rinfo) || (*rinfo).pseudoconstant || !may_come_first {
                continue;
            }
            let found = array_condition(root, index, rinfo).or_else(|| boolean(index, rinfo));
            if let Some((column, condition)) = found {
                paths::add(path, rinfo, condition, column, false);
            }
        }
    }
}

/// The filter column, from 0, that `operand` is, if its class has the operator.
unsafe fn filter_column(
    index: *mut pg_sys::IndexOptInfo,
    operand: *mut pg_sys::Node,
    operator: pg_sys::Oid,
    collation: pg_sys::Oid,
) -> Option<usize> {
    // SAFETY: the arrays of the index have an entry for each key column.
    unsafe {
        (1..(*index).nkeycolumns as usize).find(|&column| {
            let own = *(*index).indexcollations.add(column);
            pg_sys::match_index_to_operand(operand, column as i32, index)
                && (own == pg_sys::InvalidOid || own == collation)
                && pg_sys::op_in_opfamily(operator, *(*index).opfamily.add(column))
        })
    }
}

/// `column = ANY (array)`: what `match_saopclause_to_indexcol` asks for.
unsafe fn array_condition(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    rinfo: *mut pg_sys::RestrictInfo,
) -> Option<(usize, *mut pg_sys::RestrictInfo)> {
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        let clause = (*rinfo).clause;
        if !pgrx::is_a(clause.cast(), pg_sys::NodeTag::T_ScalarArrayOpExpr) {
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
        let column = filter_column(index, left, (*clause).opno, (*clause).inputcollid)?;
        Some((column, rinfo))
    }
}

/// `column`, `NOT column`, `column IS TRUE` and `column IS FALSE` as `column = value`: what
/// `match_boolean_index_clause` does.
unsafe fn boolean(
    index: *mut pg_sys::IndexOptInfo,
    rinfo: *mut pg_sys::RestrictInfo,
) -> Option<(usize, *mut pg_sys::RestrictInfo)> {
    use pg_sys::{BoolExprType, BoolTestType, NodeTag};
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        let clause = (*rinfo).clause.cast::<pg_sys::Node>();
        let (operand, value) = match (*clause).type_ {
            NodeTag::T_BoolExpr => {
                let clause = clause.cast::<pg_sys::BoolExpr>();
                if (*clause).boolop != BoolExprType::NOT_EXPR {
                    return None;
                }
                (items::<pg_sys::Node>((*clause).args).next()?, false)
            }
            NodeTag::T_BooleanTest => {
                let clause = clause.cast::<pg_sys::BooleanTest>();
                let value = match (*clause).booltesttype {
                    BoolTestType::IS_TRUE => true,
                    BoolTestType::IS_FALSE => false,
                    _ => return None,
                };
                ((*clause).arg.cast(), value)
            }
            _ => (clause, true),
        };
        let equal = pg_sys::Oid::from(BOOLEAN_EQUAL);
        let column = filter_column(index, operand, equal, pg_sys::InvalidOid)?;
        let value = pg_sys::makeBoolConst(value, false).cast();
        Some((column, paths::implied(rinfo, equal, operand.cast(), value)))
    }
}
