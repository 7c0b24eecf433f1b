//! The run file: what it accepts and resolves to, what each mistake is answered with, and that nothing makes it panic.

#[path = "config/damage.rs"]
mod damage;
#[path = "config/reference.rs"]
mod reference;
#[path = "config/schedules.rs"]
mod schedules;
#[path = "config/wrong.rs"]
mod wrong;

use espalier::config::*;

/// The example of the interface document, less the tables of methods that are not built.
const FULL: &str = r#"
schema = 1
eval = { on = ["web:heldout"], every = "500 steps", tokens = 1_000_000 }        # and at every phase end
checkpoint = { every = "500 steps", keep_last = 2, keep_every = "5000 steps" }  # or "20 min"
[run]
dir = "runs/demo"
seed = 1234
device = "auto"
dtype = "bf16"
init = "ckpt:runs/small"
seq_len = 1024
global_batch = 64
attention = "document"
[model]
preset = "llama-tiny"
vocab = 8192
[data]
web  = { path = "data/web", order = "stream", holdout = 0.005 }
laws = { path = "data/laws", max_epochs = 4 }
[parallel]
tp = 2
zero = 1
shard = "all"
sequence_parallel = false
micro_batch = 8
accumulate = "local"
recompute = "cheap"
[optim]
adamw = { betas = [0.9, 0.95], eps = 1e-8, weight_decay = 0.1, moments = "f32" }
clip = 1.0
group = [{ match = ["*.bias", "*norm*"], weight_decay = 0.0 }, { match = ["embed.*"], lr_scale = 0.5 }]
[[phase]]
name = "sparse-taught"
tokens = 400_000_000
mix = { web = 0.95, laws = 0.05 }
lr = [{ kind = "linear", to = 6e-4, frac = 0.02 }, { kind = "cosine", to = 6e-5 }]
[[phase]]
name = "dense"
tokens = 50_000_000
mix = { web = 0.5, laws = 0.5 }
optimizer = "reset"
schedule = "new"
cursor = "keep"
lr = [{ kind = "linear", from = 0.0, to = 2e-4, frac = 0.1 }, { kind = "1-sqrt", to = 0.0 }]
"#;

/// The least a run file can say.
const LEAST: &str = r#"
schema = 1
[run]
dir = "runs/x"
seq_len = 64
global_batch = 8
[model]
preset = "gpt2-tiny"
[data]
web = { path = "data/web" }
[[phase]]
name = "main"
steps = 100
lr = [{ kind = "const", to = 1e-3 }]
"#;

fn parse(text: &str, set: &[&str]) -> espalier::Result<RunConfig> {
    let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
    RunConfig::parse(text, "run.toml", &set)
}

fn message(text: &str, set: &[&str]) -> String {
    match parse(text, set) {
        Ok(_) => panic!("accepted: {set:?}"),
        Err(e) => {
            assert_eq!(e.exit_code(), 2);
            e.to_string()
        }
    }
}

#[test]
fn the_full_example_resolves_to_what_it_says() {
    let c = parse(FULL, &[]).unwrap();
    assert_eq!(c.run.init, Init::Checkpoint { path: "runs/small".into(), step: None, ema: false });
    assert_eq!((c.run.dtype, c.run.device), (Precision::Bf16, DeviceChoice::Auto));
    assert_eq!(c.checkpoint.keep_every, Some(Every::Steps(5000)));
    assert_eq!(c.eval.as_ref().unwrap().on, [EvalTarget { corpus: "web".into(), heldout: true }]);
    assert_eq!((c.model.layers, c.model.kv_heads, c.model.vocab), (4, 2, 8192));
    assert_eq!(c.data[1].1.max_epochs, Some(4));
    assert_eq!(c.parallel.recompute, Recompute::Cheap);
    assert_eq!(c.phases[0].steps, 400_000_000u64.div_ceil(1024 * 64));
    assert_eq!(c.phases[0].mix, [("web".into(), 0.95), ("laws".into(), 0.05)]);
    assert_eq!(c.phases[1].optimizer, OptimState::Reset);
    assert_eq!(c.phases[1].eval, c.eval);
    let (warm, last) = (122, c.phases[0].steps - 1); // 0.02 of 6104
    assert_eq!(c.phases[0].lr_at(warm - 1), 6e-4);
    assert_eq!(c.phases[0].lr_at(last), 6e-5);
    assert_eq!(c.phases[1].lr_start, 6e-5);
    assert_eq!(c.phases[1].lr_at(c.phases[1].steps - 1), 0.0);
    assert_eq!(c.optim.for_name("blocks.0.norm1.weight"), (0.0, 1.0));
    assert_eq!(c.optim.for_name("embed.norm.bias"), (0.0, 0.5));
    assert_eq!(c.optim.for_name("blocks.0.mlp.up.weight"), (0.1, 1.0));
}

