//! One transformer block, pre-norm (GPT-2, Llama, Qwen) or post-norm (BERT).
//!
//!     pre    x' = x + attention(norm1(x)),   y = x' + mlp(norm2(x'))
//!     post   x' = norm1(x + attention(x)),   y = norm2(x' + mlp(x'))
//!
//! No backward is written here: the tape derives it from the ops.

use crate::Result;
use crate::config::{ModelConfig, Norm as NormKind, NormPlace, Positions};
use crate::device::attention::Heads;
use crate::ops::activation::Activation;
use crate::ops::attention::Attention;
use crate::ops::head_norm::HeadNorm;
use crate::ops::linear::{ColumnLinear, RowLinear};
use crate::ops::matrix::Matrix;
use crate::ops::norm::Norm;
use crate::ops::rope::{Rope, RopeTable};
use crate::params::{Covers, Declare, Init, ParamSpec, Shard};
use crate::tape::{Cx, ParamId, Tape, Var};
use std::sync::Arc;

pub struct Block {
    place: NormPlace,
    heads: Heads, //                    H/R, K/R, D
    causal: bool,
    activation: crate::config::Activation,
    norm1: Norm,                    //                     (C)
    qkv: (Matrix, Option<ParamId>), // ((H+2K)·D/R, C)
    qk_norm: Option<(ParamId, ParamId)>,
    norm_eps: f64,
    rope: Option<Arc<RopeTable>>,
    o: (Matrix, Option<ParamId>), //   (C, H·D/R)
    norm2: Norm,
    up: (Matrix, Option<ParamId>),   //   (2F/R or F/R, C)
    down: (Matrix, Option<ParamId>), // (C, F/R)
}

impl Block {
    /// Declares the tensors of block `layer` in `u`. The sizes divide over tp (checked with the run file).
    pub fn declare(c: &ModelConfig, layer: usize, rope: Option<Arc<RopeTable>>, u: &mut Declare) -> Block {
        let name = |rest: &str| format!("blocks.{layer}.{rest}");
        let (d, dim, ffn) = (c.head_dim, c.dim, c.ffn_dim);
        let kv_heads = (c.kv_heads / u.size()).max(1); // fewer than ranks: several have the same
        let heads = Heads { heads: c.heads / u.size(), kv_heads, head_dim: d };
        let std = c.init_std;
        let out_std = if c.init_scale_residual { std / (2.0 * c.layers as f64).sqrt() } else { std };
        let (row, head_rows, kv_rows) =
            (Shard::Rows { unit: 1 }, Shard::Rows { unit: d }, Shard::Heads { unit: d });
        let bias = |rest: &str, len, shard| ParamSpec::vector(name(rest), len, shard, Init::Zeros);

        let norm1 = declare_norm(c, &name("norm1"), u);
        let qkv = u.matrix(vec![
            ParamSpec::matrix(name("attn.q.weight"), c.heads * d, dim, head_rows, std),
            ParamSpec::matrix(name("attn.k.weight"), c.kv_heads * d, dim, kv_rows, std),
            ParamSpec::matrix(name("attn.v.weight"), c.kv_heads * d, dim, kv_rows, std),
        ]);
        let qkv_bias = c.qkv_bias.then(|| {
            u.group(vec![
                bias("attn.q.bias", c.heads * d, head_rows),
                bias("attn.k.bias", c.kv_heads * d, kv_rows),
                bias("attn.v.bias", c.kv_heads * d, kv_rows),
            ])
        });
        let gain = |rest: &str| ParamSpec::vector(name(rest), d, Shard::Replicated, Init::Ones);
        let qk_norm = c.qk_norm.then(|| {
            let [q, k] = ["attn.q_norm.weight", "attn.k_norm.weight"].map(gain);
            (u.shared(q, Covers::Heads), u.shared(k, Covers::Heads))
        });
        let o_spec =
            ParamSpec::matrix(name("attn.o.weight"), dim, c.heads * d, Shard::Cols { unit: d }, out_std);
        let o = u.one_matrix(o_spec);
        let o_bias = c.out_bias.then(|| u.one(bias("attn.o.bias", dim, Shard::Replicated)));

        let norm2 = declare_norm(c, &name("norm2"), u);
        let (gates, gate_biases): (Vec<_>, Vec<_>) =
            if c.is_glu() { vec!["mlp.gate", "mlp.up"] } else { vec!["mlp.up"] }
                .into_iter()
                .map(|part| {
                    let weight = ParamSpec::matrix(name(&format!("{part}.weight")), ffn, dim, row, std);
                    (weight, bias(&format!("{part}.bias"), ffn, row))
                })
                .unzip();
        let up = u.matrix(gates);
        let up_bias = c.mlp_bias.then(|| u.group(gate_biases));
        let down = u.one_matrix(ParamSpec::matrix(
            name("mlp.down.weight"),
            dim,
            ffn,
            Shard::Cols { unit: 1 },
            out_std,
        ));
        let down_bias = c.mlp_bias.then(|| u.one(bias("mlp.down.bias", dim, Shard::Replicated)));
        Block {
            place: c.norm_place,
            heads,
            causal: c.causal,
            activation: c.activation,
            norm1,
            qkv: (qkv, qkv_bias),
            qk_norm,
            norm_eps: c.norm_eps,
            rope,
            o: (o, o_bias),
            norm2,
            up: (up, up_bias),
            down: (down, down_bias),
        }
    }

