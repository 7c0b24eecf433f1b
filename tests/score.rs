//! Losses of a corpus under a checkpoint: those of an evaluation, those of logits computed by hand, the same for any
//! ranks, threads and batches, through stops and kills, and bound to their corpus.

#![allow(clippy::unwrap_used)] // here it is how a test fails

#[path = "score/killed.rs"]
mod killed;

use espalier::Error;
use espalier::checkpoint::{Checkpoint, Values, resolve};
use espalier::comm::Mesh;
use espalier::config::{EvalWeights, OptimConfig, OptimKind, RunConfig};
use espalier::data::side::{self, Column, SideType, Stream, Value};
use espalier::data::{Corpus, CorpusWriter, Tokenizer, build_bytes};
use espalier::device::{DType, Device};
use espalier::tape::{At, Recompute, Seq};
use espalier::train::replica::{Plan, Replica};
use espalier::train::run::{Launch, train};
use espalier::train::score::{Job, Output, Summary, TextBytes, Windows, score};
use espalier::train::step::forward;
use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// T
const SEQ_LEN: usize = 32;
/// Of a batch: the test's corpus fills about a dozen.
const ROWS: usize = 80;

const RUN: &str = r#"
schema = 1
eval = { on = ["web"], every = "20 steps", tokens = 100_000_000 }
[run]
dir = "RUN"
seed = 3
seq_len = 32
global_batch = 8
[model]
preset = "llama-tiny"
vocab = 257
layers = 2
dim = 32
heads = 4
kv_heads = 2
ffn_dim = 64
max_positions = 64
[data]
web = { path = "CORPUS" }
[[phase]]
name = "only"
steps = 20
mix = { web = 1.0 }
lr = [{ kind = "const", to = 3e-3 }]
"#;

/// A folder with a corpus, `web`, and a model trained on it, `run`.
struct Site {
    folder: TempDir,
    corpus: Corpus,
    checkpoint: Checkpoint,
    /// What the training's last evaluation of the whole corpus said.
    evaluated: f64,
}

impl Site {
    fn new(dtype: &str) -> Site {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("web");
        let corpus = corpus(&prefix, 0);
        Site::of(folder, corpus, dtype).0
    }

    /// Any corpus of bytes, `web` in the folder. Also the row of the training's last evaluation of it.
    fn of(folder: TempDir, corpus: Corpus, dtype: &str) -> (Site, serde_json::Value) {
        let prefix = corpus.prefix().to_path_buf();
        let run = folder.path().join("run");
        let text = RUN.replace("RUN", run.to_str().unwrap()).replace("CORPUS", prefix.to_str().unwrap());
        let file = folder.path().join("run.toml");
        std::fs::write(&file, text).unwrap();
        let config = RunConfig::load(&file, &[format!("run.dtype={dtype}")]).unwrap();
        train(&config, &launch(1, 2)).unwrap();
        let rows = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let last = rows.iter().rfind(|row| row["kind"] == "eval").unwrap();
        assert_eq!(last["tokens"].as_u64().unwrap(), predictions(&corpus));
        let evaluated = last["nll_token"].as_f64().unwrap();
        let checkpoint = Checkpoint::open(&resolve(&run, None).unwrap()).unwrap();
        (Site { folder, corpus, checkpoint, evaluated }, last.clone())
    }

