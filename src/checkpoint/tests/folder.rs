use super::*;
use crate::checkpoint::manifest::MANIFEST;
use std::sync::{Arc, Mutex};

fn save_steps(dir: &Path, steps: &[u64]) -> Vec<PathBuf> {
    steps.iter().map(|&s| save_all(dir, &smallest(), DType::F32, SOLO, s).path).collect()
}

fn steps(dir: &Path) -> Vec<u64> {
    list(dir).unwrap().iter().map(|f| f.step).collect()
}

fn damage(path: &Path) {
    let name = path.join("optim-r00000.safetensors");
    let mut bytes = std::fs::read(&name).unwrap();
    *bytes.last_mut().unwrap() ^= 4;
    std::fs::write(name, bytes).unwrap();
}

/// Runs f and returns what it logged.
fn logged<R>(f: impl FnOnce() -> R) -> (R, String) {
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let sink = Sink::default();
    let writer = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    let result = tracing::subscriber::with_default(subscriber, f);
    let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
    (result, text)
}

#[test]
fn a_damaged_newest_checkpoint_falls_back_to_the_one_before_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(newest(&dir.path().join("ckpt")).unwrap(), None);
    let paths = save_steps(dir.path(), &[100, 99_999_999, 100_000_000]);
    assert_eq!(newest(dir.path()).unwrap().as_ref(), Some(&paths[2]));
    damage(&paths[2]);
    let (found, warning) = logged(|| newest(dir.path()).unwrap());
    assert_eq!(found.as_ref(), Some(&paths[1]));
    assert!(warning.contains("WARN") && warning.contains("step-100000000 is passed over"), "{warning}");
    assert!(warning.contains("optim-r00000.safetensors: damaged: its checksum is"), "{warning}");
    // A checkpoint that lost its manifest is none, and needs no warning.
    std::fs::remove_file(paths[1].join(MANIFEST)).unwrap();
    assert_eq!(newest(dir.path()).unwrap().as_ref(), Some(&paths[0]));
    damage(&paths[0]);
    // Not None: a run would start again from the beginning.
    let e = newest(dir.path()).unwrap_err().to_string();
    assert!(e.contains("every checkpoint is damaged") && e.contains("step-100000000"), "{e}");
}

#[test]
fn prune_keeps_the_last_and_the_cadence() {
    let dir = tempfile::tempdir().unwrap();
    save_steps(dir.path(), &[50, 100, 150, 200, 250, 300]);
    let removed = prune(dir.path(), u64::MAX, 2, Some(100)).unwrap();
    assert_eq!(removed, ["step-00000050", "step-00000150"].map(|n| dir.path().join(n)));
    assert_eq!(steps(dir.path()), [100, 200, 250, 300]);
    prune(dir.path(), u64::MAX, 0, None).unwrap();
    assert_eq!(steps(dir.path()), [300], "the last is never removed");
    assert_eq!(prune(&dir.path().join("none"), u64::MAX, 1, None).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn prune_does_not_count_damaged_checkpoints_and_removes_only_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let paths = save_steps(dir.path(), &[1, 2, 3, 4]);
    std::fs::write(paths[3].join("weights-r00000.safetensors"), "short").unwrap();
    std::fs::remove_file(paths[0].join(MANIFEST)).unwrap();
    for other in ["step-00000001.backup", "step-1", "notes"] {
        std::fs::create_dir(dir.path().join(other)).unwrap();
    }
    let removed = prune(dir.path(), u64::MAX, 1, None).unwrap();
    assert_eq!(removed, paths[..2], "the unfinished one and the one older than the newest sound one");
    assert_eq!(steps(dir.path()), [3, 4]);
    assert!(["step-00000001.backup", "step-1", "notes"].iter().all(|n| dir.path().join(n).is_dir()));
}

#[test]
fn a_checkpoint_is_found_by_run_directory_and_step() {
    let dir = tempfile::tempdir().unwrap();
    let ckpt = dir.path().join("ckpt");
    let paths = save_steps(&ckpt, &[1, 2]);
    for (at, step, want) in [
        (dir.path(), None, &paths[1]),
        (dir.path(), Some(1), &paths[0]),
        (&ckpt, None, &paths[1]),
        (&ckpt, Some(2), &paths[1]),
        (&paths[0], None, &paths[0]),
        (&paths[0], Some(1), &paths[0]),
    ] {
        assert_eq!(&resolve(at, step).unwrap(), want);
    }
    let e = resolve(dir.path(), Some(3)).unwrap_err().to_string();
    assert!(e.contains("no checkpoint of step 3 (steps there: 1, 2)"), "{e}");
    assert!(resolve(&paths[0], Some(2)).is_err());
    assert!(resolve(&dir.path().join("nowhere"), None).is_err());
}
