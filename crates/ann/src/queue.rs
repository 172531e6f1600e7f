//! The best-first queue: lists, sign codes and rows in one order.
//!
//! A search scans thousands of sign codes and looks at some dozens again, so most are never pushed on the
//! heap: what lies beyond a horizon is kept unsorted, and the horizon moves out when the heap comes to it.
//! Invariant: everything not in the heap has a key of at least `beyond_least`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Keys brought in from beyond the horizon at first; twice as many each time after.
const FIRST_BATCH: usize = 48;
/// Numbers of items: 30 bits.
pub(crate) const MOST_ITEMS: usize = 1 << 30;

/// What a queue holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A row with a certain bound.
    Row(usize),
    /// A list whose centroid's distance is known.
    List(usize),
    /// A list of which only the sign code was seen.
    Centroid(usize),
    /// A row of which only the sign code was seen.
    Code(usize),
}

impl Item {
    fn pack(self) -> u32 {
        let (kind, number) = match self {
            Item::Row(number) => (0, number),
            Item::List(number) => (1, number),
            Item::Centroid(number) => (2, number),
            Item::Code(number) => (3, number),
        };
        kind << 30 | number as u32
    }

    fn unpack(bits: u32) -> Item {
        let number = (bits & (MOST_ITEMS as u32 - 1)) as usize;
        match bits >> 30 {
            0 => Item::Row(number),
            1 => Item::List(number),
            2 => Item::Centroid(number),
            _ => Item::Code(number),
        }
    }
}

/// Orders as `f32` does, −∞ first; NaN counts as −∞: what a damaged page says nothing about comes first.
fn ordered(key: f32) -> u32 {
    if key.is_nan() {
        return 0;
    }
    let bits = key.to_bits();
    bits ^ (((bits as i32) >> 31) as u32 | 0x8000_0000)
}

/// A queue, smallest key first.
#[derive(Debug)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<u64>>,
    beyond: Vec<u64>,
    beyond_least: u64,
    horizon: u64,
    batch: usize,
}

impl Queue {
    pub fn new() -> Queue {
        Queue {
            heap: BinaryHeap::new(),
            beyond: Vec::new(),
            beyond_least: u64::MAX,
            horizon: 0,
            batch: FIRST_BATCH,
        }
    }

    /// Adds an item that is looked at soon.
    pub fn push(&mut self, key: f32, item: Item) {
        self.heap.push(Reverse(entry(key, item)));
    }

    /// Adds an item that is probably never looked at.
    pub fn push_far(&mut self, key: f32, item: Item) {
        let entry = entry(key, item);
        if entry <= self.horizon {
            self.heap.push(Reverse(entry));
        } else {
            self.beyond_least = self.beyond_least.min(entry);
            self.beyond.push(entry);
        }
    }

    /// Takes the item with the smallest key.
    pub fn pop(&mut self) -> Option<Item> {
        if self
            .heap
            .peek()
            .is_none_or(|Reverse(least)| *least > self.beyond_least)
        {
            self.widen();
        }
        self.heap
            .pop()
            .map(|Reverse(entry)| Item::unpack(entry as u32))
    }

    /// Drops lists and centroids.
    pub fn forget_lists(&mut self) {
        let stays = |entry: u64| matches!(Item::unpack(entry as u32), Item::Row(_) | Item::Code(_));
        self.heap.retain(|Reverse(entry)| stays(*entry));
        self.beyond.retain(|entry| stays(*entry));
        self.beyond_least = self.beyond.iter().copied().min().unwrap_or(u64::MAX);
    }

    fn widen(&mut self) {
        if self.beyond.is_empty() {
            return;
        }
        let last = self.batch.min(self.beyond.len()) - 1;
        self.batch = self.batch.saturating_mul(2);
        let (_, &mut horizon, _) = self.beyond.select_nth_unstable(last);
        self.horizon = horizon;
        self.heap.extend(self.beyond.drain(..=last).map(Reverse));
        self.beyond_least = self.beyond.iter().copied().min().unwrap_or(u64::MAX);
    }
}

fn entry(key: f32, item: Item) -> u64 {
    u64::from(ordered(key)) << 32 | u64::from(item.pack())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn items_come_in_order_however_they_were_pushed() {
        let mut random = Random::new(1, 1);
        for far in [0, 50, 100] {
            let mut queue = Queue::new();
            let mut keys = Vec::new();
            let mut popped = Vec::new();
            for number in 0..5_000 {
                // Like a search: what is pushed is never before what was popped.
                let least = popped.last().map_or(0.0, |&item: &usize| keys[item]);
                let key = least + (random.below(1 << 20)) as f32 / 1024.0;
                keys.push(key);
                if random.below(100) < far {
                    queue.push_far(key, Item::Code(number));
                } else {
                    queue.push(key, Item::Row(number));
                }
                if random.below(10) == 0 {
                    popped.extend(queue.pop().map(number_of));
                }
            }
            while let Some(item) = queue.pop() {
                popped.push(number_of(item));
            }
            assert_eq!(popped.len(), 5_000);
            assert!(
                popped.iter().is_sorted_by(|a, b| keys[**a] <= keys[**b]),
                "{far}"
            );
        }
    }

    fn number_of(item: Item) -> usize {
        match item {
            Item::Row(n) | Item::List(n) | Item::Centroid(n) | Item::Code(n) => n,
        }
    }

    #[test]
    fn keys_order_as_numbers_do() {
        let keys = [
            f32::NEG_INFINITY,
            -2.0,
            -1e-30,
            0.0,
            1e-30,
            3.0,
            f32::MAX,
            f32::INFINITY,
        ];
        assert!(keys.iter().is_sorted_by(|a, b| ordered(**a) < ordered(**b)));
        assert_eq!(ordered(f32::NAN), 0);
    }
}
