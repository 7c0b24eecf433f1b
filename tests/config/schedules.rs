//! Learning rates as run files write them: every kind at ten updates, well-known compositions, no jumps between pieces.

use super::{LEAST, parse};
use espalier::config::PhaseConfig;

/// The only phase of a run of `steps` updates with the schedule `lr`.
fn phase(lr: &str, steps: u64) -> PhaseConfig {
    let constant = "lr = [{ kind = \"const\", to = 1e-3 }]";
    let text = LEAST.replace(constant, lr).replace("steps = 100", &format!("steps = {steps}"));
    parse(&text, &[]).unwrap_or_else(|e| panic!("{e}\n{lr}")).phases.remove(0)
}

fn close(got: f64, want: f64, what: &str) {
    assert!((got - want).abs() <= 2e-15 * want.abs().max(1e-5), "{what}: {got:e} is not {want:e}");
}

/// From 3e-4 to 3e-5 in ten updates, by the formulas in decimal arithmetic of forty digits.
const KINDS: [(&str, [f64; 10]); 5] = [
    ("linear", [2.73e-4, 2.46e-4, 2.19e-4, 1.92e-4, 1.65e-4, 1.38e-4, 1.11e-4, 8.4e-5, 5.7e-5, 3e-5]),
    (
        "cosine",
        [
            2.933926296998457e-4,
            2.742172942406179e-4,
            2.4435100905948387e-4,
            2.067172942406179e-4,
            1.65e-4,
            1.232827057593821e-4,
            8.564899094051613e-5,
            5.57827057593821e-5,
            3.6607370300154266e-5,
            3e-5,
        ],
    ),
    (
        "1-sqrt",
        [
            2.1461850317545375e-4,
            1.7925232921501137e-4,
            1.5211490947360514e-4,
            1.2923700635090752e-4,
            1.0908116907963217e-4,
            9.085889930479948e-5,
            7.41017928357996e-5,
            5.850465843002271e-5,
            4.3855509526361274e-5,
            3e-5,
        ],
    ),
    (
        "inv-sqrt",
        [
            2.2436798213025272e-4,
            1.7562305898749053e-4,
            1.4086794389510363e-4,
            1.1447968425106088e-4,
            9.356325265992977e-5,
            7.645625875301772e-5,
            6.212706861444855e-5,
            4.98970867834766e-5,
            3.9299212653579876e-5,
            3e-5,
        ],
    ),
    (
        "exp",
        [
            2.3829847041728446e-4,
            1.89287203344058e-4,
            1.503561700881817e-4,
            1.1943215116604918e-4,
            9.486832980505138e-5,
            7.535659294528741e-5,
            5.9857869449066386e-5,
            4.754679577383341e-5,
            3.776776235382502e-5,
            3e-5,
        ],
    ),
];

#[test]
fn every_kind_has_the_values_computed_by_hand_at_ten_updates() {
    for (kind, want) in KINDS {
        let p = phase(&format!("lr = [{{ kind = \"{kind}\", from = 3e-4, to = 3e-5 }}]"), 10);
        for (step, want) in want.into_iter().enumerate() {
            close(p.lr_at(step as u64), want, &format!("{kind} at {step}"));
        }
        assert_eq!(p.lr_at(9), 3e-5, "{kind} ends exactly");
    }
    let p = phase("lr = [{ kind = \"const\", to = 3e-4 }]", 10);
    assert!((0..10).all(|step| p.lr_at(step) == 3e-4));
    let p = phase("lr = [{ kind = \"linear\", to = 3e-4, steps = 8 }, { kind = \"const\" }]", 10);
    for step in 0..10 {
        close(p.lr_at(step), 3e-4 * (step + 1).min(8) as f64 / 8.0, &format!("warm-up at {step}"));
    }
}

/// What `configs/example.toml` writes for this shape.
fn example(shape: &str) -> String {
    let text = include_str!("../../configs/example.toml");
    let line = text.lines().find_map(|l| l.strip_prefix("# ")?.strip_prefix(shape)?.split_once("lr = "));
    format!("lr = {}", line.unwrap_or_else(|| panic!("the example shows {shape}")).1)
}

