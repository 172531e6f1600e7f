//! Centroids in panels, multiplied with blocks of rows.

use lookbook_vecmath::kernel::codes::{Kernels, LANES};

/// Rows of one block.
pub(crate) const BLOCK: usize = 64;

/// Centroids laid out for [`Kernels::dot_panel`].
#[derive(Clone, Debug)]
pub(crate) struct Panels {
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

    /// How many centroids there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Calls `visit(row, centroid, ‖c‖² − 2⟨x, c⟩)` for every pair. At most [`BLOCK`] rows.
    pub fn each(&self, kernels: &Kernels, rows: &[f32], mut visit: impl FnMut(usize, usize, f32)) {
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

    /// The nearest centroid of each row, where it is nearer than what is known: `‖c‖² − 2⟨x, c⟩` and its number from `first`.
    /// At most [`BLOCK`] rows.
    pub fn nearest(&self, kernels: &Kernels, rows: &[f32], best: &mut [(f32, u32)], first: u32) {
        self.each(kernels, rows, |row, centroid, distance| {
            if distance < best[row].0 {
                best[row] = (distance, first + centroid as u32);
            }
        });
    }
}
