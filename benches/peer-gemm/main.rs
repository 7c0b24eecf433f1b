//! The matrix product against the machine's peak and against the `gemm` crate, on the shapes of training.
//!
//!     cargo run --release --manifest-path benches/peer-gemm/Cargo.toml -- [--out DIR] [--repeats 7] [--only nt|nn|tn] [--quick] [--solo] [--best]
//!
//! Correctness first: before it is timed, each product is compared with the peer's. Ours and the peer's runs
//! alternate, so that both see the same machine; the numbers are medians over the repeats, GFLOP/s count 2·M·N·K.
//! One thread is timed in CPU time, two in wall time. `--best` prints the best repeat and not
//! the median, for a machine that others use too.

use ::gemm::Parallelism;
use espalier::device::Pool;
use espalier::device::gemm::{Mat, MatMut, Out, gemm, peak};
use half::bf16;
use std::fmt::Write as _;
use std::time::Instant;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// y = x·Wᵀ
    Nt,
    /// dx = dy·W
    Nn,
    /// dw += dyᵀ·x
    Tn,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Nt => "nt",
            Kind::Nn => "nn",
            Kind::Tn => "tn",
        }
    }
}

use Kind::*;

/// (kind, M, N, K): layers of models with dim 256 to 3072, then a chunk of the head and its way back, then odd ones.
const SHAPES: &[(Kind, usize, usize, usize)] = &[
    (Nt, 1024, 256, 256),
    (Nt, 1024, 768, 256),
    (Nt, 2048, 384, 384),
    (Nt, 2048, 1152, 384),
    (Nt, 2048, 1536, 384),
    (Nt, 2048, 384, 1536),
    (Nt, 2048, 768, 768),
    (Nt, 2048, 2304, 768),
    (Nt, 2048, 3072, 768),
    (Nt, 2048, 768, 3072),
    (Nt, 4096, 1024, 1024),
    (Nn, 2048, 768, 768),
    (Nn, 2048, 768, 2304),
    (Nn, 2048, 768, 3072),
    (Nn, 2048, 3072, 768),
    (Nn, 4096, 1024, 1024),
    (Tn, 768, 768, 2048),
    (Tn, 2304, 768, 2048),
    (Tn, 3072, 768, 2048),
    (Tn, 768, 3072, 2048),
    (Tn, 384, 384, 2048),
    (Nt, 512, 8192, 384),
    (Nt, 512, 16384, 384),
    (Nt, 256, 50304, 384),
    (Nt, 512, 50304, 768),
    (Nn, 256, 384, 50304),
    (Nn, 512, 768, 50304),
    (Tn, 50304, 384, 256),
    (Tn, 50304, 768, 512),
    (Nt, 72, 72, 72),
    (Nt, 200, 200, 200),
    (Nt, 517, 517, 517),
    (Nn, 517, 517, 517),
];

/// The operands of one product, as training stores them.
struct Operands {
    kind: Kind,
    m: usize,
    n: usize,
    k: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
}

impl Operands {
    fn new((kind, m, n, k): (Kind, usize, usize, usize)) -> Operands {
        let values = |n: usize| (0..n).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect::<Vec<f32>>();
        Operands { kind, m, n, k, a: values(m * k), b: values(k * n), c: vec![0.0; m * n] }
    }

    fn flops(&self) -> f64 {
        2.0 * (self.m * self.n * self.k) as f64
    }

    fn ours(&mut self, pool: &Pool) {
        let (m, n, k) = (self.m, self.n, self.k);
        let c = MatMut::new(&mut self.c, m, n);
        let (a, b) = (&self.a, &self.b);
        match self.kind {
            Nt => gemm(pool, c, Out::Store, Mat::new(a, m, k), Mat::new(b, n, k).t()),
            Nn => gemm(pool, c, Out::Store, Mat::new(a, m, k), Mat::new(b, k, n)),
            Tn => gemm(pool, c, Out::Add, Mat::new(a, k, m).t(), Mat::new(b, k, n)),
        }
    }

