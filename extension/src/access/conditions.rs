//! `WHERE category IN ('upper', 'lower') AND in_stock ORDER BY embedding <-> $1`: tested in the index.
//!
//! Two kinds of conditions on filter columns are kept out of ordered index paths by older planners: before
//! version 17 `= ANY (array)` on any but the first column, because it would break the order of a btree
//! (`build_index_paths`, `skip_lower_saop`), and before 16 bare booleans, which PostgreSQL makes of
//! `in_stock = true`, for access methods other than its own (`IsBooleanOpfamily`). The path gets them from us.
//!
//! And `$2 IS NULL OR category = $2`, as one writes for an argument that may be left out, is no index condition of any
//! access method. A plan that knows the value has one half of it only; a generic plan gets `category = $2` with a
//! function that is always true, by which the scan knows that a NULL lets every row pass.

use super::{items, limit, paths};
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
            } else if let Some((column, condition)) = null_or_equal(root, index, rinfo) {
                paths::add(path, rinfo, condition, column, true);
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

/// `value IS NULL OR column = value`, or instead of the second a strict function of it, as `column = value` that a NULL
/// fulfils ([`is_fulfilled_by_null`]).
unsafe fn null_or_equal(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    rinfo: *mut pg_sys::RestrictInfo,
) -> Option<(usize, *mut pg_sys::RestrictInfo)> {
    use pg_sys::{BoolExprType, NodeTag, NullTestType};
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        let clause = (*rinfo).clause.cast::<pg_sys::BoolExpr>();
        if !pgrx::is_a(clause.cast(), NodeTag::T_BoolExpr)
            || (*clause).boolop != BoolExprType::OR_EXPR
            || (*(*clause).args).length != 2
        {
            return None;
        }
        let arguments = || items::<pg_sys::Node>((*clause).args);
        let mut tests = arguments().filter(|node| pgrx::is_a(*node, NodeTag::T_NullTest));
        let mut equals = arguments().filter(|node| pgrx::is_a(*node, NodeTag::T_OpExpr));
        let test = tests.next()?.cast::<pg_sys::NullTest>();
        let equal = equals.next()?.cast::<pg_sys::OpExpr>();
        if (*test).nulltesttype != NullTestType::IS_NULL || (*test).argisrow {
            return None;
        }
        let mut operands = items::<pg_sys::Node>((*equal).args);
        let (left, right) = (operands.next()?, operands.next()?);
        let collation = (*equal).inputcollid;
        let commuted = pg_sys::get_commutator((*equal).opno);
        let (column, operand, value, operator) =
            [(left, right, (*equal).opno), (right, left, commuted)]
                .into_iter()
                .find_map(|(operand, value, operator)| {
                    let column = filter_column(index, operand, operator, collation)?;
                    Some((column, operand, value, operator))
                })?;
        let tables = pg_sys::pull_varnos(root, value);
        if pg_sys::bms_is_member((*(*index).rel).relid as i32, tables)
            || pg_sys::contain_volatile_functions(value)
            || !is_null_with(value, (*test).arg.cast())
        {
            return None;
        }
        // In COALESCE, lest PostgreSQL finds that it implies the query's own condition, and leaves that out.
        let own: *mut pg_sys::CoalesceExpr =
            pg_sys::palloc0(size_of::<pg_sys::CoalesceExpr>()).cast();
        (*own).xpr.type_ = NodeTag::T_CoalesceExpr;
        (*own).coalescetype = pg_sys::exprType(value);
        (*own).coalescecollid = pg_sys::exprCollation(value);
        (*own).args = pg_sys::lappend(null_mut(), value.cast());
        (*own).location = -1;
        let condition = paths::implied(
            rinfo,
            paths::operation(operator, operand.cast(), own.cast()),
        );
        let comparison = (*condition).clause.cast::<pg_sys::OpExpr>();
        (*comparison).inputcollid = collation;
        (*comparison).opfuncid = limit::always_true(index)?;
        // Another clause than the one whose parts and selectivity were noted.
        (*condition).orclause = null_mut();
        (*condition).norm_selec = -1.0;
        (*condition).outer_selec = -1.0;
        Some((column, condition))
    }
}

/// Whether `value` is NULL where `tested` is.
unsafe fn is_null_with(value: *mut pg_sys::Node, tested: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag;
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        if pg_sys::equal(value.cast(), tested.cast()) {
            return true;
        }
        match (*value).type_ {
            NodeTag::T_RelabelType => {
                is_null_with((*value.cast::<pg_sys::RelabelType>()).arg.cast(), tested)
            }
            NodeTag::T_FuncExpr => {
                let call = value.cast::<pg_sys::FuncExpr>();
                pg_sys::func_strict((*call).funcid)
                    && items((*call).args).any(|argument| is_null_with(argument, tested))
            }
            _ => false,
        }
    }
}

/// Whether a NULL fulfils the condition of a scan: it is one of [`null_or_equal`].
pub(super) fn is_fulfilled_by_null(key: &pg_sys::ScanKeyData) -> bool {
    limit::is_always_true(&key.sk_func)
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
        let clause = paths::operation(equal, operand.cast(), value);
        Some((column, paths::implied(rinfo, clause)))
    }
}