    fn job(&self, outputs: &[Output]) -> Job<'_> {
        Job {
            checkpoint: &self.checkpoint,
            corpus: &self.corpus,
            windows: Windows { seq_len: SEQ_LEN, stride: SEQ_LEN, rows: ROWS },
            documents: 0..self.corpus.documents(),
            dtype: match self.checkpoint.manifest().meta.dtype.as_str() {
                "bf16" => DType::Bf16,
                _ => DType::F32,
            },
            tp: 1,
            weights: EvalWeights::Trained,
            outputs: outputs.into(),
            save_every: Duration::from_secs(10),
            tell: false,
        }
    }

    /// All three outputs under a name.
    fn outputs(&self, name: &str) -> Vec<Output> {
        let lines = self.folder.path().join(format!("{name}.jsonl"));
        vec![Output::Stream(name.into()), Output::Column(name.into()), Output::Lines(lines)]
    }

    /// The bytes of all outputs of a name, by what follows the name.
    fn bytes(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let file = |end: &str| std::fs::read(self.folder.path().join(end.replace('X', name))).unwrap();
        let ends = ["web.stream.X", "web.col.X", "web.col.X_sum", "web.col.X_count", "X.jsonl"];
        ends.into_iter().map(|end| (end.to_string(), file(end))).collect()
    }

    fn scored(&self, name: &str, change: impl Fn(&mut Job), launch: &Launch) -> Summary {
        let mut job = self.job(&self.outputs(name));
        change(&mut job);
        score(&job, launch).unwrap()
    }

    /// One line for each document.
    fn lines(&self, name: &str) -> Vec<Line> {
        let text = std::fs::read_to_string(self.folder.path().join(format!("{name}.jsonl"))).unwrap();
        text.lines().map(Line::read).collect()
    }

    fn replica(&self, dtype: DType) -> Replica {
        let optim =
            OptimConfig { kind: OptimKind::Sgd { weight_decay: 0.0 }, clip: None, groups: vec![], ema: None };
        let plan = Plan {
            model: &self.checkpoint.manifest().meta.model,
            spdf: None,
            optim: &optim,
            dtype,
            recompute: Recompute::Keep,
            zero: 0,
            seq_len: SEQ_LEN,
            accumulate: espalier::params::Accumulate::Local,
            sequence_parallel: false,
        };
        let mut r = Replica::new(Device::cpu(1), Mesh::solo(), &plan).unwrap();
        self.checkpoint.load_weights(&r.dev, &mut r.params, Values::Stored).unwrap();
        r
    }
}

#[derive(Debug, PartialEq)]
struct Line {
    document: u64,
    tokens: u64,
    predictions: u64,
    sum: f64,
    mean: Option<f64>,
}

impl Line {
    fn read(text: &str) -> Line {
        let v: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(v.as_object().unwrap().len(), 5, "{text}");
        let whole = |key: &str| v[key].as_u64().unwrap();
        Line {
            document: whole("document"),
            tokens: whole("tokens"),
            predictions: whole("predictions"),
            sum: v["nll_sum"].as_f64().unwrap(),
            mean: v["nll"].as_f64(),
        }
    }
}

fn launch(ranks: usize, threads: usize) -> Launch {
    Launch { ranks, threads: Some(threads), deadline: Duration::from_secs(300), ranks_per_node: None }
}

/// English, in documents of 1 to 700 tokens; every ninth has one token and so no prediction, the last two too. Between
/// them are documents without tokens, the first among them.
fn corpus(prefix: &Path, shift: u32) -> Corpus {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let names = ["1805-Jefferson-1.txt", "1797-Adams-1.txt"];
    let text = names.map(|name| std::fs::read(folder.join(name)).unwrap()).concat();
    let tokens: Vec<u32> = text.iter().map(|b| (u32::from(*b) + shift) % 257).collect();
    let tokenizer = Tokenizer { kind: "test".into(), hash: 7 };
    let mut writer = CorpusWriter::create(prefix, 257, tokenizer, None).unwrap();
    writer.keep_empty(true);
    let (mut rest, mut i) = (&tokens[..tokens.len() - 2], 0);
    while !rest.is_empty() {
        if i % 14 == 0 {
            writer.end_document(0).unwrap();
        }
        let length =
            if i % 9 == 4 { 1 } else { 2 + (i * i * 31 + i * 7) % if i % 5 == 0 { 699 } else { 60 } };
        let (document, after) = rest.split_at(length.min(rest.len()));
        writer.push(document).unwrap();
        writer.end_document(document.len() as u64).unwrap();
        (rest, i) = (after, i + 1);
    }
    for token in &tokens[tokens.len() - 2..] {
        writer.push(&[*token]).unwrap();
        writer.end_document(1).unwrap();
    }
    writer.finish().unwrap();
    Corpus::open(prefix).unwrap()
}

fn predictions(corpus: &Corpus) -> u64 {
    let of = |doc| {
        let range = corpus.document_range(doc).unwrap();
        (range.end - range.start).saturating_sub(1)
    };
    (0..corpus.documents()).map(of).sum()
}