#[test]
fn the_least_file_gets_the_documented_defaults() {
    let c = parse(LEAST, &[]).unwrap();
    assert_eq!(c.phases[0].mix, [("web".into(), 1.0)]);
    assert_eq!((c.phases[0].steps, c.phases[0].tokens), (100, 51_200));
    assert_eq!((c.run.seed, c.run.init.clone(), c.optim.clip), (1234, Init::Random, Some(1.0)));
    assert_eq!((c.parallel.zero, c.parallel.tp, c.parallel.micro_batch), (1, 1, None));
    assert_eq!(c.checkpoint.every, Every::Minutes(20.0));
    assert_eq!(c.eval, None);
    assert_eq!(c.optim.for_name("blocks.0.attn.q.bias"), (0.0, 1.0));
    assert_eq!((c.model.logit_softcap, c.run.z_loss, c.phases[0].z_loss), (None, 0.0, 0.0));
}

#[test]
fn averaged_weights_are_asked_for_where_they_are_used() {
    let set =
        ["optim.ema={ decay = 0.99 }", "eval={ on = [\"web\"], weights = \"ema\" }", "run.init=ema:runs/a@7"];
    let c = parse(LEAST, &set).unwrap();
    assert_eq!(c.optim.ema, Some(0.99));
    assert!(c.phases[0].eval.as_ref().is_some_and(|e| e.weights == EvalWeights::Ema));
    assert_eq!(c.run.init, Init::Checkpoint { path: "runs/a".into(), step: Some(7), ema: true });
    assert_eq!(parse(&c.resolved_toml(), &[]).unwrap(), c);
}

#[test]
fn a_phase_has_the_z_loss_of_the_run_or_its_own() {
    let second = "[[phase]]\nname = \"b\"\nsteps = 5\nz_loss = 0.0\nlr = [{ kind = \"const\" }]\n";
    let c = parse(&(LEAST.to_string() + second), &["run.z_loss=1e-4", "model.logit_softcap=30"]).unwrap();
    assert_eq!((c.phases[0].z_loss, c.phases[1].z_loss, c.model.logit_softcap), (1e-4, 0.0, Some(30.0)));
    assert_eq!(parse(&c.resolved_toml(), &[]).unwrap(), c);
    assert_eq!(parse(&c.resolved_toml(), &["model.logit_softcap=none"]).unwrap().model.logit_softcap, None);
}

const RAMP: &str = "phase.0.batch_ramp={ from = 2, by = 2, samples = 30 }";

