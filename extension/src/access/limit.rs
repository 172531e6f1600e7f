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
const FIRST_COLUMN: usize = 0;

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

/// Gives an ordered path the limits that its conditions set.
///
/// # Safety
/// `path` is complete, and its list of conditions may be replaced: the planner calls from `cost_index`.
pub(super) unsafe fn push_down(path: *mut pg_sys::IndexPath) {
    // SAFETY: the caller's promise; lists hold what their names say.
    unsafe {
        let Some(order) = first::<pg_sys::OpExpr>((*path).indexorderbys) else {
            return;
        };
        for rinfo in items::<pg_sys::RestrictInfo>((*(*path).indexinfo).indrestrictinfo) {
            if paths::tests(path, rinfo) {
                continue;
            }
            if let Some(limit) = limit_of((*rinfo).clause, order)
                && let Some(condition) = below(path, rinfo, order, limit)
            {
                paths::add(path, rinfo, condition, FIRST_COLUMN, true);
            }
        }
    }
}

/// The right side of `distance < limit`, however it is written, if the distance is that of `order`.
unsafe fn limit_of(
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
            && is_same_distance(distance.cast(), order);
        (is_constant && is_same).then_some(limit)
    }
}

/// Distances are symmetric, and the planner turns the column to the left for an ordering.
unsafe fn is_same_distance(a: *mut pg_sys::OpExpr, b: *mut pg_sys::OpExpr) -> bool {
    let is_equal = |a: *mut pg_sys::Expr, b: *mut pg_sys::Expr| {
        // SAFETY: both are expressions.
        unsafe { pg_sys::equal(a.cast::<c_void>(), b.cast::<c_void>()) }
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

/// `embedding <<->> limit`, following from the condition `rinfo`.
unsafe fn below(
    path: *mut pg_sys::IndexPath,
    rinfo: *mut pg_sys::RestrictInfo,
    order: *mut pg_sys::OpExpr,
    limit: *mut pg_sys::Expr,
) -> Option<*mut pg_sys::RestrictInfo> {
    // SAFETY: an index has a first column; an ordering has it on its left.
    unsafe {
        let index = (*path).indexinfo;
        let operator = pg_sys::get_opfamily_member(
            *(*index).opfamily,
            *(*index).opcintype,
            pg_sys::FLOAT8OID,
            LIMIT_STRATEGY,
        );
        if operator == pg_sys::InvalidOid {
            return None;
        }
        let (_, [column, _]) = operands(order)?;
        Some(paths::implied(rinfo, operator, column, limit))
    }
}

unsafe fn first<T>(list: *mut pg_sys::List) -> Option<*mut T> {
    // SAFETY: the caller's promise: a list of such nodes, or null.
    unsafe { items(list).next() }
}

/// The function of `<<->>`.
#[pgrx::pg_extern]
fn lookbook_within_limit(_embedding: pgrx::datum::AnyElement, _limit: f64) -> bool {
    true
}