    /// The weights of the linear layers.
    pub(super) fn matrices(&self) -> [ParamId; 4] {
        [&self.qkv, &self.o, &self.up, &self.down].map(|(w, _)| w.id)
    }

    pub fn heads(&self) -> Heads {
        self.heads
    }

    /// x to y, (N, C), or this rank's (N/R, C)
    pub fn forward(&self, t: &mut Tape, cx: &Cx, x: Var) -> Result<Var> {
        match self.place {
            NormPlace::Pre => {
                let [a, _stats] = t.push(cx, self.norm1, &[x])?;
                let x = self.attention(t, cx, a, x)?;
                let [m, _stats] = t.push(cx, self.norm2, &[x])?;
                self.mlp(t, cx, m, x)
            }
            NormPlace::Post => {
                let x = self.attention(t, cx, x, x)?;
                let [x, _stats] = t.push(cx, self.norm1, &[x])?;
                let x = self.mlp(t, cx, x, x)?;
                let [x, _stats] = t.push(cx, self.norm2, &[x])?;
                Ok(x)
            }
        }
    }

    /// a·wᵀ + bias of all N rows: those of a, or gathered from the ranks of tp if a has fewer.
    fn column(t: &mut Tape, cx: &Cx, (w, bias): &(Matrix, Option<ParamId>), a: Var) -> Result<Var> {
        let parts = cx.seq.len() / t.shape(a).rows;
        let [y] = t.push(cx, ColumnLinear { w: w.clone(), bias: *bias, split: true, parts }, &[a])?;
        Ok(y)
    }

    /// r + attention(a).   a and r (N, C) or (N/R, C)
    fn attention(&self, t: &mut Tape, cx: &Cx, a: Var, r: Var) -> Result<Var> {
        let (heads, scale) = (self.heads, (self.heads.head_dim as f64).powf(-0.5));
        let mut qkv = Block::column(t, cx, &self.qkv, a)?; //                                    (N, (H+2K)·D/R)
        if let Some((q, k)) = self.qk_norm {
            let [normed, _rstd] = t.push(cx, HeadNorm { heads, eps: self.norm_eps, q, k }, &[qkv])?;
            qkv = normed;
        }
        if let Some(table) = &self.rope {
            [qkv] = t.push(cx, Rope { heads, table: table.clone() }, &[qkv])?;
        }
        let attention = Attention { heads, causal: self.causal, scale, seq_len: cx.seq.seq_len };
        let [o, _lse] = t.push(cx, attention, &[qkv])?; //                                      (N, H·D/R)
        let [x] = t.push(cx, RowLinear { w: self.o.0.clone(), bias: self.o.1 }, &[o, r])?; //           like r
        Ok(x)
    }

    /// r + mlp(m).   m and r (N, C) or (N/R, C)
    fn mlp(&self, t: &mut Tape, cx: &Cx, m: Var, r: Var) -> Result<Var> {
        let u = Block::column(t, cx, &self.up, m)?; //                                           (N, 2F/R or F/R)
        let [s] = t.push(cx, Activation(self.activation), &[u])?; //                            (N, F/R)
        let [y] = t.push(cx, RowLinear { w: self.down.0.clone(), bias: self.down.1 }, &[s, r])?; //     like r
        Ok(y)
    }
}

/// NAME.weight and, for LayerNorm with bias, NAME.bias
pub fn declare_norm(c: &ModelConfig, name: &str, u: &mut Declare) -> Norm {
    let vector = |part, init| ParamSpec::vector(format!("{name}.{part}"), c.dim, Shard::Replicated, init);
    let w = u.shared(vector("weight", Init::Ones), Covers::Rows);
    let bias = c.norm == NormKind::Layer && c.norm_bias;
    let bias = bias.then(|| u.shared(vector("bias", Init::Zeros), Covers::Rows));
    Norm { kind: c.norm, eps: c.norm_eps, w, bias }
}

/// The table of angles of a model with rotary positions, long enough for `seq_len`.
pub fn rope_table(c: &ModelConfig, seq_len: usize) -> Option<Arc<RopeTable>> {
    match &c.positions {
        Positions::Rope { theta, scaling } => {
            Some(Arc::new(RopeTable::new(c.head_dim, seq_len, *theta, scaling.as_ref())))
        }
        Positions::Learned { .. } | Positions::None => None,
    }
}
