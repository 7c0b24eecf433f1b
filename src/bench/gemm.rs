//! The products of training at the shapes of a model: NT (forward), NN (gradient of the input), TN added to what is there
//! (gradient of the weight), each beside the peak of the machine's multiply-adds.

use super::seconds_each;
use crate::bench::rates;
use crate::config::ModelConfig;
use crate::device::gemm::{Mat, MatMut, Out, gemm};
use crate::device::{Elem, Pool};
use half::bf16;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub struct Row {
    /// Which weight, and which of its products
    pub what: String,
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub ms: f64,
    pub gflops: f64,
    /// Of the peak of f32 multiply-adds
    pub share: f64,
}

/// All products of a block and the head with `tokens` tokens; a shape that comes twice is timed once. `bf16`: operands
/// and results; sums are f32. `tell` gets each row when it is there.
pub fn run(
    c: &ModelConfig,
    tokens: usize,
    threads: usize,
    bf16: bool,
    mut tell: impl FnMut(&Row),
) -> (f64, Vec<Row>) {
    let pool = Pool::new(threads);
    let peak = rates::arithmetic(&pool);
    let (width, kv) = (c.heads * c.head_dim, 2 * c.kv_heads * c.head_dim);
    let up = if c.is_glu() { 2 * c.ffn_dim } else { c.ffn_dim };
    let weights = [
        ("qkv", width + kv, c.dim),
        ("attention out", c.dim, width),
        ("ffn up", up, c.dim),
        ("ffn down", c.dim, c.ffn_dim),
        ("head", c.vocab, c.dim),
    ];
    let mut rows: Vec<Row> = vec![];
    for (name, out, inn) in weights {
        // (m, n, k, a is transposed, b is transposed, out)
        let products = [
            ("forward", tokens, out, inn, false, true, Out::Store),
            ("input gradient", tokens, inn, out, false, false, Out::Store),
            ("weight gradient", out, inn, tokens, true, false, Out::Add),
        ];
        for (which, m, n, k, ta, tb, how) in products {
            let seconds = match bf16 {
                true => product::<bf16>(&pool, (m, n, k), ta, tb, how),
                false => product::<f32>(&pool, (m, n, k), ta, tb, how),
            };
            let gflops = 2.0 * (m * n * k) as f64 / seconds / 1e9;
            let row = Row {
                what: format!("{name}, {which}"),
                m,
                n,
                k,
                ms: seconds * 1e3,
                gflops,
                share: gflops / peak,
            };
            tell(&row);
            rows.push(row);
        }
    }
    (peak, rows)
}

/// GFLOP/s of one product of `tokens` rows with a square weight, f32.
pub fn square(pool: &Pool, tokens: usize, dim: usize) -> f64 {
    let seconds = product::<f32>(pool, (tokens, dim, dim), false, true, Out::Store);
    2.0 * (tokens * dim * dim) as f64 / seconds / 1e9
}

/// Seconds of one product.
fn product<T: Elem<Acc = f32>>(
    pool: &Pool,
    (m, n, k): (usize, usize, usize),
    ta: bool,
    tb: bool,
    out: Out,
) -> f64 {
    let values =
        |len: usize| (0..len).map(|i| T::store((i * 7919 % 1013) as f32 / 506.5 - 1.0)).collect::<Vec<T>>();
    let (a, b, mut c) = (values(m * k), values(k * n), vec![0f32; m * n]);
    seconds_each(0.2, || {
        let a = if ta { Mat::new(&a, k, m).t() } else { Mat::new(&a, m, k) };
        let b = if tb { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
        gemm(pool, MatMut::new(&mut c, m, n), out, a, b);
    })
}
