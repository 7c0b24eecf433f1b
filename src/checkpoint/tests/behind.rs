use super::*;
use crate::checkpoint::manifest::MANIFEST;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

const STEP: u64 = 20;

/// A file that takes what is written to it only when somebody reads it.
fn pipe(path: &Path) {
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    // SAFETY: the name ends in a 0.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
}

#[test]
fn what_is_being_saved_cannot_change_before_the_fence_and_may_after_it() {
    for (dtype, file) in [
        (DType::F32, "weights-r00000.safetensors"),
        (DType::F32, "optim-r00000.safetensors"),
        (DType::Bf16, "optim-r00000.safetensors"),
    ] {
        let (dir, model) = (tempfile::tempdir().unwrap(), smallest());
        let before = save_all(dir.path(), &model, dtype, SOLO, 10).path;
        let slow = dir.path().join("step-00000020").join(file);
        let (mut params, mut optim, tp, dp) = replica(&model, dtype, SOLO, 0, true);
        let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
        let hold = || {
            pipe(&slow);
            Ok(())
        };
        let saving = begin(dir.path(), &state, &meta(&model, dtype, STEP), &TEXTS, &hold).unwrap();
        assert!(!saving.is_written());
        let moment = &mut optim.moments[1][1];
        assert!(catch_unwind(AssertUnwindSafe(|| moment.bytes_mut()[0] ^= 1)).is_err(), "it was written");
        let reader = slow.clone();
        let reader = std::thread::spawn(move || std::fs::read(reader).unwrap());
        saving.fence();
        let state = params.units.iter_mut().flat_map(|u| [&mut u.weights, &mut u.master]);
        let state = state.chain(optim.moments.iter_mut().flatten()).filter(|t| t.exists());
        state.for_each(|t| t.bytes_mut().fill(0xff));
        assert!(reader.join().unwrap() == std::fs::read(before.join(file)).unwrap(), "{file}, {dtype}");
        // A pipe is on no disk, which is an error like any other.
        let e = saving.finish(&|| Ok(())).unwrap_err().to_string();
        assert!(e.contains(file), "{e}");
        assert_eq!(newest(dir.path()).unwrap(), Some(before));
    }
}

#[test]
fn a_save_that_is_given_up_is_no_checkpoint_and_in_nobodys_way() {
    let (dir, model) = (tempfile::tempdir().unwrap(), smallest());
    let before = save_all(dir.path(), &model, DType::F32, SOLO, 10).path;
    let (params, optim, tp, dp) = replica(&model, DType::F32, SOLO, 0, true);
    let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
    drop(begin(dir.path(), &state, &meta(&model, DType::F32, STEP), &TEXTS, &|| Ok(())).unwrap());
    assert!(!dir.path().join("step-00000020").join(MANIFEST).exists());
    assert_eq!(newest(dir.path()).unwrap(), Some(before.clone()));
    let saved = save_all(dir.path(), &model, DType::F32, SOLO, STEP).path;
    let files = |path: &Path| {
        let all = contents(path).into_iter();
        all.filter(|(name, _)| name.to_str() != Some(MANIFEST)).collect::<Vec<_>>()
    };
    assert!(files(&saved) == files(&before));
}
