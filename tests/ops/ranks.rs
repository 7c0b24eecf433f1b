//! Every op that knows its tensor-parallel group, on two ranks against one.

use super::rig::*;
use super::{N, values};
use espalier::comm::Solo;
use espalier::device::DType;
use espalier::device::attention::Heads;
use espalier::ops::embedding::Embedding;
use espalier::ops::head_norm::HeadNorm;
use espalier::ops::linear::{ColumnLinear, RowLinear};
use espalier::tape::Shape;

/// Ranks of the group.
const R: usize = 2;

/// The rows of a rank, put back together.
fn side_by_side(parts: &[&[f64]], cols: usize) -> Vec<f64> {
    (0..N).flat_map(|i| parts.iter().flat_map(move |p| p[i * cols..(i + 1) * cols].to_vec())).collect()
}

#[test]
fn a_column_linear_on_two_ranks_is_that_on_one() {
    let (i, o) = (5, 14);
    let (w, b, x, dy) = (values("w", o * i), values("b", o), input("x", i), values("dy", N * o));
    let run = |tp: &dyn espalier::comm::Comm, split: bool| {
        let (part, rank) = if split { (o / tp.size(), tp.rank()) } else { (o, 0) };
        let weights = [&w[rank * part * i..][..part * i], &b[rank * part..][..part]].concat();
        let op = || ColumnLinear {
            w: matrix(0, part, i).into(),
            bias: Some(vector(part * i, part)),
            split,
            parts: 1,
        };
        let dy = columns(&dy, o, rank * part..(rank + 1) * part);
        pass_on::<1, _>(tp, &weights, op, std::slice::from_ref(&x), 0, &dy, true)
    };
    let one = run(&Solo::new(), true);
    let parts = ranks(R, |tp| run(tp, true));
    close("y", &side_by_side(&[&parts[0].y[0], &parts[1].y[0]], o / R), &one.y[0]);
    let grads = |from: usize, to: usize| [&parts[0].dw[from..to], &parts[1].dw[from..to]].concat();
    let cut = o / R * i;
    close("dw, db", &[grads(0, cut), grads(cut, cut + o / R)].concat(), &one.dw);
    // Not split, every rank does it all, and nothing is summed over them.
    for same in parts.iter().chain(&ranks(R, |tp| run(tp, false))) {
        close("dx", &same.dx, &one.dx);
    }
    for whole in ranks(R, |tp| run(tp, false)) {
        close("y, not split", &whole.y[0], &one.y[0]);
        close("dw, not split", &whole.dw, &one.dw);
    }
}

/// Wider than what of a row is finished at a time.
#[test]
fn a_row_linear_on_two_ranks_is_that_on_one() {
    let (i, o) = (6, 600);
    let (w, b) = (values("w", o * i), values("b", o));
    let (x, r, dy) = (input("x", i), input("r", o), values("dy", N * o));
    for bias in [false, true] {
        for wrt in [0, 1] {
            let run = |tp: &dyn espalier::comm::Comm| {
                let part = i / tp.size();
                let own = tp.rank() * part..(tp.rank() + 1) * part;
                let weights = [columns(&w, i, own.clone()), b.clone()].concat();
                let bias = bias.then(|| vector(o * part, o));
                let op = || RowLinear { w: matrix(0, o, part).into(), bias };
                let x = [(part, columns(&x.1, i, own)), r.clone()];
                pass_on::<1, _>(tp, &weights, op, &x, wrt, &dy, true)
            };
            let one = run(&Solo::new());
            let parts = ranks(R, run);
            for part in &parts {
                close("y", &part.y[0], &one.y[0]);
                close("db", &part.dw[o * i / R..], &one.dw[o * i..]);
            }
            let dw: Vec<f64> = (0..o)
                .flat_map(|row| parts.iter().flat_map(move |p| p.dw[row * i / R..][..i / R].to_vec()))
                .collect();
            close("dw", &dw, &one.dw[..o * i]);
            if wrt == 0 {
                close("dx", &side_by_side(&[&parts[0].dx, &parts[1].dx], i / R), &one.dx);
            } else {
                parts.iter().for_each(|p| close("dr", &p.dx, &one.dx));
            }
        }
    }
}

