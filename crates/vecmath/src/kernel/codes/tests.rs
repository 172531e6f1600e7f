use super::*;

/// splitmix64: enough for test data, and seeded.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }
}

fn levels() -> Vec<&'static Kernels> {
    let all = [Level::Avx2, Level::Avx512];
    for level in all
        .into_iter()
        .filter(|&level| Kernels::at(level).is_none())
    {
        eprintln!("SKIPPED: this processor does not run {level:?}");
    }
    all.into_iter().filter_map(Kernels::at).collect()
}

fn close(found: f32, expected: f32, scale: f32, what: &str) {
    let allowed = scale * 1e-5 + 1e-6;
    assert!(
        (found - expected).abs() <= allowed,
        "{what}: {found} is not {expected} ± {allowed}"
    );
}

#[test]
fn packing_is_inverted_by_unpacking_at_every_width() {
    let mut numbers = Numbers(1);
    for bits in 3..=8 {
        let codes: Vec<u8> = numbers
            .bytes(48)
            .iter()
            .map(|b| b & ((1u32 << bits) - 1) as u8)
            .collect();
        let mut packed = vec![0; 6 * bits as usize];
        pack(&codes, bits, &mut packed);
        let mut back = vec![0; 48];
        unpack(&packed, bits, &mut back);
        assert_eq!(codes, back, "{bits} bits");
    }
}

#[test]
fn hadamard_twice_is_the_length_times_the_vector_at_every_level() {
    let mut numbers = Numbers(2);
    for kernels in levels().into_iter().chain(Kernels::at(Level::Scalar)) {
        for power in 0..=11 {
            let x = numbers.floats(1 << power);
            let mut y = x.clone();
            kernels.hadamard(&mut y);
            kernels.hadamard(&mut y);
            for (y, x) in y.iter().zip(&x) {
                close(
                    y / x.abs().max(1e-3),
                    x * (1 << power) as f32 / x.abs().max(1e-3),
                    (1 << power) as f32 * 100.0,
                    "hadamard",
                );
            }
        }
    }
}

#[test]
fn sign_bounds_agree_with_the_scalar_at_every_length() {
    let mut numbers = Numbers(3);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for columns in (2..140).step_by(2).chain([256, 258, 514, 1026, 1500]) {
            let codes = numbers.bytes(columns * LANES);
            let extreme = columns % 4 == 0;
            let table = |numbers: &mut Numbers| -> Vec<u8> {
                numbers
                    .bytes(columns * LANES)
                    .iter()
                    .map(|b| if extreme { 127 } else { b % 128 })
                    .collect()
            };
            let (low, high) = (table(&mut numbers), table(&mut numbers));
            let constants: Vec<u8> = numbers
                .floats(16)
                .iter()
                .flat_map(|x| x.to_le_bytes())
                .collect();
            let halves = |numbers: &mut Numbers| -> Vec<u8> {
                numbers
                    .floats(16)
                    .iter()
                    .flat_map(|x| ((x.abs().to_bits() >> 16) as u16).to_le_bytes())
                    .collect()
            };
            let (factors, radii) = (halves(&mut numbers), halves(&mut numbers));
            let group = SignGroup {
                codes: &codes,
                constants: &constants,
                factors: &factors,
                radii: &radii,
            };
            let tables = Tables {
                low: &low,
                high: &high,
            };
            let terms = BoundTerms {
                constant_weight: 1.0,
                base: 2.0,
                gain: 0.01,
                offset: -3.0,
                spread: 1.5,
            };
            let (mut found, mut expected) = ([0.0; LANES], [0.0; LANES]);
            kernels.sign_bounds(&group, &tables, &terms, &mut found);
            scalar.sign_bounds(&group, &tables, &terms, &mut expected);
            for (found, expected) in found.iter().zip(expected) {
                close(
                    *found,
                    expected,
                    columns as f32 * 2.54 + 8.0,
                    &format!("{:?} {columns}", kernels.level()),
                );
            }
        }
    }
}

#[test]
fn a_nan_constant_gives_a_nan_bound_even_without_weight() {
    let constants: Vec<u8> = [f32::NAN; 16]
        .iter()
        .flat_map(|x| x.to_le_bytes())
        .collect();
    for kernels in levels().into_iter().chain(Kernels::at(Level::Scalar)) {
        let group = SignGroup {
            codes: &[0; 32],
            constants: &constants,
            factors: &[0; 32],
            radii: &[0; 32],
        };
        let tables = Tables {
            low: &[0; 32],
            high: &[0; 32],
        };
        let terms = BoundTerms {
            constant_weight: 0.0,
            base: 2.0,
            gain: 0.01,
            offset: -3.0,
            spread: 1.5,
        };
        let mut bounds = [0.0; LANES];
        kernels.sign_bounds(&group, &tables, &terms, &mut bounds);
        assert!(
            bounds.iter().all(|bound| bound.is_nan()),
            "{:?}",
            kernels.level()
        );
    }
}

#[test]
fn packed_sums_agree_with_the_scalar_at_every_width_and_length() {
    let mut numbers = Numbers(4);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for bits in 3..=8u32 {
            for dims in (16..=400).step_by(16) {
                let x = numbers.floats(dims);
                let packed = numbers.bytes(dims / 8 * bits as usize);
                let step = 2.0 / (1u32 << bits) as f32;
                let what = format!("{:?} {bits} bits {dims}", kernels.level());
                let expected = scalar.squared_distance(&x, &packed, bits, step);
                close(
                    kernels.squared_distance(&x, &packed, bits, step),
                    expected,
                    expected,
                    &what,
                );
                let expected = scalar.dot(&x, &packed, bits);
                close(
                    kernels.dot(&x, &packed, bits),
                    expected,
                    (dims << bits) as f32 / 4.0,
                    &what,
                );
            }
        }
    }
}

#[test]
fn panel_products_agree_with_the_scalar_for_every_remainder_of_rows() {
    let mut numbers = Numbers(5);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for rows in 0..20 {
            for dims in [1, 7, 16, 100] {
                let (data, panel) = (numbers.floats(rows * dims), numbers.floats(dims * LANES));
                let (mut found, mut expected) =
                    (vec![[0.0; LANES]; rows], vec![[0.0; LANES]; rows]);
                kernels.dot_panel(&data, &panel, dims, &mut found);
                scalar.dot_panel(&data, &panel, dims, &mut expected);
                for (found, expected) in found.as_flattened().iter().zip(expected.as_flattened()) {
                    close(*found, *expected, dims as f32, "panel");
                }
            }
        }
    }
}
