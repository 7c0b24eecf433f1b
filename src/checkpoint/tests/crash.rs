use super::*;
use crate::Error;
use crate::checkpoint::manifest::MANIFEST;
use std::cell::Cell;

const STEP: u64 = 20;

/// Saves on one rank that dies at the barrier with this number.
fn save_and_die(dir: &Path, at: usize) -> crate::Result<Saved> {
    let model = smallest();
    let (params, optim, tp, dp) = replica(&model, DType::F32, SOLO, 0, true);
    let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
    let calls = Cell::new(0);
    save(dir, &state, &meta(&model, DType::F32, STEP), &TEXTS, &|| {
        calls.set(calls.get() + 1);
        if calls.get() > at { Err(Error::RankLost { rank: 0, problem: "killed".into() }) } else { Ok(()) }
    })
}

fn save_well(dir: &Path, step: u64) -> PathBuf {
    save_all(dir, &smallest(), DType::F32, SOLO, step).path
}

/// Whether the newest valid checkpoint is this one, and can be read.
fn assert_newest(dir: &Path, path: &Path) {
    assert_eq!(newest(dir).unwrap().as_deref(), Some(path));
    assert_reads(&Checkpoint::open(path).unwrap(), &smallest(), DType::F32, SOLO);
}

#[test]
fn a_crash_before_the_manifest_leaves_the_checkpoint_before_and_the_next_save_cleans_up() {
    let clean = tempfile::tempdir().unwrap();
    let clean = contents(&save_well(clean.path(), STEP));
    for at in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let before = save_well(dir.path(), 10);
        let bytes = contents(&before);
        save_and_die(dir.path(), at).unwrap_err();
        let path = dir.path().join("step-00000020");
        assert!(path.is_dir() && !path.join(MANIFEST).exists());
        // And with what a crash while the manifest was written leaves.
        std::fs::write(path.join("manifest.json.tmp"), "{\n  \"format_version\": 1,").unwrap();
        // And a rank that the next save does not have.
        std::fs::write(path.join("optim-r00007.safetensors"), "half").unwrap();
        assert_newest(dir.path(), &before);
        assert!(contents(&before) == bytes, "the checkpoint before was touched");
        assert!(contents(&save_well(dir.path(), STEP)) == clean, "leftovers after a crash at {at}");
        assert_newest(dir.path(), &path);
    }
}

#[test]
fn a_crash_after_the_manifest_leaves_the_new_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    save_well(dir.path(), 10);
    save_and_die(dir.path(), 2).unwrap_err();
    assert_newest(dir.path(), &dir.path().join("step-00000020"));
}

#[test]
fn saving_a_step_again_keeps_the_first_until_the_second_is_finished() {
    for at in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let path = save_well(dir.path(), STEP);
        let bytes = contents(&path);
        save_and_die(dir.path(), at).unwrap_err();
        let old = dir.path().join("step-00000020.old");
        assert_newest(dir.path(), &old);
        assert!(contents(&old) == bytes);
        // A second crash does not lose it either.
        save_and_die(dir.path(), 1).unwrap_err();
        assert_newest(dir.path(), &old);
        assert_eq!(save_well(dir.path(), STEP), path);
        assert_newest(dir.path(), &path);
        assert!(contents(&path) == bytes && !old.exists());
    }
}

/// What each of two ranks gets; `interfere` runs on rank 0 before its first barrier returns.
fn two_ranks(dir: &Path, interfere: impl Fn() + Sync) -> Vec<crate::Result<Saved>> {
    let (model, ranks) = (smallest(), ranks(1, 2, 0));
    run_ranks(2, DEADLINE, |world| {
        let (params, optim, tp, dp) = replica(&model, DType::F32, ranks, world.rank(), true);
        let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
        let calls = Cell::new(0);
        Ok(save(dir, &state, &meta(&model, DType::F32, STEP), &TEXTS, &|| {
            if world.rank() == 0 && calls.get() == 0 {
                interfere();
            }
            calls.set(calls.get() + 1);
            world.barrier("checkpoint")
        }))
    })
    .unwrap()
}

#[test]
fn a_rank_that_cannot_write_fails_the_save_on_all_ranks_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let before = save_well(dir.path(), 10);
    let blocked = dir.path().join("step-00000020/optim-r00001.safetensors");
    let results = two_ranks(dir.path(), || std::fs::create_dir(&blocked).unwrap());
    let errors: Vec<String> = results.into_iter().map(|r| r.unwrap_err().to_string()).collect();
    assert!(errors[0].contains("rank 1 failed") && errors[0].contains("optim-r00001"), "{errors:?}");
    assert!(errors[1].contains("optim-r00001.safetensors: cannot create"), "{errors:?}");
    assert_newest(dir.path(), &before);
    assert!(two_ranks(dir.path(), || ()).iter().all(|r| r.is_ok()));
}

#[test]
fn a_directory_that_cannot_be_prepared_fails_the_save_on_all_ranks_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ckpt");
    std::fs::write(&file, "not a directory").unwrap();
    let results = two_ranks(&file, || ());
    assert!(results.iter().all(|r| r.is_err()), "{results:?}");
}

#[test]
fn a_state_that_contradicts_its_manifest_is_not_saved() {
    let model = smallest();
    let (params, optim, tp, dp) = replica(&model, DType::F32, SOLO, 0, true);
    let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
    let good = meta(&model, DType::F32, STEP);
    let late = Meta { clocks: Clocks { adam_t: 8, ..good.clocks }, ..good.clone() };
    for (bad, why) in [
        (late, "the optimizer's t is 7 and the manifest would say 8"),
        (Meta { dtype: "bf16".into(), ..good.clone() }, "bf16"),
        (Meta { lr: f64::NAN, ..good.clone() }, "the learning rate is NaN"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let e = save(dir.path(), &state, &bad, &[], &|| Ok(())).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
        assert_eq!(list(dir.path()).unwrap(), []);
    }
}
