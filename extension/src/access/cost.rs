//! What a scan costs: little before the first row, little for each row, all rows at the end.
//!
//! The shape matters more than the numbers: a LIMIT pays for the share of rows it takes, so the index
//! wins when few rows are wanted, and a btree or bitmap path wins when a condition leaves few rows.

use pgrx::{pg_guard, pg_sys};

/// Rows of a list, about (`lookbook_ann::Options::list_rows`).
const LIST_ROWS: f64 = 240.0;
/// Work for the sign code of a row, in `cpu_operator_cost`: a look-up for each four dimensions.
const CODE_COST: f64 = 0.1;
/// Work for a row that is given out, in `cpu_operator_cost`: deep in a scan several codes are refined for each, from pages all over
/// the index.
const ROW_COST: f64 = 200.0;
/// More than a path that a setting disables (`disable_cost`, 1e10), and finite: a sum or a difference with infinity is
/// NaN, and NaN wins comparisons.
const NEVER: f64 = 1e30;
/// Rows within a distance limit, of all: a limit asks for what is near.
const WITHIN_LIMIT: f64 = 0.01;
/// Lists that a search opens of `n`: measured to grow about like √n (`docs/benchmarks.md`).
const OPENED: f64 = 2.0;

#[pg_guard]
#[allow(clippy::too_many_arguments, reason = "PostgreSQL's signature")]
pub(super) unsafe extern "C-unwind" fn amcostestimate(
    root: *mut pg_sys::PlannerInfo,
    path: *mut pg_sys::IndexPath,
    loop_count: f64,
    startup_cost: *mut pg_sys::Cost,
    total_cost: *mut pg_sys::Cost,
    selectivity: *mut pg_sys::Selectivity,
    correlation: *mut f64,
    pages: *mut f64,
) {
    // SAFETY: PostgreSQL's contract of amcostestimate: the path is complete, the results may be
    // written; genericcostestimate is made for any access method.
    unsafe {
        if (*path).indexorderbys.is_null() || needs_tid((*path).indexinfo) {
            // Without an order every other path is better, and there always is one.
            (*startup_cost, *total_cost) = (NEVER, NEVER);
            (*selectivity, *correlation, *pages) = (1.0, 0.0, 0.0);
            #[cfg(feature = "pg18")]
            {
                // Costs are compared last: more disabled than a path that a setting disables.
                (*path).path.disabled_nodes = 2;
            }
            return;
        }
        super::conditions::push_down(root, path);
        let mut generic = pg_sys::GenericCosts::default();
        pg_sys::genericcostestimate(root, path, loop_count, &mut generic);
        let index = (*path).indexinfo;
        let rows = (*index).tuples.max(1.0);
        let index_pages = f64::from((*index).pages).max(1.0);
        let operator = pg_sys::cpu_operator_cost;

        let lists = (rows / LIST_ROWS).ceil();
        let opened = (OPENED * lists.sqrt()).min(lists);
        let (mut random_page, mut sequential_page) = (0.0, 0.0);
        pg_sys::get_tablespace_page_costs(
            (*index).reltablespace,
            &mut random_page,
            &mut sequential_page,
        );
        let page_share = opened / lists;
        *startup_cost = operator * CODE_COST * (lists + opened * LIST_ROWS)
            + sequential_page * index_pages * page_share / 2.0;
        let is_within_distance = super::limit::push_down(root, path);
        let share = match is_within_distance {
            true => WITHIN_LIMIT,
            false => 1.0,
        };
        // To the end, or to the limit, all codes are read, and every row that passes is given out.
        let wanted = (share * generic.indexSelectivity * rows).max(1.0);
        *total_cost = *startup_cost
            + operator * (share * CODE_COST * rows + ROW_COST * wanted)
            + share * random_page * index_pages;
        super::whole::push_down(root, path, wanted, is_within_distance);
        *selectivity = share * generic.indexSelectivity;
        *correlation = 0.0;
        *pages = share * index_pages;
    }
}

/// Whether the query asks for `ctid`, as FOR UPDATE does. The executor has no TID for a row that it sorted
/// again (`IndexNextWithReorder`: ExecForceStoreHeapTuple leaves `tts_tid` invalid), for any access method.
///
/// # Safety
/// `index` is that of a path.
unsafe fn needs_tid(index: *mut pg_sys::IndexOptInfo) -> bool {
    let tid = pg_sys::SelfItemPointerAttributeNumber - pg_sys::FirstLowInvalidHeapAttributeNumber;
    // SAFETY: the caller's promise. As `check_index_only` looks for the columns that a query needs.
    unsafe {
        let table = (*index).rel;
        let mut needed = std::ptr::null_mut();
        let mut add = |expression: *mut pg_sys::Node| {
            pg_sys::pull_varattnos(expression, (*table).relid, &raw mut needed);
        };
        add((*(*table).reltarget).exprs.cast());
        for condition in super::items::<pg_sys::RestrictInfo>((*table).baserestrictinfo) {
            add((*condition).clause.cast());
        }
        pg_sys::bms_is_member(tid, needed)
    }
}
