//! Keys of the optimizer and the phases.

use super::{
    ATTENTION, DECAY, EVALUATION, Key, PRECISION, Table, Takes, Z_LOSS, key, may, need, sizes, whole, words,
};
use crate::config::{muon, read, read_phase};

pub(super) const OPTIM: Table = Table {
    path: "optim",
    head: "[optim]",
    about: "One of `adamw`, `adam`, `sgd` and `muon`.",
    keys: &[
        may("adamw", Takes::Table, "its defaults, without another", "AdamW with decoupled decay."),
        may("adam", Takes::Table, "not used", "Adam with coupled decay, as torch's `Adam`."),
        may("sgd", Takes::Table, "not used", "Plain SGD."),
        may("muon", Takes::Table, "not used", "Muon for the matrices of blocks, AdamW for the rest."),
        key("clip", Takes::Number("a number > 0 or \"none\""), "1.0", "Largest norm of the whole gradient."),
        key(
            "group",
            Takes::Tables,
            "[{ match = [\"*.bias\", \"*norm*\"], weight_decay = 0.0 }]",
            "Settings for parameters by name; the last match that gives a setting wins.",
        ),
        may(
            "ema",
            Takes::Table,
            "no average",
            "A moving average of the weights, for `eval`, `init` and commands with `--ema`.",
        ),
    ],
};

const BETAS: Key = key(
    "betas",
    Takes::List("two numbers, such as [0.9, 0.95]"),
    "[0.9, 0.95]",
    "Decay of the two moments, each from 0 to below 1.",
);
const EPS: Key = key(
    "eps",
    Takes::Number("a number > 0 and at most 1"),
    "1e-8",
    "Added to the root of the second moment.",
);
const MOMENTS: Key = key(
    "moments",
    PRECISION,
    "\"f32\"",
    "Type of the moments; `bf16` ones are rounded at random, so that small changes count.",
);

pub(super) const OPTIM_ADAMW: Table = Table {
    path: "optim.adamw",
    head: "optim.adamw = { .. }",
    about: "",
    keys: &[
        BETAS,
        EPS,
        key("weight_decay", DECAY, "0.1", "Decoupled: multiplied by the learning rate."),
        MOMENTS,
    ],
};

pub(super) const OPTIM_ADAM: Table = Table {
    path: "optim.adam",
    head: "optim.adam = { .. }",
    about: "",
    keys: &[
        BETAS,
        EPS,
        key("weight_decay", DECAY, "0.0", "Coupled: this times the weight is a part of the gradient."),
        MOMENTS,
    ],
};

pub(super) const OPTIM_EMA: Table = Table {
    path: "optim.ema",
    head: "optim.ema = { .. }",
    about: "Kept like the optimizer's state, and stored in checkpoints.",
    keys: &[need(
        "decay",
        Takes::Number("a number > 0 and < 1, such as 0.999"),
        "What the average keeps of itself at each update.",
    )],
};

pub(super) const OPTIM_SGD: Table = Table {
    path: "optim.sgd",
    head: "optim.sgd = { .. }",
    about: "",
    keys: &[key("weight_decay", DECAY, "0.0", "Decoupled: multiplied by the learning rate.")],
};

pub(super) const OPTIM_MUON: Table = Table {
    path: "optim.muon",
    head: "optim.muon = { .. }",
    about: "The momentum of each matrix of a block (`attn.q|k|v|o`, `mlp.gate|up|down`) is made nearly orthogonal by a \
            Newton-Schulz iteration, in f32, and subtracted from the matrix. Embeddings, head, norms and biases have \
            AdamW. One learning rate serves both; `group` goes by names as ever.",
    keys: &[
        key(
            "momentum",
            Takes::Number("a number of at least 0 and less than 1"),
            "0.95",
            "Decay of the momentum.",
        ),
        key("nesterov", Takes::Bool, "true", "Whether the gradient is counted once more on top of it."),
        key("steps", sizes(&muon::STEPS), "5", "Of the iteration."),
        key("weight_decay", DECAY, "0.1", "Of the matrices; decoupled: multiplied by the learning rate."),
        key(
            "adjust",
            Takes::Words(|| words(muon::ADJUST)),
            "\"match_rms_adamw\"",
            "What a matrix's learning rate is multiplied by: 0.2 √max(rows, cols), for rates as AdamW has them, or \
             (`original`) √max(1, rows/cols), for rates near 0.02.",
        ),
        key("moments", PRECISION, "\"f32\"", "Type of the momentum and of AdamW's moments."),
        may("adamw", Takes::Table, "its defaults", "For all other tensors."),
    ],
};

