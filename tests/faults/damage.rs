//! Files of the newest checkpoint cut short, with a bit flipped, and gone: an earlier one is used, and it is said.

use super::SPREAD;
use super::process::{Run, STEPS, Site, files};
use super::random::Random;

/// What may happen to a file.
pub const DAMAGE: [&str; 3] = ["cut", "flipped", "gone"];

pub fn harm(run: &Run, step: u64, file: &str, how: &str, random: &mut Random) {
    let path = run.checkpoint(step).join(file);
    if how == "gone" {
        return std::fs::remove_file(path).expect("removed");
    }
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = random.below(bytes.len());
    match how {
        "cut" => bytes.truncate(at),
        _ => bytes[at] ^= 1 << random.below(8),
    }
    std::fs::write(&path, bytes).expect("written");
}

/// That the run said what is wrong with its newest checkpoint, in both places.
pub fn assert_said(run: &Run, file: &str, how: &str) {
    let said = run.stderr();
    assert!(said.contains("resuming at step 55"), "{file} {how}: {said}");
    // Without a manifest it is what an interrupted save leaves.
    if file == "manifest.json" && how == "gone" {
        return;
    }
    let warnings = said.lines().filter(|l| l.contains("is passed over")).collect::<Vec<_>>();
    assert!(warnings.len() == 1 && warnings[0].contains(file), "{file} {how}: {said}");
    let metrics = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let events = metrics.lines().filter(|l| l.contains(r#""name":"checkpoint_passed_over""#));
    let events: Vec<&str> = events.collect();
    assert!(events.len() == 1 && events[0].contains(file), "{file} {how}: {events:?}");
}

pub fn every_file(moments: usize) -> String {
    let site = Site::in_memory();
    let mut random = Random(13);
    let mut harmed = 0;
    for (i, spread) in SPREAD.iter().take(if moments < 10 { 1 } else { SPREAD.len() }).enumerate() {
        let calm = site.run(&format!("calm-{i}"), spread);
        calm.finish();
        for file in files(&calm.checkpoint(STEPS)).keys() {
            for how in DAMAGE {
                let run = site.run_from(&format!("{i}-{file}-{how}"), spread, &calm, &[55, STEPS]);
                harm(&run, STEPS, file, how, &mut random);
                run.finish();
                assert_said(&run, file, how);
                run.assert_ended_like(&calm);
                harmed += 1;
            }
        }
        // All of them: nothing is begun anew and nothing removed.
        let lost = site.run_from(&format!("{i}-lost"), spread, &calm, &[55, STEPS]);
        [55, STEPS].iter().for_each(|step| harm(&lost, *step, "run.toml", "flipped", &mut random));
        let before = [55, STEPS].map(|step| files(&lost.checkpoint(step)));
        let status = lost.start().wait();
        assert_eq!(status.code(), Some(4), "{status}: {}", lost.stderr());
        assert!([55, STEPS].map(|step| files(&lost.checkpoint(step))) == before, "something was touched");
        // One is mended from elsewhere, and the run goes on.
        let copy = files(&calm.checkpoint(55));
        std::fs::write(lost.checkpoint(55).join("run.toml"), &copy["run.toml"]).expect("written");
        lost.finish();
        lost.assert_ended_like(&calm);
    }
    format!("{harmed} files cut, flipped or gone, each passed over by name")
}
