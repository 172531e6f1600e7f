//! k-means by blocked matrix products, in one level or two.
//!
//! Distances are compared by `‖c‖² − 2⟨x, c⟩`. With more than a few hundred centroids a tree of two levels is
//! trained and used: a point looks at the children of the nearest few branches only, and points that look at
//! the same branch are multiplied together.

use lookbook_vecmath::kernel::codes::{Kernels, LANES};
use rayon::prelude::*;

use super::Workers;
use crate::error::Result;
use crate::random::Random;

/// Rounds of Lloyd's algorithm; later ones move few points.
const ROUNDS: usize = 10;
/// Rounds over the whole tree after both levels were trained.
const POLISH: usize = 2;
/// Up to so many centroids one level does.
const FLAT: usize = 512;
/// Branches a point looks at: the nearest centroid is then missed for few points, and hardly nearer.
const PROBES: usize = 6;
/// Points of one task.
const BLOCK: usize = 64;
/// Multiplications of one slice of work, between two questions whether to stop: some 100 ms on one core.
const SLICE: usize = 4_000_000_000;

/// Centroids laid out for [`Kernels::dot_panel`].
#[derive(Clone, Debug)]
pub(super) struct Panels {
    dims: usize,
    count: usize,
    data: Vec<f32>,
    norms: Vec<f32>,
}

impl Panels {
    pub fn new(centroids: &[f32], dims: usize) -> Panels {
        let count = centroids.len() / dims;
        let panels = count.div_ceil(LANES);
        let mut data = vec![0.0; panels * LANES * dims];
        let mut norms = vec![f32::INFINITY; panels * LANES];
        for (i, centroid) in centroids.chunks_exact(dims).enumerate() {
            let panel = &mut data[i / LANES * LANES * dims..][..LANES * dims];
            for (d, &c) in centroid.iter().enumerate() {
                panel[d * LANES + i % LANES] = c;
            }
            norms[i] = centroid.iter().map(|c| c * c).sum();
        }
        Panels {
            dims,
            count,
            data,
            norms,
        }
    }

    /// Calls `visit(row, centroid, ‖c‖² − 2⟨x, c⟩)` for every pair. At most [`BLOCK`] rows.
    fn each(&self, kernels: &Kernels, rows: &[f32], mut visit: impl FnMut(usize, usize, f32)) {
        let mut products = [[0.0; LANES]; BLOCK];
        let products = &mut products[..rows.len() / self.dims];
        for (p, panel) in self.data.chunks_exact(LANES * self.dims).enumerate() {
            kernels.dot_panel(rows, panel, self.dims, products);
            for (row, product) in products.iter().enumerate() {
                for (lane, product) in product.iter().enumerate().take(self.count - p * LANES) {
                    visit(
                        row,
                        p * LANES + lane,
                        self.norms[p * LANES + lane] - 2.0 * product,
                    );
                }
            }
        }
    }

    /// The nearest centroid of each row.
    fn nearest(&self, kernels: &Kernels, rows: &[f32], best: &mut [(f32, u32)], first: u32) {
        self.each(kernels, rows, |row, centroid, distance| {
            if distance < best[row].0 {
                best[row] = (distance, first + centroid as u32);
            }
        });
    }
}

/// Centroids in one or two levels.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    dims: usize,
    kernels: &'static Kernels,
    /// Of the branches; empty: there is one.
    top: Option<Panels>,
    /// Each with the number of its first centroid.
    branches: Vec<(Panels, u32)>,
}

impl Tree {
    /// Trains `lists` centroids on a sample.
    pub fn train(
        points: &[f32],
        dims: usize,
        lists: usize,
        seed: u64,
        kernels: &'static Kernels,
        workers: Workers<'_>,
    ) -> Result<(Tree, Vec<f32>)> {
        if lists <= FLAT {
            let centroids = lloyd(points, dims, lists, seed, kernels, workers)?;
            return Ok((Tree::flat(&centroids, dims, kernels), centroids));
        }
        let top_count = (lists as f64).sqrt() as usize;
        let top = lloyd(points, dims, top_count, seed, kernels, workers)?;
        let owners = Tree::flat(&top, dims, kernels).assign(points, workers)?;
        let mut members = vec![Vec::new(); top_count];
        for (point, owner) in points.chunks_exact(dims).zip(&owners) {
            members[*owner as usize].extend_from_slice(point);
        }
        let rows = owners.len().max(1);
        let mut branches = Vec::new();
        for (branch, members) in members.iter().enumerate() {
            let share = members.len() / dims * lists / rows;
            let seed = seed.wrapping_add(branch as u64 + 1);
            branches.push(lloyd(members, dims, share.max(1), seed, kernels, workers)?);
        }
        let mut tree = Tree::new(Some(&top), &branches, dims, kernels);
        for _ in 0..POLISH {
            let owners = tree.assign(points, workers)?;
            let mut centroids = branches.concat();
            move_to_means(points, dims, &owners, &mut centroids);
            let mut rest = &centroids[..];
            for branch in &mut branches {
                let (mine, others) = rest.split_at(branch.len());
                branch.copy_from_slice(mine);
                rest = others;
            }
            tree = Tree::new(Some(&top), &branches, dims, kernels);
        }
        Ok((tree, branches.concat()))
    }

