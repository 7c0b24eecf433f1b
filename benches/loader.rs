//! Drawing batches, on one thread, with files in the page cache: tokens a second of CPU time for plain and compressed
//! corpora in both orders, and what opening a corpus and finding a far sample costs. Lines of JSON.
//!
//!     cargo bench --bench loader [-- --tokens 64000000] [--corpus PREFIX] [--seq 1024] [--rounds 5] [--seconds 1]
//!
//! Without `--corpus` it makes one of random u16 tokens, Zipf-distributed over 50,000 ids, in documents of 500 tokens on
//! average. The rounds go through all cases in turn; medians stand at the end. Before it measures, it compares the
//! samples of the plain and the compressed corpus.

use espalier::config::Order;
use espalier::data::{
    Attention, Corpus, CorpusWriter, Cursor, Domain, Ledger, Sampler, Tokenizer, compress_corpus,
};
use espalier::rng::Philox;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

const ROWS: usize = 8;
const VOCAB: u32 = 50_000;
/// The sample that "far" means.
const FAR: u64 = 1_000_000_000;

struct Args(Vec<String>);

impl Args {
    fn value(&self, key: &str) -> Option<&str> {
        let at = self.0.iter().position(|a| a == key)?;
        self.0.get(at + 1).map(String::as_str)
    }
    fn number(&self, key: &str, default: u64) -> u64 {
        self.value(key).map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{key} takes a number: {v}")))
    }
}

fn main() {
    let args = Args(std::env::args().skip(1).collect());
    let (seq_len, rounds, seconds) =
        (args.number("--seq", 1024) as usize, args.number("--rounds", 5), args.number("--seconds", 1));
    let folder = tempfile::tempdir().expect("a folder for the corpora");
    let plain = match args.value("--corpus") {
        Some(prefix) => PathBuf::from(prefix),
        None => make(&folder.path().join("plain"), args.number("--tokens", 64_000_000)),
    };
    let packed = folder.path().join("packed");
    for end in [".bin", ".idx", ".json"] {
        let name = |p: &Path| PathBuf::from(format!("{}{end}", p.display()));
        std::fs::copy(name(&plain), name(&packed)).expect("a copy of the corpus");
    }
    let sizes = compress_corpus(&packed, 3, false, None, &mut |_, _| ()).expect("compressed");
    println!("{{\"bytes\":{},\"compressed\":{}}}", sizes.before, sizes.after);

    let cases: Vec<(String, PathBuf, Order)> = [("bin", &plain), ("bin.zst", &packed)]
        .into_iter()
        .flat_map(|(form, prefix)| {
            [("stream", Order::Stream), ("megatron", Order::Megatron)]
                .map(|(name, order)| (format!("{form} {name}"), prefix.clone(), order))
        })
        .collect();
    compare(&cases, seq_len);
    let mut rates: Vec<Vec<f64>> = vec![vec![]; cases.len()];
    for round in 0..rounds {
        for ((name, prefix, order), rates) in cases.iter().zip(&mut rates) {
            let rate = rate(&mut sampler(prefix, *order, seq_len), seq_len, seconds as f64);
            println!("{{\"case\":\"{name}\",\"round\":{round},\"mtok_s\":{:.1}}}", rate / 1e6);
            rates.push(rate);
        }
    }
    for ((name, ..), rates) in cases.iter().zip(&mut rates) {
        println!("{{\"case\":\"{name}\",\"median_mtok_s\":{:.1}}}", median(rates) / 1e6);
    }
    for (name, prefix, order) in cases.iter().filter(|(.., order)| *order == Order::Stream) {
        let mut times: Vec<f64> = (0..rounds).map(|_| far(prefix, *order, seq_len)).collect();
        println!("{{\"case\":\"{name}\",\"open_and_sample_{FAR}_ms\":{:.2}}}", median(&mut times));
    }
}

fn make(prefix: &Path, tokens: u64) -> PathBuf {
    let tokenizer = Tokenizer { kind: "random".into(), hash: 1 };
    let mut writer = CorpusWriter::create(prefix, VOCAB, tokenizer, None).expect("a corpus");
    let random = Philox::new(1, "bench/loader");
    let harmonic = f64::from(VOCAB).ln();
    let mut document = Vec::new();
    for i in 0..tokens {
        let [a, b, ..] = random.block(i, 0);
        // The inverse of the distribution function ln(r) / ln(V) of ranks r.
        let rank = (harmonic * f64::from(a) / f64::from(u32::MAX)).exp();
        document.push((rank as u32).min(VOCAB) - 1);
        if b % 500 == 0 || i + 1 == tokens {
            writer.push(&document).expect("written");
            writer.end_document(0).expect("written");
            document.clear();
        }
    }
    writer.finish().expect("a corpus");
    prefix.into()
}

fn sampler(prefix: &Path, order: Order, seq_len: usize) -> Sampler {
    let mut domain = Domain::new("bench", Arc::new(Corpus::open(prefix).expect("a corpus")));
    domain.order = order;
    let mut cursor = Cursor::new(1, seq_len, Attention::Document, Ledger::constant(&[("bench", 1.0)]));
    cursor.samples = (order == Order::Megatron).then(|| 2 * domain.corpus.tokens() / seq_len as u64);
    Sampler::open(&cursor, vec![domain]).expect("a sampler")
}

fn compare(cases: &[(String, PathBuf, Order)], seq_len: usize) {
    for order in [Order::Stream, Order::Megatron] {
        let mut forms = cases.iter().filter(|c| c.2 == order).map(|c| sampler(&c.1, order, seq_len));
        let (mut a, mut b) = (forms.next().expect("plain"), forms.next().expect("compressed"));
        for first in (0..2000).step_by(ROWS) {
            assert!(a.batch(first, ROWS).expect("drawn") == b.batch(first, ROWS).expect("drawn"));
        }
    }
}

/// Tokens a second of CPU time.
fn rate(sampler: &mut Sampler, seq_len: usize, seconds: f64) -> f64 {
    let (mut first, mut tokens, mut checked) = (0, 0, 0.0);
    let most = 2 * sampler.domains().map(|d| d.corpus.tokens()).sum::<u64>() / seq_len as u64;
    let (began, clock) = (cpu_seconds(), Instant::now());
    while clock.elapsed().as_secs_f64() < seconds {
        let batch = sampler.batch(first, ROWS).expect("drawn");
        checked += batch.weight_sum();
        tokens += batch.tokens.len();
        first = (first + ROWS as u64) % (most - ROWS as u64);
    }
    assert!(checked > 0.9 * tokens as f64, "most targets count");
    tokens as f64 / (cpu_seconds() - began)
}

/// Milliseconds to open a corpus and draw sample `FAR`.
fn far(prefix: &Path, order: Order, seq_len: usize) -> f64 {
    let began = Instant::now();
    let sample = sampler(prefix, order, seq_len).sample(FAR).expect("drawn");
    assert_eq!(sample.tokens.len(), seq_len);
    began.elapsed().as_secs_f64() * 1e3
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
