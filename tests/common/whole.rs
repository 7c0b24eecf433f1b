//! Whole tensors out of the parts that tensor-parallel ranks hold.

use crate::gather::Part;
use espalier::params::{LocalBox, Shard};

/// A whole tensor.
pub struct Whole {
    /// Its block, or the embedding or head.
    pub unit: String,
    pub name: String,
    pub values: Vec<f64>,
}

/// Joins the parts of the ranks of one tensor-parallel group. A replicated tensor must be the same bits on all.
pub fn whole(ranks: &[&[Part]]) -> Vec<Whole> {
    let join = |i: usize| {
        let spec = &ranks[0][i].spec;
        let mut values = vec![f64::NAN; spec.len()];
        for part in ranks.iter().map(|parts| &parts[i]) {
            let LocalBox { row, col, cols, .. } = part.local;
            if spec.shard == Shard::Replicated {
                let bits = |v: &[f64]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert!(bits(&part.values) == bits(&ranks[0][i].values), "copies of {} differ", spec.name);
            }
            for (i, values_of_row) in part.values.chunks(cols.max(1)).enumerate() {
                let to = (row + i) * spec.cols + col;
                values[to..to + cols].copy_from_slice(values_of_row);
            }
        }
        assert!(values.iter().all(|v| v.is_finite()), "{}: the parts leave a gap", spec.name);
        Whole { unit: ranks[0][i].unit.clone(), name: spec.name.clone(), values }
    };
    (0..ranks[0].len()).map(join).collect()
}
