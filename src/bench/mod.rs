//! What this machine attains: products (`gemm`), a training step (`step`), batches of a corpus (`loader`), collectives
//! between ranks (`comm`), the machine alone (`roof`). Attained beside attainable, medians of several rounds.

pub mod cluster;
pub mod comm;
pub mod gemm;
pub mod loader;
pub mod rates;
pub mod roof;
pub mod step;

/// Busy seconds of the whole machine; NaN where /proc does not tell.
pub fn busy_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _idle, _wait, irq, soft, steal] => {
            (user + nice + system + irq + soft + steal) / 100.0
        }
        _ => f64::NAN,
    }
}

/// MiB at the peak.
pub fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Of at least one value; of an even number the mean of the two in the middle.
pub fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    (x[(x.len() - 1) / 2] + x[x.len() / 2]) / 2.0
}

/// Seconds of one call of `f`: the median of calls that together take `seconds` or more, three at least, after one that
/// does not count.
pub fn seconds_each(seconds: f64, mut f: impl FnMut()) -> f64 {
    let mut time = || {
        let began = std::time::Instant::now();
        f();
        began.elapsed().as_secs_f64()
    };
    time();
    let mut all = vec![];
    while all.len() < 3 || all.iter().sum::<f64>() < seconds {
        all.push(time());
    }
    median(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelConfig;
    use crate::data::{CorpusWriter, Tokenizer};
    use crate::device::DType;
    use crate::tape::Recompute;

    #[test]
    fn every_product_of_a_block_and_the_head_is_timed_once() {
        let c = ModelConfig { vocab: 64, ..ModelConfig::preset("llama-tiny").unwrap() };
        for bf16 in [false, true] {
            let mut told = 0;
            let (peak, rows) = gemm::run(&c, 16, 2, bf16, |_| told += 1);
            assert_eq!((told, rows.len()), (15, 15));
            // Three products of each weight of a block: 2 FLOPs a weight and token each.
            let flops: f64 = rows.iter().map(|r| r.ms * r.gflops * 1e6).sum();
            let width = c.heads * c.head_dim + 2 * c.kv_heads * c.head_dim;
            let weights = c.dim * (width + c.heads * c.head_dim + 3 * c.ffn_dim + c.vocab);
            assert!((flops / (6 * 16 * weights) as f64 - 1.0).abs() < 1e-9, "{flops}");
            assert!(rows.iter().all(|r| r.gflops > 0.0 && (r.share * peak / r.gflops - 1.0).abs() < 1e-9));
        }
    }

    #[test]
    fn a_step_says_what_it_timed_and_unknown_configurations_are_named() {
        let what = |config: &str| step::Step {
            config: config.into(),
            seq: Some(16),
            batch: Some(2),
            threads: 1,
            dtype: DType::F32,
            recompute: Recompute::Keep,
            spdf: None,
            steps: 1,
            profile: false,
            losses: true,
        };
        let out = step::run(&what("tiny")).unwrap();
        assert_eq!((out["seq"].as_u64(), out["batch"].as_u64()), (Some(16), Some(2)));
        assert!(out["losses"].as_array().unwrap().len() >= 4 && out["ms"].as_f64().unwrap() > 0.0);
        assert!(step::run(&what("huge")).unwrap_err().to_string().contains("gpt2-t512"));
    }

    #[test]
    fn the_loader_is_timed_in_both_orders() {
        let folder = tempfile::tempdir().unwrap();
        let prefix = folder.path().join("c");
        let tokenizer = Tokenizer { kind: "x".into(), hash: 1 };
        let mut writer = CorpusWriter::create(&prefix, 100, tokenizer, None).unwrap();
        for d in 0..50u32 {
            writer.push(&(0..40).map(|i| (d * 7 + i) % 100).collect::<Vec<u32>>()).unwrap();
            writer.end_document(0).unwrap();
        }
        writer.finish().unwrap();
        let found = loader::run(&prefix, 16, 2, 0.01).unwrap();
        let orders: Vec<_> = found.iter().map(|f| (f.order, f.open_and_far_ms.is_some())).collect();
        assert_eq!(orders, [("stream", true), ("megatron", false)]);
        assert!(found.iter().all(|f| f.tokens_per_s.len() == 2 && f.tokens_per_s.iter().all(|r| *r > 0.0)));
    }

    #[test]
    fn files_are_timed_and_gone() {
        let folder = tempfile::tempdir().unwrap();
        let (write, read) = rates::file(folder.path(), 2).unwrap();
        assert!(write > 0.0 && read > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(rates::file(&folder.path().join("none"), 1).unwrap_err().to_string().contains("none"));
    }
}