    fn peer(&mut self, threads: usize) {
        let (m, n, k) = (self.m, self.n, self.k);
        let (a_strides, b_strides) = match self.kind {
            Nt => ((k, 1), (1, k)),
            Nn => ((k, 1), (n, 1)),
            Tn => ((1, m), (n, 1)),
        };
        let parallelism = if threads == 1 { Parallelism::None } else { Parallelism::Rayon(threads) };
        // SAFETY: the three buffers hold m·k, k·n and m·n values, and the strides stay inside.
        unsafe {
            ::gemm::gemm(
                m,
                n,
                k,
                self.c.as_mut_ptr(),
                1,
                n as isize,
                self.kind == Tn,
                self.a.as_ptr(),
                a_strides.1 as isize,
                a_strides.0 as isize,
                self.b.as_ptr(),
                b_strides.1 as isize,
                b_strides.0 as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                parallelism,
            );
        }
    }

    /// The largest difference between ours and the peer's, over the room that K roundings may take.
    fn difference(&mut self, pool: &Pool) -> f64 {
        self.c.fill(0.5);
        self.ours(pool);
        let ours = self.c.clone();
        self.c.fill(0.5);
        self.peer(1);
        let room = f32::EPSILON as f64 * (self.k as f64).powf(1.5);
        let difference = |(x, y): (&f32, &f32)| (x - y).abs() as f64 / room;
        ours.iter().zip(&self.c).map(difference).fold(0.0, f64::max)
    }
}

/// y = x·Wᵀ with bf16 everywhere, in GFLOP/s; the peer has no such kernel.
fn bf16_rate(x: &Operands, pool: &Pool, repeats: usize, q: f64) -> f64 {
    let narrow = |v: &[f32]| v.iter().map(|&x| bf16::from_f32(x)).collect::<Vec<_>>();
    let (a, b) = (narrow(&x.a), narrow(&x.b));
    let (m, n, k) = (x.m, x.n, x.k);
    if x.kind == Tn {
        let mut c = vec![0.0f32; m * n];
        let run =
            || gemm(pool, MatMut::new(&mut c, m, n), Out::Add, Mat::new(&a, k, m).t(), Mat::new(&b, k, n));
        return x.flops() / time(repeats, q, run) / 1e9;
    }
    let mut c = vec![bf16::ZERO; m * n];
    let b = if x.kind == Nt { Mat::new(&b, n, k).t() } else { Mat::new(&b, k, n) };
    let run = || gemm(pool, MatMut::new(&mut c, m, n), Out::Store, Mat::new(&a, m, k), b);
    x.flops() / time(repeats, q, run) / 1e9
}

/// CPU time of this thread: what one thread attains does not change when others share the machine.
fn cpu_seconds(f: impl FnOnce()) -> f64 {
    let now = || {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: t is ours to fill.
        unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
        t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
    };
    let start = now();
    f();
    now() - start
}

