//! Who orthogonalises which matrix, and where its parts lie in the buffers that bring it there and back.
//!
//! Rank (s, r) is the s-th of its shard group and the r-th of its tensor-parallel group; S · R of them hold the model once.
//! Matrix k has an owner (s', r') among them. Its parts go to the owner in two moves and come back the same way:
//!
//!     (s, r)   over the shard group    its slice of its box, to (s', r)       without ZeRO every rank has its whole box
//!     (s', r)  over tp                 its box, to (s', r')
//!
//! A round is the matrices of S · R consecutive blocks: equal blocks then fall to owners one matrix of each name to each,
//! and slots of an all-to-all, which are all as large as the fullest, are full.

use super::newton_schulz::flops;
use crate::config::is_matrix_of_block;
use crate::params::{LocalBox, Params, Placed};
use std::ops::Range;

/// The place of this rank.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Rank and size of the shard group.
    pub shard: (usize, usize),
    /// Rank and size of the tensor-parallel group.
    pub tp: (usize, usize),
    /// Whether ranks of the shard group update slices, or each of them everything.
    pub sliced: bool,
}

/// A matrix of a round.
pub struct Matrix {
    /// Its unit, and its place in it.
    pub unit: usize,
    pub param: usize,
    pub rows: usize,
    pub cols: usize,
    /// (s', r')
    pub owner: (usize, usize),
    /// Values of the largest box of a rank of tp.
    pub most: usize,
    /// What this rank updates, in elements of the unit.
    pub own: Range<usize>,
    /// Where that lies in the buffer of the first move, if it goes anywhere.
    pub at: Option<usize>,
    /// Where this rank's box lies in the buffer between the moves, if the owner is in its column.
    pub box_at: Option<usize>,
    /// For the owner: the box of each rank of tp, where it lies after the second move, and whether it is needed there
    /// (of equal boxes the first).
    pub boxes: Vec<(LocalBox, usize, bool)>,
}

/// A part of a box: in the buffer of the first move, and between the moves.
pub struct Copy {
    pub outer: usize,
    pub inner: usize,
    pub len: usize,
}

pub struct Round {
    pub matrices: Vec<Matrix>,
    /// What the first move brought (and takes back) to this rank.
    pub copies: Vec<Copy>,
    /// Values of a slot of either move, the same on all ranks.
    pub shard_slot: usize,
    pub tp_slot: usize,
}

/// All rounds of an update, in the order of the network.
pub fn rounds(params: &Params, place: Place) -> Vec<Round> {
    let ranks = place.shard.1 * place.tp.1;
    let has = |unit: &usize| params.units[*unit].params.iter().any(|p| is_matrix_of_block(&p.spec.name));
    let units: Vec<usize> = (0..params.units.len()).filter(has).collect();
    units.chunks(ranks).map(|units| round(params, units, place)).collect()
}

