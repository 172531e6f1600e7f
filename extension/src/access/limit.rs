//! `WHERE embedding <-> $1 < 0.5 ORDER BY embedding <-> $1`: the scan ends where the limit is reached.
//!
//! PostgreSQL cannot match such a condition with an index: its left side is no column. The planner's
//! path gets an extra index condition instead, `embedding <<->> 0.5`, which follows from the condition
//! and is lossy, so that the condition itself stays a filter. Only scans look at it; as an operator it
//! is always true.

use super::{items, paths};
use pgrx::pg_sys;
use std::ffi::c_void;

/// Strategy of `<<->>` in the operator families of embeddings.
const LIMIT_STRATEGY: i16 = 2;
/// The embedding's column, from 0.
pub(super) const FIRST_COLUMN: usize = 0;

/// `float8` comparisons (`pg_operator.dat`).
const LESS: u32 = 672;
const LESS_OR_EQUAL: u32 = 673;
const GREATER: u32 = 674;
const GREATER_OR_EQUAL: u32 = 675;

/// The limit that a key of a scan sets, if it is such a key. NULL: no distance is below it.
///
/// # Safety
/// `key` is of a scan of this access method.
pub(super) unsafe fn of_key(key: &pg_sys::ScanKeyData) -> Option<f64> {
    if key.sk_strategy != LIMIT_STRATEGY as pg_sys::StrategyNumber
        || key.sk_attno != super::columns::EMBEDDING_COLUMN
    {
        return None;
    }
    if key.sk_flags & pg_sys::SK_ISNULL as i32 != 0 {
        return Some(f64::NEG_INFINITY);
    }
    // SAFETY: the strategy's right side is float8 (`pg_amop`).
    unsafe { <f64 as pgrx::FromDatum>::from_datum(key.sk_argument, false) }
}

/// Gives an ordered path the limits that its conditions set; whether there are any.
///
/// # Safety
/// `path` is complete, and its list of conditions may be replaced: the planner calls from `cost_index`.
pub(super) unsafe fn push_down(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
) -> bool {
    let mut is_limited = false;
    // SAFETY: the caller's promise; lists hold what their names say.
    unsafe {
        let Some(order) = first::<pg_sys::OpExpr>((*path).indexorderbys) else {
            return false;
        };
        for rinfo in items::<pg_sys::RestrictInfo>((*(*path).indexinfo).indrestrictinfo) {
            let Some(limit) = limit_of(root, (*rinfo).clause, order) else {
                continue;
            };
            if let Some(condition) = condition(path, limit) {
                is_limited = true;
                // A path that is made from another is estimated anew.
                if !paths::tests(path, rinfo) {
                    let implied = paths::implied(rinfo, condition);
                    paths::add(path, rinfo, implied, FIRST_COLUMN, true);
                }
            }
        }
    }
    is_limited
}

/// The right side of `distance < limit`, however it is written, if the distance is that of `order`.
unsafe fn limit_of(
    root: *mut pg_sys::PlannerInfo,
    clause: *mut pg_sys::Expr,
    order: *mut pg_sys::OpExpr,
) -> Option<*mut pg_sys::Expr> {
    // SAFETY: nodes are what their tags say; an operator's expression has its arguments.
    unsafe {
        if !pgrx::is_a(clause.cast(), pg_sys::NodeTag::T_OpExpr) {
            return None;
        }
        let (operator, [left, right]) = operands(clause.cast())?;
        let (distance, limit) = match operator.to_u32() {
            LESS | LESS_OR_EQUAL => (left, right),
            GREATER | GREATER_OR_EQUAL => (right, left),
            _ => return None,
        };
        let is_constant = !pg_sys::contain_var_clause(limit.cast())
            && !pg_sys::contain_volatile_functions(limit.cast());
        let is_same = pgrx::is_a(distance.cast(), pg_sys::NodeTag::T_OpExpr)
            && is_same_distance(root, distance.cast(), order);
        (is_constant && is_same).then_some(limit)
    }
}

/// Distances are symmetric, and the planner turns the column to the left for an ordering.
unsafe fn is_same_distance(
    root: *mut pg_sys::PlannerInfo,
    a: *mut pg_sys::OpExpr,
    b: *mut pg_sys::OpExpr,
) -> bool {
    let is_equal = |a: *mut pg_sys::Expr, b: *mut pg_sys::Expr| {
        // SAFETY: both are expressions of the query.
        unsafe {
            pg_sys::equal(a.cast::<c_void>(), b.cast::<c_void>()) || is_same_subquery(root, a, b)
        }
    };
    // SAFETY: both are operators' expressions.
    let (a, b) = unsafe { (operands(a), operands(b)) };
    match (a, b) {
        (Some((a, [a_left, a_right])), Some((b, [b_left, b_right]))) => {
            a == b
                && (is_equal(a_left, b_left) && is_equal(a_right, b_right)
                    || is_equal(a_left, b_right) && is_equal(a_right, b_left))
        }
        _ => false,
    }
}