#[test]
fn warm_up_stable_decay_is_a_composition() {
    // 100 updates: 2 up, 78 level, 20 down by 6e-4 (1 - sqrt(k / 20)).
    let p = phase(&example("WSD"), 100);
    let table = [
        (0, 3e-4),
        (1, 6e-4),
        (2, 6e-4),
        (50, 6e-4),
        (79, 6e-4),
        (80, 6e-4 * (1.0 - 0.05f64.sqrt())),
        (84, 3e-4), // sqrt(5 / 20) = 1 / 2
        (89, 6e-4 * (1.0 - 0.5f64.sqrt())),
        (95, 6e-4 * (1.0 - 0.8f64.sqrt())),
        (99, 0.0),
    ];
    for (step, want) in table {
        close(p.lr_at(step), want, &format!("WSD at {step}"));
    }
}

#[test]
fn the_infinite_schedule_is_a_composition_and_its_anneal_may_be_a_phase_of_its_own() {
    // 100 updates: 1 up, 60 cool down by h(x) = 1/sqrt(1 + 4 x) - 1, 25 level, 14 anneal by (1/5.5)^(k / 14).
    let p = phase(&example("infinite"), 100);
    let h = |k: f64| (1.0 / (1.0 + 4.0 * k / 60.0).sqrt() - 1.0) / (0.2f64.sqrt() - 1.0);
    let table = [
        (0, 3e-4),
        (1, 3e-4 - 1.35e-4 * h(1.0)),
        (15, 3e-4 - 1.35e-4 * (0.5f64.sqrt() - 1.0) / (0.2f64.sqrt() - 1.0)), // 1 + 4 15/60 = 2
        (45, 3e-4 - 1.35e-4 * (0.5 - 1.0) / (0.2f64.sqrt() - 1.0)),           // 1 + 4 45/60 = 4
        (60, 1.65e-4),
        (61, 1.65e-4),
        (85, 1.65e-4),
        (86, 1.65e-4 * 5.5f64.powf(-1.0 / 14.0)),
        (92, 1.65e-4 / 5.5f64.sqrt()),
        (99, 3e-5),
    ];
    for (step, want) in table {
        close(p.lr_at(step), want, &format!("infinite at {step}"));
    }
    // A branch: the anneal as the next phase, from where the constant rate is.
    let lr = "lr = [{ kind = \"linear\", to = 1.65e-4, frac = 0.1 }, { kind = \"const\" }]";
    let anneal = "[[phase]]\nname = \"anneal\"\nsteps = 14\nlr = [{ kind = \"exp\", to = 3e-5 }]\n";
    let text = LEAST.replace("lr = [{ kind = \"const\", to = 1e-3 }]", lr) + anneal;
    let branch = &parse(&text, &[]).unwrap().phases[1];
    (0..14).for_each(|k| close(branch.lr_at(k), p.lr_at(86 + k), &format!("the branch at {k}")));
}

#[test]
fn pieces_meet_without_a_jump() {
    let joined = "lr = [{ kind = \"linear\", to = 3e-4, frac = 0.1 }, { kind = \"exp\", to = 2e-4, frac = 0.2 }, \
                  { kind = \"const\", frac = 0.1 }, { kind = \"inv-sqrt\", to = 1e-4, frac = 0.2 }, \
                  { kind = \"linear\", to = 3e-4, frac = 0.1 }, { kind = \"cosine\", to = 1e-4, frac = 0.2 }, \
                  { kind = \"1-sqrt\", to = 0.0 }]";
    const STEPS: u64 = 1_000_000;
    for lr in [joined.to_string(), example("cosine"), example("WSD"), example("infinite")] {
        let p = phase(&lr, STEPS);
        let mut ends = p.lr.ends().to_vec();
        ends.pop();
        assert!(!ends.is_empty());
        for end in ends {
            // The steepest begins with sqrt(1 / 100,000) of what it covers, at most 6e-4.
            let jump = (p.lr_at(end) - p.lr_at(end - 1)).abs();
            assert!(jump <= 3.2e-3 * 6e-4, "a jump of {jump:e} at {end} of {lr}");
        }
    }
}
