//! Drawing batches, on one thread, with files in the page cache: tokens a second of CPU time for plain and compressed
//! corpora in both orders, and what opening a corpus and finding a far sample costs. Lines of JSON.
//!
//!     cargo bench --bench loader [-- --tokens 64000000] [--corpus PREFIX] [--seq 1024] [--rounds 5] [--seconds 1]
//!
//! Without `--corpus` it makes one of random u16 tokens, Zipf-distributed over 50,000 ids, in documents of 500 tokens on
//! average. The rounds go through all cases in turn; medians stand at the end. Before it measures, it compares the
//! samples of the plain and the compressed corpus.

use espalier::bench::loader::{self, FAR, ROWS};
use espalier::config::Order;
use espalier::data::{CorpusWriter, Sampler, Tokenizer, compress_corpus};
use espalier::rng::Philox;
use std::path::{Path, PathBuf};

const VOCAB: u32 = 50_000;

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
            let rate =
                loader::rate(&mut sampler(prefix, *order, seq_len), seq_len, seconds as f64).expect("drawn");
            println!("{{\"case\":\"{name}\",\"round\":{round},\"mtok_s\":{:.1}}}", rate / 1e6);
            rates.push(rate);
        }
    }
    for ((name, ..), rates) in cases.iter().zip(&mut rates) {
        println!("{{\"case\":\"{name}\",\"median_mtok_s\":{:.1}}}", median(rates) / 1e6);
    }
    for (name, prefix, _) in cases.iter().filter(|(.., order)| *order == Order::Stream) {
        let mut times: Vec<f64> = (0..rounds).map(|_| loader::far(prefix, seq_len).expect("drawn")).collect();
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
    loader::sampler(prefix, order, seq_len).expect("a sampler")
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

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