/// `embedding <-> (SELECT …)` that was written once and copied into condition and order, as happens to the columns of
/// a subquery: the planner computes each copy once, and knows the two by different parameters.
///
/// # Safety
/// `a` and `b` are expressions of the query that `root` plans.
unsafe fn is_same_subquery(
    root: *mut pg_sys::PlannerInfo,
    a: *mut pg_sys::Expr,
    b: *mut pg_sys::Expr,
) -> bool {
    // SAFETY: the caller's promise; an initial plan has its number, from 1, in the lists of all plans.
    unsafe {
        let query_of = |value: *mut pg_sys::Expr| {
            if !pgrx::is_a(value.cast(), pg_sys::NodeTag::T_Param) {
                return None;
            }
            let parameter = value.cast::<pg_sys::Param>();
            if (*parameter).paramkind != pg_sys::ParamKind::PARAM_EXEC {
                return None;
            }
            let mut plans = items::<pg_sys::SubPlan>((*root).init_plans);
            let plan = plans.find(|plan| {
                (**plan).subLinkType == pg_sys::SubLinkType::EXPR_SUBLINK
                    && pg_sys::list_member_int((**plan).setParam, (*parameter).paramid)
            })?;
            let at = usize::try_from((*plan).plan_id - 1).ok()?;
            let planner = items::<pg_sys::PlannerInfo>((*(*root).glob).subroots).nth(at)?;
            Some((*planner).parse)
        };
        match (query_of(a), query_of(b)) {
            (Some(a), Some(b)) => {
                pg_sys::equal(a.cast(), b.cast()) && !pg_sys::contain_volatile_functions(a.cast())
            }
            _ => false,
        }
    }
}

unsafe fn operands(
    expression: *mut pg_sys::OpExpr,
) -> Option<(pg_sys::Oid, [*mut pg_sys::Expr; 2])> {
    // SAFETY: the caller passes an operator's expression.
    unsafe {
        let mut arguments = items::<pg_sys::Expr>((*expression).args);
        let both = [arguments.next()?, arguments.next()?];
        Some(((*expression).opno, both))
    }
}

/// `embedding <<->> limit`, if the path is ordered.
///
/// # Safety
/// `path` is complete; `limit` is of float8.
pub(super) unsafe fn condition(
    path: *mut pg_sys::IndexPath,
    limit: *mut pg_sys::Expr,
) -> Option<*mut pg_sys::Expr> {
    // SAFETY: an index has a first column; an ordering has it on its left.
    unsafe {
        let operator = operator((*path).indexinfo)?;
        let (_, [column, _]) = operands(first((*path).indexorderbys)?)?;
        Some(paths::operation(operator, column, limit))
    }
}

/// `<<->>` of the type that the index is on.
///
/// # Safety
/// `index` is one of this access method.
unsafe fn operator(index: *mut pg_sys::IndexOptInfo) -> Option<pg_sys::Oid> {
    // SAFETY: an index has a first column.
    let found = unsafe {
        pg_sys::get_opfamily_member(
            *(*index).opfamily,
            *(*index).opcintype,
            pg_sys::FLOAT8OID,
            LIMIT_STRATEGY,
        )
    };
    (found != pg_sys::InvalidOid).then_some(found)
}

/// A function that is always true, whatever it is given.
///
/// # Safety
/// As [`operator`].
pub(super) unsafe fn always_true(index: *mut pg_sys::IndexOptInfo) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's promise; an operator has a function.
    unsafe { Some(pg_sys::get_opcode(operator(index)?)) }
}

/// Whether it is that function.
pub(super) fn is_always_true(function: &pg_sys::FmgrInfo) -> bool {
    let always_true: unsafe extern "C-unwind" fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum =
        lookbook_within_limit_wrapper;
    function
        .fn_addr
        .is_some_and(|address| std::ptr::fn_addr_eq(address, always_true))
}

unsafe fn first<T>(list: *mut pg_sys::List) -> Option<*mut T> {
    // SAFETY: the caller's promise: a list of such nodes, or null.
    unsafe { items(list).next() }
}

/// The function of `<<->>`, and of conditions that a NULL fulfils (`conditions.rs`).
#[pgrx::pg_extern]
fn lookbook_within_limit(_fcinfo: pg_sys::FunctionCallInfo) -> bool {
    true
}
