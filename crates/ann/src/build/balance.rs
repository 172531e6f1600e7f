//! Lists of about one length: long ones are divided, and as many short ones given up.

use std::collections::{HashMap, HashSet};

use rayon::prelude::*;

use super::kmeans::Training;
use crate::cluster::two_means;

/// How many points each centroid has.
pub(super) fn counts(owners: &[u32], centroids: usize) -> Vec<usize> {
    let mut counts = vec![0; centroids];
    owners.iter().for_each(|&owner| counts[owner as usize] += 1);
    counts
}

/// At most `wanted` of the lists with fewer points than `fewer`, those with the fewest.
pub(super) fn shortest(counts: &[usize], fewer: usize, wanted: usize) -> HashSet<usize> {
    let mut short: Vec<usize> = (0..counts.len())
        .filter(|&list| counts[list] < fewer)
        .collect();
    short.sort_by_key(|&list| counts[list]);
    short.into_iter().take(wanted).collect()
}

/// Divides the points of every centroid that has more than `longest` of them; the first half stays with it, the
/// others are given back.
pub(super) fn divide_long(
    points: &[f32],
    owners: &[u32],
    counts: &[usize],
    centroids: &mut [f32],
    longest: usize,
    training: Training<'_>,
) -> Vec<(usize, Vec<f32>)> {
    let Training { dims, seed, .. } = training;
    let mut members: HashMap<u32, Vec<u32>> = HashMap::new();
    for (point, &owner) in owners.iter().enumerate() {
        if counts[owner as usize] > longest {
            members.entry(owner).or_default().push(point as u32);
        }
    }
    let mut long: Vec<(u32, Vec<u32>)> = members.into_iter().collect();
    long.sort_unstable_by_key(|(owner, _)| *owner);
    // Points are copied a list at a time, so that they do not take the sample's memory again.
    let divided: Vec<(usize, Vec<Vec<f32>>)> = training.workers.pool.install(|| {
        long.into_par_iter()
            .map(|(owner, members)| {
                let points = members
                    .iter()
                    .flat_map(|&point| &points[point as usize * dims..][..dims])
                    .copied()
                    .collect();
                (owner as usize, divide(points, dims, longest, seed))
            })
            .collect()
    });
    let mut extra = Vec::new();
    for (owner, parts) in divided {
        let mut parts = parts.into_iter();
        if let Some(first) = parts.next() {
            centroids[owner * dims..][..dims].copy_from_slice(&first);
        }
        extra.extend(parts.map(|part| (owner, part)));
    }
    extra
}

/// Centroids of halves, of halves of halves, until each has at most `longest` points.
fn divide(points: Vec<f32>, dims: usize, longest: usize, seed: u64) -> Vec<Vec<f32>> {
    let (mut waiting, mut done) = (vec![points], Vec::new());
    while let Some(points) = waiting.pop() {
        let (centroids, sides) = two_means(&points, dims, seed);
        for (side, centroid) in centroids.into_iter().enumerate() {
            let half = points.chunks_exact(dims).zip(&sides);
            let half = half.filter(|(_, s)| usize::from(**s) == side);
            let half: Vec<f32> = half.flat_map(|(point, _)| point).copied().collect();
            if half.len() > longest.max(1) * dims {
                waiting.push(half);
            } else {
                done.push(centroid);
            }
        }
    }
    done
}