pub(super) const OPTIM_MUON_ADAMW: Table = Table {
    path: "optim.muon.adamw",
    head: "optim.muon.adamw = { .. }",
    about: "",
    keys: &[BETAS, EPS, key("weight_decay", DECAY, "0.1", "Decoupled: multiplied by the learning rate.")],
};

pub(super) const OPTIM_GROUP: Table = Table {
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
};

pub(super) const PHASE: Table = Table {
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
            "Budget; steps = ceil(tokens / (seq_len · global_batch)), with a ramp the fewest updates that have as many.",
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
            "What happens to its state at the start: stays, is reset, or only the first moments are (`keep_v`). Where zeros of \
             the phase before are freed, or the phase grows, the default is \"reset\".",
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
        may(
            "batch_ramp",
            Takes::Table,
            "every update has `global_batch`",
            "Updates that begin with few sequences and grow to `global_batch`.",
        ),
        may("attention", ATTENTION, "`run.attention`", "What a token sees in this phase."),
        may("z_loss", Z_LOSS, "`run.z_loss`", "Coefficient of the z term in this phase."),
        may("eval", Takes::Table, "`eval` at the top", "Evaluation in this phase, or `\"none\"`."),
        may("spdf", Takes::Table, "all weights are trained", "Weights that are zero during this phase."),
        may(
            "salt",
            Takes::Table,
            "the targets alone",
            "A teacher, whose distribution a part of the loss compares with.",
        ),
        may("grow", Takes::Table, "the network keeps its size", "A larger network from this phase on."),
    ],
};

pub(super) const PHASE_SPDF: Table = Table {
    path: "phase.*.spdf",
    head: "spdf = { .. }",
    about: "Sparse pre-training (SPDF, arXiv 2303.10464): zeros are drawn once, by seed, name and place, whatever the \
            topology; these weights, their gradients and their moments are zero until a phase without them. Phases with the \
            same table have the same zeros. Storage and products stay dense, but for blocks: of these only the kept ones are \
            stored, multiplied, sent and saved.",
    keys: &[
        may(
            "sparsity",
            Takes::Number("a number of at least 0 and less than 1"),
            "required; with \"2:4\" it is 0.5",
            "Share of zeros in each matrix: exactly ⌊sparsity · n⌋ of its n weights; of blocks the nearest whole number of \
             each row of blocks (of each column where a matrix is split over tp by columns).",
        ),
        key(
            "pattern",
            Takes::Text(
                "\"unstructured\", \"2:4\", or \"block:16\", \"block:32\", \"block:64\", \"block:128\"",
            ),
            "\"unstructured\"",
            "Where they are: anywhere at random, two at random of every four neighbours in a row, or whole blocks of so many \
             rows and columns, as many of each row and each column of blocks.",
        ),
        key(
            "match",
            Takes::List("a list of patterns such as \"blocks.*.mlp.*.weight\""),
            "[\"blocks.*.attn.?.weight\", \"blocks.*.mlp.*.weight\"]",
            "Patterns of names of matrices: `*` any run of characters, `?` one.",
        ),
        may("seed", Takes::Whole(0, i64::MAX as u64), "`run.seed`", "Of the choice."),
    ],
};

pub(super) const PHASE_RAMP: Table = Table {
    path: "phase.*.batch_ramp",
    head: "batch_ramp = { .. }",
    about: "An update before which the phase has read c samples has from + by · ⌊c K / samples⌋ sequences, \
            K = (global_batch − from) / by, and from `samples` on `global_batch`: Megatron-LM's `--rampup-batch-size`, \
            counted from the beginning of the phase. Learning rates go by updates, whatever their size.",
    keys: &[
        need("from", sizes(&read::GLOBAL_BATCH), "Sequences of the first update, below `global_batch`."),
        need("by", sizes(&read::GLOBAL_BATCH), "So many more at a time; divides `global_batch - from`."),
        need(
            "samples",
            whole(&read_phase::RAMP_SAMPLES),
            "Sequences after which an update has `global_batch`; each smaller size lasts for the same share of them, \
             in whole updates.",
        ),
    ],
};

pub(super) const PHASE_EVAL: Table = Table {
    path: "phase.*.eval",
    head: "phase.eval = { .. }",
    about: "Replaces the run's as a whole.",
    keys: EVALUATION,
};

pub(super) const PHASE_LR: Table = Table {
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
};
