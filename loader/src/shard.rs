//! One of several parts of a catalogue, for several machines.
//!
//! Invariant: whoever asks, a photo belongs to exactly one of `n` parts, by its identity alone.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};

/// Part `number` of `count`, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    number: u32,
    count: u32,
}

impl Shard {
    /// Into how many parts the catalogue is divided.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether the photo of that identity is in this part.
    pub fn holds(&self, identity: &str) -> bool {
        let digest = Sha256::digest(identity);
        let hash = digest[..8]
            .iter()
            .fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        hash % u64::from(self.count) == u64::from(self.number - 1)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/');
        let numbers =
            parts.and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err("must be i/n, with i from 1 to n".to_owned()),
        }
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_photo_is_in_one_part_and_the_parts_are_of_a_size() {
        let shards: Vec<Shard> = (1..=3).map(|i| format!("{i}/3").parse().unwrap()).collect();
        let mut sizes = [0; 3];
        for photo in 0..3_000 {
            let path = format!("shoes/{photo}.jpg");
            let holding: Vec<usize> = (0..3).filter(|&at| shards[at].holds(&path)).collect();
            assert_eq!(holding.len(), 1, "{path}");
            sizes[holding[0]] += 1;
        }
        assert!(
            sizes.iter().all(|size| (900..1_100).contains(size)),
            "{sizes:?}"
        );
    }

    /// Machines of different releases must agree.
    #[test]
    fn the_parts_never_change() {
        let shard: Shard = "2/4".parse().unwrap();
        let held: Vec<&str> = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg"]
            .into_iter()
            .filter(|path| shard.holds(path))
            .collect();
        assert_eq!(held, ["c.jpg", "e.jpg", "f.jpg"]);
    }

    #[test]
    fn a_part_is_i_of_n() {
        assert_eq!("2/4".parse::<Shard>().unwrap().to_string(), "2/4");
        for wrong in ["0/4", "5/4", "1", "1/0", "a/b", "1/2/3", ""] {
            assert!(wrong.parse::<Shard>().is_err(), "{wrong}");
        }
    }
}
