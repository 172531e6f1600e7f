//! All lists at a glance: what a search reads of the directory, kept between searches.
//!
//! The centroids lie as quads of bytes, so that a query is multiplied with all of them in one go. Must not know how
//! lists are read.
//!
//! A catalogue may be old, and that does no harm to a search that trusts a calibration: a list is retired when its rows
//! go to others, so whoever comes to read that list sees it and reads the catalogue anew. So every row is found at last,
//! in a list of the catalogue or in what became of one. Rows that moved to a list made later would come
//! late, so a catalogue is not used after a move. And radii may have grown meanwhile: a search that wants certainty reads
//! the catalogue for itself.

use std::borrow::Cow;
use std::sync::OnceLock;

use lookbook_vecmath::kernel::codes::{LANES, quad, unpack};

use crate::chain;
use crate::directory::{self, ListEntry};
use crate::error::Result;
use crate::page::{Layout, PageRef, refinement};
use crate::space::{CENTROID_BITS, Space};
use crate::store::{BlockId, PageStore};

/// What is added to a centroid's code: half the range.
const MIDDLE: f32 = ((1 << CENTROID_BITS) - 1) as f32 / 2.0;

/// What distances between centroids may take of a backend's memory; where there are more lists they are computed each time.
const MOST_APART_BYTES: usize = 1 << 20;

/// The live lists of a directory.
#[derive(Debug)]
pub(crate) struct Catalogue {
    /// Where it was read, and the stamp of the last moves before.
    pub directory: PageRef,
    pub moves: u64,
    pub lists: Vec<ListEntry>,
    /// Codes of the centroids.
    quads: Vec<u8>,
    /// For each list and up to whole groups of 16: step of the codes, sum of the codes from their middle, squared norm of the
    /// centroid, typical distance.
    steps: Vec<f32>,
    sums: Vec<f32>,
    norms: Vec<f32>,
    pub typical: Vec<f32>,
    /// For each list the squared distances to all centroids, once they were asked for; empty where there are too many.
    apart: Vec<OnceLock<Vec<f32>>>,
}

/// A query as the centroids are multiplied with it: `bytes · step` is nearly the point.
#[derive(Debug)]
pub(crate) struct CoarsePoint {
    bytes: Vec<i8>,
    step: f32,
    /// Of the bytes.
    sum: i32,
    /// Upper limit of the distance to the point.
    lost: f32,
}

impl CoarsePoint {
    /// `point` has a multiple of 16 elements.
    pub fn new(point: &[f32]) -> CoarsePoint {
        /// Added to a number between −2²² and 2²², it leaves the nearest integer in the lowest bits.
        const ROUNDING: f32 = (3 << 22) as f32;
        let (chunks, _) = point.as_chunks::<LANES>();
        // In lanes, so that no addition waits for another.
        let mut most = [0f32; LANES];
        for chunk in chunks {
            for (most, x) in most.iter_mut().zip(chunk) {
                *most = if x.abs() > *most { x.abs() } else { *most };
            }
        }
        let largest = most.into_iter().fold(0f32, f32::max);
        let step = (largest / 127.0).max(f32::MIN_POSITIVE);
        let inverse = 1.0 / step;
        let (mut lost, mut sums) = ([0f32; LANES], [0i32; LANES]);
        let mut bytes = vec![0; point.len()];
        let (out, _) = bytes.as_chunks_mut::<LANES>();
        for (chunk, out) in chunks.iter().zip(out) {
            for (lane, (&x, byte)) in chunk.iter().zip(out).enumerate() {
                let rounded = x * inverse + ROUNDING;
                let difference = x - (rounded - ROUNDING) * step;
                lost[lane] += difference * difference;
                *byte = rounded.to_bits() as i8;
                sums[lane] += i32::from(*byte);
            }
        }
        CoarsePoint {
            bytes,
            step,
            sum: sums.iter().sum(),
            lost: lost.iter().sum::<f32>().sqrt() * 1.001,
        }
    }

    /// What rounding took off `point`, in bytes of its own.
    pub fn rest(&self, point: &[f32]) -> CoarsePoint {
        let bytes = point.iter().zip(&self.bytes);
        let rest: Vec<f32> = bytes
            .map(|(&x, &byte)| x - f32::from(byte) * self.step)
            .collect();
        CoarsePoint::new(&rest)
    }

    pub fn lost(&self) -> f32 {
        self.lost
    }
}

/// A leaf of the directory, copied.
struct LeafCopy {
    name: PageRef,
    links: [BlockId; 8],
    /// Number of the list in each slot; `None`: the entry is dead.
    numbers: Vec<Option<usize>>,
}