fn seconds(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// The time at this quantile: 0.5 is the median; NaN of none.
fn quantile(mut times: Vec<f64>, q: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get((times.len() as f64 * q) as usize).copied().unwrap_or(f64::NAN)
}

fn time(repeats: usize, q: f64, mut f: impl FnMut()) -> f64 {
    f();
    quantile((0..repeats).map(|_| seconds(&mut f)).collect(), q)
}

/// Seconds of four contenders, run in turn; NaN for two threads where there is no second pool.
fn race(x: &mut Operands, one: &Pool, two: Option<&Pool>, repeats: usize, q: f64) -> [f64; 4] {
    let mut times = [(); 4].map(|_| Vec::new());
    // Small products are run several times in one measurement.
    let inner = (2e8 / x.flops()).ceil() as usize;
    for _ in 0..repeats {
        times[0].push(cpu_seconds(|| (0..inner).for_each(|_| x.ours(one))) / inner as f64);
        times[1].push(cpu_seconds(|| (0..inner).for_each(|_| x.peer(1))) / inner as f64);
        let Some(two) = two else { continue };
        times[2].push(seconds(|| (0..inner).for_each(|_| x.ours(two))) / inner as f64);
        times[3].push(seconds(|| (0..inner).for_each(|_| x.peer(2))) / inner as f64);
    }
    times.map(|t| quantile(t, q))
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let value = |key: &str| args.iter().position(|a| a == key).and_then(|i| args.get(i + 1)).cloned();
    let repeats: usize = value("--repeats").map_or(7, |r| r.parse().expect("--repeats takes a number"));
    let only = value("--only");
    let q = if args.iter().any(|a| a == "--best") { 0.0 } else { 0.5 };
    let solo = args.iter().any(|a| a == "--solo");
    let quick = args.iter().any(|a| a == "--quick");
    let (one, two) = (Pool::new(1), Pool::new(2));
    let peaks = [peak(&one), peak(&two)];
    println!("f32 peak: {:.1} GFLOP/s on 1 thread, {:.1} on 2", peaks[0], peaks[1]);
    println!(
        "kind     M     N     K |  ours 1t  peer 1t  of peak   ratio |  ours 2t  peer 2t  of peak   ratio | bf16 2t"
    );
    let mut csv = String::from("kind,m,n,k,ours_1t,peer_1t,ours_2t,peer_2t,bf16_2t,peak_1t,peak_2t\n");
    for &shape in SHAPES {
        let (kind, m, n, k) = shape;
        if only.as_deref().is_some_and(|o| o != kind.name()) || quick && m * n * k > 1 << 31 {
            continue;
        }
        let mut x = Operands::new(shape);
        let difference = x.difference(&two);
        assert!(
            difference < 1.0,
            "{} {m}x{n}x{k}: ours and the peer differ by {difference} of what may be",
            kind.name()
        );
        let t = race(&mut x, &one, (!solo).then_some(&two), repeats, q);
        let [o1, p1, o2, p2] = t.map(|t| x.flops() / t / 1e9);
        let narrow = if solo { f64::NAN } else { bf16_rate(&x, &two, repeats, q) };
        println!(
            "{}   {m:5} {n:5} {k:5} | {o1:8.1} {p1:8.1} {:7.0}% {:7.2} | {o2:8.1} {p2:8.1} {:7.0}% {:7.2} | {narrow:7.1}",
            kind.name(),
            100.0 * o1 / peaks[0],
            o1 / p1,
            100.0 * o2 / peaks[1],
            o2 / p2,
        );
        writeln!(
            csv,
            "{},{m},{n},{k},{o1:.1},{p1:.1},{o2:.1},{p2:.1},{narrow:.1},{:.1},{:.1}",
            kind.name(),
            peaks[0],
            peaks[1]
        )
        .expect("a string takes any line");
    }
    if let Some(dir) = value("--out") {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find_map(|l| l.strip_prefix("model name"))
            .unwrap_or("unknown")
            .trim_start_matches([' ', '\t', ':']);
        let cpus = std::thread::available_parallelism().map_or(0, |n| n.get());
        let flags = std::env::args().skip(1).filter(|a| a != "--bench").collect::<Vec<_>>().join(" ");
        let what = if q == 0.0 { "best" } else { "median" };
        let head = format!(
            "# cargo run --release --manifest-path benches/peer-gemm/Cargo.toml -- {flags}\n# {model}, {cpus} cores; GFLOP/s, {what} of {repeats}; 1 thread in CPU \
             time, 2 in wall time\n"
        );
        std::fs::create_dir_all(&dir).expect("the folder of --out can be made");
        std::fs::write(format!("{dir}/gemm.csv"), head + &csv).expect("the folder of --out can be written");
    }
}