#[test]
fn the_mean_is_that_of_the_trainings_own_evaluation() {
    for dtype in ["f32", "bf16"] {
        let site = Site::new(dtype);
        let summary = site.scored("nll", |_| {}, &launch(1, 2));
        assert_eq!(summary.predictions, predictions(&site.corpus));
        assert_eq!(summary.documents, site.corpus.documents());
        let mean = summary.nll / summary.predictions as f64;
        assert!(mean > 1.0 && mean < 5.0, "{mean} nats: the model has learned something");
        let off = (mean / site.evaluated - 1.0).abs();
        println!("{dtype}: {mean} nats, {off:.1e} off the evaluation");
        assert!(off < 1e-12, "{dtype}: {mean} nats, the evaluation had {}", site.evaluated);
    }
}

/// −log softmax of the next token after each of `tokens`, by the logits of that text alone, in f64.
fn by_hand(r: &mut Replica, tokens: &[u32]) -> Vec<f64> {
    let (inputs, targets) = (&tokens[..tokens.len() - 1], &tokens[1..]);
    let seq = Seq::packed(inputs, &[inputs.len()]);
    let (_, h) = forward(r, &seq, At::default(), false).unwrap();
    let logits = r.net.head.logits(&r.dev, r.mesh.tp.as_ref(), &r.params, &r.net.embed, &h).unwrap();
    let logits = logits.to_f64();
    let rows = logits.chunks(logits.len() / inputs.len()).zip(targets);
    rows.map(|(l, &target)| {
        let most = l.iter().fold(f64::MIN, |m, x| m.max(*x));
        most + l.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - l[target as usize]
    })
    .collect()
}

#[test]
fn every_loss_is_that_of_its_own_windows_logits() {
    let site = Site::new("f32");
    let mut r = site.replica(DType::F32);
    let n = site.corpus.tokens() as usize;
    let mut tokens = vec![0; n];
    site.corpus.read(0, &mut tokens).unwrap();
    for stride in [SEQ_LEN, 12, 1] {
        let name = format!("stride{stride}");
        // One step to the next window each time is much work: the first documents.
        let documents = if stride == 1 { 60 } else { site.corpus.documents() };
        let change = |job: &mut Job| {
            job.windows.stride = stride;
            job.documents = 0..documents;
        };
        site.scored(&name, change, &launch(1, 2));
        let (mut stream, lines) = (vec![0.0; n], site.lines(&name));
        Stream::open(&site.corpus, &name).unwrap().read(0, &mut stream).unwrap();
        let (mut several, mut none, mut empty) = (0, 0, 0);
        for (doc, line) in lines.iter().enumerate() {
            let range = site.corpus.document_range(doc as u64).unwrap();
            let text = &tokens[range.start as usize..range.end as usize];
            // The loss of token i, from the window that predicts it first: k = 0, or the least k with i ≤ k·S + T.
            let mut want = vec![f64::NAN; text.len().min(1)];
            let mut start = 0;
            while want.len() < text.len() {
                let window = &text[start..text.len().min(start + SEQ_LEN + 1)];
                let known = want.len() - start - 1;
                want.extend(&by_hand(&mut r, window)[known..]);
                assert!(start == 0 || known == SEQ_LEN - stride);
                start += stride;
            }
            several += usize::from(start > stride);
            none += usize::from(text.len() == 1);
            empty += usize::from(text.is_empty());
            let sum: f64 = want.iter().skip(1).sum();
            assert_eq!((line.document, line.tokens as usize), (doc as u64, text.len()));
            assert_eq!(line.predictions as usize, text.len().saturating_sub(1));
            assert!((line.sum - sum).abs() <= 2e-6 * sum, "document {doc}: {} and {sum}", line.sum);
            assert_eq!(line.mean.is_none(), text.len() < 2);
            if let Some(mean) = line.mean {
                assert!((mean - sum / (text.len() - 1) as f64).abs() <= 2e-6 * mean);
            }
            for (i, (got, want)) in stream[range.start as usize..].iter().zip(&want).enumerate() {
                // f16 has 11 bits.
                let close = (f64::from(*got) - want).abs() <= 5e-4 * want.abs() + 1e-6;
                assert!(close || (i == 0 && got.is_nan()), "document {doc} token {i}: {got}, not {want}");
            }
        }
        assert!(
            several > 10 && none > 5 && empty > 3,
            "{several} long, {none} short, {empty} empty documents"
        );
        assert_eq!(lines.len() as u64, documents);
    }
}