    /// The same tree around other centroids (the ones that readers decode).
    pub fn with_centroids(&self, centroids: &[f32]) -> Tree {
        let mut branches = Vec::new();
        let mut rest = centroids;
        for (panels, _) in &self.branches {
            let (mine, others) = rest.split_at(panels.count * self.dims);
            branches.push(mine.to_vec());
            rest = others;
        }
        let mut tree = Tree::new(None, &branches, self.dims, self.kernels);
        tree.top.clone_from(&self.top);
        tree
    }

    fn flat(centroids: &[f32], dims: usize, kernels: &'static Kernels) -> Tree {
        Tree::new(None, &[centroids.to_vec()], dims, kernels)
    }

    fn new(
        top: Option<&[f32]>,
        branches: &[Vec<f32>],
        dims: usize,
        kernels: &'static Kernels,
    ) -> Tree {
        let mut first = 0;
        let branches = branches
            .iter()
            .map(|centroids| {
                let panels = Panels::new(centroids, dims);
                let branch = (panels, first);
                first += (centroids.len() / dims) as u32;
                branch
            })
            .collect();
        Tree {
            dims,
            kernels,
            top: top.map(|top| Panels::new(top, dims)),
            branches,
        }
    }

    /// The nearest centroid of every point (in two levels: nearly).
    pub fn assign(&self, points: &[f32], workers: Workers<'_>) -> Result<Vec<u32>> {
        let centroids: usize = self.branches.iter().map(|(panels, _)| panels.count).sum();
        let visited = match &self.top {
            Some(top) => top.count + centroids * PROBES / top.count.max(1),
            None => centroids,
        };
        let rows = SLICE / (visited * self.dims).max(1) * workers.pool.current_num_threads();
        let mut owners = Vec::with_capacity(points.len() / self.dims);
        for slice in points.chunks(rows.max(BLOCK) * self.dims) {
            (workers.check)()?;
            let found: Vec<Vec<u32>> = workers.pool.install(|| {
                // Two levels gain by many points that share a branch.
                let task = if self.top.is_some() {
                    32 * BLOCK
                } else {
                    BLOCK
                };
                slice
                    .par_chunks(task * self.dims)
                    .map(|points| self.assign_block(points))
                    .collect()
            });
            owners.extend(found.into_iter().flatten());
        }
        Ok(owners)
    }

    fn assign_block(&self, points: &[f32]) -> Vec<u32> {
        let count = points.len() / self.dims;
        let mut best = vec![(f32::INFINITY, 0); count];
        let blocks = points.chunks(BLOCK * self.dims);
        let Some(top) = &self.top else {
            let (panels, first) = &self.branches[0];
            for (rows, best) in blocks.zip(best.chunks_mut(BLOCK)) {
                panels.nearest(self.kernels, rows, best, *first);
            }
            return best.into_iter().map(|(_, owner)| owner).collect();
        };
        let mut visitors: Vec<Vec<u32>> = vec![Vec::new(); self.branches.len()];
        for (block, rows) in blocks.enumerate() {
            let mut nearest = [[(f32::INFINITY, 0u32); PROBES]; BLOCK];
            top.each(self.kernels, rows, |row, branch, distance| {
                let probes = &mut nearest[row];
                if distance < probes[PROBES - 1].0 {
                    let at = probes.partition_point(|(other, _)| *other <= distance);
                    probes[at..].rotate_right(1);
                    probes[at] = (distance, branch as u32);
                }
            });
            for (row, probes) in nearest.iter().enumerate().take(rows.len() / self.dims) {
                for (_, branch) in probes.iter().filter(|(distance, _)| distance.is_finite()) {
                    visitors[*branch as usize].push((block * BLOCK + row) as u32);
                }
            }
        }
        let mut gathered = Vec::with_capacity(BLOCK * self.dims);
        for ((panels, first), visitors) in self.branches.iter().zip(&visitors) {
            for rows in visitors.chunks(BLOCK) {
                gathered.clear();
                for &row in rows {
                    let at = row as usize * self.dims;
                    gathered.extend_from_slice(&points[at..at + self.dims]);
                }
                panels.each(self.kernels, &gathered, |i, centroid, distance| {
                    let best = &mut best[rows[i] as usize];
                    if distance < best.0 {
                        *best = (distance, first + centroid as u32);
                    }
                });
            }
        }
        best.into_iter().map(|(_, owner)| owner).collect()
    }
}

