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
    for level in Level::VECTOR
        .into_iter()
        .filter(|&level| Kernels::at(level).is_none())
    {
        eprintln!("SKIPPED: this processor does not run {level:?}");
    }
    Level::VECTOR.into_iter().filter_map(Kernels::at).collect()
}

/// The largest size tried: `all`, or `interpreted` under Miri, which takes a thousand times as long for each element.
const fn up_to(all: usize, interpreted: usize) -> usize {
    if cfg!(miri) { interpreted } else { all }
}

fn close(found: f32, expected: f32, scale: f32, what: &str) {
    let allowed = scale * 1e-5 + 1e-6;
    assert!(
        (found - expected).abs() <= allowed,
        "{what}: {found} is not {expected} ± {allowed}"
    );
}

/// Without it, tests over all levels would have none to try there.
#[cfg(target_arch = "aarch64")]
#[test]
fn every_64_bit_arm_takes_the_neon_kernels() {
    assert_eq!(kernels().level(), Level::Neon);
    assert_eq!(super::super::active().level(), super::super::Level::Neon);
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
        for power in 0..=up_to(11, 7) {
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
fn hadamard_gives_the_same_numbers_at_every_level() {
    let mut numbers = Numbers(10);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for power in 0..=up_to(12, 8) {
            let x = numbers.floats(1 << power);
            let (mut found, mut expected) = (x.clone(), x);
            kernels.hadamard(&mut found);
            scalar.hadamard(&mut expected);
            assert_eq!(found, expected, "{:?} {power}", kernels.level());
        }
    }
}

#[test]
fn sign_tables_are_the_same_bytes_at_every_level() {
    let mut numbers = Numbers(11);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for dims in (16..up_to(400, 80)).step_by(16) {
            let point = numbers.floats(dims);
            for scale in [1.0, 31.0, 60.0] {
                let tables = |kernels: &Kernels| {
                    let (mut low, mut high) = (vec![1; 2 * dims], vec![2; 2 * dims]);
                    kernels.sign_tables(&point, scale, &mut low, &mut high);
                    (low, high)
                };
                let what = format!("{:?} {dims} {scale}", kernels.level());
                assert_eq!(tables(kernels), tables(scalar), "{what}");
            }
        }
    }
}

/// Some groups of `columns` bytes a code with room behind each, and tables; every eighth constant is NaN.
struct Signs {
    bytes: Vec<u8>,
    stride: usize,
    columns: usize,
    low: Vec<u8>,
    high: Vec<u8>,
}

const TERMS: BoundTerms = BoundTerms {
    constant_weight: 1.0,
    base: 2.0,
    gain: 0.01,
    offset: -3.0,
    spread: 1.5,
};

impl Signs {
    fn new(numbers: &mut Numbers, columns: usize, groups: usize) -> Signs {
        let mut bytes = Vec::new();
        for _ in 0..groups {
            bytes.extend(numbers.bytes(LANES * columns));
            for lane in 0..LANES {
                let constant = if lane % 8 == 5 {
                    f32::NAN
                } else {
                    numbers.float()
                };
                bytes.extend(constant.to_le_bytes());
            }
            for _ in 0..2 * LANES {
                bytes.extend(((numbers.float().abs().to_bits() >> 16) as u16).to_le_bytes());
            }
            bytes.extend(numbers.bytes(10));
        }
        let extreme = columns.is_multiple_of(8);
        let mut table = || -> Vec<u8> {
            let bytes = numbers.bytes(LANES * columns).into_iter();
            bytes.map(|b| if extreme { 127 } else { b % 128 }).collect()
        };
        Signs {
            low: table(),
            high: table(),
            bytes,
            stride: LANES * (columns + 8) + 10,
            columns,
        }
    }

    fn bounds(
        &self,
        kernels: &Kernels,
        terms: &BoundTerms,
        threshold: f32,
        chosen: &mut [u16],
    ) -> (Vec<[f32; LANES]>, f32) {
        let groups = SignGroups {
            bytes: &self.bytes,
            stride: self.stride,
            columns: self.columns,
        };
        let tables = Tables {
            low: &self.low,
            high: &self.high,
        };
        let mut bounds = vec![[7.0; LANES]; chosen.len()];
        let least = kernels.sign_bounds(&groups, &tables, terms, threshold, chosen, &mut bounds);
        (bounds, least)
    }
}

#[test]
fn sign_bounds_agree_with_the_scalar_at_every_length() {
    let mut numbers = Numbers(3);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        let long = [256, 260, 516, 1028, 2000];
        for columns in (4usize..140).step_by(4).chain(long) {
            if columns > up_to(2000, 72) {
                break;
            }
            let signs = Signs::new(&mut numbers, columns, 3);
            let all = || [u16::MAX; 3];
            let (found, _) = signs.bounds(kernels, &TERMS, f32::INFINITY, &mut all());
            let (expected, _) = signs.bounds(scalar, &TERMS, f32::INFINITY, &mut all());
            for (found, expected) in found.as_flattened().iter().zip(expected.as_flattened()) {
                let what = format!("{:?} {columns}", kernels.level());
                assert_eq!(found.is_nan(), expected.is_nan(), "{what}");
                if !found.is_nan() {
                    close(*found, *expected, columns as f32 * 2.54 + 8.0, &what);
                }
            }
        }
    }
}