#[test]
fn more_context_lowers_the_loss_and_a_window_that_holds_a_document_needs_none() {
    let site = Site::new("f32");
    let wide = |job: &mut Job| job.windows = Windows { seq_len: 64, stride: 64, rows: 64 };
    let overlapping = |job: &mut Job| job.windows.stride = 8;
    let mut sums = vec![];
    for (name, change) in
        [("plain", &(|_: &mut Job| {}) as &dyn Fn(&mut Job)), ("stride", &overlapping), ("wide", &wide)]
    {
        sums.push(site.scored(name, change, &launch(1, 2)).nll);
    }
    assert!(sums[1] < sums[0], "{sums:?}");
    for (plain, stride) in site.lines("plain").iter().zip(site.lines("stride")) {
        if plain.predictions <= SEQ_LEN as u64 {
            assert_eq!(*plain, stride);
        }
    }
}

#[test]
fn columns_hold_what_the_lines_say() {
    let site = Site::new("f32");
    site.scored("nll", |_| {}, &launch(1, 1));
    let open = |name| {
        let column = Column::open(&site.corpus, name).unwrap();
        column.verify().unwrap();
        column
    };
    let [mean, sum, count] = ["nll", "nll_sum", "nll_count"].map(open);
    assert_eq!([&mean, &sum, &count].map(|c| c.side_type()), [SideType::F32, SideType::F32, SideType::I64]);
    for line in site.lines("nll") {
        let doc = line.document;
        assert_eq!(sum.get(doc).unwrap(), Value::F32(line.sum as f32));
        assert_eq!(count.get(doc).unwrap(), Value::I64(line.predictions as i64));
        match line.mean {
            Some(m) => assert_eq!(mean.get(doc).unwrap(), Value::F32(m as f32)),
            None => assert!(mean.get(doc).unwrap().number().unwrap().is_nan()),
        }
    }
    let names = side::list(site.corpus.prefix()).unwrap();
    assert_eq!(
        (names.streams, names.columns),
        (vec!["nll".into()], vec!["nll".into(), "nll_count".into(), "nll_sum".into()])
    );
}

#[test]
fn ranks_threads_and_rows_of_a_batch_change_no_byte() {
    for dtype in ["f32", "bf16"] {
        let site = Site::new(dtype);
        site.scored("one", |_| {}, &launch(1, 1));
        let one = site.bytes("one");
        let cases: [(&str, usize, usize, usize); 6] = [
            ("two-threads", 1, 2, ROWS),
            ("two", 2, 1, ROWS),
            ("three", 3, 1, ROWS),
            // More ranks than batches.
            ("many", 40, 1, ROWS),
            ("small", 1, 1, 3),
            ("large", 2, 2, 1000),
        ];
        for (name, ranks, threads, rows) in cases {
            let summary = site.scored(name, |job| job.windows.rows = rows, &launch(ranks, threads));
            for ((end, want), got) in one.iter().zip(site.bytes(name).values()) {
                assert!(want == got, "{dtype}, {name}: {end} differs");
            }
            assert_eq!(summary.predictions, predictions(&site.corpus));
        }
    }
}

#[test]
fn tensor_parallel_ranks_agree_to_rounding() {
    let site = Site::new("f32");
    let one = site.scored("one", |_| {}, &launch(1, 1));
    for (name, ranks) in [("tp", 2), ("dp-tp", 4)] {
        let two = site.scored(name, |job| job.tp = 2, &launch(ranks, 1));
        assert!((one.nll / two.nll - 1.0).abs() < 1e-6);
        for (a, b) in site.lines("one").iter().zip(site.lines(name)) {
            assert_eq!((a.tokens, a.predictions), (b.tokens, b.predictions));
            assert!((a.sum - b.sum).abs() <= 1e-5 * a.sum, "{a:?} {b:?}");
        }
    }
    assert!(
        site.bytes("tp") == site.bytes("dp-tp").into_iter().collect(),
        "dp changes no byte under tp either"
    );
}