#[test]
fn a_batch_grows_within_its_phase_and_budgets_count_every_update() {
    let c = parse(LEAST, &[RAMP]).unwrap();
    let p = &c.phases[0];
    // 34 samples in the 10 updates below the full size, by hand.
    assert_eq!((p.steps, p.samples(10), p.tokens), (100, 34, (34 + 90 * 8) * 64));
    assert_eq!((p.global_batch, p.sizes().collect::<Vec<_>>()), (8, vec![2, 4, 6, 8]));
    assert_eq!(parse(&c.resolved_toml(), &[]).unwrap(), c);
    for (tokens, steps) in [(1, 1), (10 * 64, 5), (10 * 64 + 1, 6), (34 * 64, 10), (34 * 64 + 1, 11)] {
        let set = [RAMP, &format!("phase.0.tokens={tokens}")];
        let p = &parse(LEAST, &set).unwrap().phases[0];
        assert_eq!((p.steps, p.tokens, p.all_samples() * 64 >= tokens), (steps, tokens, true));
        assert!(p.lr_at(steps) > 0.0 && p.lr.steps() == steps, "the schedule is laid out over the updates");
    }
    // A resume may be longer, with the same ramp.
    let longer = parse(LEAST, &[RAMP, "phase.0.steps=120"]).unwrap();
    longer.check_resume(&c).unwrap();
    let other = parse(LEAST, &[RAMP, "phase.0.batch_ramp.by=3"]).unwrap();
    assert!(
        other.check_resume(&c).unwrap_err().to_string().contains("phase.0.batch_ramp: { from = 2, by = 3")
    );
}

#[test]
fn every_size_of_a_ramp_splits_over_the_ranks_or_says_which_does_not() {
    let c = parse(LEAST, &[RAMP]).unwrap();
    assert_eq!(c.check_ranks(2).unwrap(), Topology { dp: 2, tp: 1 });
    let got = c.check_ranks(4).unwrap_err().to_string();
    assert!(
        got.contains("phase.0.batch_ramp: 2 sequences in phase \"main\", a size of its batch_ramp"),
        "{got}"
    );
    assert!(got.ends_with("make `from`, `by` and global_batch multiples of 4"), "{got}");
    // Only sizes that occur count: 3 and 5 are passed over, 6 is not reached.
    let small = "phase.0.batch_ramp={ from = 2, by = 1, samples = 2 }";
    parse(LEAST, &[small]).unwrap().check_ranks(2).unwrap();
    let odd = "phase.0.batch_ramp={ from = 2, by = 1, samples = 30 }";
    let got = parse(LEAST, &[odd]).unwrap().check_ranks(2).unwrap_err().to_string();
    assert!(got.contains("3 sequences"), "{got}");
    parse(LEAST, &[odd, "phase.0.steps=2"]).unwrap().check_ranks(2).unwrap();
    let micro = message(LEAST, &[RAMP, "parallel.micro_batch=4"]);
    assert!(micro.contains("4 does not divide 2, a size of the batch_ramp of phase \"main\""), "{micro}");
    assert!(micro.ends_with("give one of 1, 2"), "{micro}");
}

#[test]
fn set_overrides_any_key_and_reads_words_without_quotes() {
    let set = [
        "run.dir=/tmp/a b",
        "run.seed=7",
        "run.dtype = bf16",
        "checkpoint.every=90 min",
        "phase.0.lr.0.to=3e-4",
        "phase.0.tokens=1_000_000",
        "model.ffn_dim=640",
        "optim.adamw.betas=[0.9, 0.99]",
        "data.laws={ path = \"l\" }",
        "phase.0.mix.web=1",
        "phase.0.mix.laws=3",
    ];
    let c = parse(LEAST, &set).unwrap();
    assert_eq!((c.run.dir.to_str(), c.run.seed), (Some("/tmp/a b"), 7));
    assert_eq!((c.run.dtype, c.checkpoint.every), (Precision::Bf16, Every::Minutes(90.0)));
    assert_eq!((c.phases[0].lr_at(0), c.phases[0].tokens), (3e-4, 1_000_000)); // over `steps` in the file
    assert_eq!(c.model.ffn_dim, 640);
    assert!(matches!(c.optim.kind, OptimKind::AdamW { betas: [0.9, 0.99], .. }));
    assert_eq!(c.phases[0].mix, [("web".into(), 0.25), ("laws".into(), 0.75)]);
}

