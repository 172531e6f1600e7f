//! The best-first queue: lists, sign codes and rows in one order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Numbers of items: 30 bits.
pub(crate) const MOST_ITEMS: usize = 1 << 30;

/// What a queue holds; of equal keys the first of these comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// A row with a certain bound.
    Row(usize),
    /// A row of which only the sign code was seen.
    Code(usize),
    /// What was not yet queued of a list that was read.
    Rest(usize),
    /// The nearest of the lists that were not yet read.
    List,
}

impl Item {
    fn pack(self) -> u32 {
        let (kind, number) = match self {
            Item::Row(number) => (0, number),
            Item::Code(number) => (1, number),
            Item::Rest(number) => (2, number),
            Item::List => (3, 0),
        };
        kind << 30 | number as u32
    }

    fn unpack(bits: u32) -> Item {
        let number = (bits & (MOST_ITEMS as u32 - 1)) as usize;
        match bits >> 30 {
            0 => Item::Row(number),
            1 => Item::Code(number),
            2 => Item::Rest(number),
            _ => Item::List,
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
pub(crate) struct Queue(BinaryHeap<Reverse<u64>>);

impl Queue {
    pub fn new() -> Queue {
        Queue(BinaryHeap::with_capacity(256))
    }

    /// Adds an item.
    pub fn push(&mut self, key: f32, item: Item) {
        self.0.push(Reverse(entry(key, item)));
    }

    /// Takes the item with the smallest key.
    pub fn pop(&mut self) -> Option<Item> {
        let Reverse(entry) = self.0.pop()?;
        Some(Item::unpack(entry as u32))
    }

    /// The item with the smallest key.
    pub fn peek(&self) -> Option<Item> {
        self.0
            .peek()
            .map(|Reverse(entry)| Item::unpack(*entry as u32))
    }

    /// Drops what lists have yet to give.
    pub fn forget_lists(&mut self) {
        self.0.retain(|Reverse(entry)| {
            matches!(Item::unpack(*entry as u32), Item::Row(_) | Item::Code(_))
        });
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
    fn items_come_in_the_order_of_their_keys() {
        let mut random = Random::new(1, 1);
        let mut queue = Queue::new();
        let mut keys: Vec<f32> = (0..1_000)
            .map(|_| random.below(500) as f32 - 250.0)
            .collect();
        for (number, &key) in keys.iter().enumerate() {
            queue.push(key, [Item::Row, Item::Code, Item::Rest][number % 3](number));
        }
        let mut popped = Vec::new();
        while let Some(Item::Row(n) | Item::Code(n) | Item::Rest(n)) = queue.pop() {
            popped.push(keys[n]);
        }
        keys.sort_by(f32::total_cmp);
        assert_eq!(popped, keys);
    }

    #[test]
    fn items_keep_kind_and_number() {
        for number in [0, 1, MOST_ITEMS - 1] {
            for kind in [Item::Row, Item::Code, Item::Rest] {
                assert_eq!(Item::unpack(kind(number).pack()), kind(number));
            }
        }
        assert_eq!(Item::unpack(Item::List.pack()), Item::List);
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
