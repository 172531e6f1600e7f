//! The order in which rows are given out.
//!
//! A row that comes off the queue is *settled*: as far as the keys of the queue tell, nothing nearer is left. Keys
//! are optimistic below recall 1, so a row may settle late, nearer than rows that were given out. Then it is too late for it:
//! bounds that are given out never fall, so that whoever sorts by exact distances behind them returns rows in true order.
//! A late row is given out at the end, when nothing else is left: no row is ever missing.
//!
//! To make late rows rare, rows are given out only when more have settled: the first when more have than most
//! queries ask for, so that among those none is late.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Rows that have to settle before the first is given out, and for some more.
const FIRST_ROWS: usize = 20;
/// So many rows are given out for that: what whoever wants ten looks at to be sure of their order.
const FREE_ROWS: usize = 16;
/// For each of so many rows behind these, as when conditions outside of the index reject most, more have to settle; measured so
/// that recall there is what it is among the first (fm784, one row in 10 wanted: 0.80 with a quarter more than given out).
const NEAR_ROWS: usize = 256;
const FOR_NEAR: usize = 6;
/// And for each row beyond.
const FOR_FAR: usize = 2;

/// How many rows have to settle before the next is given out when so many were.
pub(crate) fn wanted(given: usize) -> usize {
    let behind = (given + 1).saturating_sub(FREE_ROWS);
    let far = behind.saturating_sub(NEAR_ROWS);
    FIRST_ROWS + FOR_NEAR * (behind - far) + FOR_FAR * far
}

/// A row by its number among those of the search, smallest bound first.
#[derive(Clone, Copy, Debug)]
struct Settled {
    least: f64,
    row: usize,
}

impl Ord for Settled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.least
            .total_cmp(&other.least)
            .then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Settled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Settled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Settled {}

/// Rows that settled and were not given out.
#[derive(Debug)]
pub(super) struct Order {
    waiting: BinaryHeap<Reverse<Settled>>,
    late: BinaryHeap<Reverse<Settled>>,
    /// Given out so far, but for late rows.
    given: usize,
    /// The largest bound given out.
    reached: f64,
}

impl Order {
    pub fn new() -> Order {
        Order {
            waiting: BinaryHeap::with_capacity(2 * FIRST_ROWS),
            late: BinaryHeap::new(),
            given: 0,
            reached: f64::NEG_INFINITY,
        }
    }

    /// A row settled.
    pub fn settle(&mut self, row: usize, least: f64) {
        let kept = if least < self.reached {
            &mut self.late
        } else {
            &mut self.waiting
        };
        kept.push(Reverse(Settled { least, row }));
    }

    /// The next row, if enough have settled.
    pub fn next(&mut self) -> Option<usize> {
        if self.given + self.waiting.len() < wanted(self.given) {
            return None;
        }
        self.next_waiting()
    }

    /// The row that is given out next, unless a nearer one settles.
    pub fn peek(&self) -> Option<usize> {
        self.waiting.peek().map(|Reverse(settled)| settled.row)
    }

    /// The rows that settled and were not given out, in no order.
    pub fn waiting(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|Reverse(settled)| settled.row)
    }

    fn next_waiting(&mut self) -> Option<usize> {
        let Reverse(next) = self.waiting.pop()?;
        self.given += 1;
        self.reached = next.least;
        Some(next.row)
    }

    /// The next row when no more will settle.
    pub fn next_of_rest(&mut self) -> Option<usize> {
        self.next_waiting().or_else(|| Some(self.late.pop()?.0.row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(order: &mut Order) -> Vec<usize> {
        std::iter::from_fn(|| order.next_of_rest()).collect()
    }

    #[test]
    fn among_the_first_rows_none_is_late() {
        let mut order = Order::new();
        for row in 0..FIRST_ROWS {
            assert_eq!(order.next(), None, "after {row} rows");
            order.settle(row, -(row as f64));
        }
        assert_eq!(order.next(), Some(FIRST_ROWS - 1));
    }

    #[test]
    fn later_rows_are_given_out_when_more_have_settled() {
        let mut order = Order::new();
        for row in 0..FIRST_ROWS {
            order.settle(row, row as f64);
        }
        for row in 0..FREE_ROWS {
            assert_eq!(order.next(), Some(row));
        }
        for settled in FIRST_ROWS..FIRST_ROWS + FOR_NEAR {
            assert_eq!(order.next(), None);
            order.settle(settled, settled as f64);
        }
        assert_eq!(order.next(), Some(FREE_ROWS));
        assert_eq!(order.next(), None);
    }

    #[test]
    fn a_late_row_comes_last_and_once() {
        let mut order = Order::new();
        for row in 0..FIRST_ROWS {
            order.settle(row, row as f64);
        }
        let mut given = Vec::new();
        while let Some(row) = order.next() {
            given.push(row);
        }
        order.settle(FIRST_ROWS, 1.5);
        order.settle(FIRST_ROWS + 1, 30.0);
        order.settle(FIRST_ROWS + 2, 0.5);
        given.extend(all(&mut order));
        let expected: Vec<usize> = (0..FIRST_ROWS)
            .chain([FIRST_ROWS + 1, FIRST_ROWS + 2, FIRST_ROWS])
            .collect();
        assert_eq!(given, expected);
    }
}
