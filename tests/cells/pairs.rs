//! A few cells in which every two values that occur together in a legal cell occur together: most faults need two.

use crate::cell::Cell;
use std::collections::HashSet;

/// Greedily, in the order of the cells, so that it is the same every time.
pub fn cover(cells: Vec<Cell>) -> Vec<Cell> {
    let mut missing: HashSet<Pair> = cells.iter().flat_map(pairs).collect();
    let mut chosen = vec![];
    while !missing.is_empty() {
        let gain = |cell: &Cell| pairs(cell).filter(|p| missing.contains(p)).count();
        let best = cells.iter().rev().max_by_key(|c| gain(c)).expect("a missing pair is some cell's");
        pairs(best).for_each(|p| {
            missing.remove(&p);
        });
        chosen.push(*best);
    }
    chosen
}

type Pair = [(usize, usize); 2];

fn pairs(cell: &Cell) -> impl Iterator<Item = Pair> {
    let values = cell.factors();
    let n = values.len();
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| [(i, values[i]), (j, values[j])]))
}
