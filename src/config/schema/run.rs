//! Keys of everything but the network, the optimizer and the phases.

use super::{
    ATTENTION, CADENCE, EVALUATION, PRECISION, SHARE, Table, Takes, Z_LOSS, key, may, need, size, sizes,
    whole, words,
};
use crate::config::{read, read_data};

pub(super) const TOP: Table = Table {
    path: "",
    head: "",
    about: "Keys at the top of the file, before the first `[table]`.",
    keys: &[
        need("schema", Takes::Whole(0, u64::MAX), "Version of this dialect: 1."),
        may("eval", Takes::Table, "no evaluation", "When and on what the run evaluates; phases may differ."),
        may("checkpoint", Takes::Table, "its defaults", "When checkpoints are written and which stay."),
        need("run", Takes::Table, "What belongs to the whole run."),
        need("model", Takes::Table, "The network."),
        need("data", Takes::Table, "The corpora, each a table with a name: letters, digits, `_` and `-`."),
        may(
            "parallel",
            Takes::Table,
            "its defaults",
            "How ranks share the work; the string `\"auto\"` instead has the launch choose and say why.",
        ),
        may("optim", Takes::Table, "its defaults", "The optimizer."),
        may("numerics", Takes::Table, "its defaults", "What happens to updates that go wrong."),
        need("phase", Takes::Tables, "The phases of the run, one after the other."),
    ],
};

pub(super) const EVAL: Table = Table {
    path: "eval",
    head: "eval = { .. }",
    about: "Evaluation; rows of kind `eval` in `metrics.jsonl`.",
    keys: EVALUATION,
};

pub(super) const CHECKPOINT: Table = Table {
    path: "checkpoint",
    head: "checkpoint = { .. }",
    about: "A checkpoint is also written at the end of each phase and when a signal stops the run.",
    keys: &[
        key("every", CADENCE, "\"20 min\"", "How often."),
        key("keep_last", size(1 << 20), "2", "So many of the newest stay."),
        may("keep_every", CADENCE, "none", "Those whose step is a multiple of this (in steps) stay as well."),
    ],
};

pub(super) const RUN: Table = Table {
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
            Takes::Text(
                "\"random\", \"ckpt:PATH\", \"ckpt:PATH@STEP\", \"ema:PATH\", \"ema:PATH@STEP\" or \"hf:DIR\"",
            ),
            "\"random\"",
            "Where the weights of the first step come from: drawn, a run or checkpoint (`ema`: its moving average), or a Hugging Face directory.",
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
        key(
            "z_loss",
            Z_LOSS,
            "0.0",
            "Coefficient of the square of the log of the softmax's denominator, which keeps logits from drifting; 0 leaves it out.",
        ),
    ],
};

pub(super) const DATA: Table = Table {
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
};

pub(super) const PARALLEL: Table = Table {
    path: "parallel",
    head: "[parallel]",
    about: "Nothing here changes what is learned beyond rounding. Ranks = dp × tp.",
    keys: &[
        key(
            "tp",
            size(1 << 20),
            "1",
            "Ranks that split each matrix; divides `heads` and `ffn_dim`, and divides `kv_heads` or is a multiple of it.",
        ),
        key(
            "zero",
            Takes::Whole(0, 3),
            "1",
            "ZeRO stage: what is split over dp. 1 the optimizer's state, 2 gradients too, 3 weights too.",
        ),
        key(
            "shard",
            Takes::Text("\"all\", \"node\" or \"N ranks\""),
            "\"all\"",
            "Data-parallel ranks over which state is split: all, those of a node, or N, which divides dp; the groups replicate it.",
        ),
        key(
            "sequence_parallel",
            Takes::Bool,
            "false",
            "Splits activations between matrices over tp by rows of tokens: as many bytes sent, fewer kept. Needs tp > 1.",
        ),
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
            "How gradients of micro-batches are summed: in full on each rank, or (zero 2 and 3) each reduced to its part.",
        ),
        key(
            "recompute",
            Takes::Words(|| words(read::RECOMPUTE)),
            "\"keep\"",
            "What the backward computes again: nothing, what is cheap, or all but the input of each block.",
        ),
        key(
            "reductions",
            Takes::Words(|| words(read::REDUCTIONS)),
            "\"ordered\"",
            "Who sums over ranks that are processes: this program in rank order, with the same bits whatever joins the ranks; the MPI library as it likes; or for each collective who is faster, timed once at the start of the run.",
        ),
    ],
};