impl Catalogue {
    /// Reads the directory. `None`: it was replaced meanwhile.
    pub fn read<S: PageStore>(
        store: &S,
        space: &Space,
        directory: PageRef,
        moves: u64,
    ) -> Result<Option<Catalogue>> {
        let layout = &space.directory_layout;
        let (mut lists, mut leaves) = (Vec::new(), Vec::new());
        let end = chain::walk(
            store,
            directory,
            directory::entries(space),
            |name, leaf, _| {
                let mut numbers = Vec::with_capacity(leaf.count());
                for slot in 0..leaf.count() {
                    let entry = directory::entry(&leaf, name, slot)?;
                    numbers.push(entry.map(|_| lists.len()));
                    lists.extend(entry);
                }
                leaves.push(LeafCopy {
                    name,
                    links: chain::links(&leaf, layout),
                    numbers,
                });
                Ok(())
            },
        )?;
        if end.is_none() {
            return Ok(None);
        }
        let slots = lists.len().next_multiple_of(LANES);
        let apart = if lists.len() * slots * size_of::<f32>() <= MOST_APART_BYTES {
            lists.len()
        } else {
            0
        };
        let mut catalogue = Catalogue {
            apart: vec![OnceLock::new(); apart],
            directory,
            moves,
            quads: vec![0; slots * space.dims()],
            steps: vec![0.0; slots],
            sums: vec![0.0; slots],
            norms: vec![0.0; slots],
            typical: vec![0.0; slots],
            lists,
        };
        for (typical, list) in catalogue.typical.iter_mut().zip(&catalogue.lists) {
            *typical = list.shape.typical;
        }
        for leaf in &leaves {
            if !catalogue.read_centroids(store, layout, leaf)? {
                return Ok(None);
            }
        }
        catalogue.measure_norms(layout.dims);
        Ok(Some(catalogue))
    }

    /// The bytes that it takes once all distances were asked for.
    pub fn bytes(&self) -> usize {
        let numbers = self.steps.len() * (4 + self.apart.len());
        self.quads.len() + size_of_val(&*self.lists) + size_of::<f32>() * numbers
    }

    /// `false`: the directory was replaced.
    fn read_centroids<S: PageStore>(
        &mut self,
        store: &S,
        layout: &Layout,
        leaf: &LeafCopy,
    ) -> Result<bool> {
        let mut codes = vec![0; layout.dims];
        for (index, numbers) in leaf.numbers.chunks(layout.per_refinement).enumerate() {
            let mut from = 0;
            for span in 0..layout.spans {
                store.check_interrupts()?;
                let block = leaf.links[index * layout.spans + span];
                let page = store.read(block)?;
                if !refinement::belongs(&page, block, leaf.name)? {
                    return Ok(false);
                }
                let mut here = 0;
                for (slot, number) in numbers.iter().enumerate() {
                    let record = refinement::record(&page, layout, slot, span);
                    let packed = if span == 0 { &record[4..] } else { record };
                    here = packed.len() / layout.bits as usize * 8;
                    let Some(number) = *number else { continue };
                    if span == 0 {
                        self.steps[number] = refinement::factors(record).0;
                    }
                    let codes = &mut codes[..here];
                    unpack(packed, layout.bits, codes);
                    let group = &mut self.quads[number / LANES * LANES * layout.dims..];
                    for (i, &code) in codes.iter().enumerate() {
                        group[quad(from + i, number % LANES)] = code;
                    }
                }
                from += here;
            }
        }
        Ok(true)
    }

    fn measure_norms(&mut self, dims: usize) {
        for number in 0..self.norms.len() {
            let group = &self.quads[number / LANES * LANES * dims..];
            let (mut sum, mut squares) = (0f32, 0f32);
            for i in 0..dims {
                let from_middle = f32::from(group[quad(i, number % LANES)]) - MIDDLE;
                sum += from_middle;
                squares += from_middle * from_middle;
            }
            self.sums[number] = sum;
            self.norms[number] = self.steps[number] * self.steps[number] * squares;
        }
    }

