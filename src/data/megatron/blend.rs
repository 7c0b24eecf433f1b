//! What Megatron makes of weights and splits, to the last bit: NumPy's sum and Python's rounding in float64.
//!
//! Source: `megatron/core/datasets/{utils, blended_megatron_dataset_config, blended_megatron_dataset_builder}.py`.

use std::ops::Range;

/// Samples a corpus of a blend is built for beyond its share of the run.
const SURPLUS: f64 = 0.005;

/// `weights / numpy.sum(weights)`.
pub fn normalised(weights: &[f64]) -> Vec<f64> {
    let sum = numpy_sum(weights);
    weights.iter().map(|w| w / sum).collect()
}

/// NumPy's pairwise sum: eight running sums in blocks of at most 128 numbers, blocks added as a tree.
fn numpy_sum(x: &[f64]) -> f64 {
    if x.len() < 8 {
        return x.iter().sum();
    }
    if x.len() > 128 {
        let half = x.len() / 2 / 8 * 8;
        return numpy_sum(&x[..half]) + numpy_sum(&x[half..]);
    }
    let mut r = [0.0; 8];
    let (eights, rest) = x.as_chunks::<8>();
    r.copy_from_slice(&eights[0]);
    for eight in &eights[1..] {
        r.iter_mut().zip(eight).for_each(|(r, x)| *r += x);
    }
    let sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
    rest.iter().fold(sum, |sum, x| sum + x)
}

/// The sequences of training, validation and test, out of `sequences`.
pub fn split(shares: [f64; 3], sequences: u64) -> [Range<u64>; 3] {
    let shares = normalised(&shares);
    let mut begin = 0.0;
    std::array::from_fn(|part| {
        let end = if part == 0 { shares[0] } else { begin + shares[part] };
        let at = |share: f64| ((share * sequences as f64).round_ties_even() as u64).min(sequences);
        let range = at(begin)..at(end);
        begin = end;
        range
    })
}

/// How a blend draws from its corpora. All by the number of the corpus, 0 for those that it leaves out.
#[derive(Debug, Clone, PartialEq)]
pub struct Blend {
    /// What the greedy draw is given: weights normalised twice, as Megatron's builder and its blend both do it.
    pub share: Vec<f64>,
    /// Samples each corpus gives at most.
    pub target: Vec<u64>,
    /// Samples each corpus is built for, 0.5 % more. One corpus alone is no blend and has no surplus.
    pub built: Vec<u64>,
}

impl Blend {
    /// A blend of `samples` samples. `weights`: those that are 0 are left out.
    pub fn new(weights: &[f64], samples: u64) -> Blend {
        let drawn: Vec<usize> = (0..weights.len()).filter(|&i| weights[i] > 0.0).collect();
        let once = normalised(&drawn.iter().map(|&i| weights[i]).collect::<Vec<_>>());
        let twice = normalised(&once);
        let (share, target) = (vec![0.0; weights.len()], vec![0; weights.len()]);
        let mut blend = Blend { share, built: target.clone(), target };
        for (at, &i) in drawn.iter().enumerate() {
            let target = (samples as f64 * once[at]).ceil();
            blend.share[i] = twice[at];
            (blend.target[i], blend.built[i]) = match drawn.len() {
                1 => (samples, samples),
                _ => (target as u64, (target * (1.0 + SURPLUS)).ceil() as u64),
            };
        }
        blend
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_equal_those_of_numpy() {
        // numpy 2.4.6: (1 / (arange(n) + 3)).sum()
        let sums: [(usize, u64); 10] = [
            (1, 0x3fd5555555555555),
            (3, 0x3fe9111111111110),
            (7, 0x3ff5437437437437),
            (8, 0x3ff6dd0dd0dd0dd0),
            (9, 0x3ff8516ae822df44),
            (17, 0x400061c554513c25),
            (128, 0x400f96b70e38f84d),
            (130, 0x400fb5dd22005b7e),
            (300, 0x4013283d93b7feeb),
            (1000, 0x4017f32ac6b16780),
        ];
        for (n, want) in sums {
            let x: Vec<f64> = (0..n).map(|i| 1.0 / (i as f64 + 3.0)).collect();
            assert_eq!(numpy_sum(&x).to_bits(), want, "{n} numbers");
        }
    }

    #[test]
    fn splits_equal_those_of_megatron() {
        // megatron-core 0.16.1: parse_and_normalize_split, convert_split_vector_to_split_matrix, int(round(..)).
        // A part that Megatron leaves out is an empty range here.
        let cases = [
            ([969.0, 30.0, 1.0], 1001, [970, 1000, 1001]),
            ([969.0, 30.0, 1.0], 123_456_789, [119_629_629, 123_333_332, 123_456_789]),
            ([949.0, 50.0, 1.0], 10, [9, 10, 10]),
            ([949.0, 50.0, 1.0], 1500, [1424, 1498, 1500]),
            ([1.0, 0.0, 0.0], 7, [7, 7, 7]),
            ([0.7, 0.2, 0.1], 3, [2, 3, 3]),
            ([0.7, 0.2, 0.1], 123_456_789, [86_419_752, 111_111_110, 123_456_789]),
            ([1.0, 1.0, 1.0], 1, [0, 1, 1]),
            ([1.0, 1.0, 1.0], 7, [2, 5, 7]),
            ([3.0, 0.0, 1.0], 10, [8, 8, 10]),
        ];
        for (shares, sequences, [a, b, c]) in cases {
            assert_eq!(split(shares, sequences), [0..a, a..b, b..c], "{shares:?} of {sequences}");
        }
    }

    #[test]
    fn corpora_are_built_for_their_share_rounded_up_and_a_surplus() {
        // megatron-core 0.16.1: _get_size_per_split_per_dataset
        let sizes = |weights: &[f64], samples| {
            let b = Blend::new(weights, samples);
            (b.target, b.built)
        };
        assert_eq!(sizes(&[30.0, 0.0, 70.0], 1000), (vec![300, 0, 700], vec![302, 0, 704]));
        assert_eq!(sizes(&[1.0, 2.0], 10), (vec![4, 7], vec![5, 8]));
        assert_eq!(sizes(&[0.0, 2.0], 1000), (vec![0, 1000], vec![0, 1000]));
    }
}
