//! `WHERE category IN ('upper', 'lower') AND in_stock ORDER BY embedding <-> $1`: tested in the index.
//!
//! Two kinds of conditions on filter columns are kept out of ordered index paths by older planners: before
//! version 17 `= ANY (array)` on any but the first column, because it would break the order of a btree
//! (`build_index_paths`, `skip_lower_saop`), and before 16 bare booleans, which PostgreSQL makes of
//! `in_stock = true`, for access methods other than its own (`IsBooleanOpfamily`). The path gets them from us.
//!
//! And `$2 IS NULL OR category = $2`, as one writes for an argument that may be left out, is no index condition of any
//! access method. A plan that knows the value has one half of it only; a generic plan gets
//! `category = CASE WHEN $2 IS NULL THEN NULL ELSE $2 END` with a function that is always true, by which the scan knows
//! that a NULL lets every row pass. PostgreSQL does not know that, and takes `category IS NOT NULL` for tested by it: where
//! anything would follow from it, the scan does without ([`proves_nothing`]).

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
        let clauses =
            || items::<pg_sys::RestrictInfo>((*index).indrestrictinfo).chain(items(outer));
        let mut optional = Vec::new();
        for rinfo in clauses() {
            let may_come_first = pg_sys::restriction_is_securely_promotable(rinfo, (*index).rel);
            if paths::tests(path, rinfo) || (*rinfo).pseudoconstant || !may_come_first {
                continue;
            }
            let found = array_condition(root, index, rinfo).or_else(|| boolean(index, rinfo));
            if let Some((column, condition)) = found {
                paths::add(path, rinfo, condition, column, false);
            } else if let Some((column, condition)) = anything_or_equal(root, index, rinfo) {
                optional.push((rinfo, condition, column));
            }
        }
        // The path may be made another with more of the conditions that join its table.
        let joining = || items::<pg_sys::RestrictInfo>((*(*index).rel).joininfo);
        for (rinfo, condition, column) in optional {
            if proves_nothing(path, condition, clauses().chain(joining())) {
                paths::add(path, rinfo, condition, column, true);
            }
        }
    }
}

/// Whether none of `clauses` follows from `condition` and those that the path tests already, in PostgreSQL's eyes:
/// `create_indexscan_plan` leaves out what does.
unsafe fn proves_nothing(
    path: *mut pg_sys::IndexPath,
    condition: *mut pg_sys::RestrictInfo,
    mut clauses: impl Iterator<Item = *mut pg_sys::RestrictInfo>,
) -> bool {
    // SAFETY: the planner's nodes; the lists are copies or new.
    unsafe {
        let tested = pg_sys::get_quals_from_indexclauses((*path).indexclauses);
        let with_it = pg_sys::lappend(pg_sys::list_copy(tested), condition.cast());
        !clauses.any(|clause| {
            let clause = pg_sys::lappend(null_mut(), (*clause).clause.cast());
            pg_sys::predicate_implied_by(clause, with_it, false)
                && !pg_sys::predicate_implied_by(clause, tested, false)
        })
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

/// `anything OR column = value`, such as `$1 IS NULL OR column = $1`, as a `column = value` that a NULL fulfils
/// ([`is_fulfilled_by_null`]); the query's own condition is tested again.
unsafe fn anything_or_equal(
    root: *mut pg_sys::PlannerInfo,
    index: *mut pg_sys::IndexOptInfo,
    rinfo: *mut pg_sys::RestrictInfo,
) -> Option<(usize, *mut pg_sys::RestrictInfo)> {
    use pg_sys::{BoolExprType, NodeTag};
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        let clause = (*rinfo).clause.cast::<pg_sys::BoolExpr>();
        if !pgrx::is_a(clause.cast(), NodeTag::T_BoolExpr)
            || (*clause).boolop != BoolExprType::OR_EXPR
            || (*(*clause).args).length != 2
        {
            return None;
        }
        let mut arguments = items::<pg_sys::Node>((*clause).args);
        let (first, second) = (arguments.next()?, arguments.next()?);
        let (
            Equality {
                column,
                operand,
                value,
                operator,
                collation,
            },
            anything,
        ) = match (equality(index, second), equality(index, first)) {
            (Some(equal), _) => (equal, first),
            (None, Some(equal)) => (equal, second),
            (None, None) => return None,
        };
        let is_known = |node| {
            !pg_sys::bms_is_member(
                (*(*index).rel).relid as i32,
                pg_sys::pull_varnos(root, node),
            ) && !pg_sys::contain_volatile_functions(node)
        };
        if !is_known(value) || !is_known(anything) {
            return None;
        }
        let condition = paths::implied(
            rinfo,
            paths::operation(operator, operand.cast(), null_if(anything, value).cast()),
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

/// A filter column, from 0, compared with a value.
struct Equality {
    column: usize,
    operand: *mut pg_sys::Node,
    value: *mut pg_sys::Node,
    operator: pg_sys::Oid,
    collation: pg_sys::Oid,
}

/// `column = value` or `value = column`.
unsafe fn equality(index: *mut pg_sys::IndexOptInfo, node: *mut pg_sys::Node) -> Option<Equality> {
    // SAFETY: the planner's nodes are what their tags say.
    unsafe {
        if !pgrx::is_a(node, pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let equal = node.cast::<pg_sys::OpExpr>();
        let mut operands = items::<pg_sys::Node>((*equal).args);
        let (left, right) = (operands.next()?, operands.next()?);
        let collation = (*equal).inputcollid;
        let commuted = pg_sys::get_commutator((*equal).opno);
        [(left, right, (*equal).opno), (right, left, commuted)]
            .into_iter()
            .find_map(|(operand, value, operator)| {
                let column = filter_column(index, operand, operator, collation)?;
                Some(Equality {
                    column,
                    operand,
                    value,
                    operator,
                    collation,
                })
            })
    }
}

/// `CASE WHEN condition THEN NULL ELSE value END`.
unsafe fn null_if(condition: *mut pg_sys::Node, value: *mut pg_sys::Node) -> *mut pg_sys::Node {
    use pg_sys::NodeTag;
    // SAFETY: palloc0 returns zeroed memory of the planner's context; the fields are those of `primnodes.h`.
    unsafe {
        let (of_type, collation) = (pg_sys::exprType(value), pg_sys::exprCollation(value));
        let when: *mut pg_sys::CaseWhen = pg_sys::palloc0(size_of::<pg_sys::CaseWhen>()).cast();
        (*when).xpr.type_ = NodeTag::T_CaseWhen;
        (*when).expr = condition.cast();
        (*when).result = pg_sys::makeNullConst(of_type, -1, collation).cast();
        (*when).location = -1;
        let case: *mut pg_sys::CaseExpr = pg_sys::palloc0(size_of::<pg_sys::CaseExpr>()).cast();
        (*case).xpr.type_ = NodeTag::T_CaseExpr;
        (*case).casetype = of_type;
        (*case).casecollid = collation;
        (*case).args = pg_sys::lappend(null_mut(), when.cast());
        (*case).defresult = value.cast();
        (*case).location = -1;
        case.cast()
    }
}

/// Whether a NULL fulfils the condition of a scan: it is one of [`anything_or_equal`].
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
