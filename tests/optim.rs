//! Updates of a single parameter: Adam, AdamW and Muon as torch makes them, and the moving average.

#[path = "optim/muon.rs"]
mod muon;

use espalier::config::{OptimConfig, OptimKind, Precision};
use espalier::device::{DType, Device};
use espalier::optim::{Hyper, Optimizer, Ranks};
use espalier::params::{Declare, Dp, Init, ParamSpec, Params, Shard};
use serde_json::Value;

/// One parameter of `n` values, f32 or bf16 with an f32 master.
fn params(dev: &Device, dtype: DType, start: &[f32]) -> Params {
    let mut u = Declare::new(0, 1);
    u.one(ParamSpec::vector("w", start.len(), Shard::Replicated, Init::Zeros));
    let mut unit = u.unit("unit", dev, dtype, Dp::SOLO);
    match dtype {
        DType::Bf16 => unit.master.data_mut::<f32>()[..start.len()].copy_from_slice(start),
        _ => unit.weights.data_mut::<f32>()[..start.len()].copy_from_slice(start),
    }
    Params { units: vec![unit] }
}

/// The values that the optimizer updates.
fn values(params: &Params, n: usize) -> &[f32] {
    let unit = &params.units[0];
    if unit.master.exists() { &unit.master.data::<f32>()[..n] } else { &unit.weights.data::<f32>()[..n] }
}

/// What `tools/oracle/optimizers.py` wrote.
fn golden() -> Value {
    serde_json::from_str(include_str!("golden/adam.json")).expect("JSON")
}

fn numbers(golden: &Value, key: &str) -> Vec<f64> {
    golden[key].as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn twenty_clipped_updates_with_coupled_and_decoupled_decay_are_those_of_torch() {
    let (dev, golden) = (Device::cpu(1), golden());
    let [start, gradients, rates] = ["start", "gradients", "rates"].map(|key| numbers(&golden, key));
    let (n, most) = (start.len(), golden["clip"].as_f64().expect("a number"));
    let (betas, eps, weight_decay, moments) = ([0.9, 0.95], 1e-8, 0.1, Precision::F32);
    let adam = OptimKind::Adam { betas, eps, weight_decay, moments };
    let adamw = OptimKind::AdamW { betas, eps, weight_decay, moments };
    let mut clipped = 0;
    for (kind, name, dtype) in
        [(adam, "adam", DType::F32), (adamw, "adamw", DType::F32), (adam, "adam", DType::Bf16)]
    {
        let want = numbers(&golden, name);
        let start: Vec<f32> = start.iter().map(|w| *w as f32).collect();
        let mut params = params(&dev, dtype, &start);
        let config = OptimConfig { kind, clip: None, groups: vec![], ema: None };
        let mut optim = Optimizer::new(&dev, &config, &params, &Ranks::solo());
        for (i, (g, lr)) in gradients.chunks(n).zip(&rates).enumerate() {
            let norm = g.iter().map(|g| g * g).sum::<f64>().sqrt();
            let grad_scale = (most / (norm + 1e-6)).min(1.0);
            clipped += usize::from(grad_scale < 1.0);
            let own = &mut params.units[0].grads.data_mut::<f32>()[..n];
            own.iter_mut().zip(g).for_each(|(own, g)| *own = *g as f32);
            let hyper = Hyper { lr: *lr, grad_scale, update: i as u64 };
            optim.update(&dev, &mut params, hyper).expect("an update");
            for (got, want) in values(&params, n).iter().zip(&want[i * n..]) {
                let gap = (f64::from(*got) - want).abs();
                assert!(gap <= 1e-6, "{name} after update {i}: {got} is not {want}");
            }
        }
    }
    assert!((20..60).contains(&clipped), "{clipped} of 60 gradients were clipped");
    let last = |name: &str| numbers(&golden, name)[19 * n..].to_vec();
    let apart = last("adam").iter().zip(last("adamw")).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
    assert!(apart > 0.1, "the two differ by {apart} at most: this test could not tell them");
}

#[test]
fn the_average_is_the_mean_of_all_weights_at_first_and_then_exponential() {
    let (dev, n) = (Device::cpu(2), 40_000);
    let start: Vec<f32> = (0..n).map(|i| (i as f32).sin()).collect();
    for dtype in [DType::F32, DType::Bf16] {
        let mut params = params(&dev, dtype, &start);
        let kind = OptimKind::Sgd { weight_decay: 0.0 };
        let config = OptimConfig { kind, clip: None, groups: vec![], ema: Some(0.875) };
        let mut optim = Optimizer::new(&dev, &config, &params, &Ranks::solo());
        let (mut seen, mut want) = (vec![], vec![0.0f64; n]);
        for t in 0..30u64 {
            let own = &mut params.units[0].grads.data_mut::<f32>()[..n];
            own.iter_mut().enumerate().for_each(|(i, g)| *g = ((i as u64 * 7 + t * t) as f32).cos());
            let hyper = Hyper { lr: 0.1, grad_scale: 1.0, update: t };
            optim.update(&dev, &mut params, hyper).expect("an update");
            let w: Vec<f64> = values(&params, n).iter().map(|w| f64::from(*w)).collect();
            seen.push(w.clone());
            for (i, (a, w)) in want.iter_mut().zip(&w).enumerate() {
                // Eight updates are 1 / (1 - 0.875).
                *a = match t {
                    0..8 => seen.iter().map(|w| w[i]).sum::<f64>() / (t + 1) as f64,
                    _ => 0.875 * *a + 0.125 * w,
                };
            }
            let average = optim.ema.as_ref().expect("one is kept").average[0].data::<f32>();
            for (i, (got, want)) in average.iter().zip(&want).enumerate() {
                let gap = (f64::from(*got) - want).abs();
                assert!(gap <= 1e-6, "value {i} after update {t}: {got} is not {want}");
            }
            assert!(average[n..].iter().all(|x| *x == 0.0), "padding stays 0");
            let before = values(&params, n).to_vec();
            let ema = optim.ema.as_mut().expect("one is kept");
            ema.show(&dev, &mut params);
            let shown = params.units[0].weights.to_f64();
            let bound = if dtype == DType::Bf16 { 1.0 / 256.0 } else { 1e-6 };
            for (shown, want) in shown.iter().zip(&want) {
                assert!((shown - want).abs() <= bound * want.abs() + 1e-6, "{shown} is not {want}");
            }
            ema.hide(&dev, &mut params);
            assert!(values(&params, n) == before, "the trained weights are back");
        }
    }
}
