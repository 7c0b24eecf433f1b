//! Every op's forward against its formula written out. (That gradients belong to a forward, the finite differences
//! say; not that it is the right one.)

use super::rig::*;
use super::{N, seq, values};
use espalier::config::{Activation as Kind, Norm as NormKind, RopeScaling};
use espalier::device::{Category, DType, Device};
use espalier::ops::activation::Activation;
use espalier::ops::embedding::Embedding;
use espalier::ops::head_norm::HeadNorm;
use espalier::ops::linear::{ColumnLinear, RowLinear};
use espalier::ops::norm::Norm;
use espalier::ops::reduce::{add_column_sums, sum, sum2, sum3};
use espalier::ops::rope::{Rope, RopeTable};
use espalier::tape::*;
use espalier::tensor::Tensor;
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use std::sync::Arc;

#[test]
fn norms_are_their_formulas_with_and_without_a_bias() {
    let (c, eps, w) = (21, 0.1, values("w", 42));
    let x = input("x", c);
    for (kind, has_bias) in [(NormKind::Layer, true), (NormKind::Layer, false), (NormKind::Rms, false)] {
        let op = || Norm { kind, eps, w: vector(0, c), bias: has_bias.then(|| vector(c, c)) };
        let got = forward::<2, _>(&w, op, std::slice::from_ref(&x));
        let (mut y, mut stats) = (vec![], vec![]);
        for row in x.1.chunks(c) {
            let mean = if kind == NormKind::Layer { row.iter().sum::<f64>() / c as f64 } else { 0.0 };
            let var = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / c as f64;
            let rstd = (var + eps).powf(-0.5);
            stats.extend([mean, rstd]);
            let bias = |j: usize| if has_bias { w[c + j] } else { 0.0 };
            y.extend(row.iter().enumerate().map(|(j, x)| (x - mean) * rstd * w[j] + bias(j)));
        }
        close("y", &got[0], &y);
        close("statistics", &got[1], &stats);
    }
}

