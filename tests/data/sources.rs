//! How corpora are read: mapped, by position, staged; files that change under a reader; sizes beyond 2^32 tokens.

use super::{corpus, flat, index, varied};
use espalier::config::Io;
use espalier::data::{Corpus, Meta};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

const CHILD: &str = "ESPALIER_TEST_FOLDER";

/// Runs the test `name` of this binary in a process of its own, with `folder` in its environment.
fn child(name: &str, folder: &Path) -> (ExitStatus, String) {
    let exe = std::env::current_exe().unwrap();
    let out = Command::new(exe).args(["--exact", name, "--nocapture"]).env(CHILD, folder).output().unwrap();
    (out.status, String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr))
}

#[test]
fn every_way_of_reading_gives_the_same_tokens_and_documents() {
    let folder = tempfile::tempdir().unwrap();
    let mapped = corpus(folder.path(), "web", &varied(500));
    for io in [Io::Pread, Io::Stage] {
        let other =
            Corpus::open_with(&folder.path().join("web"), io, Some(&folder.path().join("node"))).unwrap();
        assert_eq!(flat(&other), flat(&mapped));
        assert_eq!(other.hash(), mapped.hash());
        assert_eq!(other.document_hash(77).unwrap(), mapped.document_hash(77).unwrap());
        other.verify().unwrap();
    }
}

#[test]
fn a_file_cut_off_under_a_reader_is_an_error_with_its_name_and_the_process_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    let other = corpus(folder.path(), "other", &[1000]);
    for (io, end) in [(Io::Mmap, "bin"), (Io::Pread, "bin"), (Io::Mmap, "idx"), (Io::Pread, "idx")] {
        corpus(folder.path(), "web", &[40; 10_000]);
        let read = Corpus::open_with(&prefix, io, None).unwrap();
        let path = prefix.with_extension(end);
        let len = fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        let mut tokens = [0; 1000];
        let error = match end {
            "bin" => read.read(399_000, &mut tokens).unwrap_err(),
            _ => read.document_range(9_990).unwrap_err(),
        };
        let error = error.to_string();
        let want =
            format!("had {len} bytes when it was opened and now has 5000; files of a corpus must not change");
        assert!(error.contains(&format!("web.{end} at byte ")) && error.contains(&want), "{io:?}: {error}");
        // What was lost stays lost; other corpora are read as before.
        assert!(io == Io::Pread || end == "idx" || read.read(399_000, &mut tokens).is_err());
        other.read(0, &mut tokens).unwrap();
        let error = read.unchanged().unwrap_err().to_string();
        assert!(error.contains(&want), "{error}");
    }
}

#[test]
fn threads_that_read_a_file_cut_off_all_get_the_error() {
    let folder = tempfile::tempdir().unwrap();
    let read = corpus(folder.path(), "web", &[4000; 500]);
    let file = File::options().write(true).open(folder.path().join("web.bin")).unwrap();
    file.set_len(4096).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let read = &read;
            scope.spawn(move || {
                for i in 0..100 {
                    let mut tokens = [0; 1000];
                    assert!(
                        read.read(1_000_000 + 1000 * ((i * 37 + thread * 11) % 900), &mut tokens).is_err()
                    );
                }
            });
        }
    });
}

/// The guard has its place in the handler's way, and leaves all else what it was.
#[test]
fn a_fault_outside_of_corpora_still_ends_the_process() {
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = tempfile::tempdir().unwrap();
        let (status, text) =
            child("sources::a_fault_outside_of_corpora_still_ends_the_process", folder.path());
        assert_eq!(status.signal(), Some(7), "SIGBUS: {text}");
        assert!(text.contains("the corpus is open"), "{text}");
        return;
    };
    let folder = Path::new(&folder);
    let guarded = corpus(folder, "web", &[1000]);
    let path = folder.join("plain");
    fs::write(&path, vec![1; 1 << 16]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    // SAFETY: that this is not sound is what the test is about.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    file.set_len(0).unwrap();
    println!("the corpus is open: {}", guarded.tokens());
    println!("read {}", std::hint::black_box(map[1 << 15]));
}

