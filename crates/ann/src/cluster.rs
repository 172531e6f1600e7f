//! Dividing points into neighbourhoods: two-means for a split, k-means for a bulk build.
//!
//! Must not know pages. Points are rows of a flat array.

use crate::random::Random;

/// Rounds of two-means: more change little.
const SPLIT_ROUNDS: usize = 8;
/// A side of a split has at least this share of the points, or they are divided in the middle.
const SMALLEST_SIDE: usize = 8;

pub(crate) fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    lookbook_vecmath::kernel::active().l2_squared(a, b)
}

/// Divides points in two: the centroids, and the side of each point.
pub(crate) fn two_means(points: &[f32], dims: usize, seed: u64) -> (Vec<Vec<f32>>, Vec<u8>) {
    let count = points.len() / dims;
    let point = |i: usize| &points[i * dims..(i + 1) * dims];
    if count < 2 {
        let first = if count == 1 {
            point(0).to_vec()
        } else {
            vec![0.0; dims]
        };
        return (vec![first.clone(), first], vec![0; count]);
    }
    let first = Random::new(seed, 2).below(count);
    let farthest = |from: &[f32]| {
        let far = |i: &usize| squared_distance(point(*i), from);
        (0..count)
            .max_by(|a, b| far(a).total_cmp(&far(b)))
            .unwrap_or(0)
    };
    // Two points at opposite ends.
    let one = farthest(point(first));
    let mut centroids = [point(one).to_vec(), point(farthest(point(one))).to_vec()];
    let mut sides = vec![0u8; count];
    for _ in 0..SPLIT_ROUNDS {
        let mut changed = false;
        for (i, side) in sides.iter_mut().enumerate() {
            let second = squared_distance(point(i), &centroids[1])
                < squared_distance(point(i), &centroids[0]);
            changed |= *side != u8::from(second);
            *side = u8::from(second);
        }
        let sizes = [count_of(&sides, 0), count_of(&sides, 1)];
        if sizes[0].min(sizes[1]) < count.div_ceil(SMALLEST_SIDE) {
            middle(points, dims, &centroids, &mut sides);
        }
        centroids = [0, 1].map(|side| mean(points, dims, &sides, side));
        if !changed {
            break;
        }
    }
    (centroids.to_vec(), sides)
}

fn count_of(sides: &[u8], side: u8) -> usize {
    sides.iter().filter(|&&s| s == side).count()
}

/// Divides in the middle of the line between the centroids, equal points by their number.
fn middle(points: &[f32], dims: usize, centroids: &[Vec<f32>; 2], sides: &mut [u8]) {
    let along: Vec<f32> = points
        .chunks_exact(dims)
        .map(|p| {
            let toward = centroids[1].iter().zip(&centroids[0]).map(|(b, a)| b - a);
            p.iter().zip(toward).map(|(p, t)| p * t).sum()
        })
        .collect();
    let mut order: Vec<usize> = (0..sides.len()).collect();
    order.sort_by(|&a, &b| along[a].total_cmp(&along[b]).then(a.cmp(&b)));
    for (rank, i) in order.into_iter().enumerate() {
        sides[i] = u8::from(rank >= sides.len() / 2);
    }
}

fn mean(points: &[f32], dims: usize, sides: &[u8], side: u8) -> Vec<f32> {
    let mut sums = vec![0f32; dims];
    let mut count = 0usize;
    let mine = points.chunks_exact(dims).zip(sides);
    for (point, _) in mine.filter(|(_, s)| **s == side) {
        sums.iter_mut().zip(point).for_each(|(sum, x)| *sum += x);
        count += 1;
    }
    sums.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_clouds_are_told_apart() {
        let mut random = Random::new(3, 3);
        let mut noise = || (random.next() >> 40) as f32 / (1 << 24) as f32;
        let points: Vec<f32> = (0..200)
            .flat_map(|i| [if i % 3 == 0 { 9.0 } else { 0.0 } + noise(), noise()])
            .collect();
        let (_, sides) = two_means(&points, 2, 1);
        assert!((0..200).all(|i| (sides[i] == sides[0]) == (i % 3 == 0)));
    }

    #[test]
    fn neither_side_is_small_even_if_all_points_are_equal() {
        for points in [
            vec![1.0; 400],
            (0..400).map(|i| if i == 7 { 100.0 } else { 0.0 }).collect(),
        ] {
            let (_, sides) = two_means(&points, 4, 1);
            let second = count_of(&sides, 1);
            assert!((13..=87).contains(&second), "{second} of 100");
        }
    }
}
