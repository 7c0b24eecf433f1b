//! Muon as tests train by it.

use espalier::config::{Adjust, MuonConfig, OptimKind, Precision, muon::Rest};

/// Muon, with the ε of AdamW so large that its first updates are continuous in gradients that are only rounding.
pub fn muon() -> OptimKind {
    let adamw = Rest { betas: [0.9, 0.95], eps: 1e-3, weight_decay: 0.1 };
    OptimKind::Muon(MuonConfig {
        momentum: 0.95,
        nesterov: true,
        steps: 5,
        weight_decay: 0.1,
        adjust: Adjust::MatchRmsAdamW,
        moments: Precision::F32,
        adamw,
    })
}
