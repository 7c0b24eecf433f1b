//! What this machine attains: products (`gemm`), a training step (`step`), batches of a corpus (`loader`), collectives
//! between ranks (`comm`). Attained beside attainable, medians of several rounds.

pub mod comm;
pub mod gemm;
pub mod loader;
pub mod rates;
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
