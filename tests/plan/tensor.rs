//! What tensor parallelism sends, with sequence parallelism and with kv heads that several ranks hold.

use super::{check, config};
use espalier::comm::Kind;
use espalier::train::rehearsal::Rehearsal;

const GPT2: &str = "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500";
const LLAMA: &str = "preset = \"llama-tiny\"\nlayers = 3\nvocab = 500\ntied = false\nqk_norm = true";

#[test]
fn the_meta_arena_foretells_sequence_parallelism_and_kv_heads_on_several_ranks() {
    for (model, parallel, ranks) in [
        (GPT2, "tp = 2\nsequence_parallel = true", 2),
        (GPT2, "tp = 4\nsequence_parallel = true\nrecompute = \"full\"\nzero = 3", 8),
        (LLAMA, "tp = 2\nsequence_parallel = true\nrecompute = \"cheap\"", 4),
        (LLAMA, "tp = 2\nsequence_parallel = true\nzero = 3\naccumulate = \"sharded\"", 4),
        (LLAMA, "tp = 4\nzero = 1", 4),
        (LLAMA, "tp = 4\nsequence_parallel = true\nzero = 2", 8),
    ] {
        check(parallel, &config(model, &format!("[parallel]\nmicro_batch = 2\n{parallel}")), ranks);
    }
}

/// Bytes that rank 0 of 4 sends over tp in an update of two micro-batches of 4 x 64 tokens.
fn sent(model: &str, parallel: &str) -> u64 {
    let c = config(model, &format!("[parallel]\ntp = 4\nmicro_batch = 4\n{parallel}"));
    let mut r = Rehearsal::new(&c, 0, 1);
    let splits = r.splits(&c.phases[0]);
    assert_eq!(splits[0].0.micro_steps, 2, "the formulas below are for two micro-batches");
    r.update_of(&c.phases[0], splits[0].0).expect("a rehearsal");
    r.replica.mesh.sent()[1]
}

const N: u64 = 4 * 64;

/// Of 4 ranks, each sends 3/4 of a buffer of f32 that it scatters or gathers.
fn passes(elements: u64) -> u64 {
    4 * elements * 3 / 4
}

/// Rows' maxima, sums and targets, each twice over the ranks (all_reduce).
fn loss() -> u64 {
    passes(2 * 3 * N)
}

#[test]
fn what_tp_sends_in_an_update_is_what_the_formulas_say() {
    // One activation; 3 layers.
    let m = N * 64;
    // Forward two all_reduces in a layer and one of the embedding, backward as many; an all_reduce is two passes.
    let plain = 2 * (passes(8 * m * 3) + passes(4 * m) + loss());
    assert_eq!(sent(GPT2, ""), plain);
    // As many passes, two gathers in each layer for the gradients of its weights, and once in an update those of norms:
    // weight and bias of two in each layer and of the last.
    let norms = passes(2 * (3 * 2 + 1) * 2 * 64);
    let split = 2 * (passes(10 * m * 3) + passes(4 * m) + loss()) + norms;
    assert_eq!(sent(GPT2, "sequence_parallel = true"), split);
    // Again forward, but for what leaves a block last, which no backward reads: an all_reduce less, or a reduce_scatter.
    assert_eq!(sent(GPT2, "recompute = \"full\""), plain + 2 * passes(2 * m * 3));
    let full = "sequence_parallel = true\nrecompute = \"full\"";
    assert_eq!(sent(GPT2, full), split + 2 * passes(3 * m * 3));
}

/// 4 heads of 64 and 2 kv heads: each of these is on two ranks.
#[test]
fn gradients_of_a_kv_head_are_summed_over_the_ranks_that_hold_it() {
    let m = N * 256;
    let plain = 2 * (passes(8 * m * 3) + passes(4 * m) + loss());
    let head_norms = passes(2 * 3 * 2 * 64);
    // k and v of one head in each layer; of two ranks, each sends half a buffer twice.
    let kv = 4 * (3 * 2 * 64 * 256);
    assert_eq!(sent(LLAMA, ""), plain + head_norms + kv);
    let alone =
        "preset = \"llama-tiny\"\nlayers = 3\nvocab = 500\ntied = false\nqk_norm = true\nkv_heads = 4";
    assert_eq!(sent(alone, ""), plain + head_norms, "each rank has its own");
}

#[test]
fn sequence_parallelism_keeps_a_quarter_of_what_lies_between_matrices() {
    let kept = |parallel: &str| {
        let c = config(LLAMA, &format!("[parallel]\ntp = 4\nmicro_batch = 4\n{parallel}"));
        let mut r = Rehearsal::new(&c, 0, 1);
        let split = r.splits(&c.phases[0])[0].0;
        r.update_of(&c.phases[0], split).expect("a rehearsal");
        let m = r.replica.mesh.tp.traffic();
        let calls = [Kind::AllReduce, Kind::AllGather, Kind::ReduceScatter].map(|k| m.of(k).calls);
        (r.replica.dev.arena().used().peak[espalier::device::Category::Activations as usize], calls)
    };
    let (all, calls) = kept("");
    let (quarter, split_calls) = kept("sequence_parallel = true");
    // x and the outputs of two norms in each of 3 layers, x twice; a quarter of it remains. What is gathered at a time adds to it.
    let between = (4 * N * 256) as usize * 4 * 3;
    assert!(quarter + between / 2 < all, "{quarter} of {all} bytes, {between} of them between matrices");
    assert!(calls[1] == 0 && calls[2] == 0 && split_calls[1] > split_calls[2], "{calls:?}, {split_calls:?}");
}
