//! Each mistake and the sentence it is answered with.

use super::{LEAST, message};

/// A `--set` over `LEAST`, the problem named in the answer, and the remedy.
const WRONG_SETS: &[(&str, &str, &str)] = &[
    ("run.seqlen=3", "run.seqlen: unknown key `seqlen`, nearest is `seq_len`", "allowed here: dir, seed"),
    (
        "optim.lr=1e-4",
        "unknown key `lr` here, it belongs in `phase.N.lr`",
        "adamw, adam, sgd, muon, clip, group",
    ),
    ("modle.dim=3", "nearest is `model`", "schema, eval"),
    ("phase.0.lr.0.knid=const", "nearest is `kind`", "phase.0.lr.0.knid"),
    ("phase.3.tokens=5", "`phase` is a list of 1 and `3` is none of them", "numbered from 0"),
    ("run.dir.x=1", "`run.dir` is the string \"runs/x\"", "has no `x`"),
    ("run.seed", "there is no `=`", "--set table.key=value"),
    ("run..seed=1", "not a dotted path", "--set table.key=value"),
    ("schema=2", "2 is not known here", "reads 1"),
    ("run=5", "this is the integer 5", "give a table"),
    ("run.seq_len=1.5e3", "this is the number 1500.0", "without a fraction or exponent: 1500"),
    ("run.seq_len=0", "0 is out of range", "from 1"),
    ("run.seq_len=-4", "-4 is out of range", "from 1"),
    ("run.seed=true", "this is the boolean true", "whole number"),
    ("run.seq_len=1024", "longer than the table of learned positions: 512", "model.max_positions = 1024"),
    ("run.dtype=fp32", "unknown value \"fp32\", nearest is \"f32\"", "allowed: f32, bf16"),
    ("run.init=checkpoint", "unknown value \"checkpoint\"", "ckpt:PATH@STEP"),
    ("run.device=cuda", "device = \"cuda\" is not built yet", "use \"auto\" or \"cpu\""),
    ("run.dropout=0.1", "`dropout` is not built yet", "without dropout"),
    ("model.preset=gpt2-124", "nearest is \"gpt2-124m\"", "llama-3.2-1b"),
    ("model.heads=3", "3 heads do not divide dim: 128", "give head_dim"),
    ("model.kv_heads=4", "4 kv heads do not divide 2 heads", "give one of 1, 2"),
    ("model.rope.theta=1e6", "positions are not \"rope\"", "leave rope out"),
    ("model.head=mlm", "needs both directions", "set causal = false"),
    ("model.norm_eps=0", "0.0 is out of range", "> 0"),
    ("model.vocab=99999999999", "out of range", "from 1 to"),
    ("model.logit_softcap=0", "0.0 is out of range", "a number > 0, such as 30.0"),
    ("model.logit_softcap=off", "this is the string \"off\"", "or \"none\""),
    ("run.z_loss=-1e-4", "-0.0001 is out of range", "from 0 to 1, such as 1e-4"),
    ("phase.0.z_loss=2", "2.0 is out of range", "from 0 to 1"),
    ("model.dropout=0.1", "`dropout` is not built yet", "without dropout"),
    ("model.experts=8", "`experts` is not built yet", "dense"),
    ("data.web.split=[949, 50, 1]", "no meaning without order = \"megatron\"", "remove it"),
    ("data.web.pack_group=64", "no meaning without packing = \"best-fit\"", "remove it"),
    (
        "data.web={ path = \"x\", packing = \"best-fit\", pack_group = 5000 }",
        "5000 is out of range",
        "to 4096",
    ),
    (
        "data.web={ path = \"x\", order = \"megatron\", split = [9, 1] }",
        "not a split",
        "training, validation",
    ),
    (
        "data.web={ path = \"x\", order = \"megatron\", holdout = 0.1 }",
        "holds documents out by its split",
        "set split",
    ),
    (
        "data.web={ path = \"x\", order = \"megatron\", packing = \"one-doc\" }",
        "packs no documents",
        "stream",
    ),
    ("data.web.holdout=1.0", "1.0 is out of range", "less than 1"),
    ("data.web.max_epochs=0", "0 is out of range", "from 1 to"),
    ("data.we b={ path = \"x\" }", "\"we b\" is not a name", "letters, digits"),
    ("data.web=data/web", "this is the string \"data/web\"", "[data.web]"),
    ("parallel.tp=3", "3 does not divide model.heads: 2", "give one of 1, 2"),
    ("parallel.zero=4", "4 is out of range", "from 0 to 3"),
    ("parallel.sequence_parallel=true", "true with tp = 1, where nothing is split", "set tp to 2 or more"),
    ("parallel.accumulate=sharded", "\"sharded\" with zero = 1", "set zero to 2 or 3"),
    ("parallel=atuo", "unknown value \"atuo\"", "give \"auto\", or a table [parallel]"),
    ("parallel.shard=nodes", "unknown value \"nodes\"", "\"node\", \"N ranks\""),
    ("parallel.shard=0 ranks", "unknown value \"0 ranks\"", "N ranks"),
    ("parallel.pp=2", "`pp` is not built yet", "use tp"),
    ("parallel.micro_batch=3", "3 does not divide global_batch: 8", "give one of 1, 2, 4, 8"),
    ("optim.adamw.betas=[0.9, 1.0]", "optim.adamw.betas.1", "less than 1"),
    ("optim.adamw.betas=[0.9]", "this is a list of 1", "two numbers"),
    ("optim.adamw.eps=0", "0.0 is out of range", "> 0"),
    ("optim.clip=-1", "-1.0 is out of range", "\"none\""),
    ("optim.group=[{ weight_decay = 0.0 }]", "optim.group.0.match", "add `match"),
    ("optim.ema={}", "this required key is missing", "decay = 0.999"),
    ("optim.ema.decay=1", "1.0 is out of range", "> 0 and < 1, such as 0.999"),
    ("eval={ on = [\"web\"], weights = \"ema\" }", "no average of the weights is kept", "optim.ema"),
    ("optim.adam={ decay = 1 }", "unknown key `decay`", "weight_decay"),
    ("optim={ adam = {}, adamw = {} }", "adamw and adam are both given", "keep one"),
    ("optim={ muon = {}, adamw = {} }", "adamw and muon are both given", "keep one"),
    ("optim.muon={ momentum = 1 }", "1.0 is out of range", "at least 0 and less than 1"),
    ("optim.muon={ steps = 0 }", "0 is out of range", "from 1 to 20"),
    ("optim.muon={ adjust = \"rms\" }", "unknown value \"rms\"", "match_rms_adamw, original"),
    ("optim.muon={ lr = 0.02 }", "unknown key `lr` here, it belongs in `phase.N.lr`", "momentum, nesterov"),
    ("optim.muon={ adamw = { moments = \"bf16\" } }", "unknown key `moments` here", "betas, eps"),
    ("optim={ adam = {}, sgd = {} }", "adam and sgd are both given", "keep one"),
    ("optim.group=[{ match = [\"a\"] }]", "changes nothing", "lr_scale"),
    ("checkpoint.every=500", "this is the integer 500", "\"500 steps\""),
    ("checkpoint.every=0 steps", "\"0 steps\" is not a cadence", "\"20 min\""),
    ("checkpoint.keep_last=0", "0 is out of range", "from 1"),
    ("eval.on=[\"wep\"]", "no corpus `wep` in [data], nearest is `web`", "corpora: web"),
    ("eval.on=[\"web:heldout\"]", "holds nothing out", "data.web.holdout"),
    ("eval.on=[\"web:test\"]", "no part \"test\"", "NAME:heldout"),
    ("phase=[]", "there is no phase", "[[phase]]"),
    ("phase.0.mix={ wep = 1.0 }", "no corpus `wep`", "corpora: web"),
    ("phase.0.mix={ web = 0 }", "add up to 0", "weight > 0"),
    ("phase.0.mix.web=-1", "-1.0 is out of range", "weight from 0"),
    ("phase.0.batch_ramp=8", "phase.0.batch_ramp: this is the integer 8", "give a table"),
    ("phase.0.batch_ramp={ from = 2, by = 2 }", "this required key is missing", "add `samples = 200_000`"),
    ("phase.0.batch_ramp={ from = 2, step = 2, samples = 9 }", "unknown key `step`", "from, by, samples"),
    (
        "phase.0.batch_ramp={ from = 8, by = 2, samples = 9 }",
        "8 is not below global_batch: 8",
        "start with fewer",
    ),
    (
        "phase.0.batch_ramp={ from = 2, by = 4, samples = 9 }",
        "phase.0.batch_ramp.by: steps of 4 do not lead from 2 to global_batch: 8",
        "give a divisor of 6, or set global_batch to 6 or 10",
    ),
    ("phase.0.batch_ramp={ from = 2, by = 2, samples = 0 }", "0 is out of range", "from 1 to"),
    ("phase.0.batch_size_ramp={}", "unknown key `batch_size_ramp`, nearest is `batch_ramp`", "global_batch"),
    ("run.batch_ramp={}", "unknown key `batch_ramp` here", "it belongs in `phase.N.batch_ramp`"),
    ("phase.0.lr=3e-4", "a schedule is a list of segments", "kind = \"const\", to = 0.0003"),
    ("phase.0.lr=[]", "required key is missing", "kind = \"linear\""),
    ("phase.0.lr.0.frac=0.5", "the segments cover 50 steps of 100", "may leave both out"),
    ("phase.0.lr.0.steps=101", "need 101 steps of 100", "change"),
    ("phase.0.lr.0.kind=cos", "nearest is \"cosine\"", "inv-sqrt"),
    ("phase.0.lr.0.kind=exp", "exp cannot go from 0.0", "above 0"),
    ("phase.0.lr.0.to=inf", "inf is out of range", "a rate"),
    ("phase.0.lr.0.to=nan", "NaN is out of range", "a rate"),
    ("phase.0.schedule=keep", "the first phase has none to keep", "\"new\""),
    ("phase.0.grow={ width = \"tile\" }", "phase.0.grow.to", "required"),
    (
        "phase.0={ name = \"a\", steps = 2, lr = [{ kind = \"const\", to = 1e-3 }], grow = { to = { layers = 3 } }, spdf = { sparsity = 0.5 } }",
        "phase.0.spdf",
        "undo what was grown",
    ),
    ("phase.0.grow={ to = {} }", "the network has these sizes", "larger one"),
    ("phase.0.grow={ to = { dim = 32 } }", "phase.0.grow.to.dim: 32 is smaller", "or more"),
    ("phase.0.grow={ to = { depth = 3 } }", "phase.0.grow.to", "depth"),
    (
        "phase.0.grow={ to = { layers = 3 }, depth = \"twice\" }",
        "phase.0.grow.depth",
        "identity, stack, interpolate",
    ),
    ("phase.0.spdf={}", "required key is missing", "sparsity = 0.75"),
    ("phase.0.spdf={ sparsity = 1.0 }", "1.0 is out of range", "less than 1"),
    ("phase.0.spdf={ sparsity = 0.75, pattern = \"2:4\" }", "2:4 leaves one half", "leave it out"),
    ("phase.0.spdf={ pattern = \"block:32\" }", "required key is missing", "sparsity = 0.75"),
    (
        "phase.0.spdf={ sparsity = 0.75, pattern = \"block:48\" }",
        "\"block:48\" is no pattern",
        "\"block:128\"",
    ),
    ("phase.0.spdf={ sparsity = 0.75, pattern = \"random\" }", "\"random\" is no pattern", "\"2:4\""),
    ("phase.0.spdf={ sparsity = 0.75, match = [] }", "the list is empty", "those of blocks"),
    (
        "phase.0.salt={ weight = [{ kind = \"const\", to = 0.5 }] }",
        "required key is missing",
        "ckpt:runs/small",
    ),
    ("phase.0.salt={ teacher = \"ckpt:a\" }", "required key is missing", "to = 0.667, frac = 0.2"),
    (
        "phase.0.salt={ teacher = \"a\", weight = [{ kind = \"const\", to = 0.5 }] }",
        "unknown value \"a\"",
        "hf:DIR",
    ),
    (
        "phase.0.salt={ teacher = \"random\", weight = [{ kind = \"const\", to = 0.5 }] }",
        "unknown value",
        "ckpt:PATH@STEP",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", weight = [{ kind = \"const\", to = 1.5 }] }",
        "1.5 is out of range",
        "from 0 to 1",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", weight = [{ kind = \"const\", to = 0.0 }] }",
        "never has a share",
        "leave `salt` out",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", weight = [{ kind = \"const\", to = 0.5, steps = 1 }] }",
        "cover 1 steps of",
        "may leave both out",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", loss = \"kl\", weight = [{ kind = \"const\", to = 0.5 }] }",
        "\"kl\"",
        "\"kd\"",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", source = \"cache:x\", weight = [{ kind = \"const\", to = 0.5 }] }",
        "cannot be read from a file yet",
        "\"live\"",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", until = \"passed\", weight = [{ kind = \"const\", to = 0.5 }] }",
        "the phase is not evaluated",
        "eval = { on",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", margin = 0.1, weight = [{ kind = \"const\", to = 0.5 }] }",
        "belongs to until",
        "leave it out",
    ),
    (
        "phase.0.salt={ teacher = \"hf:a\", temperature = 0.0, weight = [{ kind = \"const\", to = 0.5 }] }",
        "out of range",
        "0.01 to 100",
    ),
    ("phase.0.spdf={ sparsity = 0.75, keep_old = true }", "`keep_old` is not built yet", "as likely"),
];