#[test]
fn a_range_of_documents_has_the_values_of_the_whole_and_none_elsewhere() {
    let site = Site::new("f32");
    site.scored("whole", |_| {}, &launch(1, 1));
    let documents = 100..300u64;
    let part = site.scored("part", |job| job.documents = documents.clone(), &launch(2, 1));
    let lines = site.lines("whole");
    assert!(lines[100..300] == site.lines("part"));
    assert_eq!(part.predictions, lines[100..300].iter().map(|l| l.predictions).sum::<u64>());
    let values = |name| {
        let stream = Stream::open(&site.corpus, name).unwrap();
        let mut values = vec![0.0; site.corpus.tokens() as usize];
        stream.read(0, &mut values).unwrap();
        values
    };
    let (start, end) = (
        site.corpus.document_range(100).unwrap().start as usize,
        site.corpus.document_range(299).unwrap().end as usize,
    );
    for (i, (whole, part)) in values("whole").iter().zip(values("part")).enumerate() {
        match (start..end).contains(&i) {
            true => assert_eq!(whole.to_bits(), part.to_bits()),
            false => assert!(part.is_nan()),
        }
    }
    let count = Column::open(&site.corpus, "part_count").unwrap();
    for doc in 0..site.corpus.documents() {
        let want = if documents.contains(&doc) { lines[doc as usize].predictions } else { 0 };
        assert_eq!(count.get(doc).unwrap(), Value::I64(want as i64));
    }
}

#[test]
fn scores_belong_to_their_corpus_and_never_replace_a_file() {
    let site = Site::new("f32");
    site.scored("nll", |_| {}, &launch(1, 1));
    let error = score(&site.job(&[Output::Stream("nll".into())]), &launch(1, 1)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("web.stream.nll: is there already and would be replaced"), "{error}");
    assert!(!site.folder.path().join("web.stream.nll.lock").exists());
    let other = corpus(&site.folder.path().join("other"), 1);
    for end in ["stream.nll", "col.nll_sum"] {
        let file = |name: &str| site.folder.path().join(format!("{name}.{end}"));
        std::fs::copy(file("web"), file("other")).unwrap();
    }
    let errors = [
        Stream::open(&other, "nll").map(drop).unwrap_err(),
        Column::open(&other, "nll_sum").map(drop).unwrap_err(),
    ];
    for error in errors {
        let want = format!("was made for corpus {:016x}", site.corpus.hash());
        assert!(error.to_string().contains(&want), "{error}");
    }
}

#[test]
fn what_cannot_be_scored_is_refused_before_anything_is_written() {
    let site = Site::new("f32");
    let lines = |name: &str| Output::Lines(site.folder.path().join(name));
    #[allow(clippy::type_complexity)] // a table of cases
    let cases: [(&str, &dyn Fn(&mut Job), &str); 8] = [
        ("--seq-len", &|job| job.windows.seq_len = 65, "it is 65; give 1 to 64"),
        ("--seq-len", &|job| job.windows.seq_len = 0, "it is 0; give 1 to 64"),
        ("--stride", &|job| job.windows.stride = 0, "windows of 32 tokens begin 0 apart"),
        ("--stride", &|job| job.windows.stride = 33, "windows of 32 tokens begin 33 apart"),
        ("--documents", &|job| job.documents = 5..5, "5..5 holds none or too many"),
        (
            "--documents",
            &|job| job.documents.end += 1,
            "holds none or too many; the corpus has the documents 0..",
        ),
        ("--tp", &|job| job.tp = 3, "3 does not divide the model's heads: 4"),
        ("--ranks", &|job| job.tp = 2, "it is 1, of which --tp 2 is no divisor"),
    ];
    let before = std::fs::read_dir(site.folder.path()).unwrap().count();
    for (key, change, want) in cases {
        let mut job = site.job(&[lines("out")]);
        change(&mut job);
        let error = score(&job, &launch(1, 1)).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(key) && text.contains(want), "want {want:?}, got {text:?}");
    }
    let twice = site.job(&[lines("out"), lines("out")]);
    let error = score(&twice, &launch(1, 1)).unwrap_err().to_string();
    assert!(error.contains("two outputs would be"), "{error}");
    let error = score(&site.job(&[Output::Stream("a/b".into())]), &launch(1, 1)).unwrap_err().to_string();
    assert!(error.contains("cannot name a side stream"), "{error}");
    let tokenizer = Tokenizer { kind: "other".into(), hash: 8 };
    let prefix = site.folder.path().join("other");
    let mut writer = CorpusWriter::create(&prefix, 257, tokenizer, None).unwrap();
    writer.push(&[1, 2, 3]).unwrap();
    writer.finish().unwrap();
    let other = Corpus::open(&prefix).unwrap();
    let job = Job { corpus: &other, documents: 0..1, ..site.job(&[lines("out")]) };
    let error = score(&job, &launch(1, 1)).unwrap_err().to_string();
    assert!(
        error.contains(
            "was made with tokenizer 0000000000000008, the model was trained with 0000000000000007"
        ),
        "{error}"
    );
    let after = std::fs::read_dir(site.folder.path()).unwrap().count();
    assert_eq!(after, before + 3, "the other corpus is all that came");
}

