use super::*;
use crate::checkpoint::file;
use crate::checkpoint::manifest::MANIFEST;
use crate::checkpoint::piece::Outgoing;
use std::os::unix::fs::FileExt;

/// Everything a resume on one rank does.
fn resume(path: &Path) -> crate::Result<()> {
    let c = Checkpoint::open(path)?;
    let (mut params, mut optim, ..) = replica(&smallest(), DType::Bf16, SOLO, 0, false);
    c.load_weights(&Device::cpu(1), &mut params, Values::Stored)?;
    c.load_optimizer(&mut params, &mut optim)?;
    for name in TEXTS {
        assert_eq!(c.text(name.0)?.as_deref(), Some(name.1), "silently wrong");
    }
    Ok(())
}

fn verify(path: &Path) -> crate::Result<()> {
    Checkpoint::open(path)?.verify()
}

/// Replaces a file and demands that both ways of reading name it.
fn assert_found(path: &Path, name: &Path, damaged: &[u8], how: &str) {
    // Not truncated to zero first: some file systems wait for the disk when such a file is closed.
    let file = std::fs::OpenOptions::new().write(true).open(path.join(name)).unwrap();
    file.set_len(damaged.len() as u64).unwrap();
    file.write_all_at(damaged, 0).unwrap();
    for (what, result) in [("verify", verify(path)), ("resume", resume(path))] {
        let e = result.expect_err(&format!("{what} did not notice: {how} of {}", name.display()));
        assert!(matches!(e, crate::Error::Checkpoint { .. }), "{e:?}");
        assert!(e.to_string().contains(name.to_str().unwrap()), "{what}, {how} of {}: {e}", name.display());
    }
}

const RANKS: [Ranks; 2] = [SOLO, ranks(2, 2, 1)];

#[test]
fn a_flipped_bit_anywhere_is_an_error_that_names_the_file() {
    for (ranks, stride) in RANKS.into_iter().zip([11, 41]) {
        let dir = tempfile::tempdir().unwrap();
        let path = save_all(dir.path(), &smallest(), DType::Bf16, ranks, 1).path;
        for (name, good) in contents(&path) {
            let header = if name.extension().unwrap() == "safetensors" {
                8 + u64::from_le_bytes(*good.first_chunk().unwrap()) as usize
            } else {
                0
            };
            // All of the length, and one bit here and there: of the values more rarely, they are all alike.
            let rest = (8..good.len()).step_by(stride).enumerate();
            let rest = rest.filter(|(i, at)| header == 0 || *at < header || i % 8 == 0).map(|(_, at)| at);
            for (i, at) in (0..8.min(good.len())).chain(rest).enumerate() {
                let mut bad = good.clone();
                bad[at] ^= 1 << (i % 8);
                assert_found(&path, &name, &bad, &format!("bit of byte {at}"));
            }
            std::fs::write(path.join(&name), good).unwrap();
        }
        resume(&path).unwrap();
    }
}

#[test]
fn a_file_of_another_length_is_an_error_that_names_the_file() {
    for ranks in RANKS {
        let dir = tempfile::tempdir().unwrap();
        let path = save_all(dir.path(), &smallest(), DType::Bf16, ranks, 1).path;
        for (name, good) in contents(&path) {
            for len in (0..good.len()).step_by(101).chain([good.len() - 1]) {
                assert_found(&path, &name, &good[..len], &format!("first {len} bytes"));
            }
            assert_found(&path, &name, &[&good[..], b"\n"].concat(), "one byte more");
            std::fs::remove_file(path.join(&name)).unwrap();
            for e in [verify(&path).unwrap_err(), resume(&path).unwrap_err()] {
                assert!(e.to_string().contains(name.to_str().unwrap()) && e.exit_code() == 4, "{e}");
            }
            std::fs::write(path.join(&name), good).unwrap();
        }
        resume(&path).unwrap();
    }
}

#[test]
fn ranks_that_share_the_verification_find_what_one_finds() {
    let dir = tempfile::tempdir().unwrap();
    let path = save_all(dir.path(), &smallest(), DType::Bf16, RANKS[1], 1).path;
    let mut all = contents(&path);
    let (name, bad) = all.last_mut().unwrap();
    *bad.last_mut().unwrap() ^= 1;
    std::fs::write(path.join(name), bad).unwrap();
    let c = Checkpoint::open(&path).unwrap();
    let failed: Vec<usize> = (0..3).filter(|&rank| c.verify_share(rank, 3).is_err()).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
}

