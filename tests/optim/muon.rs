//! Muon of a matrix, beside a tensor that it leaves to AdamW.

use super::numbers;
use espalier::config::{Adjust, MuonConfig, OptimConfig, OptimKind, Precision, muon::Rest};
use espalier::device::{DType, Device};
use espalier::optim::{Hyper, Optimizer, Ranks};
use espalier::params::{Declare, Dp, Init, ParamSpec, Params, Shard};
use serde_json::Value;

const NORM: usize = 5;

fn rule(momentum: f64, nesterov: bool, weight_decay: f64, adjust: Adjust, moments: Precision) -> MuonConfig {
    let adamw = Rest { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.2 };
    MuonConfig { momentum, nesterov, steps: 5, weight_decay, adjust, moments, adamw }
}

/// A norm and a matrix of a block, the norm 1 and the matrix with these values.
fn params(dev: &Device, dtype: DType, (rows, cols): (usize, usize), start: &[f32]) -> Params {
    let mut u = Declare::new(0, 1);
    u.one(ParamSpec::vector("blocks.0.norm1.weight", NORM, Shard::Replicated, Init::Ones));
    u.one(ParamSpec::matrix("blocks.0.mlp.up.weight", rows, cols, Shard::Rows { unit: 1 }, 1.0));
    let mut unit = u.unit("unit", dev, dtype, Dp::SOLO);
    let at = unit.params[1].start;
    let values = if dtype == DType::Bf16 { &mut unit.master } else { &mut unit.weights };
    values.data_mut::<f32>()[..NORM].fill(1.0);
    values.data_mut::<f32>()[at..at + start.len()].copy_from_slice(start);
    Params { units: vec![unit] }
}

/// Weights after each update: the norm, and the matrix.
fn train(kind: OptimKind, dtype: DType, case: &Value) -> (Vec<[Vec<f32>; 2]>, Optimizer) {
    let (dev, shape) = (Device::cpu(2), numbers(case, "shape"));
    let shape = (shape[0] as usize, shape[1] as usize);
    let start: Vec<f32> = numbers(case, "start").iter().map(|w| *w as f32).collect();
    let mut params = params(&dev, dtype, shape, &start);
    let config = OptimConfig { kind, clip: None, groups: vec![], ema: None };
    let mut optim = Optimizer::new(&dev, &config, &params, &Ranks::solo());
    let mut seen = vec![];
    let all = numbers(case, "gradients");
    for (i, (g, lr)) in all.chunks(start.len()).zip(numbers(case, "rates")).enumerate() {
        let unit = &mut params.units[0];
        let at = unit.params[1].start;
        let grads = unit.grads.data_mut::<f32>();
        grads[..NORM].iter_mut().enumerate().for_each(|(n, g)| *g = ((n + i) as f32).cos());
        grads[at..at + g.len()].iter_mut().zip(g).for_each(|(own, g)| *own = 2.0 * *g as f32);
        // Clipped to half.
        let hyper = Hyper { lr, grad_scale: 0.5, update: i as u64 };
        optim.update(&dev, &mut params, hyper).expect("an update");
        let values = params.units[0].trained();
        seen.push([values[..NORM].to_vec(), values[at..at + start.len()].to_vec()]);
    }
    (seen, optim)
}

/// What `tools/oracle/muon.py` wrote, with the rule of each case.
fn cases() -> [(Value, MuonConfig); 2] {
    let golden: Value = serde_json::from_str(include_str!("../golden/muon.json")).expect("JSON");
    [("wide", Adjust::MatchRmsAdamW, true), ("tall", Adjust::Original, false)].map(
        |(name, adjust, nesterov)| {
            let settings = &golden[name]["settings"];
            let [momentum, decay] =
                ["momentum", "weight_decay"].map(|key| settings[key].as_f64().expect("a number"));
            assert_eq!(settings["nesterov"], nesterov);
            (golden[name].clone(), rule(momentum, nesterov, decay, adjust, Precision::F32))
        },
    )
}

#[test]
fn six_updates_of_muon_are_those_of_the_equations_in_f64_and_near_those_of_torch_in_bf16() {
    for (case, muon) in cases() {
        for (dtype, moments, bound) in [
            (DType::F32, Precision::F32, 1e-5),
            (DType::Bf16, Precision::F32, 1e-5),
            (DType::F32, Precision::Bf16, 5e-2),
        ] {
            let (seen, _) = train(OptimKind::Muon(MuonConfig { moments, ..muon }), dtype, &case);
            let got: Vec<f64> = seen.iter().flat_map(|[_, w]| w).map(|w| f64::from(*w)).collect();
            let gap = |key: &str| {
                let want = numbers(&case, key);
                assert_eq!(want.len(), got.len());
                got.iter().zip(want).fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()))
            };
            let start = numbers(&case, "start");
            let moved = start.iter().zip(&got[got.len() - start.len()..]);
            let moved = moved.fold(0.0, |m: f64, (a, b)| m.max((a - b).abs()));
            println!("{dtype} {moments:?}: {:.1e}, torch {:.1e}, of {moved:.2}", gap("f64"), gap("torch"));
            assert!(gap("f64") <= bound * moved, "{dtype} {moments:?}: off by {:e} of {moved}", gap("f64"));
            assert!(gap("torch") <= (0.03 + bound) * moved, "off by {:e} of {moved}", gap("torch"));
        }
    }
}

#[test]
fn what_is_no_matrix_of_a_block_is_updated_as_by_adamw_and_alone_has_second_moments() {
    let (case, muon) = &cases()[0];
    let adamw = OptimKind::AdamW {
        betas: muon.adamw.betas,
        eps: muon.adamw.eps,
        weight_decay: muon.adamw.weight_decay,
        moments: Precision::F32,
    };
    for moments in [Precision::F32, Precision::Bf16] {
        let muon = OptimKind::Muon(MuonConfig { moments, ..*muon });
        let (ours, optim) = train(muon, DType::F32, case);
        let (theirs, _) = train(adamw, DType::F32, case);
        for ([norm, matrix], [norm_of_adamw, matrix_of_adamw]) in ours.iter().zip(&theirs) {
            let same = norm == norm_of_adamw;
            assert!(same || moments == Precision::Bf16, "{norm:?} is not {norm_of_adamw:?}");
            assert!(matrix != matrix_of_adamw);
        }
        assert_eq!(optim.moments[0].each_ref().map(|t| t.len()), [1024, NORM], "the unit's padding has an m");
    }
}