/// Lloyd's algorithm from random points. Exactly `count` centroids, whatever the points are.
fn lloyd(
    points: &[f32],
    dims: usize,
    count: usize,
    seed: u64,
    kernels: &'static Kernels,
    workers: Workers<'_>,
) -> Result<Vec<f32>> {
    let rows = points.len() / dims;
    if rows == 0 {
        return Ok(vec![0.0; count * dims]);
    }
    let mut random = Random::new(seed, 4);
    let mut order: Vec<usize> = (0..rows).collect();
    for i in 0..count.min(rows) {
        order.swap(i, i + random.below(rows - i));
    }
    let mut centroids: Vec<f32> = (0..count)
        .flat_map(|i| points[order[i % rows] * dims..][..dims].iter().copied())
        .collect();
    if count == 1 {
        move_to_means(points, dims, &vec![0; rows], &mut centroids);
        return Ok(centroids);
    }
    for _ in 0..ROUNDS {
        let owners = Tree::flat(&centroids, dims, kernels).assign(points, workers)?;
        let empty = move_to_means(points, dims, &owners, &mut centroids);
        // A centroid without points goes where there are some.
        for centroid in empty {
            let point = random.below(rows);
            centroids[centroid * dims..][..dims].copy_from_slice(&points[point * dims..][..dims]);
        }
    }
    Ok(centroids)
}

/// Moves each centroid to the mean of its points; gives those without any, which stay.
fn move_to_means(points: &[f32], dims: usize, owners: &[u32], centroids: &mut [f32]) -> Vec<usize> {
    let mut counts = vec![0u32; centroids.len() / dims];
    let mut sums = vec![0f32; centroids.len()];
    for (point, &owner) in points.chunks_exact(dims).zip(owners) {
        let sum = &mut sums[owner as usize * dims..][..dims];
        sum.iter_mut().zip(point).for_each(|(sum, x)| *sum += x);
        counts[owner as usize] += 1;
    }
    let mut empty = Vec::new();
    let moved = centroids
        .chunks_exact_mut(dims)
        .zip(sums.chunks_exact(dims));
    for (i, ((centroid, sum), &count)) in moved.zip(&counts).enumerate() {
        if count == 0 {
            empty.push(i);
            continue;
        }
        centroid
            .iter_mut()
            .zip(sum)
            .for_each(|(c, sum)| *c = sum / count as f32);
    }
    empty
}

#[cfg(test)]
mod tests {
    use super::*;
    use lookbook_vecmath::kernel::codes::kernels;

    fn clouds(rows: usize, dims: usize, clouds: usize) -> Vec<f32> {
        let mut random = Random::new(8, 8);
        let mut noise = || (random.next() >> 40) as f32 / (1 << 24) as f32 - 0.5;
        let centres: Vec<f32> = (0..clouds * dims).map(|_| 20.0 * noise()).collect();
        (0..rows)
            .flat_map(|i| centres[i % clouds * dims..][..dims].to_vec())
            .map(|c| c + noise())
            .collect()
    }

    fn on_one_thread(test: impl FnOnce(Workers<'_>)) {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .expect("a thread");
        test(Workers {
            pool: &pool,
            check: &|| Ok(()),
        });
    }

    #[test]
    fn every_point_is_given_its_nearest_centroid() {
        on_one_thread(|workers| {
            let (dims, points) = (10, clouds(500, 10, 20));
            let (tree, centroids) =
                Tree::train(&points, dims, 37, 1, kernels(), workers).expect("train");
            let owners = tree.assign(&points, workers).expect("assign");
            for (point, owner) in points.chunks_exact(dims).zip(owners) {
                let far = |c: &[f32]| crate::cluster::squared_distance(point, c);
                let least = centroids
                    .chunks_exact(dims)
                    .map(far)
                    .fold(f32::INFINITY, f32::min);
                let found = far(&centroids[owner as usize * dims..][..dims]);
                assert!(found <= least * 1.001 + 1e-3, "{found} is not {least}");
            }
        });
    }

    #[test]
    fn two_levels_are_nearly_as_near_as_one() {
        on_one_thread(|workers| {
            let (dims, points) = (8, clouds(6_000, 8, 300));
            let (tree, centroids) =
                Tree::train(&points, dims, 600, 1, kernels(), workers).expect("train");
            assert_eq!(tree.branches.len(), 24);
            let owners = tree.assign(&points, workers).expect("assign");
            let flat = Tree::flat(&centroids, dims, kernels())
                .assign(&points, workers)
                .expect("assign");
            let same = owners.iter().zip(&flat).filter(|(a, b)| a == b).count();
            assert!(
                same * 100 > points.len() / dims * 95,
                "{same} of {}",
                points.len() / dims
            );
        });
    }

    #[test]
    fn fewer_points_than_centroids_are_no_failure() {
        on_one_thread(|workers| {
            for rows in [0, 1, 3] {
                let points = clouds(rows, 4, 2);
                let (_, centroids) =
                    Tree::train(&points, 4, 9, 1, kernels(), workers).expect("train");
                assert_eq!(centroids.len(), 36);
                assert!(centroids.iter().all(|c| c.is_finite()));
            }
        });
    }
}
