//! Every key of a run file: what it takes, what it is when absent, what it means. `keys` refuses what is not here,
//! `reference` prints it, and tests hold the readers to it.

use super::model::limit;
use super::{read, read_data, read_model, read_phase};
use std::ops::RangeInclusive;

pub struct Table {
    /// `*` stands for a name the user gives or the number of a list entry; "" is the top of the file.
    pub path: &'static str,
    /// How its head is written in a file.
    pub head: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    pub takes: Takes,
    pub absent: Absent,
    pub about: &'static str,
}

pub enum Takes {
    /// A table with keys of its own.
    Table,
    /// `[[key]]`, or a list of `{ }`.
    Tables,
    /// A list of other things; what they are.
    List(&'static str),
    Bool,
    /// A whole number between these.
    Whole(u64, u64),
    /// A number; in words, which.
    Number(&'static str),
    /// A string; in words, which.
    Text(&'static str),
    /// One of these strings.
    Words(fn() -> Vec<&'static str>),
}

/// What a key is that the file leaves out.
pub enum Absent {
    Required,
    /// The same as this value, in TOML.
    Is(&'static str),
    /// In words.
    Means(&'static str),
}

impl Takes {
    /// What the key takes, in the words of the reader that refuses anything else.
    pub fn wants(&self) -> String {
        match self {
            Takes::Table => "a table".into(),
            Takes::Tables => "a list of tables".into(),
            Takes::List(what) => what.to_string(),
            Takes::Bool => "true or false".into(),
            Takes::Whole(low, u64::MAX) => format!("a whole number of at least {low}"),
            Takes::Whole(low, high) => format!("a whole number from {low} to {high}"),
            Takes::Number(wants) | Takes::Text(wants) => wants.to_string(),
            Takes::Words(words) => words().join(", "),
        }
    }
}

const fn need(name: &'static str, takes: Takes, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Required, about }
}

const fn key(name: &'static str, takes: Takes, default: &'static str, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Is(default), about }
}

const fn may(name: &'static str, takes: Takes, absent: &'static str, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Means(absent), about }
}

const fn size(max: usize) -> Takes {
    Takes::Whole(1, max as u64)
}

const fn sizes(range: &RangeInclusive<usize>) -> Takes {
    Takes::Whole(*range.start() as u64, *range.end() as u64)
}

const fn whole(range: &RangeInclusive<u64>) -> Takes {
    Takes::Whole(*range.start(), *range.end())
}

fn words<T>(list: &[(&'static str, T)]) -> Vec<&'static str> {
    list.iter().map(|(word, _)| *word).collect()
}

const CADENCE: Takes = Takes::Text("a string such as \"500 steps\" or \"20 min\"");
const DECAY: Takes = Takes::Number("a number from 0 to 1");
const SHARE: &str = "a share of at least 0 and less than 1";
const ATTENTION: Takes = Takes::Words(|| words(read::ATTENTION));
const PRECISION: Takes = Takes::Words(|| words(read::PRECISIONS));

const EVAL: &[Key] = &[
    need(
        "on",
        Takes::List("corpora as in [\"web:heldout\"]"),
        "`NAME:heldout` is what `holdout` (or the second share of `split`) keeps out of training, `NAME` all of a corpus.",
    ),
    key("every", CADENCE, "\"500 steps\"", "How often, besides the end of each phase."),
    key("tokens", whole(&read::TOKENS), "1_000_000", "Predictions scored on each corpus at most."),
];

pub const TABLES: &[Table] = &[
    Table {
        path: "",
        head: "",
        about: "Keys at the top of the file, before the first `[table]`.",
        keys: &[
            need("schema", Takes::Whole(0, u64::MAX), "Version of this dialect: 1."),
            may(
                "eval",
                Takes::Table,
                "no evaluation",
                "When and on what the run evaluates; phases may differ.",
            ),
            may("checkpoint", Takes::Table, "its defaults", "When checkpoints are written and which stay."),
            need("run", Takes::Table, "What belongs to the whole run."),
            need("model", Takes::Table, "The network."),
            need(
                "data",
                Takes::Table,
                "The corpora, each a table with a name: letters, digits, `_` and `-`.",
            ),
            may("parallel", Takes::Table, "its defaults", "How ranks share the work."),
            may("optim", Takes::Table, "its defaults", "The optimizer."),
            need("phase", Takes::Tables, "The phases of the run, one after the other."),
        ],
    },
    Table {
        path: "eval",
        head: "eval = { .. }",
        about: "Evaluation; rows of kind `eval` in `metrics.jsonl`.",
        keys: EVAL,
    },
    Table {
        path: "checkpoint",
        head: "checkpoint = { .. }",
        about: "A checkpoint is also written at the end of each phase and when a signal stops the run.",
        keys: &[
            key("every", CADENCE, "\"20 min\"", "How often."),
            key("keep_last", size(1 << 20), "2", "So many of the newest stay."),
            may(
                "keep_every",
                CADENCE,
                "none",
                "Those whose step is a multiple of this (in steps) stay as well.",
            ),
        ],
    },
    Table {
        path: "run",
        head: "[run]",
        about: "Relative paths start where the program is started.",
        keys: &[
            need(
                "dir",
                Takes::Text("a path as a string"),
                "The run directory; the same command again resumes from it.",
            ),
            key(
                "seed",
                Takes::Whole(0, i64::MAX as u64),
                "1234",
                "Decides initial weights and the order of the data.",
            ),
            key(
                "device",
                Takes::Words(|| words(read::DEVICES)),
                "\"auto\"",
                "Where it computes; `auto` is the CPU, `cuda` is refused as not built yet.",
            ),
            key(
                "dtype",
                PRECISION,
                "\"f32\"",
                "Weights and activations; with `bf16` master weights, moments and gradients stay f32.",
            ),
            key(
                "init",
                Takes::Text("\"random\", \"ckpt:PATH\", \"ckpt:PATH@STEP\" or \"hf:DIR\""),
                "\"random\"",
                "Where the weights of the first step come from: drawn, a run or checkpoint, or a Hugging Face directory.",
            ),
            need("seq_len", sizes(&read::SEQ_LEN), "Tokens of a sequence."),
            need(
                "global_batch",
                sizes(&read::GLOBAL_BATCH),
                "Sequences of an update, whatever the number of ranks.",
            ),
            key(
                "attention",
                ATTENTION,
                "\"document\"",
                "Whether a token sees its own document only, or the whole sequence.",
            ),
        ],
    },
    Table {
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
            need(
                "vocab",
                size(limit::VOCAB),
                "Rows of the embedding, at least the vocabulary of every corpus.",
            ),
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
            may(
                "norm_bias",
                Takes::Bool,
                "true for `norm = \"layer\"`",
                "Bias of LayerNorm; RMSNorm has none.",
            ),
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
    },
    Table {
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
    },
    Table {
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
    },
    Table {
        path: "data.*",
        head: "[data]` with `NAME = { .. }",
        about: "A corpus; [corpora.md](corpora.md) explains orders and packing.",
        keys: &[
            need(
                "path",
                Takes::Text("the prefix of the corpus files as a string"),
                "Prefix of `.bin` or `.bin.zst`, `.idx` and `.json`.",
            ),
            key(
                "order",
                Takes::Words(|| words(read_data::ORDERS)),
                "\"stream\"",
                "A keyed permutation without arrays, or exactly the samples of Megatron-LM.",
            ),
            key(
                "packing",
                Takes::Words(|| words(read_data::PACKINGS)),
                "\"window\"",
                "How documents fill rows: cut every `seq_len` tokens, whole where they fit, or one a row.",
            ),
            may(
                "pack_group",
                whole(&read_data::PACK_GROUPS),
                "64 with `packing = \"best-fit\"`, else refused",
                "Windows whose documents are packed together.",
            ),
            may(
                "split",
                Takes::List("three numbers such as [949, 50, 1]"),
                "`[969, 30, 1]` with `order = \"megatron\"`, else refused",
                "Shares of training, `NAME:heldout` and test.",
            ),
            key(
                "io",
                Takes::Words(|| words(read_data::IOS)),
                "\"mmap\"",
                "How the files are read: mapped, by position (network file systems), or copied to a disk of the node first.",
            ),
            may(
                "stage_dir",
                Takes::Text("a folder on a disk of the node"),
                "the folder for temporary files with `io = \"stage\"`, else refused",
                "Where to copy.",
            ),
            may(
                "weights",
                Takes::Text("the name of a side stream, or \"none\""),
                "as the corpus says of itself",
                "Side stream that says what each target counts in the loss.",
            ),
            may(
                "holdout",
                Takes::Number(SHARE),
                "0.0; refused with `order = \"megatron\"`",
                "Share of the documents kept out of training, chosen by their content.",
            ),
            may(
                "max_epochs",
                Takes::Whole(1, 1 << 32),
                "as many as the budget takes",
                "A run that would read the corpus more often is refused before it starts.",
            ),
        ],
    },
    Table {
        path: "parallel",
        head: "[parallel]",
        about: "Nothing here changes what is learned beyond rounding. Ranks = dp × tp.",
        keys: &[
            key(
                "tp",
                size(1 << 20),
                "1",
                "Ranks that split each matrix; divides `heads`, `kv_heads` and `ffn_dim`.",
            ),
            key(
                "zero",
                Takes::Whole(0, 3),
                "1",
                "ZeRO stage; 1 splits the optimizer's state over dp, 2 and 3 are not built yet.",
            ),
            key(
                "shard",
                Takes::Text("\"all\""),
                "\"all\"",
                "Ranks over which state is split; only all of dp is built.",
            ),
            key("sequence_parallel", Takes::Bool, "false", "Not built yet; `true` is refused."),
            may(
                "micro_batch",
                sizes(&read::GLOBAL_BATCH),
                "chosen at start",
                "Sequences of a rank in one forward and backward; divides `global_batch / dp`.",
            ),
            key(
                "accumulate",
                Takes::Words(|| words(read::ACCUMULATE)),
                "\"local\"",
                "How gradients of micro-batches are summed; `sharded` is not built yet.",
            ),
            key(
                "recompute",
                Takes::Words(|| words(read::RECOMPUTE)),
                "\"keep\"",
                "What the backward computes again: nothing, what is cheap, or all but the input of each block.",
            ),
        ],
    },
    Table {
        path: "optim",
        head: "[optim]",
        about: "One of `adamw` and `sgd`.",
        keys: &[
            may("adamw", Takes::Table, "its defaults, without `sgd`", "AdamW with decoupled decay."),
            may("sgd", Takes::Table, "not used", "Plain SGD."),
            key(
                "clip",
                Takes::Number("a number > 0 or \"none\""),
                "1.0",
                "Largest norm of the whole gradient.",
            ),
            key(
                "group",
                Takes::Tables,
                "[{ match = [\"*.bias\", \"*norm*\"], weight_decay = 0.0 }]",
                "Settings for parameters by name; the last match that gives a setting wins.",
            ),
        ],
    },
    Table {
        path: "optim.adamw",
        head: "optim.adamw = { .. }",
        about: "",
        keys: &[
            key(
                "betas",
                Takes::List("two numbers, such as [0.9, 0.95]"),
                "[0.9, 0.95]",
                "Decay of the two moments, each from 0 to below 1.",
            ),
            key(
                "eps",
                Takes::Number("a number > 0 and at most 1"),
                "1e-8",
                "Added to the root of the second moment.",
            ),
            key("weight_decay", DECAY, "0.1", "Decoupled: multiplied by the learning rate."),
            key("moments", PRECISION, "\"f32\"", "Type of the moments; `bf16` is not built yet."),
        ],
    },
    Table {
        path: "optim.sgd",
        head: "optim.sgd = { .. }",
        about: "",
        keys: &[key("weight_decay", DECAY, "0.0", "Decoupled: multiplied by the learning rate.")],
    },
    Table {
        path: "optim.group.*",
        head: "optim.group = [{ .. }, ..]",
        about: "A group gives at least one of the two settings.",
        keys: &[
            need(
                "match",
                Takes::List("a list of patterns such as \"*.bias\""),
                "Patterns of names: `*` any run of characters, `?` one.",
            ),
            may("weight_decay", DECAY, "as before", "In place of the optimizer's."),
            may(
                "lr_scale",
                Takes::Number("a number of at least 0"),
                "as before",
                "Factor of the learning rate; 0 freezes.",
            ),
        ],
    },
    Table {
        path: "phase.*",
        head: "[[phase]]",
        about: "Each phase has `steps` or `tokens`, and `lr` unless it keeps the schedule of the phase before.",
        keys: &[
            need("name", Takes::Text("a name as a string"), "Its name, unlike those of other phases."),
            may("steps", whole(&read_phase::STEPS), "from `tokens`", "Updates."),
            may(
                "tokens",
                whole(&read::TOKENS),
                "from `steps`",
                "Budget; steps = ceil(tokens / (seq_len · global_batch)).",
            ),
            may(
                "mix",
                Takes::Table,
                "the only corpus; required with several",
                "Corpus and its share of the tokens; shares are scaled to sum 1.",
            ),
            may(
                "lr",
                Takes::Tables,
                "required with `schedule = \"new\"`, refused with `\"keep\"`",
                "Segments of the learning rate.",
            ),
            key(
                "optimizer",
                Takes::Words(|| words(read_phase::OPTIMIZER)),
                "\"keep\"",
                "What happens to its state at the start: stays, is reset, or only the first moments are (`keep_v`).",
            ),
            key(
                "schedule",
                Takes::Words(|| words(read_phase::SCHEDULE)),
                "\"new\"",
                "`keep` goes on with the schedule of the phase before, stretched over both.",
            ),
            key(
                "cursor",
                Takes::Words(|| words(read_phase::CURSOR)),
                "\"keep\"",
                "`keep` reads on (same corpora and `seq_len`), `new` begins passes of its own in other orders.",
            ),
            may("seq_len", sizes(&read::SEQ_LEN), "`run.seq_len`", "Tokens of a sequence in this phase."),
            may(
                "global_batch",
                sizes(&read::GLOBAL_BATCH),
                "`run.global_batch`",
                "Sequences of an update in this phase.",
            ),
            may("attention", ATTENTION, "`run.attention`", "What a token sees in this phase."),
            may("eval", Takes::Table, "`eval` at the top", "Evaluation in this phase, or `\"none\"`."),
        ],
    },
    Table {
        path: "phase.*.eval",
        head: "phase.eval = { .. }",
        about: "Replaces the run's as a whole.",
        keys: EVAL,
    },
    Table {
        path: "phase.*.lr.*",
        head: "lr = [{ .. }, ..]",
        about: "A segment of n updates goes from a to z; its update i (from 0) has r = (i + 1) / n, so z is the rate of its \
                last. linear: a + (z − a) r. cosine: z + (a − z)(1 + cos πr)/2. 1-sqrt: z + (a − z)(1 − √r). inv-sqrt: \
                a + (z − a) h(r)/h(1) with h(x) = 1/√(1 + 4x) − 1. exp: a (z/a)^r.",
        keys: &[
            need("kind", Takes::Words(|| words(read_phase::KINDS)), "The shape."),
            may(
                "from",
                Takes::Number("a rate from 0 to 1e6"),
                "`\"current\"`, the rate before it; at the start of the run 0",
                "a; `const` has none.",
            ),
            may(
                "to",
                Takes::Number("a rate from 0 to 1e6"),
                "required, but `const` holds the rate before it",
                "z.",
            ),
            may(
                "frac",
                Takes::Number("a share > 0 and at most 1"),
                "see `steps`",
                "Length as a share of the schedule.",
            ),
            may(
                "steps",
                whole(&read_phase::STEPS),
                "the rest, for the last segment",
                "Length in updates, instead of `frac`.",
            ),
        ],
    },
];