fn round(params: &Params, units: &[usize], place: Place) -> Round {
    // Matrices of one name follow one another, so that they fall to different owners.
    let mut all: Vec<(usize, usize, &Placed)> = vec![];
    for &unit in units {
        let matrices = params.units[unit].params.iter().enumerate();
        all.extend(matrices.filter(|(_, p)| is_matrix_of_block(&p.spec.name)).map(|(i, p)| (i, unit, p)));
    }
    all.sort_by_key(|(param, unit, _)| (*param, *unit));
    let costs: Vec<f64> = all.iter().map(|(.., p)| flops(p.spec.rows, p.spec.cols, 1)).collect();
    let owners = assign(&costs, place.shard.1 * place.tp.1);
    let (s, r) = (place.shard.0, place.tp.0);
    let tp = |r: usize| all.iter().map(move |(.., p)| p.spec.local(r, place.tp.1)).collect::<Vec<_>>();
    let boxes: Vec<Vec<LocalBox>> = (0..place.tp.1).map(tp).collect();

    let mut matrices: Vec<Matrix> = all
        .iter()
        .zip(&owners)
        .enumerate()
        .map(|(k, ((param, unit, p), owner))| Matrix {
            unit: *unit,
            param: *param,
            rows: p.spec.rows,
            cols: p.spec.cols,
            owner: (owner / place.tp.1, owner % place.tp.1),
            most: boxes.iter().map(|b| len(&b[k])).max().unwrap_or(0),
            own: slice(params, *unit, p.start, &boxes[r][k], place, s),
            at: None,
            box_at: None,
            boxes: vec![],
        })
        .collect();

    // What (s, r) sends to (s', r), and all boxes of r with the owner (s', r').
    let piece = |k: usize, s: usize, r: usize| {
        let (param, unit, p) = all[k];
        debug_assert_eq!(params.units[unit].params[param].start, p.start);
        slice(params, unit, p.start, &boxes[r][k], place, s)
    };
    let of = |owned: &dyn Fn((usize, usize)) -> bool| -> Vec<usize> {
        (0..matrices.len()).filter(|&k| owned(matrices[k].owner)).collect()
    };
    let columns: Vec<Vec<usize>> = (0..place.shard.1).map(|s| of(&|o| o.0 == s)).collect();
    let cells: Vec<Vec<usize>> = (0..place.tp.1).map(|r| of(&|o| o == (s, r))).collect();
    let mut shard_slot = 0;
    let mut tp_slot = 0;
    for (r, of_rank) in boxes.iter().enumerate() {
        for (to, column) in columns.iter().enumerate() {
            for from in 0..place.shard.1 {
                shard_slot = shard_slot.max(column.iter().map(|&k| piece(k, from, r).len()).sum());
            }
            for r_to in 0..place.tp.1 {
                let owned = column.iter().filter(|&&k| matrices[k].owner == (to, r_to));
                tp_slot = tp_slot.max(owned.map(|&k| len(&of_rank[k])).sum());
            }
        }
    }

    let over_shard = place.shard.1 > 1 && place.sliced;
    for (r_to, cell) in cells.iter().enumerate() {
        let mut at = r_to * tp_slot;
        for &k in cell {
            matrices[k].box_at = Some(at);
            at += len(&boxes[r][k]);
        }
    }
    let mut copies = vec![];
    if over_shard {
        for (to, column) in columns.iter().enumerate() {
            let mut at = to * shard_slot;
            for &k in column {
                matrices[k].at = Some(at);
                at += matrices[k].own.len();
            }
        }
        for from in 0..place.shard.1 {
            let mut outer = from * shard_slot;
            for &k in &columns[s] {
                let part = piece(k, from, r);
                let box_at = matrices[k].box_at.expect("its owner is in this column");
                let inner = box_at + part.start.saturating_sub(all[k].2.start);
                copies.push(Copy { outer, inner, len: part.len() });
                outer += part.len();
            }
        }
        copies.retain(|c| c.len > 0);
    } else {
        matrices.iter_mut().for_each(|m| m.at = m.box_at);
    }
    for (from, boxes) in boxes.iter().enumerate() {
        let mut at = from * tp_slot;
        for &k in &cells[r] {
            let needed = from.is_multiple_of(all[k].2.spec.copies(place.tp.1));
            matrices[k].boxes.push((boxes[k], at, needed));
            at += len(&boxes[k]);
        }
    }
    Round { matrices, copies, shard_slot, tp_slot }
}

fn len(b: &LocalBox) -> usize {
    b.rows * b.cols
}

/// What rank s of the shard group updates of a box that begins at element `start` of a unit.
fn slice(params: &Params, unit: usize, start: usize, b: &LocalBox, place: Place, s: usize) -> Range<usize> {
    let end = start + len(b);
    if !place.sliced {
        return start..end;
    }
    let each = params.units[unit].len / place.shard.1;
    let first = start.max(s * each).min(end);
    first..end.min((s + 1) * each).max(first)
}