/// mean(x²) − μ² is the same in exact arithmetic and has no digits left here.
#[test]
fn the_variance_of_a_row_far_from_zero_keeps_its_digits() {
    let (c, dev, tp, seq) = (64, Device::cpu(1), espalier::comm::Solo::new(), seq());
    let x: Vec<f32> = values("x", N * c).iter().map(|x| 1e4 + *x as f32).collect();
    let weights = Tensor::from_slice(&dev, 1, c, &vec![1.0f32; c], Category::Weights);
    let cx = Cx { dev: &dev, tp: &tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    let mut t = Tape::default();
    let input = t.input(Tensor::from_slice(&dev, N, c, &x, Category::Activations));
    let op = Norm { kind: NormKind::Layer, eps: 1e-5, w: vector(0, c), bias: None };
    let [_, stats] = t.push(&cx, op, &[input]).expect("forward");
    for (row, stats) in x.chunks(c).zip(t.value(stats).data::<f32>().chunks(2)) {
        let mean = row.iter().map(|x| *x as f64).sum::<f64>() / c as f64;
        let var = row.iter().map(|x| (*x as f64 - mean).powi(2)).sum::<f64>() / c as f64;
        let want = (var + 1e-5).powf(-0.5);
        assert!((stats[1] as f64 / want - 1.0).abs() < 1e-5, "rstd {} is not {want}", stats[1]);
    }
}

#[test]
fn activations_are_their_formulas() {
    let silu = |x: f64| x / (1.0 + (-x).exp());
    let gelu = |x: f64| x * 0.5 * (1.0 + libm::erf(x * FRAC_1_SQRT_2));
    let gelu_tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
    let relu2 = |x: f64| if x > 0.0 { x * x } else { 0.0 };
    let plain: [(Kind, &dyn Fn(f64) -> f64); 3] =
        [(Kind::Gelu, &gelu), (Kind::GeluTanh, &gelu_tanh), (Kind::Relu2, &relu2)];
    let gated: [(Kind, &dyn Fn(f64) -> f64); 3] =
        [(Kind::SwiGlu, &silu), (Kind::GeGlu, &gelu), (Kind::GeGluTanh, &gelu_tanh)];
    let x: Vec<f64> = values("x", N * 10).iter().map(|x| 4.0 * x).collect();
    let run = |kind| forward::<1, _>(&[0.0], || Activation(kind), &[(10, x.clone())]).remove(0);
    for (kind, f) in plain {
        close(&format!("{kind:?}"), &run(kind), &x.iter().map(|x| f(*x)).collect::<Vec<_>>());
    }
    for (kind, f) in gated {
        let want: Vec<f64> =
            x.chunks(10).flat_map(|row| (0..5).map(|j| f(row[j]) * row[j + 5]).collect::<Vec<_>>()).collect();
        close(&format!("{kind:?}"), &run(kind), &want);
    }
}

/// Llama 3.1's frequency by cases of the wavelength, as its authors wrote it.
fn llama3(frequency: f64, s: &RopeScaling) -> f64 {
    let (wavelength, trained) = (2.0 * PI / frequency, s.original_max as f64);
    if wavelength < trained / s.high_freq {
        frequency
    } else if wavelength > trained / s.low_freq {
        frequency / s.factor
    } else {
        let smooth = (trained / wavelength - s.low_freq) / (s.high_freq - s.low_freq);
        (1.0 - smooth) * frequency / s.factor + smooth * frequency
    }
}

#[test]
fn rope_turns_q_and_k_by_their_angles_short_long_and_blended_and_leaves_v() {
    let scaling = RopeScaling { factor: 8.0, low_freq: 1.25, high_freq: 4.0, original_max: 64 };
    let heads = espalier::device::attention::Heads { head_dim: 8, ..HEADS };
    let (d, theta, width) = (8, 100.0f64, heads.qkv_width());
    let plain: Vec<f64> = (0..d / 2).map(|e| theta.powf(-2.0 * e as f64 / d as f64)).collect();
    let scaled: Vec<f64> = plain.iter().map(|f| llama3(*f, &scaling)).collect();
    let ratios: Vec<f64> = scaled.iter().zip(&plain).map(|(s, p)| s / p).collect();
    assert!(ratios[0] == 1.0 && ratios[1] < 0.99 && ratios[1] > 0.13 && ratios[3] == 0.125, "{ratios:?}");
    let x = input("x", width);
    for (scaling, frequencies) in [(None, plain), (Some(&scaling), scaled)] {
        let table = Arc::new(RopeTable::new(d, N, theta, scaling));
        let got = forward::<1, _>(&[0.0], || Rope { heads, table: table.clone() }, std::slice::from_ref(&x));
        let mut want = x.1.clone();
        for (row, position) in want.chunks_mut(width).zip(&seq().positions) {
            for head in row.chunks_mut(d).take(heads.heads + heads.kv_heads) {
                for (e, f) in frequencies.iter().enumerate() {
                    let (sin, cos) = (*position as f64 * f).sin_cos();
                    let (a, b) = (head[e], head[e + d / 2]);
                    (head[e], head[e + d / 2]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
        }
        close("y", &got[0], &want);
    }
}

#[test]
fn head_norm_norms_each_q_and_k_head_and_leaves_v() {
    let (d, eps, width, w) = (6, 0.1, HEADS.qkv_width(), values("w", 12));
    let x = input("x", width);
    let op = || HeadNorm { heads: HEADS, eps, q: vector(0, d), k: vector(d, d) };
    let got = forward::<2, _>(&w, op, std::slice::from_ref(&x));
    let mut want = x.1.clone();
    for row in want.chunks_mut(width) {
        for (h, head) in row.chunks_mut(d).take(6).enumerate() {
            let rstd = (head.iter().map(|x| x * x).sum::<f64>() / d as f64 + eps).powf(-0.5);
            let w = if h < 4 { &w[..d] } else { &w[d..] };
            head.iter_mut().zip(w).for_each(|(x, w)| *x *= rstd * w);
        }
    }
    close("y", &got[0], &want);
}

/// Wider than a tile of the matrix product.
#[test]
fn linear_layers_are_their_formulas_for_wide_outputs() {
    let (i, o) = (5, 600);
    let (w, x, r) = (values("w", o * i + o), input("x", i), input("r", o));
    let (w_id, bias) = (matrix(0, o, i), vector(o * i, o));
    let xw = product(&x.1, &w[..o * i], i);
    let with_bias: Vec<f64> = xw.iter().enumerate().map(|(n, y)| y + w[o * i + n % o]).collect();
    for (bias, want) in [(None, &xw), (Some(bias), &with_bias)] {
        let column = || ColumnLinear { w: w_id.into(), bias, split: true, parts: 1 };
        close("ColumnLinear", &forward::<1, _>(&w, column, std::slice::from_ref(&x))[0], want);
        let want: Vec<f64> = want.iter().zip(&r.1).map(|(y, r)| y + r).collect();
        let row = || RowLinear { w: w_id.into(), bias };
        close("RowLinear", &forward::<1, _>(&w, row, &[x.clone(), r.clone()])[0], &want);
    }
}

/// More columns than a task of the backward takes.
#[test]
fn an_embedding_adds_rows_and_its_gradient_adds_them_back() {
    let (c, v) = (70, 10);
    let (w, dy, s) = (values("w", (v + 4 + 2) * c), values("dy", N * c), seq());
    let (tokens, positions, types) = (matrix(0, v, c), matrix(v * c, 4, c), matrix((v + 4) * c, 2, c));
    let shape = Shape { rows: N, cols: c, dtype: DType::F64 };
    for (positions, types) in
        [(None, None), (Some(positions), None), (None, Some(types)), (Some(positions), Some(types))]
    {
        let op = || Embedding { tokens, first: 0, valid: v, positions, types, shape };
        let got = pass_on::<1, _>(&espalier::comm::Solo::new(), &w, op, &[], 0, &dy, true);
        let (mut y, mut dw) = (vec![0.0; N * c], vec![0.0; w.len()]);
        for i in 0..N {
            let mut rows = vec![s.tokens[i] as usize];
            rows.extend(positions.map(|_| v + s.positions[i] as usize));
            rows.extend(types.map(|_| v + 4 + s.token_types[i] as usize));
            for (row, j) in rows.iter().flat_map(|r| (0..c).map(move |j| (r, j))) {
                y[i * c + j] += w[row * c + j];
                dw[row * c + j] += 2.0 * dy[i * c + j];
            }
        }
        close("x", &got.y[0], &y);
        close("gradient", &got.dw, &dw);
    }
}

#[test]
fn tokens_without_types_are_of_type_0() {
    let (c, w) = (3, values("w", 16 * 3));
    let (dev, tp) = (Device::cpu(1), espalier::comm::Solo::new());
    let seq = Seq::packed(&[3, 1], &[2]);
    let weights = super::tensor(&dev, 1, w.len(), &w);
    let cx = Cx { dev: &dev, tp: &tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    let shape = Shape { rows: 2, cols: c, dtype: DType::F64 };
    let types = Some(matrix(14 * c, 2, c));
    let op = Embedding { tokens: matrix(0, 10, c), first: 0, valid: 10, positions: None, types, shape };
    let mut t = Tape::default();
    let [y] = t.push(&cx, op, &[]).expect("forward");
    let want: Vec<f64> = [3, 1]
        .iter()
        .flat_map(|id| (0..c).map(|j| w[id * c + j] + w[14 * c + j]).collect::<Vec<_>>())
        .collect();
    close("x", &t.value(y).to_f64(), &want);
}

#[test]
fn sums_along_rows_and_columns_miss_nothing_and_count_nothing_twice() {
    let dev = Device::cpu(2);
    for n in [0, 1, 15, 16, 17, 40] {
        let (x, y, z) = (values("x", n), values("y", n), values("z", n));
        let at = |i: usize| (x[i], y[i], z[i]);
        let of = |f: &dyn Fn((f64, f64, f64)) -> f64| (0..n).map(|i| f(at(i))).sum::<f64>();
        close("sum", &[sum(&x, |x| 2.0 * x)], &[of(&|(x, _, _)| 2.0 * x)]);
        close("sum2", &[sum2(&x, &y, |x, y| x * y)], &[of(&|(x, y, _)| x * y)]);
        close("sum3", &[sum3(&x, &y, &z, |x, y, z| x * y - z)], &[of(&|(x, y, z)| x * y - z)]);
    }
    for (rows, cols, pitch) in [(1, 3, 3), (64, 5, 7), (150, 1, 1), (150, 1500, 1500), (70, 20, 40)] {
        let x = values("x", rows * pitch);
        let mut total = values("total", cols);
        let want: Vec<f64> = total
            .iter()
            .enumerate()
            .map(|(j, t)| t + (0..rows).map(|i| x[i * pitch + j]).sum::<f64>())
            .collect();
        add_column_sums(&dev, &x, pitch, &mut total);
        close("column sums", &total, &want);
    }
}