#[test]
fn a_kept_schedule_runs_on_through_the_phases_that_keep_it() {
    let more = "[[phase]]\nname = \"b\"\nsteps = 50\nschedule = \"keep\"\n\
                [[phase]]\nname = \"c\"\nsteps = 10\nlr = [{ kind = \"linear\", to = 0.0 }]\n";
    let lr = "lr = [{ kind = \"linear\", from = 1.5, to = 0.5 }]";
    let c = parse(&(LEAST.replace("lr = [{ kind = \"const\", to = 1e-3 }]", lr) + more), &[]).unwrap();
    let rate = |phase: usize, step| c.phases[phase].lr_at(step);
    assert!((rate(0, 74) - 1.0).abs() < 1e-15 && rate(0, 99) > rate(1, 0));
    assert!((rate(0, 99) - rate(1, 0) - 1.0 / 150.0).abs() < 1e-12);
    assert_eq!((rate(1, 49), c.phases[2].lr_start, rate(2, 4)), (0.5, 0.5, 0.25));
}

#[test]
fn ranks_that_do_not_fit_are_answered_with_numbers_that_do() {
    let c = parse(FULL, &[]).unwrap();
    assert_eq!(c.check_ranks(4).unwrap(), Topology { dp: 2, tp: 2 });
    let says = |ranks: usize, part: &str| {
        let got = c.check_ranks(ranks).unwrap_err().to_string();
        assert!(got.contains(part), "{ranks} ranks: {got}");
    };
    says(3, "tp = 2 does not divide 3 ranks; start 4 ranks, or set tp to one of 1");
    says(0, "--ranks 0; give 2 or more");
    says(usize::MAX - 1, "run.global_batch: 64 sequences in phase");
    says(6, "set global_batch to 48 or 72");
    says(32, "set global_batch to 128, or micro_batch to one of 1, 2, 4");
}

#[test]
fn resolved_files_resolve_to_the_same_run() {
    let mut texts = vec![FULL.to_string(), LEAST.to_string(), include_str!("../configs/example.toml").into()];
    texts.extend(ModelConfig::presets().iter().map(|p| LEAST.replace("gpt2-tiny", p)));
    let odd = "name = \"a \\\"b\\\" \\n = ü\"\noptimizer = \"reset\"\nmix = { web = 1, b = 1, c = 1 }";
    texts.push(
        LEAST.replace("name = \"main\"", odd).replace("[data]", "[data]\nc = { path = '''x\ny''' }\nb.path = 'q\"'")
            + "eval = { on = [\"c\"], every = \"1.5 min\" }\n[[phase]]\nname = \"k\"\ntokens = 7\nmix = { b = 3 }\nschedule = \"keep\"\n\
               cursor = \"new\"\neval = \"none\"\n[optim]\nclip = \"none\"\nsgd = { weight_decay = 0.01 }\ngroup = []\n",
    );
    texts.push(format!("parallel = \"auto\"\n{LEAST}"));
    for text in texts {
        let first = parse(&text, &[]).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let resolved = first.resolved_toml();
        let second = parse(&resolved, &[]).unwrap_or_else(|e| panic!("{e}\n{resolved}"));
        assert_eq!(first, second, "{resolved}");
        assert_eq!((first.hash(), resolved.clone()), (second.hash(), second.resolved_toml()));
        toml::from_str::<toml::Table>(&resolved).unwrap();
        let set = ["run.attention=full".to_string()];
        let full = RunConfig::parse(&resolved, "run.toml", &set).unwrap();
        assert!(full.phases.iter().all(|p| p.attention == Attention::Full), "overrides reach the phases");
    }
}