/// The rank of each matrix: costly ones first, each to the rank with the least to do (Graham 1969), equal ones in order.
fn assign(costs: &[f64], ranks: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..costs.len()).collect();
    order.sort_by(|a, b| costs[*b].total_cmp(&costs[*a]).then(a.cmp(b)));
    let mut load = vec![0.0; ranks];
    let mut owners = vec![0; costs.len()];
    for k in order {
        let least = (0..ranks).min_by(|a, b| f64::total_cmp(&load[*a], &load[*b])).expect("a rank");
        owners[k] = least;
        load[least] += costs[k];
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::device::{DType, Device};
    use crate::model::Network;
    use crate::params::Dp;

    /// The rounds of rank (s, r) of a model of `layers` blocks, and the length of a block's unit.
    fn of(layers: usize, (s, shards): (usize, usize), tp: (usize, usize), zero: u8) -> (Vec<Round>, usize) {
        let base = ModelConfig::preset("llama-tiny").expect("a preset");
        let model = ModelConfig { layers, dim: 64, heads: 4, kv_heads: 2, head_dim: 16, ffn_dim: 96, ..base };
        let dp = Dp { rank: s, size: shards, zero, replica: (0, 1) };
        let (_, params) = Network::build(&model, &Device::meta(), DType::F32, tp, dp, 8);
        (rounds(&params, Place { shard: (s, shards), tp, sliced: zero > 0 }), params.units[1].len)
    }

    #[test]
    fn equal_blocks_fall_one_matrix_of_each_name_to_each_owner_and_slots_are_full() {
        let (rounds, block) = of(8, (1, 4), (0, 2), 1);
        assert_eq!(rounds.len(), 1);
        for owner in (0..4).flat_map(|s| [(s, 0), (s, 1)]) {
            let mut names: Vec<usize> =
                rounds[0].matrices.iter().filter(|m| m.owner == owner).map(|m| m.param).collect();
            names.dedup();
            assert_eq!(names.len(), 7, "{owner:?}");
        }
        // Of two blocks that a column owns, a rank has a fourth of its half each.
        assert!(rounds[0].shard_slot <= 2 * block / 4, "{} of {block}", rounds[0].shard_slot);
        assert_eq!(of(9, (1, 4), (0, 2), 1).0.len(), 2, "the ninth is a round of its own");
    }

    #[test]
    fn every_value_of_every_matrix_comes_to_its_owner_once() {
        for (shards, tp, zero) in
            [(1, 1, 0), (2, 1, 0), (4, 1, 1), (1, 4, 1), (2, 2, 0), (3, 2, 3), (2, 4, 2)]
        {
            let all: Vec<Vec<Round>> =
                (0..shards * tp).map(|i| of(5, (i / tp, shards), (i % tp, tp), zero).0).collect();
            for (n, round) in all[0].iter().enumerate() {
                let at = |s: usize, r: usize| &all[s * tp + r][n];
                for (k, m) in round.matrices.iter().enumerate() {
                    let values = m.rows * m.cols;
                    // What ranks hold of it, each value once but for copies of kv heads.
                    let boxes = &at(m.owner.0, m.owner.1).matrices[k].boxes;
                    let needed = boxes.iter().filter(|b| b.2).map(|(b, ..)| len(b)).sum::<usize>();
                    assert_eq!((boxes.len(), needed), (tp, values), "{shards} x {tp}: matrix {k}");
                    for (r, part) in boxes.iter().enumerate() {
                        let own = |s: usize| at(s, r).matrices[k].own.len();
                        let sent: usize = (0..shards).filter(|&s| zero > 0 || s == m.owner.0).map(own).sum();
                        assert_eq!(sent, len(&part.0), "{shards} x {tp}, box {r} of matrix {k}");
                    }
                }
                for (s, r) in (0..shards).flat_map(|s| (0..tp).map(move |r| (s, r))) {
                    let round = at(s, r);
                    assert_eq!((round.shard_slot, round.tp_slot), (at(0, 0).shard_slot, at(0, 0).tp_slot));
                    let inner: usize = round.copies.iter().map(|c| c.len).sum();
                    let column = round.matrices.iter().filter(|m| m.box_at.is_some());
                    let boxes: usize = column.map(|m| m.most).sum();
                    assert!(shards == 1 || zero == 0 || inner == boxes, "{inner} of {boxes}");
                }
            }
        }
    }

    #[test]
    fn the_costly_are_dealt_first_and_nobody_has_twice_his_share() {
        assert_eq!(assign(&[1.0, 4.0, 2.0, 2.0], 2), [0, 0, 1, 1]);
        assert_eq!(assign(&[1.0; 6], 3), [0, 1, 2, 0, 1, 2]);
        assert_eq!(assign(&[5.0], 4), [0]);
    }
}