    /// The squared distance of every centroid to that of one list.
    pub fn distances_to(&self, space: &Space, list: usize) -> Cow<'_, [f32]> {
        match self.apart.get(list) {
            Some(kept) => {
                Cow::Borrowed(kept.get_or_init(|| self.compute_distances_to(space, list)))
            }
            None => Cow::Owned(self.compute_distances_to(space, list)),
        }
    }

    fn compute_distances_to(&self, space: &Space, list: usize) -> Vec<f32> {
        let dims = space.dims();
        let group = &self.quads[list / LANES * LANES * dims..];
        // Codes are at most 127: from 64 they are signed bytes, half a step from the middle.
        let bytes: Vec<i8> = (0..dims)
            .map(|i| group[quad(i, list % LANES)].wrapping_sub(64) as i8)
            .collect();
        let sum: i32 = bytes.iter().map(|&byte| i32::from(byte)).sum();
        let mut products = vec![[0; LANES]; self.steps.len() / LANES];
        space
            .kernels
            .quad_products(&self.quads, &bytes, &mut products);
        let (step, norm) = (self.steps[list], self.norms[list]);
        let factors = self.steps.iter().zip(self.sums.iter().zip(&self.norms));
        let products = products.as_flattened().iter().zip(factors);
        products
            .map(|(&product, (other, (from_middle, other_norm)))| {
                let along = product as f32 - MIDDLE * sum as f32 + 0.5 * from_middle;
                norm + other_norm - 2.0 * step * other * along
            })
            .collect()
    }

    /// The inner product of a query with every centroid, and for distances `‖c‖² − 2⟨q, c⟩`.
    pub fn measure(
        &self,
        space: &Space,
        point: &CoarsePoint,
        weigh: impl Fn(f32, f32) -> f32,
    ) -> Vec<f32> {
        let mut sums = vec![[0; LANES]; self.steps.len() / LANES];
        if !sums.is_empty() {
            space
                .kernels
                .quad_products(&self.quads, &point.bytes, &mut sums);
        }
        let centre = MIDDLE * point.sum as f32;
        let factors = self.steps.iter().zip(&self.norms);
        let products = sums.as_flattened().iter().zip(factors);
        products
            .map(|(&sum, (step, norm))| weigh(step * point.step * (sum as f32 - centre), *norm))
            .collect()
    }

    /// What the products of a query of this length, of which rounding took `lost`, with a centroid can be off by.
    pub fn doubt(&self, list: usize, lost: f32, length: f32) -> f32 {
        let norm = self.norms[list].sqrt() * 1.001;
        lost * norm + (length + norm) * norm * 1e-5
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryStore;
    use crate::options::{Metric, Options};
    use crate::random::Random;
    use crate::store::PageTxn;
    use crate::{HeapTid, Index, Row, empty_index};

    #[test]
    fn a_catalogue_measures_centroids_as_they_are_decoded() {
        let dims = 40;
        let mut random = Random::new(2, 2);
        let store = MemoryStore::new();
        let options = Options {
            list_rows: 16,
            ..Options::new(dims, Metric::L2)
        };
        let mut txn = store.begin();
        let (_, handle) = txn.allocate(|_| true).expect("memory");
        *txn.page_mut(handle) = *empty_index(&options).expect("options");
        txn.commit().expect("memory");
        let mut index = Index::open(&store).expect("open");
        let mut vector = || -> Vec<f32> {
            (0..dims)
                .map(|_| random.below(1 << 16) as f32 / 65_536.0)
                .collect()
        };
        for tid in (0..900).map(HeapTid) {
            let vector = vector();
            let row = Row {
                tid,
                vector: Some(&vector),
                words: &[],
            };
            index.insert(&store, row).expect("insert");
        }
        let space = index.space.clone();
        let directory = index.meta.directory.expect("lists");
        let catalogue = Catalogue::read(&store, &space, directory, 0)
            .expect("read")
            .expect("a directory");
        assert!(catalogue.lists.len() > LANES);
        let centroid = |list: &ListEntry| {
            directory::centroid(&store, &space, list.place)
                .expect("read")
                .expect("a directory")
        };
        let centroids: Vec<Vec<f32>> = catalogue.lists.iter().map(centroid).collect();
        let squared =
            |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum() };
        let (point, _) = space.rotate(&vector());
        let coarse = CoarsePoint::new(&point);
        let length = crate::rounding::norm(&point) as f32;
        let vs = catalogue.measure(&space, &coarse, |along, norm| {
            length * length + norm - 2.0 * along
        });
        let apart = catalogue.distances_to(&space, 3);
        for (list, centroid) in centroids.iter().enumerate() {
            let doubt = 2.0 * catalogue.doubt(list, coarse.lost(), length);
            assert!((vs[list] - squared(&point, centroid)).abs() <= doubt);
            let exact = squared(&centroids[3], centroid);
            assert!(
                (apart[list] - exact).abs() <= 1e-4,
                "{} {exact}",
                apart[list]
            );
        }
    }
}