#[test]
fn sign_bounds_choose_what_is_not_above_the_threshold_at_every_level() {
    let mut numbers = Numbers(6);
    for kernels in levels().into_iter().chain(Kernels::at(Level::Scalar)) {
        for columns in [4, 32, 100] {
            if columns > up_to(100, 32) {
                break;
            }
            let signs = Signs::new(&mut numbers, columns, 5);
            let (bounds, _) = signs.bounds(kernels, &TERMS, 0.0, &mut [u16::MAX; 5]);
            let mut sorted: Vec<f32> = bounds.as_flattened().to_vec();
            sorted.retain(|bound| !bound.is_nan());
            sorted.sort_by(f32::total_cmp);
            for threshold in [
                f32::NEG_INFINITY,
                sorted[0],
                sorted[30],
                sorted[69],
                f32::INFINITY,
            ] {
                let selected = [u16::MAX, 0, 0x8001, numbers.next() as u16, 0x0fff];
                let mut chosen = selected;
                let (found, least) = signs.bounds(kernels, &TERMS, threshold, &mut chosen);
                let mut expected_least = f32::INFINITY;
                for (group, selected) in selected.into_iter().enumerate() {
                    for (lane, &bound) in bounds[group].iter().enumerate() {
                        let is_selected = selected >> lane & 1 == 1;
                        let is_near = is_selected && bound <= threshold;
                        assert_eq!(chosen[group] >> lane & 1 == 1, is_near);
                        if is_selected && bound > threshold {
                            expected_least = expected_least.min(bound);
                        }
                        let expected = if selected == 0 { 7.0 } else { bound };
                        // Which NaN comes out is nobody's promise, from one call to the next.
                        let is_same = found[group][lane].to_bits() == expected.to_bits()
                            || found[group][lane].is_nan() && expected.is_nan();
                        assert!(is_same, "{} is not {expected}", found[group][lane]);
                    }
                }
                assert_eq!(least, expected_least, "{:?}", kernels.level());
            }
        }
    }
}

#[test]
fn a_nan_constant_gives_a_nan_bound_even_without_weight() {
    let mut numbers = Numbers(7);
    let signs = Signs::new(&mut numbers, 4, 1);
    let terms = BoundTerms {
        constant_weight: 0.0,
        ..TERMS
    };
    for kernels in levels().into_iter().chain(Kernels::at(Level::Scalar)) {
        let (bounds, _) = signs.bounds(kernels, &terms, f32::INFINITY, &mut [u16::MAX]);
        for (lane, bound) in bounds[0].iter().enumerate() {
            assert_eq!(bound.is_nan(), lane % 8 == 5, "{:?}", kernels.level());
        }
    }
}

#[test]
fn words_match_if_they_equal_one_of_the_values_at_every_level() {
    let mut numbers = Numbers(8);
    for kernels in levels().into_iter().chain(Kernels::at(Level::Scalar)) {
        for groups in 0..5 {
            let words: Vec<u32> = (0..groups * LANES)
                .map(|_| numbers.next() as u32 % 6)
                .collect();
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            for values in [&[][..], &[3], &[5, 0], &[1, 2, 4, u32::MAX]] {
                let selected: Vec<u16> = (0..groups).map(|_| numbers.next() as u16).collect();
                let mut chosen = selected.clone();
                kernels.matching(&bytes, values, &mut chosen);
                for (i, word) in words.iter().enumerate() {
                    let (group, lane) = (i / LANES, i % LANES);
                    let is_match = selected[group] >> lane & 1 == 1 && values.contains(word);
                    assert_eq!(
                        chosen[group] >> lane & 1 == 1,
                        is_match,
                        "{:?}",
                        kernels.level()
                    );
                }
            }
        }
    }
}

#[test]
fn quad_products_are_the_same_integers_at_every_level() {
    let mut numbers = Numbers(9);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for bytes in (4usize..70).step_by(4).chain([256, 784, 1008, 16_000]) {
            if bytes > up_to(16_000, 40) {
                break;
            }
            let extreme = bytes.is_multiple_of(8);
            let quads: Vec<u8> = numbers
                .bytes(3 * LANES * bytes)
                .iter()
                .map(|b| if extreme { 127 } else { b % 128 })
                .collect();
            let row: Vec<i8> = numbers
                .bytes(bytes)
                .iter()
                .map(|b| if extreme { -127 } else { (*b as i8).max(-127) })
                .collect();
            let (mut found, mut expected) = ([[1; LANES]; 3], [[2; LANES]; 3]);
            kernels.quad_products(&quads, &row, &mut found);
            scalar.quad_products(&quads, &row, &mut expected);
            assert_eq!(found, expected, "{:?} {bytes}", kernels.level());
        }
    }
}

#[test]
fn packed_sums_agree_with_the_scalar_at_every_width_and_length() {
    let mut numbers = Numbers(4);
    let scalar = Kernels::at(Level::Scalar).expect("always there");
    for kernels in levels() {
        for bits in 3..=8u32 {
            for dims in (16..=up_to(400, 96)).step_by(16) {
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
        for rows in 0..up_to(20, 10) {
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