#[test]
fn each_wrong_setting_is_answered_with_its_place_and_a_remedy() {
    for (set, problem, remedy) in WRONG_SETS {
        let text = message(LEAST, &[set]);
        assert!(
            text.contains(problem) && text.contains(remedy),
            "{set}\n  gives   {text}\n  without {problem} | {remedy}"
        );
        assert!(
            text.starts_with(&format!("--set {set}: "))
                || text.starts_with("run.toml: phase.0.lr.0 (line 14)"),
            "{text}"
        );
        assert!(!text.contains('\n'), "one sentence: {text}");
    }
}

#[test]
fn each_wrong_file_is_answered_with_file_key_and_line() {
    let first = |line: &str| LEAST.replacen("schema = 1", line, 1);
    let run = |line: &str| LEAST.replacen("[run]", &format!("[run]\n{line}"), 1);
    let phase = |lines: &str| format!("{LEAST}{lines}\n");
    let second = |lines: &str| phase(&format!("[[phase]]\nname = \"b\"\nsteps = 5\n{lines}"));
    let table = [
        (first(""), "run.toml: schema: this required key is missing; add `schema = 1`"),
        (first("schema = \"1\""), "run.toml: schema (line 2): this is the string \"1\""),
        (first("schema = 1\nschema = 1"), "line 3: not TOML: duplicate key"),
        (first("schema = 1\nx y"), "run.toml: line 3: not TOML"),
        (
            first("schema = 1\n[modell]\n"),
            "run.toml: modell (line 3): unknown key `modell`, nearest is `model`",
        ),
        (run("sed = 1"), "run.toml: run.sed (line 4): unknown key `sed`, nearest is `seed`"),
        (run("seed = 99999999999999999999999999999999999999999999"), "line 4: the integer 99999"),
        (run("seed = 2026-11-23"), "run.seed (line 4): this is a date"),
        (
            LEAST.replace("dir = \"runs/x\"\n", ""),
            "run.dir (line 3): this required key is missing; add `dir =",
        ),
        (LEAST.replace("[model]\npreset = \"gpt2-tiny\"", ""), "run.toml: model: there is no model"),
        (
            LEAST.replace("preset = \"gpt2-tiny\"", "dim = 64"),
            "model.layers (line 7): this required key is missing",
        ),
        (LEAST.replace("web = { path = \"data/web\" }", ""), "data (line 9): there is no corpus"),
        (LEAST.replace("[[phase]]", "[phase]"), "phase (line 11): this is a table; give a list"),
        (LEAST.replace("name = \"main\"", ""), "phase.0.name (line 11): this required key is missing"),
        (LEAST.replace("steps = 100", ""), "phase.0.tokens (line 11): this required key is missing"),
        (phase("tokens = 5"), "run.toml: phase.0.steps (line 13): steps and tokens are both given"),
        (phase("mixx = 3"), "phase.0.mixx (line 15): unknown key `mixx`, nearest is `mix`"),
        (phase("[optim]\nsgd = {}\nadamw = {}"), "optim.sgd (line 16): adamw and sgd are both given"),
        (phase("[optim.sgd]\nmomentum = 0.9"), "`momentum` is not built yet"),
        (phase("optimizer = \"keep_v\"\n[optim.sgd]"), "sgd has no second moments to keep"),
        (
            phase("seq_len = 63\n[parallel]\ntp = 2\nsequence_parallel = true\nmicro_batch = 1"),
            "a micro-batch of 1 x 63 tokens in phase \"main\" does not split over tp = 2; give seq_len or micro_batch",
        ),
        (
            LEAST.replace("gpt2-tiny\"", "llama-tiny\"\nheads = 12\nhead_dim = 32\nkv_heads = 4")
                + "\n[parallel]\ntp = 6",
            "6 does not divide model.kv_heads: 4, and is no multiple of it; give one of 1, 2, 4, 12",
        ),
        (second("lr = [{ kind = \"cosine\" }]"), "phase.1.lr.0.to (line 18): this required key is missing"),
        (
            second("schedule = \"keep\"\nlr = [{ kind = \"const\" }]"),
            "phase.1.lr (line 19): a phase that keeps",
        ),
        (
            second("lr = [{ kind = \"const\" }]\nseq_len = 32"),
            "phase.1.cursor (line 15): the data cursor cannot be kept when seq_len changes from 64 to 32",
        ),
        (second("").replace("\"b\"", "\"main\""), "two phases are called \"main\""),
        (run("init = \"ckpt:@5\""), "unknown value \"ckpt:@5\""),
        (
            LEAST.replace("gpt2-tiny\"", "gpt2-tiny\"\nnorm = \"rms\"\nnorm_bias = true"),
            "an RMS norm has no bias",
        ),
        (
            LEAST.replace("gpt2-tiny\"", "llama-tiny\"\nhead_dim = 33"),
            "model.head_dim (line 9): rope rotates pairs",
        ),
        (
            LEAST.replace("gpt2-tiny\"", "bert-tiny\"\ncausal = true"),
            "model.head (preset bert-tiny): the mlm head needs",
        ),
    ];
    for (text, part) in table {
        let got = message(&text, &[]);
        assert!(got.contains(part), "{text}\n  gives   {got}\n  without {part}");
    }
}