/// Sequence parallelism: each rank has half of the rows of x, r and y.
#[test]
fn linear_layers_on_split_rows_are_those_on_one_rank() {
    let (i, o) = (6, 14);
    let (w, b, x, dy) = (values("w", o * i), values("b", o), input("x", i), values("dy", N * o));
    let rows = |x: &[f64], tp: &dyn espalier::comm::Comm| {
        let each = x.len() / tp.size();
        x[tp.rank() * each..][..each].to_vec()
    };
    let column = |tp: &dyn espalier::comm::Comm| {
        let (part, parts) = (o / tp.size(), tp.size());
        let weights = [&w[tp.rank() * part * i..][..part * i], &b[tp.rank() * part..][..part]].concat();
        let op = || ColumnLinear {
            w: matrix(0, part, i).into(),
            bias: Some(vector(part * i, part)),
            split: true,
            parts,
        };
        let dy = columns(&dy, o, tp.rank() * part..(tp.rank() + 1) * part);
        pass_on::<1, _>(tp, &weights, op, &[(i, rows(&x.1, tp))], 0, &dy, true)
    };
    let (one, parts) = (column(&Solo::new()), ranks(R, column));
    close("y", &side_by_side(&[&parts[0].y[0], &parts[1].y[0]], o / R), &one.y[0]);
    close("dx", &[&*parts[0].dx, &*parts[1].dx].concat(), &one.dx);
    let cut = o / R * i;
    let grads = |range: std::ops::Range<usize>| [&parts[0].dw[range.clone()], &parts[1].dw[range]].concat();
    close("dw, db", &[grads(0..cut), grads(cut..cut + o / R)].concat(), &one.dw);

    let r = input("r", o);
    for wrt in [0, 1] {
        let row = |tp: &dyn espalier::comm::Comm| {
            let part = i / tp.size();
            let own = tp.rank() * part..(tp.rank() + 1) * part;
            let weights = [columns(&w, i, own.clone()), b.clone()].concat();
            let op = || RowLinear { w: matrix(0, o, part).into(), bias: Some(vector(o * part, o)) };
            let x = [(part, columns(&x.1, i, own)), (o, rows(&r.1, tp))];
            pass_on::<1, _>(tp, &weights, op, &x, wrt, &rows(&dy, tp), true)
        };
        let (one, parts) = (row(&Solo::new()), ranks(R, row));
        close("y", &[&*parts[0].y[0], &*parts[1].y[0]].concat(), &one.y[0]);
        match wrt {
            0 => close("dx", &side_by_side(&[&parts[0].dx, &parts[1].dx], i / R), &one.dx),
            _ => close("dr", &[&*parts[0].dx, &*parts[1].dx].concat(), &one.dx),
        }
        // Of the gathered dy: whole on every rank.
        parts.iter().for_each(|p| close("db", &p.dw[o * i / R..], &one.dw[o * i..]));
    }
}

/// The last row of each part is padding; tokens 1 to 9 occur, and 5 is the first of the second rank.
#[test]
fn an_embedding_on_two_ranks_is_that_on_one() {
    let (c, v) = (5, 10);
    let (w, places, dy) = (values("w", v * c), values("p", 4 * c), values("dy", N * c));
    let run = |tp: &dyn espalier::comm::Comm, split: usize| {
        let valid = v / tp.size();
        let first = tp.rank() * valid;
        let weights = [&w[first * c..][..valid * c], &vec![9.0; c], &places].concat();
        let (tokens, positions) = (matrix(0, valid + 1, c), Some(matrix((valid + 1) * c, 4, c)));
        let shape = Shape { rows: N / split, cols: c, dtype: DType::F64 };
        let dy = if split == 1 { &dy[..] } else { &dy[tp.rank() * N / split * c..][..N / split * c] };
        let op = || Embedding { tokens, first, valid, positions, types: None, shape };
        let pass = pass_on::<1, _>(tp, &weights, op, &[], 0, dy, true);
        assert!(pass.dw[valid * c..][..c].iter().all(|g| *g == 0.0), "padding has no gradient");
        (pass.y, pass.dw[..valid * c].to_vec(), pass.dw[(valid + 1) * c..].to_vec())
    };
    let (y, dw, dp) = run(&Solo::new(), 1);
    for split in [1, R] {
        let parts = ranks(R, |tp| run(tp, split));
        for part in &parts {
            close("dp", &part.2, &dp);
        }
        close("dw", &[&*parts[0].1, &*parts[1].1].concat(), &dw);
        match split {
            1 => parts.iter().for_each(|part| close("x", &part.0[0], &y[0])),
            _ => close("x", &[&*parts[0].0[0], &*parts[1].0[0]].concat(), &y[0]),
        }
    }
}

#[test]
fn a_head_norm_on_two_ranks_is_that_on_one() {
    let (d, width, w) = (6, HEADS.qkv_width(), values("w", 12));
    let (x, dy) = (input("x", width), values("dy", N * width));
    let (q, kv) = (HEADS.heads / R * d, HEADS.kv_heads / R * d);
    // [q | k | v] of a rank's heads
    let own = |x: &[f64], rank: usize| -> Vec<f64> {
        let starts = [(rank * q, q), (R * q + rank * kv, kv), (R * (q + kv) + rank * kv, kv)];
        x.chunks(width)
            .flat_map(|row| starts.iter().flat_map(|&(s, n)| row[s..s + n].to_vec()).collect::<Vec<_>>())
            .collect()
    };
    let run = |tp: &dyn espalier::comm::Comm, heads: Heads, x: Vec<f64>, dy: Vec<f64>| {
        let op = || HeadNorm { heads, eps: 0.1, q: vector(0, d), k: vector(d, d) };
        pass_on::<2, _>(tp, &w, op, &[(x.len() / N, x)], 0, &dy, true)
    };
    let one = run(&Solo::new(), HEADS, x.1.clone(), dy.clone());
    let half = Heads { heads: HEADS.heads / R, kv_heads: HEADS.kv_heads / R, ..HEADS };
    let parts = ranks(R, |tp| run(tp, half, own(&x.1, tp.rank()), own(&dy, tp.rank())));
    for (rank, part) in parts.iter().enumerate() {
        close("y", &part.y[0], &own(&one.y[0], rank));
        close("dx", &part.dx, &own(&one.dx, rank));
    }
    let dw: Vec<f64> = parts[0].dw.iter().zip(&parts[1].dw).map(|(a, b)| a + b).collect();
    close("dw, of which each rank has that of its heads", &dw, &one.dw);
}
