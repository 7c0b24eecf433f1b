//! G4, G7: gradients of copies, and whether copies go apart.

use crate::batch;
use crate::models::{Varied, families, gpt, grow, growth, is_bert, small, tensor, with_model};
use crate::replica::{SEQ_LEN, VOCAB};
use espalier::config::{Depth, Width};
use espalier::device::DType;
use espalier::method::grow::{Grown, Growth, Quantity};
use espalier::params::{LocalBox, ParamSpec, TensorSource};
use espalier::tape::At;
use espalier::train::corpora::weight_sum;
use espalier::train::replica::Replica;
use espalier::train::step::{Terms, Update, forward_backward, step};
use espalier::train::vote::Ballot;
use std::collections::HashMap;

/// Of every tensor, by name.
fn gradients(r: &mut Replica) -> HashMap<String, Vec<f64>> {
    let batch = batch::rows(1, 0, 3, SEQ_LEN, VOCAB);
    let scale = 1.0 / weight_sum(std::slice::from_ref(&batch));
    r.params.zero_grads(&r.dev);
    forward_backward(r, &batch, At::default(), Terms::ce(scale), false).unwrap();
    let all = r.params.iter().map(|(u, p)| (p.spec.name.clone(), u.grads.to_f64()[p.range()].to_vec()));
    all.collect()
}

/// Values by name, whole tensors; f32 keeps what the comparison needs of them.
struct Named(HashMap<String, Vec<f64>>);

impl TensorSource for Named {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> espalier::Result<()> {
        let all = &self.0[&spec.name];
        for (i, row) in out.chunks_mut(b.cols).enumerate() {
            let from = (b.row + i) * spec.cols + b.col;
            row.iter_mut().zip(&all[from..]).for_each(|(o, x)| *o = *x as f32);
        }
        Ok(())
    }
}

fn of_grown<R: Send>(growth: &Growth, dtype: DType, f: impl Fn(&mut Replica) -> R + Sync) -> R {
    let grown = Grown::new(growth, &Varied, Quantity::Weight);
    let fill = |spec: &ParamSpec, b: LocalBox, out: &mut [f64]| grown.read_f64(spec, b, out).unwrap();
    with_model(&growth.to, dtype, &fill, f)
}

/// Every gradient of the larger model is what the rule makes of the smaller one's, for every class of tensor.
#[test]
fn the_gradient_of_a_copy_is_its_part_of_the_old_one() {
    for (name, m) in families() {
        // Even copies of every axis, split equally.
        let to = [
            ("dim", 2 * m.dim),
            ("ffn_dim", 3 * m.ffn_dim),
            ("heads", 2 * m.heads),
            ("kv_heads", if is_bert(&m) { 2 * m.kv_heads } else { m.kv_heads }),
        ];
        let growth = growth(&grow(&to, Width::Fpi, Depth::Identity), &m);
        let before = Named(with_model(&m, DType::F64, &small, gradients));
        let after = of_grown(&growth, DType::F64, gradients);
        let rule = Grown::new(&growth, &before, Quantity::Gradient);
        for spec in espalier::model::Network::specs(&growth.to) {
            let mut want = vec![0.0; spec.len()];
            rule.read_f64(&spec, spec.local(0, 1), &mut want).unwrap();
            let most = want.iter().fold(0f64, |m, x| m.max(x.abs()));
            let got = &after[&spec.name];
            let off = want.iter().zip(got).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            // The source of the comparison is in f32.
            assert!(off <= 1e-6 * most + 1e-12, "{name}, {}: {off:e} of {most:e}", spec.name);
            // A square of a gradient is that of the part.
            let mut of_squares = vec![0.0; spec.len()];
            let squared =
                Named(before.0.iter().map(|(n, g)| (n.clone(), g.iter().map(|x| x * x).collect())).collect());
            Grown::new(&growth, &squared, Quantity::Square)
                .read_f64(&spec, spec.local(0, 1), &mut of_squares)
                .unwrap();
            let most = most * most;
            let off = want.iter().zip(&of_squares).fold(0f64, |m, (a, b)| m.max((a * a - b).abs()));
            assert!(off <= 1e-6 * most + 1e-20, "{name}, {}: squares {off:e} of {most:e}", spec.name);
        }
    }
}

/// How far the rows of pairs of equal FFN units are apart after 50 steps: the nearest and the farthest pair.
fn apart_after_50(width: Width) -> (f64, f64) {
    let m = gpt();
    let growth = growth(&grow(&[("ffn_dim", 2 * m.ffn_dim)], width, Depth::Identity), &m);
    let up = tensor(&growth, "blocks.0.mlp.up.weight").1;
    let row = |i: usize| &up[i * m.dim..(i + 1) * m.dim];
    let copy = |i| (m.ffn_dim..2 * m.ffn_dim).find(|j| row(*j) == row(i)).unwrap();
    let pairs: Vec<(usize, usize)> = (0..m.ffn_dim).map(|i| (i, copy(i))).collect();
    of_grown(&growth, DType::F32, |r| {
        for i in 0..50 {
            let batches = [batch::rows(i, 0, 2, SEQ_LEN, VOCAB)];
            let weight_sum = weight_sum(&batches);
            let update = Update { step: i, lr: 1e-3, clip: Some(1.0), weight_sum, z_loss: 0.0, teacher: 0.0 };
            step(r, &batches, &update, Ballot::new(1)).unwrap();
        }
        let (u, p) = r.params.iter().find(|(_, p)| p.spec.name == "blocks.0.mlp.up.weight").unwrap();
        let w = &u.weights.to_f64()[p.range()];
        let off = |(i, j): &(usize, usize)| {
            (0..m.dim).fold(0f64, |most, c| most.max((w[i * m.dim + c] - w[j * m.dim + c]).abs()))
        };
        let all: Vec<f64> = pairs.iter().map(off).collect();
        (all.iter().copied().fold(f64::MAX, f64::min), all.iter().copied().fold(0.0, f64::max))
    })
}

#[test]
fn copies_go_apart_when_split_unequally_and_stay_the_same_bits_under_fpi() {
    let (nearest, _) = apart_after_50(Width::Tile);
    assert!(nearest > 1e-4, "some pair of copies has not gone apart: {nearest:e}");
    let (_, farthest) = apart_after_50(Width::Fpi);
    assert_eq!(farthest, 0.0, "copies of FPI have gone apart, which is better than documented");
}
