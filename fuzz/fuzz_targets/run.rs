//! The run file, and after bytes 0xff, which no text has, `--set` arguments. What is read is written and read again.
#![no_main]
use espalier::config::RunConfig;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut parts = data.split(|&b| b == 0xff).map(|part| String::from_utf8_lossy(part).into_owned());
    let text = parts.next().expect("there is one at least");
    let sets: Vec<String> = parts.collect();
    let Ok(run) = RunConfig::parse(&text, "run.toml", &sets) else { return };
    let resolved = run.resolved_toml();
    let again = RunConfig::parse(&resolved, "run.toml", &[]).expect("what was resolved is read");
    assert_eq!(again.resolved_toml(), resolved);
    assert_eq!(again.hash(), run.hash());
    for phase in &run.phases {
        let last = phase.lr.steps();
        assert!([0, last / 2, last].into_iter().all(|step| phase.lr.at(step, 0.0).is_finite()));
    }
});