#[test]
fn the_hash_sees_what_determines_results_and_nothing_else() {
    let hash = |set: &[&str]| parse(LEAST, set).unwrap().hash();
    let base = hash(&[]);
    for set in [
        "run.dir=elsewhere",
        "run.device=cpu",
        "parallel.tp=2",
        "parallel.zero=0",
        "parallel.recompute=full",
        "checkpoint.every=3 steps",
        "eval.on=[\"web\"]",
        "run.seed=1234",
    ] {
        assert_eq!(hash(&[set]), base, "{set}");
    }
    let mut seen = vec![base];
    for set in [
        "run.seed=1",
        "run.dtype=bf16",
        "run.seq_len=32",
        "run.global_batch=16",
        "run.attention=full",
        "model.layers=3",
        "model.init_std=0.01",
        "data.web.holdout=0.1",
        "model.logit_softcap=30",
        "run.z_loss=1e-4",
        "phase.0.z_loss=1e-3",
        RAMP,
        "optim.clip=none",
        "optim.adamw.eps=1e-6",
        "optim.adam={ weight_decay = 0.1 }",
        "optim.ema={ decay = 0.99 }",
        "optim.group=[]",
        "phase.0.steps=101",
        "phase.0.lr.0.to=2e-3",
        "phase.0.optimizer=reset",
    ] {
        let h = hash(&[set]);
        assert!(!seen.contains(&h), "{set}");
        seen.push(h);
    }
}

#[test]
fn a_resume_may_change_only_what_leaves_the_run_the_same() {
    let old = parse(FULL, &[]).unwrap();
    let resume = |set: &[&str]| parse(FULL, set).unwrap().check_resume(&old).map_err(|e| e.to_string());
    let fine = [
        "parallel.tp=1",
        "phase.1.tokens=60_000_000",
        "checkpoint.every=5 min",
        "eval.tokens=10",
        "run.dir=b",
    ];
    resume(&fine).unwrap();
    for (set, part) in [
        ("run.seed=3", "run.seed: 3 differs from what the run was started with: 1234"),
        ("phase.1.tokens=40_000_000", "phase.1.tokens"),
        ("phase.0.tokens=500_000_000", "phase.0.tokens"),
        ("model.layers=5", "model.layers: 5 differs"),
        ("data.laws.max_epochs=5", "data.laws"),
    ] {
        let got = resume(&[set]).unwrap_err();
        assert!(got.contains(part), "{got}");
    }
    // Megatron's order is another one for a longer run.
    let megatron = |name: &str| format!("data.{name}={{ path = \"data/{name}\", order = \"megatron\" }}");
    let (web, laws) = (megatron("web"), megatron("laws"));
    let old = parse(FULL, &[&web, &laws]).unwrap();
    parse(FULL, &[&web, &laws, "eval.tokens=10"]).unwrap().check_resume(&old).unwrap();
    let longer = parse(FULL, &[&web, &laws, "phase.1.tokens=60_000_000"]).unwrap();
    let got = longer.check_resume(&old).unwrap_err().to_string();
    assert!(got.contains("phase.1.tokens: Megatron's order depends on the length of the run"), "{got}");
}

#[test]
fn state_may_be_split_over_a_node_if_it_is_split() {
    let c = parse(LEAST, &["parallel.shard=node"]).unwrap();
    assert_eq!((c.parallel.shard, c.parallel.shard_size(6)), (espalier::config::Shard::Node(None), 6));
    assert!(c.resolved_toml().contains("\nshard = \"node\"\n"));
    let got = message(LEAST, &["parallel.shard=node", "parallel.zero=0"]);
    assert!(got.contains("\"node\" with zero = 0, where nothing is split"), "{got}");
}

#[test]
fn groups_that_match_no_parameter_are_refused() {
    let c = parse(LEAST, &["optim.group=[{ match = [\"*.biass\"], weight_decay = 0.0 }]"]).unwrap();
    let got = c.optim.check_names(&["embed.tokens.weight", "norm.bias"], "run.toml").unwrap_err().to_string();
    assert!(got.starts_with("run.toml: optim.group.0.match: no parameter is called like *.biass"), "{got}");
    let c = parse(FULL, &[]).unwrap();
    c.optim.check_names(&["embed.tokens.weight", "norm.weight"], "run.toml").unwrap();
}