#[test]
fn more_files_than_can_be_guarded_are_refused_and_closing_them_makes_room() {
    let name = "sources::more_files_than_can_be_guarded_are_refused_and_closing_them_makes_room";
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = tempfile::tempdir().unwrap();
        let (status, text) = child(name, folder.path());
        assert!(status.success() && text.contains("refused"), "{text}");
        return;
    };
    let folder = Path::new(&folder);
    let prefix = folder.join("web");
    let of_parts = |count: u64| {
        let part = "{\"path\": \"part\", \"offset\": 0, \"tokens\": 1, \"dtype\": \"u16\"}";
        let parts = vec![part; count as usize].join(",");
        let json = format!(
            "{{\"format\": \"espalier-corpus\", \"version\": 1, \"vocab\": 9, \"tokenizer\": {{\"kind\": \"x\", \
             \"hash\": \"0000000000000001\"}}, \"end_of_document\": null, \"tokens\": {count}, \"documents\": 1, \
             \"source_bytes\": 0, \"bin_xxh3\": \"0000000000000000\", \"idx_xxh3\": \"0000000000000000\", \
             \"parts\": [{parts}]}}"
        );
        fs::write(prefix.with_extension("json"), json).unwrap();
        fs::write(prefix.with_extension("idx"), index(8, &[count as i32], &[0, 1])).unwrap();
        Corpus::open(&prefix)
    };
    fs::write(folder.join("part"), [5, 0]).unwrap();
    let error = of_parts(1 << 14).unwrap_err().to_string();
    assert!(error.contains("web.idx: too many files are mapped at once (16384); adopt fewer"), "{error}");
    let mut id = [0; 2];
    of_parts((1 << 14) - 1).unwrap().read(16_000, &mut id).unwrap();
    assert_eq!(id, [5, 5]);
    println!("refused");
}

#[test]
fn files_that_were_replaced_or_written_to_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    for end in ["bin", "idx"] {
        let path = prefix.with_extension(end);
        let noticed = |change: &dyn Fn()| {
            corpus(folder.path(), "web", &varied(100));
            let open = Corpus::open(&prefix).unwrap();
            open.unchanged().unwrap();
            change();
            open.unchanged().map_err(|e| e.to_string())
        };
        let error = noticed(&|| {
            fs::copy(&path, folder.path().join("copy")).unwrap();
            fs::rename(folder.path().join("copy"), &path).unwrap();
        });
        let error = error.unwrap_err();
        assert!(error.contains(&format!("web.{end}: was replaced by another file")), "{error}");
        let error = noticed(&|| {
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(b"x", 60).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        });
        let error = error.unwrap_err();
        assert!(error.contains(&format!("web.{end}: was written to while it was in use")), "{error}");
        // What was opened can still be read.
        noticed(&|| fs::remove_file(&path).unwrap()).unwrap();
    }
}

#[test]
fn a_staged_copy_is_shared_used_again_and_removed_by_the_last_reader() {
    let folder = tempfile::tempdir().unwrap();
    let (prefix, node) = (folder.path().join("web"), folder.path().join("node"));
    let plain = corpus(folder.path(), "web", &varied(300));
    let open = || Corpus::open_with(&prefix, Io::Stage, Some(&node)).unwrap();
    let first = open();
    let copies: Vec<_> = fs::read_dir(&node).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(copies.len(), 1);
    assert!(copies[0].to_str().unwrap().ends_with(&format!("{:016x}", plain.hash())), "{copies:?}");
    let inode = || fs::metadata(copies[0].join("bin")).unwrap().ino();
    let before = inode();
    let second = open();
    assert_eq!(inode(), before, "one copy for both");
    assert_eq!(second.files()[0].0, copies[0].join("bin"));
    drop(first);
    assert_eq!(flat(&second), flat(&plain), "the copy stays while one reads");
    drop(second);
    assert!(!copies[0].exists(), "the last one removes it");

    // A killed process leaves a copy, whole or not.
    fs::create_dir_all(&copies[0]).unwrap();
    fs::copy(prefix.with_extension("bin"), copies[0].join("bin")).unwrap();
    fs::write(copies[0].join("idx.tmp"), b"half").unwrap();
    let before = inode();
    let third = open();
    assert_eq!((inode(), flat(&third)), (before, flat(&plain)), "what is whole is used");
    drop(third);
    fs::create_dir_all(&copies[0]).unwrap();
    fs::write(copies[0].join("bin"), b"cut off").unwrap();
    assert_eq!(flat(&open()), flat(&plain), "what is not is copied anew");
    assert_eq!(fs::read_dir(&node).unwrap().count(), 0);
}