/// A checkpoint whose checksums are right and whose optimizer file was written from changed pieces.
fn forged(change: impl FnOnce(&mut Vec<Outgoing>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let model = smallest();
    let path = save_all(dir.path(), &model, DType::Bf16, SOLO, 1).path;
    let (params, optim, tp, dp) = replica(&model, DType::Bf16, SOLO, 0, true);
    let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
    let mut out = state.optimizer();
    change(&mut out);
    let name = "optim-r00000.safetensors";
    let entry = file::write(&path.join(name), &out, || Ok(())).unwrap().sync().unwrap();
    let mut manifest = Manifest::read(&path).unwrap();
    *manifest.files.iter_mut().find(|f| f.name == name).unwrap() = entry;
    manifest.write(&path).unwrap();
    match Checkpoint::open(&path) {
        Ok(_) => "accepted".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn elements_that_are_missing_or_stored_twice_are_an_error_that_names_tensor_and_file() {
    let q = "m/blocks.0.attn.q.weight";
    let find = |out: &mut Vec<Outgoing>| out.iter().position(|o| o.piece.entry == q).unwrap();
    assert_eq!(forged(|_| ()), "accepted");
    let resized = |o: &mut Outgoing, range: [usize; 2]| {
        o.own.end = o.own.start + range[1] - range[0];
        (o.piece.range, o.shape) = (range, vec![range[1] - range[0]]);
    };
    let cases: [(&str, String); 8] = [
        (
            "m of tensor blocks.0.attn.q.weight [4, 4]: elements 15..16 of its box (rows 0..4, columns 0..4) are in no file",
            forged(|out| {
                let i = find(out);
                resized(&mut out[i], [0, 15]);
            }),
        ),
        (
            "elements 0..1 of its box",
            forged(|out| {
                let i = find(out);
                resized(&mut out[i], [1, 16]);
            }),
        ),
        (
            "elements 8..16 of its box (rows 0..4, columns 0..4) are stored twice",
            forged(|out| {
                let i = find(out);
                let mut twice = out[i].clone();
                twice.piece.entry += "@9";
                resized(&mut twice, [8, 16]);
                out.push(twice);
            }),
        ),
        (
            "its box (rows 3..4, columns 0..1) overlaps one (rows 0..4, columns 0..4)",
            forged(|out| {
                let i = find(out);
                let mut twice = out[i].clone();
                twice.piece.entry += "@9";
                twice.piece.area = Area { row: 3, rows: 1, col: 0, cols: 1 };
                resized(&mut twice, [0, 1]);
                out.push(twice);
            }),
        ),
        (
            "only 12 of 16 elements are in any file",
            forged(|out| {
                let i = find(out);
                out[i].piece.area = Area { row: 0, rows: 4, col: 1, cols: 3 };
                resized(&mut out[i], [0, 12]);
            }),
        ),
        (
            "lies outside of its tensor [4, 4]: rows",
            forged(|out| {
                let i = find(out);
                out[i].piece.area = Area { row: usize::MAX - 1, rows: 1, col: 0, cols: 4 };
            }),
        ),
        (
            "lies outside of its tensor [4, 4]: rows 18446744073709551614..18446744073709551615",
            forged(|out| {
                let i = find(out);
                out[i].piece.area = Area { row: usize::MAX - 1, rows: 9, col: 0, cols: 4 };
            }),
        ),
        (
            "is of tensor nothing, which is not in the manifest",
            forged(|out| {
                let i = find(out);
                out[i].piece.tensor = "nothing".into();
            }),
        ),
    ];
    for (want, got) in cases {
        assert!(got.contains(want) && got.contains("optim-r00000.safetensors"), "{got}, expected {want}");
    }
    let gone = forged(|out| {
        let i = find(out);
        out.remove(i);
    });
    assert!(gone.contains("no file holds m of tensor blocks.0.attn.q.weight"), "{gone}");
}

#[test]
fn a_manifest_of_another_format_or_with_other_places_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = save_all(dir.path(), &smallest(), DType::F32, SOLO, 1).path;
    let good = Manifest::read(&path).unwrap();
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut m = good.clone();
        change(&mut m);
        m.write(&path).unwrap();
        let e = Checkpoint::open(&path).err().expect("refused").to_string();
        assert!(e.contains(MANIFEST), "{e}");
        e
    };
    assert!(refused(&|m| m.format_version = 2).contains("format version 2, and this program reads 1"));
    for name in ["../run.toml", "/etc/passwd", "", ".", "manifest.json"] {
        assert!(refused(&|m| m.files[0].name = name.into()).contains("is not the name of a file"));
    }
    assert!(refused(&|m| m.files[1] = m.files[0].clone()).contains("listed twice"));
    assert!(refused(&|m| m.params[0].rows = usize::MAX).contains("impossible size"));
}
