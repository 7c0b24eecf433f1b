//! Whole tensors out of the parts that tensor-parallel ranks hold.

use crate::gather::Part;
use espalier::params::LocalBox;

/// A whole tensor.
pub struct Whole {
    /// Its block, or the embedding or head.
    pub unit: String,
    pub name: String,
    pub values: Vec<f64>,
}

/// Joins the parts of the ranks of one tensor-parallel group. What several hold must be the same bits on all.
pub fn whole(ranks: &[&[Part]]) -> Vec<Whole> {
    let join = |i: usize| {
        let spec = &ranks[0][i].spec;
        let mut values = vec![f64::NAN; spec.len()];
        for part in ranks.iter().map(|parts| &parts[i]) {
            let LocalBox { row, col, cols, .. } = part.local;
            for (i, values_of_row) in part.values.chunks(cols.max(1)).enumerate() {
                let to = (row + i) * spec.cols + col;
                for (value, new) in values[to..to + cols].iter_mut().zip(values_of_row) {
                    let same = value.is_nan() || value.to_bits() == new.to_bits();
                    assert!(same, "copies of {} differ", spec.name);
                    *value = *new;
                }
            }
        }
        assert!(values.iter().all(|v| v.is_finite()), "{}: the parts leave a gap", spec.name);
        Whole { unit: ranks[0][i].unit.clone(), name: spec.name.clone(), values }
    };
    (0..ranks[0].len()).map(join).collect()
}