#[test]
fn many_readers_that_stage_at_once_make_one_copy() {
    let folder = tempfile::tempdir().unwrap();
    let (prefix, node) = (folder.path().join("web"), folder.path().join("node"));
    let plain = flat(&corpus(folder.path(), "web", &varied(300)));
    let together = std::sync::Barrier::new(6);
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let read = || {
            together.wait();
            let staged = Corpus::open_with(&prefix, Io::Stage, Some(&node)).unwrap();
            assert_eq!(flat(&staged), plain);
            let inode = fs::metadata(staged.files()[0].0).unwrap().ino();
            together.wait();
            inode
        };
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(read)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(inodes.iter().all(|&inode| inode == inodes[0]), "{inodes:?}");
    assert_eq!(fs::read_dir(&node).unwrap().count(), 0);
}

/// A corpus of `tokens` u16 tokens, nearly all of them holes, in documents of at most 2^31 - 1.
fn sparse(prefix: &Path, tokens: u64, vocab: u32) {
    let longest = i32::MAX as u64;
    let count = tokens.div_ceil(longest);
    let lengths: Vec<i32> = (0..count).map(|i| (tokens - i * longest).min(longest) as i32).collect();
    let entries: Vec<i64> = (0..=count as i64).collect();
    fs::write(prefix.with_extension("idx"), index(8, &lengths, &entries)).unwrap();
    File::create(prefix.with_extension("bin")).unwrap().set_len(2 * tokens).unwrap();
    let json = format!(
        "{{\"format\": \"espalier-corpus\", \"version\": 1, \"vocab\": {vocab}, \"tokenizer\": {{\"kind\": \"x\", \
         \"hash\": \"0000000000000001\"}}, \"end_of_document\": null, \"tokens\": {tokens}, \"documents\": {count}, \
         \"source_bytes\": 0, \"bin_xxh3\": \"0000000000000000\", \"idx_xxh3\": \"0000000000000000\"}}"
    );
    fs::write(prefix.with_extension("json"), json).unwrap();
    assert_eq!(Meta::read(&prefix.with_extension("json")).unwrap().tokens, tokens);
}

#[test]
fn tokens_beyond_2_to_the_32_are_the_right_ones() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("far");
    let tokens = (1u64 << 32) + 100_000;
    sparse(&prefix, tokens, 60_000);
    let bin = File::options().write(true).open(prefix.with_extension("bin")).unwrap();
    let mark = |token: u64, id: u16| bin.write_all_at(&id.to_le_bytes(), 2 * token).unwrap();
    // Any arithmetic in 32 bits would lead to the first of these for the second.
    mark(77_777, 1);
    mark((1 << 32) + 77_777, 2);
    mark(tokens - 1, 3);
    mark((1 << 31) - 1, 4);
    for io in [Io::Mmap, Io::Pread] {
        let far = Corpus::open_with(&prefix, io, None).unwrap();
        let id = |token| {
            let mut out = [0; 3];
            far.read(token - 1, &mut out[..2]).unwrap();
            out[1]
        };
        assert_eq!([77_777, (1 << 32) + 77_777, tokens - 1, (1 << 31) - 1].map(id), [1, 2, 3, 4]);
        assert_eq!(
            [0, (1 << 31) - 1, 1 << 32, tokens - 1].map(|t| far.document_at(t).unwrap()),
            [0, 1, 2, 2]
        );
        assert_eq!(far.document_range(2).unwrap(), (1 << 32) - 2..tokens);
    }
}

#[test]
fn an_open_corpus_of_a_terabyte_takes_less_than_50_megabytes() {
    let name = "sources::an_open_corpus_of_a_terabyte_takes_less_than_50_megabytes";
    let Some(folder) = std::env::var_os(CHILD) else {
        let folder = tempfile::tempdir().unwrap();
        let (status, text) = child(name, folder.path());
        assert!(status.success() && text.contains("resident"), "{text}");
        return;
    };
    let prefix = Path::new(&folder).join("huge");
    sparse(&prefix, 1 << 39, 60_000);
    let resident = || {
        let text = fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() // KiB
    };
    let before = resident();
    let huge = Corpus::open(&prefix).unwrap();
    let mut out = [0; 1025];
    for i in 0..1000u64 {
        let first = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % ((1 << 39) - 1025);
        huge.read(first, &mut out).unwrap();
        assert_eq!(huge.document_at(first).unwrap(), first / (i32::MAX as u64));
    }
    let after = resident();
    println!("resident {before} KiB before, {after} KiB after");
    assert!(after - before < 50_000, "{before} KiB before, {after} after");
}
