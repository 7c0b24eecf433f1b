//! What ranks hold alike, compared by checksums: weights over dp below ZeRO 3, the optimizer's state over replicas, both
//! over tp where every rank of it holds a tensor. A bit that flipped on one of them would train on in silence.

use super::replica::Replica;
use crate::comm::processes;
use crate::device::{Category, DType};
use crate::optim::Moment;
use crate::tensor::Tensor;
use crate::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

/// Values of one item: where it begins within the tensor (two numbers), and its hash in two halves, which are exact.
const WIDTH: usize = 4;
const KINDS: [&str; 2] = ["weights", "optimizer state"];
/// Of what a rank does not hold.
const ABSENT: f64 = -1.0;

/// Error `RankLost` on all ranks, naming the rank and the tensor, if ranks that hold the same part of a tensor hold different
/// bits. Collective; `step` updates were made.
pub fn compare(r: &mut Replica, step: u64) -> Result<()> {
    r.flow.settle(&mut r.params)?;
    let own = items(r);
    let (world, width) = (r.mesh.world.clone(), own.len());
    let mut all = Tensor::zeros(&r.dev, world.size(), width, DType::F64, Category::Comm);
    all.data_mut::<f64>()[world.rank() * width..][..width].copy_from_slice(&own);
    let all = world.all_gather(all, "checksums of replicas")?.wait()?;
    let rows: Vec<&[f64]> = all.data::<f64>().chunks(width.max(1)).collect();
    let Some((odd, right, item)) = differs(&rows) else { return Ok(()) };
    let tensors: Vec<&str> = r.params.iter().map(|(_, p)| p.spec.name.as_str()).collect();
    let (tensor, kind) = (tensors[item / KINDS.len()], KINDS[item % KINDS.len()]);
    let host = processes::host(odd).map_or(String::new(), |host| format!("on {host}, "));
    Err(Error::RankLost {
        rank: odd,
        problem: format!(
            "{host}after update {step} its {kind} of {tensor} are not those of rank {right}, which should be the same; \
             the same command goes on from the newest checkpoint, and if it happens again that host is broken"
        ),
    })
}

/// For each tensor its weights and its optimizer state.
fn items(r: &Replica) -> Vec<f64> {
    let mut items = vec![];
    for (i, unit) in r.params.units.iter().enumerate() {
        for (n, p) in unit.params.iter().enumerate() {
            let place = (p.local.row * p.spec.cols + p.local.col) as f64;
            let mut item = |from: usize, parts: &[(&Tensor, std::ops::Range<usize>)]| {
                let mut hash = Xxh3::new();
                let mut any = false;
                for (t, range) in parts.iter().filter(|(t, range)| t.exists() && !range.is_empty()) {
                    let size = t.dtype().bytes();
                    hash.update(&t.bytes()[range.start * size..range.end * size]);
                    any = true;
                }
                let hash = hash.digest();
                items.extend(match any {
                    true => [place, from as f64, (hash >> 32) as f64, (hash & 0xffff_ffff) as f64],
                    false => [ABSENT; WIDTH],
                });
            };
            item(0, &[(&unit.weights, p.range())]);
            let held = p.range().start.max(unit.slice.start)..p.range().end.min(unit.slice.end);
            let own = match held.is_empty() {
                true => 0..0,
                false => held.start - unit.slice.start..held.end - unit.slice.start,
            };
            let mut state = vec![(&unit.master, own.clone())];
            let moment = |which| r.optim.moment(which, i, n);
            state.extend([Moment::First, Moment::Second].into_iter().filter_map(moment).map(|(t, start)| {
                (t, if held.is_empty() { 0..0 } else { held.start - start..held.end - start })
            }));
            state.extend(r.optim.ema.as_ref().map(|ema| (&ema.average[i], own.clone())));
            item(held.start - p.range().start, &state);
        }
    }
    items
}

/// The first rank whose item is not that of the ranks that hold the same part, one of these, and the item. Whom most agree
/// with is right; the first among equals.
fn differs(rows: &[&[f64]]) -> Option<(usize, usize, usize)> {
    let items = rows.first().map_or(0, |row| row.len() / WIDTH);
    (0..items).find_map(|item| {
        let of = |rank: usize| &rows[rank][item * WIDTH..(item + 1) * WIDTH];
        (0..rows.len()).filter(|&r| of(r)[0] != ABSENT).find_map(|r| {
            let peers: Vec<usize> = (0..rows.len()).filter(|&p| of(p)[..2] == of(r)[..2]).collect();
            let votes = |&p: &usize| peers.iter().filter(|&&q| of(q) == of(p)).count();
            let right = *peers.iter().rev().max_by_key(|p| votes(p))?;
            let odd = *peers.iter().find(|&&p| of(p) != of(right))?;
            Some((odd, right, item))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_most_agree_with_is_right_and_parts_are_compared_with_the_same_parts_only() {
        let row = |a: f64, b: f64| vec![0.0, 0.0, 1.0, a, 64.0, 0.0, 1.0, b];
        let find = |rows: &[Vec<f64>]| differs(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(find(&[row(5.0, 6.0), row(5.0, 6.0)]), None);
        assert_eq!(find(&[row(5.0, 6.0), row(5.0, 7.0), row(5.0, 7.0)]), Some((0, 1, 1)));
        assert_eq!(find(&[row(5.0, 6.0), row(4.0, 6.0)]), Some((1, 0, 0)), "the first among equals");
        let other = vec![64.0, 0.0, 1.0, 9.0, ABSENT, ABSENT, ABSENT, ABSENT];
        assert_eq!(find(&[row(5.0, 6.0), other.clone(), row(5.0, 6.0), other]), None);
    }
}
