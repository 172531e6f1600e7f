//! Changes to good input, as libFuzzer makes them: what comes out is near enough to pass the first checks.
//!
//! Invariant: a seed gives the same sequence everywhere.

/// Where off-by-one errors and overflows live.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];

/// Longer input costs time and shows nothing new.
const MAX_BYTES: usize = 64 << 10;

/// splitmix64 (Steele, Lea, Flood 2014).
pub struct Damage(pub u64);

impl Damage {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `limit` exclusive; 0 when there is no room.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A few changes to one of `seeds`.
    pub fn of_one(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            let other = &seeds[self.below(seeds.len())];
            self.change(&mut bytes, other);
        }
        bytes.truncate(MAX_BYTES);
        bytes
    }

    /// A place in `len` bytes: half of them near the front, where headers are.
    fn place(&mut self, len: usize) -> usize {
        let range = if self.below(2) == 0 { len.min(64) } else { len };
        self.below(range)
    }

    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.place(bytes.len());
        let span = at..(at + 1 + self.below(16)).min(bytes.len()).max(at);
        match self.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(span)),
            2 => {
                let repeated = bytes[span].to_vec();
                drop(bytes.splice(at..at, repeated));
            }
            3 => {
                let from = self.below(other.len());
                let to = (from + 1 + self.below(32)).min(other.len());
                drop(bytes.splice(at..at, other[from..to].iter().copied()));
            }
            4 => bytes.insert(at, self.next() as u8),
            5 => {
                let edge = EDGES[self.below(EDGES.len())];
                let width = [1, 2, 4, 8][self.below(4)];
                let mut field = edge.to_le_bytes();
                if self.below(2) == 0 {
                    field[..width].reverse();
                }
                for (byte, new) in bytes.iter_mut().skip(at).zip(&field[..width]) {
                    *byte = *new;
                }
            }
            6 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            7 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = byte.wrapping_add(self.next() as u8 % 35).wrapping_sub(17);
                }
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.next() as u8;
                }
            }
        }
    }
}