#[test]
fn bits_per_byte_are_those_of_the_evaluation_where_the_tokenizer_has_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let names = ["1805-Jefferson-1.txt", "1797-Adams-1.txt"].map(|name| text.join(name));
    build_bytes(&names, &folder.path().join("web")).unwrap();
    let corpus = Corpus::open(&folder.path().join("web")).unwrap();
    let (site, evaluated) = Site::of(folder, corpus, "f32");
    let summary = site.scored("nll", |_| {}, &launch(1, 2));
    // The first byte of each text is not predicted, its end is no text.
    assert_eq!(summary.bytes, TextBytes::Predicted(summary.predictions - 2));
    let (ours, theirs) = (summary.bits_byte().unwrap(), evaluated["bits_byte"].as_f64().unwrap());
    assert!((ours / theirs - 1.0).abs() < 1e-12 && ours > 1.0, "{ours}, the evaluation had {theirs}");
    assert!(summary.tokens_per_s.unwrap() > 0.0);
    let second = site.scored("second", |job| job.documents = 1..2, &launch(1, 2));
    assert_eq!(second.bytes, TextBytes::Predicted(second.predictions - 1));
}

#[test]
fn bits_per_byte_of_other_tokenizers_are_of_the_source_text_or_said_to_be_unknown() {
    let site = Site::new("f32");
    let bytes = site.corpus.meta().source_bytes;
    let whole = site.scored("whole", |_| {}, &launch(1, 2));
    assert_eq!(whole.bytes, TextBytes::Source(bytes));
    assert_eq!(whole.bits_byte().unwrap(), whole.nll / std::f64::consts::LN_2 / bytes as f64);
    let part = site.scored("part", |job| job.documents.end -= 1, &launch(1, 2));
    assert!(matches!(part.bytes, TextBytes::Unknown(why) if why.contains("only a part was scored")));
    assert_eq!(part.bits_byte(), None);
    let says = |args: &[&str]| {
        let mut command = killed::Scoring::command(&site, args[0], &args[1..]);
        let output = command.stdout(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let line = says(&["line"]);
    let want = format!("nats each, {:.4} bits/byte of the source text, ", whole.bits_byte().unwrap());
    assert!(line.contains(&want) && line.ends_with(" tok/s\n"), "{line}");
    let line = says(&["cut", "--documents", "..20"]);
    assert!(line.contains("bits/byte not known (its tokenizer does not say"), "{line}");
    let row: serde_json::Value = serde_json::from_str(&says(&["row", "--json"])).unwrap();
    assert_eq!((&row["bytes"], &row["bytes_of"]), (&bytes.into(), &"source".into()));
    assert_eq!(row["bits_byte"].as_f64(), whole.bits_byte());
    assert!(row["tokens_per_s"].as_f64().unwrap() > 0.0);
}