#[test]
fn presets_have_the_published_parameter_counts() {
    let published = [
        ("gpt2-124m", 124_439_808),
        ("gpt2-355m", 354_823_168),
        ("gpt2-774m", 774_030_080),
        ("gpt2-1558m", 1_557_611_200),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3.2-1b", 1_235_814_400),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen3-0.6b", 596_049_920),
        ("bert-base", 109_514_298), // with the masked-language head, whose decoder is tied
        ("bert-tiny", 4_416_698),
        // As transformers 5.23 counts its own models of these shapes.
        ("gpt3-xl", 1_315_723_264),
        ("cerebras-gpt-111m", 111_050_496),
        ("llama-3-70b", 70_553_706_496),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen3-1.7b", 1_720_574_976),
        ("bert-large", 335_174_458),
        // Counted from the layers' shapes, by hand.
        ("gpt2-tiny", 8192 * 128 + 512 * 128 + 2 * (12 * 128 * 128 + 13 * 128) + 2 * 128),
        ("tiny", 8192 * 256 + 512 * 256 + 4 * (12 * 256 * 256 + 13 * 256) + 2 * 256),
        ("small", 50304 * 384 + 512 * 384 + 6 * (12 * 384 * 384 + 13 * 384) + 2 * 384),
        ("gpt2-t512", 124_439_808 + (50304 - 50257) * 768),
        ("llama-tiny", 8192 * 256 + 4 * (3 * 256 * 256 + 3 * 256 * 768 + 2 * 256) + 256),
        ("llama25", 2 * 16384 * 384 + 8 * (384 * 384 * 8 / 3 + 3 * 384 * 1024 + 2 * 384) + 384),
        ("wide", 8192 * 1024 + 512 * 1024 + 8 * (12 * 1024 * 1024 + 13 * 1024) + 2 * 1024),
        ("llama110", 32000 * 768 + 12 * (768 * 768 * 8 / 3 + 3 * 768 * 2304 + 2 * 768) + 768),
    ];
    for (name, params) in published {
        let m = ModelConfig::preset(name).unwrap();
        assert_eq!(m.params(), params, "{name}");
        m.validate(name).unwrap();
    }
    assert_eq!(published.len(), ModelConfig::presets().len());
    let got = ModelConfig::preset("gpt3").unwrap_err().to_string();
    assert!(got.contains("unknown preset \"gpt3\"") && got.contains("gpt2-124m"), "{got}");
}

#[test]
fn keys_beside_a_preset_win_and_what_follows_from_them_follows() {
    let model = |text: &str| parse(&LEAST.replace("preset = \"gpt2-tiny\"", text), &[]).unwrap().model;
    let m = model("preset = \"gpt2-124m\"\ndim = 512\nheads = 8");
    assert_eq!((m.head_dim, m.ffn_dim, m.kv_heads, m.layers), (64, 2048, 8, 12));
    let m = model("preset = \"llama-3.2-1b\"\nrope = { theta = 1e4 }");
    assert!(matches!(m.positions, Positions::Rope { theta: 10000.0, scaling: Some(s) } if s.factor == 32.0));
    let m = model("preset = \"llama-3.2-1b\"\nrope.scaling = \"none\"");
    assert!(matches!(m.positions, Positions::Rope { theta: 500000.0, scaling: None }));
    let m = model("preset = \"llama-tiny\"\npositions = \"learned\"");
    assert_eq!(m.positions, Positions::Learned { max: 1024 });
    let m = model("layers = 2\ndim = 96\nheads = 4\nvocab = 100");
    assert_eq!((m.ffn_dim, m.max_positions, m.norm, m.norm_bias), (256, 64, Norm::Rms, false));
}

#[test]
fn a_missing_file_is_a_configuration_error() {
    let got = RunConfig::load(std::path::Path::new("no/such.toml"), &[]).unwrap_err();
    assert!(
        got.exit_code() == 2 && got.to_string().starts_with("no/such.toml: run file: cannot be read"),
        "{got}"
    );
}

#[test]
fn the_commented_example_is_accepted() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/example.toml");
    let c = RunConfig::load(&path, &[]).unwrap();
    assert_eq!((c.model.params(), c.phases.len()), (12_587_904, 2));
    assert_eq!(c.phases[1].lr_start, 6e-4);
}
