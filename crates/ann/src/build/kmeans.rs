//! k-means by blocked matrix products, in one level or two.
//!
//! Distances are compared by `‖c‖² − 2⟨x, c⟩`. With more than a few hundred centroids a tree of two levels is
//! trained and used: a point looks at the children of the nearest few branches only, and points that look at
//! the same branch are multiplied together.

use lookbook_vecmath::kernel::codes::Kernels;
use rayon::prelude::*;

use super::Workers;
use super::balance::{counts, divide_long, shortest};
use super::panels::{BLOCK, Panels};
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
/// Multiplications of one slice of work, between two questions whether to stop: some 100 ms on one core.
const SLICE: usize = 4_000_000_000;

/// What centroids are trained by.
#[derive(Clone, Copy)]
pub(super) struct Training<'a> {
    pub dims: usize,
    pub lists: usize,
    /// Points of a list that is still not too long; `None`: any number.
    pub longest: Option<usize>,
    pub seed: u64,
    pub kernels: &'static Kernels,
    pub workers: Workers<'a>,
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
    /// Trains about `lists` centroids on a sample, whose points end up in another order. With `longest`, a list of
    /// more points than that is divided, and as many short ones are given up.
    pub fn train(points: &mut [f32], training: Training<'_>) -> Result<(Tree, Vec<f32>)> {
        let Training {
            dims,
            lists,
            longest,
            kernels,
            ..
        } = training;
        // What is divided later comes on top.
        let lists = match longest {
            Some(_) => (lists * 2 / 3).max(1),
            None => lists,
        };
        let (top, mut branches) = if lists <= FLAT {
            (None, vec![lloyd(points, lists, training)?])
        } else {
            let top_count = (lists as f64).sqrt() as usize;
            let top = lloyd(points, top_count, training)?;
            let owners = Tree::flat(&top, dims, kernels).assign(points, training.workers)?;
            let sizes = group_by_owner(points, dims, owners, top_count);
            let rows = (points.len() / dims).max(1);
            let mut rest = &*points;
            let mut branches = Vec::new();
            for (branch, size) in sizes.into_iter().enumerate() {
                let (members, others) = rest.split_at(size * dims);
                rest = others;
                let training = Training {
                    seed: training.seed.wrapping_add(branch as u64 + 1),
                    ..training
                };
                branches.push(lloyd(members, (size * lists / rows).max(1), training)?);
            }
            (Some(top), branches)
        };
        for round in 0..=POLISH {
            if top.is_none() && longest.is_none() {
                break;
            }
            let tree = Tree::new(top.as_deref(), &branches, dims, kernels);
            let owners = tree.assign(points, training.workers)?;
            let mut centroids = branches.concat();
            if round < POLISH {
                move_to_means(points, dims, &owners, &mut centroids);
            }
            let Some(longest) = longest else {
                replace_parts(&mut branches, &centroids);
                continue;
            };
            let counts = counts(&owners, centroids.len() / dims);
            let extra = divide_long(points, &owners, &counts, &mut centroids, longest, training);
            let surplus = (counts.len() + extra.len()).saturating_sub(training.lists);
            let spare = shortest(&counts, longest / 3, surplus);
            replace_parts(&mut branches, &centroids);
            let mut first = 0;
            for branch in &mut branches {
                let mine = first..first + branch.len() / dims;
                first = mine.end;
                let extra = extra.iter().filter(|(owner, _)| mine.contains(owner));
                let kept = mine.clone().filter(|list| !spare.contains(list));
                let next: Vec<f32> = kept
                    .flat_map(|list| &centroids[list * dims..][..dims])
                    .chain(extra.flat_map(|(_, centroid)| centroid))
                    .copied()
                    .collect();
                // A branch without any would leave its points to chance.
                if !next.is_empty() {
                    *branch = next;
                }
            }
        }
        let tree = Tree::new(top.as_deref(), &branches, dims, kernels);
        Ok((tree, branches.concat()))
    }

    /// The same tree around other centroids (the ones that readers decode).
    pub fn with_centroids(&self, centroids: &[f32]) -> Tree {
        let mut branches = Vec::new();
        let mut rest = centroids;
        for (panels, _) in &self.branches {
            let (mine, others) = rest.split_at(panels.count() * self.dims);
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
        let centroids: usize = self.branches.iter().map(|(panels, _)| panels.count()).sum();
        let visited = match &self.top {
            Some(top) => top.count() + centroids * PROBES / top.count().max(1),
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
fn lloyd(points: &[f32], count: usize, training: Training<'_>) -> Result<Vec<f32>> {
    let Training {
        dims,
        seed,
        kernels,
        workers,
        ..
    } = training;
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

/// Sorts points by their owners, in place; gives how many each has.
fn group_by_owner(
    points: &mut [f32],
    dims: usize,
    mut owners: Vec<u32>,
    count: usize,
) -> Vec<usize> {
    let sizes = counts(&owners, count);
    let mut next: Vec<usize> = Vec::with_capacity(count);
    let mut end = 0;
    for size in &sizes {
        next.push(end);
        end += size;
    }
    let ends: Vec<usize> = next
        .iter()
        .zip(&sizes)
        .map(|(next, size)| next + size)
        .collect();
    // Every exchange brings a point home.
    for owner in 0..count {
        while next[owner] < ends[owner] {
            let (at, home) = (next[owner], owners[next[owner]] as usize);
            let to = next[home];
            next[home] += 1;
            if to != at {
                owners.swap(at, to);
                let (low, high) = points.split_at_mut(at.max(to) * dims);
                low[at.min(to) * dims..][..dims].swap_with_slice(&mut high[..dims]);
            }
        }
    }
    sizes
}

/// Writes centroids, which are in one piece, over those of the branches.
fn replace_parts(branches: &mut [Vec<f32>], mut centroids: &[f32]) {
    for branch in branches {
        let (mine, others) = centroids.split_at(branch.len());
        branch.copy_from_slice(mine);
        centroids = others;
    }
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

    fn training(dims: usize, lists: usize, workers: Workers<'_>) -> Training<'_> {
        Training {
            dims,
            lists,
            longest: None,
            seed: 1,
            kernels: kernels(),
            workers,
        }
    }

    #[test]
    fn no_list_is_long_when_none_may_be() {
        on_one_thread(|workers| {
            // Half of all points in one place.
            let (dims, mut points) = (8, clouds(6_000, 8, 300));
            for point in points.chunks_exact_mut(dims).step_by(2) {
                point.iter_mut().for_each(|x| *x *= 0.01);
            }
            let before = points.iter().map(|x| f64::from(*x)).sum::<f64>();
            for lists in [100, 600] {
                let longest = 6_000 / lists * 3 / 2;
                let balanced = Training {
                    longest: Some(longest),
                    ..training(dims, lists, workers)
                };
                let (tree, centroids) = Tree::train(&mut points, balanced).expect("train");
                let mut counts = vec![0; centroids.len() / dims];
                for owner in tree.assign(&points, workers).expect("assign") {
                    counts[owner as usize] += 1;
                }
                let worst = counts.iter().copied().max().unwrap_or(0);
                assert!(worst <= 2 * longest, "{worst} of {longest}");
                assert!(counts.len() < lists * 5 / 4, "{} of {lists}", counts.len());
            }
            let after = points.iter().map(|x| f64::from(*x)).sum::<f64>();
            assert!((before - after).abs() < 1e-6 * 6_000.0, "points were lost");
        });
    }

    #[test]
    fn every_point_is_given_its_nearest_centroid() {
        on_one_thread(|workers| {
            let (dims, mut points) = (10, clouds(500, 10, 20));
            let (tree, centroids) =
                Tree::train(&mut points, training(dims, 37, workers)).expect("train");
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
            let (dims, mut points) = (8, clouds(6_000, 8, 300));
            let (tree, centroids) =
                Tree::train(&mut points, training(dims, 600, workers)).expect("train");
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
                let mut points = clouds(rows, 4, 2);
                let (_, centroids) =
                    Tree::train(&mut points, training(4, 9, workers)).expect("train");
                assert_eq!(centroids.len(), 36);
                assert!(centroids.iter().all(|c| c.is_finite()));
            }
        });
    }
}
