//! Keys of the network.

use super::{Table, Takes, key, may, need, size, words};
use crate::config::{model::limit, read_model};

pub(super) const MODEL: Table = Table {
    path: "model",
    head: "[model]",
    about: "A preset, or sizes; a key given here overrides the preset. Defaults are those without a preset.",
    keys: &[
        may(
            "preset",
            Takes::Text("the name of a preset as a string"),
            "none",
            "A file of `configs/model`, by its name.",
        ),
        need("layers", size(limit::LAYERS), "Transformer blocks."),
        need("dim", size(limit::DIM), "Width of the residual stream."),
        need("heads", size(limit::HEADS), "Query heads."),
        may(
            "kv_heads",
            size(limit::HEADS),
            "`heads`",
            "Key and value heads; fewer are shared between query heads.",
        ),
        may("head_dim", size(limit::HEAD_DIM), "`dim / heads`", "Width of a head."),
        may(
            "ffn_dim",
            size(limit::FFN_DIM),
            "`4 dim`; with a gate `8/3 dim`, rounded up to a multiple of 64",
            "Width of the MLP.",
        ),
        need("vocab", size(limit::VOCAB), "Rows of the embedding, at least the vocabulary of every corpus."),
        key("norm", Takes::Words(|| words(read_model::NORMS)), "\"rms\"", "LayerNorm or RMSNorm."),
        key(
            "norm_eps",
            Takes::Number("a number > 0 and < 1"),
            "1e-5",
            "Added to the variance or mean square.",
        ),
        key(
            "norm_place",
            Takes::Words(|| words(read_model::NORM_PLACES)),
            "\"pre\"",
            "Norm before each sublayer and before the head, or after each residual sum (BERT).",
        ),
        key(
            "positions",
            Takes::Words(|| words(read_model::POSITIONS)),
            "\"rope\"",
            "A learned table, rotation of queries and keys, or nothing.",
        ),
        may(
            "max_positions",
            size(limit::POSITIONS),
            "the longest `seq_len` of the run",
            "Rows of the learned table; otherwise only exported.",
        ),
        may("rope", Takes::Table, "its defaults", "Settings of the rotation."),
        key("qk_norm", Takes::Bool, "false", "RMS norm of each query and key head (Qwen3)."),
        key(
            "activation",
            Takes::Words(|| words(read_model::ACTIVATIONS)),
            "\"swiglu\"",
            "Of the MLP; `geglu` and `gelu` by erf, the `_tanh` forms by tanh.",
        ),
        key("qkv_bias", Takes::Bool, "false", "Bias of the query, key and value projections."),
        key("out_bias", Takes::Bool, "false", "Bias of the output projection of the attention."),
        key("mlp_bias", Takes::Bool, "false", "Bias of the MLP."),
        may("norm_bias", Takes::Bool, "true for `norm = \"layer\"`", "Bias of LayerNorm; RMSNorm has none."),
        key("head_bias", Takes::Bool, "false", "Bias of the decoder, one for each token."),
        key("tied", Takes::Bool, "false", "The decoder is the embedding matrix."),
        key("causal", Takes::Bool, "true", "A token sees only what comes before it; training needs it."),
        key(
            "token_types",
            Takes::Whole(0, limit::TOKEN_TYPES as u64),
            "0",
            "Rows of the token-type table (BERT).",
        ),
        key("embed_norm", Takes::Bool, "false", "A norm after the sum of the embeddings."),
        may(
            "head",
            Takes::Words(|| words(read_model::HEADS)),
            "`lm` if causal, else `mlm`",
            "What predicts.",
        ),
        may(
            "logit_softcap",
            Takes::Number("a number > 0, such as 30.0, or \"none\""),
            "no cap",
            "Logits l become c tanh(l / c); no Hugging Face family here has it.",
        ),
        key(
            "init_std",
            Takes::Number("a number > 0 and at most 1"),
            "0.02",
            "Standard deviation of initial matrices and embeddings.",
        ),
        key(
            "init_scale_residual",
            Takes::Bool,
            "true",
            "The projections that write to the residual stream start at `init_std / sqrt(2 layers)`.",
        ),
    ],
};

pub(super) const MODEL_ROPE: Table = Table {
    path: "model.rope",
    head: "model.rope = { .. }",
    about: "Only with `positions = \"rope\"`.",
    keys: &[
        key("theta", Takes::Number("a number > 1"), "10000.0", "Base of the wavelengths."),
        key(
            "scaling",
            Takes::Table,
            "\"none\"",
            "Llama 3's stretching of long wavelengths; `\"none\"` over a preset that has it.",
        ),
    ],
};

pub(super) const MODEL_ROPE_SCALING: Table = Table {
    path: "model.rope.scaling",
    head: "model.rope.scaling = { .. }",
    about: "Wavelengths beyond `original_max / low_freq` are stretched, those below `original_max / high_freq` kept, \
            those between blended.",
    keys: &[
        need("factor", Takes::Number("a number of at least 1"), "The stretch."),
        key("low_freq", Takes::Number("a number > 0"), "1.0", "See above."),
        key("high_freq", Takes::Number("a number > 0"), "4.0", "See above; above `low_freq`."),
        need("original_max", size(limit::POSITIONS), "Positions the model was first trained with."),
    ],
};
