//! PREFIX.bin.zst: what is written, what is read, what damage says.

use super::{corpus, flat, varied};
use espalier::config::Io;
use espalier::data::{Corpus, compress_corpus};
use std::fs;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh64::xxh64;

fn silent() -> impl FnMut(u64, u64) {
    |_, _| {}
}

/// A corpus of some hundred frames of 16 KiB: more than a group of 64, the last frame not full.
fn large(folder: &Path) -> PathBuf {
    corpus(folder, "web", &varied(60_000));
    folder.join("web")
}

fn zst(prefix: &Path) -> PathBuf {
    prefix.with_extension("bin.zst")
}

#[test]
fn compressed_tokens_are_those_that_zstd_itself_gives_and_the_same_for_any_threads() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = large(folder.path());
    let plain = fs::read(prefix.with_extension("bin")).unwrap();
    assert!(plain.len() > 130 * (16 << 10) && !plain.len().is_multiple_of(16 << 10), "{}", plain.len());
    let mut first = Vec::new();
    for threads in [1, 2, 5] {
        let done = compress_corpus(&prefix, 3, true, Some(threads), &mut silent()).unwrap();
        let bytes = fs::read(zst(&prefix)).unwrap();
        assert_eq!((done.before, done.after), (plain.len() as u64, bytes.len() as u64));
        assert!(done.after < done.before, "{done:?}");
        assert_eq!(zstd::decode_all(&bytes[..]).unwrap(), plain);
        if threads == 1 {
            first = bytes;
        } else {
            assert!(first == bytes, "{threads} threads write other bytes");
        }
    }
}

#[test]
fn a_compressed_corpus_is_the_same_corpus() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = large(folder.path());
    let plain = Corpus::open(&prefix).unwrap();
    let (want, hash) = (flat(&plain), plain.hash());
    let json = fs::read(prefix.with_extension("json")).unwrap();
    compress_corpus(&prefix, 6, false, None, &mut silent()).unwrap();
    assert!(!prefix.with_extension("bin").exists() && !folder.path().join("web.bin.zst.tmp").exists());
    assert_eq!(fs::read(prefix.with_extension("json")).unwrap(), json);
    for io in [Io::Mmap, Io::Pread, Io::Stage] {
        let packed = Corpus::open_with(&prefix, io, Some(folder.path())).unwrap();
        assert_eq!((packed.hash(), packed.tokens()), (hash, plain.tokens()));
        packed.verify().unwrap();
        assert!(flat(&packed) == want);
        assert_eq!(packed.document_hash(5).unwrap(), plain.document_hash(5).unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (packed, want) = (&packed, &want.0);
                scope.spawn(move || {
                    for i in 0..300u64 {
                        // Windows of up to three frames.
                        let len = [1, 1025, 8192, 20_000][(i % 4) as usize];
                        let at = (i * 7919 + thread * 104_729) * 31 % (want.len() as u64 - len);
                        let mut out = vec![0; len as usize];
                        packed.read(at, &mut out).unwrap();
                        assert!(out == want[at as usize..][..len as usize], "{len} tokens from {at}");
                    }
                });
            }
        });
    }
    let error = compress_corpus(&prefix, 6, false, None, &mut silent()).unwrap_err().to_string();
    assert!(error.contains("web.bin.zst: is compressed already"), "{error}");
    let error = compress_corpus(&prefix, 23, false, None, &mut silent()).unwrap_err().to_string();
    assert!(error.contains("--level: it is 23; zstd has levels 1 to 22"), "{error}");
}

#[test]
fn of_bin_and_bin_zst_the_first_is_read_and_a_damaged_one_is_not_compressed() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = large(folder.path());
    compress_corpus(&prefix, 1, true, None, &mut silent()).unwrap();
    assert_eq!(Corpus::open(&prefix).unwrap().files()[0].0, prefix.with_extension("bin"));
    fs::remove_file(zst(&prefix)).unwrap();
    let mut bin = fs::read(prefix.with_extension("bin")).unwrap();
    let at = bin.len() / 63 * 20 + 6000; // between sampled blocks
    bin[at & !1] ^= 1;
    fs::write(prefix.with_extension("bin"), bin).unwrap();
    let error = compress_corpus(&prefix, 1, false, None, &mut silent()).unwrap_err().to_string();
    assert!(error.contains("web.bin: has checksum") && error.contains("before compressing it"), "{error}");
    assert!(prefix.with_extension("bin").exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
}

/// A seekable file as others write it: frames of any sizes, an empty one, with or without checksums.
fn foreign(bytes: &[u8], sizes: &[usize], checksums: bool) -> Vec<u8> {
    let (mut out, mut entries, mut at) = (Vec::new(), Vec::new(), 0);
    let mut sizes = sizes.iter().cycle();
    while at < bytes.len() {
        let part = &bytes[at..bytes.len().min(at + sizes.next().unwrap())];
        let packed = zstd::bulk::compress(part, 1).unwrap();
        entries.extend((packed.len() as u32).to_le_bytes());
        entries.extend((part.len() as u32).to_le_bytes());
        if checksums {
            entries.extend((xxh64(part, 0) as u32).to_le_bytes());
        }
        out.extend(packed);
        at += part.len();
    }
    let count = entries.len() / if checksums { 12 } else { 8 };
    out.extend(0x184D_2A5Eu32.to_le_bytes());
    out.extend((entries.len() as u32 + 9).to_le_bytes());
    out.extend(entries);
    out.extend((count as u32).to_le_bytes());
    out.push(if checksums { 0x80 } else { 0 });
    out.extend(0x8F92_EAB1u32.to_le_bytes());
    out
}

#[test]
fn seekable_files_of_other_programs_open_even_if_their_frames_cut_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    let plain = corpus(folder.path(), "web", &varied(1000));
    let bin = fs::read(prefix.with_extension("bin")).unwrap();
    fs::remove_file(prefix.with_extension("bin")).unwrap();
    for (sizes, checksums) in
        [(&[333, 1, 0, 70][..], true), (&[1001], false), (&[1 << 20], true), (&[64], false)]
    {
        fs::write(zst(&prefix), foreign(&bin, sizes, checksums)).unwrap();
        let packed = Corpus::open(&prefix).unwrap();
        packed.verify().unwrap();
        assert!(flat(&packed) == flat(&plain), "{sizes:?}");
        let (mut a, mut b) = ([0; 100], [0; 100]);
        for at in 0..packed.tokens() - 100 {
            packed.read(at, &mut a).unwrap();
            plain.read(at, &mut b).unwrap();
            assert_eq!(a, b);
        }
    }
}

/// Changes some bytes of the file. Numbers below the seek table count from its end.
type Change = Box<dyn Fn(&mut Vec<u8>)>;

fn back<const N: usize>(from_end: usize, value: [u8; N]) -> Change {
    Box::new(move |b| {
        let at = b.len() - from_end;
        b[at..at + N].copy_from_slice(&value);
    })
}

/// A file of 140 frames (groups of 64, 64, 12) and 141 entries: table of 8 + 141 * 12 + 9 bytes, before it our frame of
/// 8 + 32 + 4 * 8 bytes.
#[test]
fn damaged_tables_and_frames_are_refused_with_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    corpus(folder.path(), "web", &[10_000; 115]); // 1,150,000 tokens: 141 frames
    compress_corpus(&prefix, 1, false, Some(1), &mut silent()).unwrap();
    let good = fs::read(zst(&prefix)).unwrap();
    let frames = 2_300_000usize.div_ceil(16 << 10);
    assert_eq!(frames, 141);
    let table = 8 + 142 * 12 + 9;
    let ours = table + 8 + 32 + 4 * 8;
    let foreign_of = |sizes: &'static [usize]| -> Change {
        let plain = zstd::decode_all(&good[..]).unwrap();
        Box::new(move |b| *b = foreign(&plain, sizes, false))
    };
    let then = |first: Change, second: Change| -> Change { Box::new(move |b| (first(b), second(b)).1) };
    let foreign_table = 8 + 23 * 8 + 9; // 2,300,000 bytes in frames of 100,000
    let rows: Vec<(&str, Change, &str)> = vec![
        ("nothing", Box::new(|b| b.clear()), "at byte 0: ends before a zstd seek table could"),
        ("short", Box::new(|b| b.truncate(16)), "at byte 16: ends before a zstd seek table could"),
        ("cut off", Box::new(|b| b.truncate(b.len() - 1)), "not with a zstd seek table (0x8f92eab1)"),
        ("wrong magic", back(4, *b"DATA"), "ends with 0x41544144, not with a zstd seek table"),
        ("unknown flags", back(5, [0x84]), "the seek table has flags 0x84, of which some are unknown"),
        ("no checksums", back(5, [0]), "the seek table of 1145 bytes begins with"),
        ("too many", back(9, u32::MAX.to_le_bytes()), "states 4294967295 frames, whose table of"),
        ("too few", back(9, 100u32.to_le_bytes()), "the seek table of 1209 bytes begins with"),
        ("head", back(table, [0]), "begins with 0x184d2a00 and states 1713 bytes"),
        ("size", back(table - 4, [1]), "begins with 0x184d2a5e and states"),
        ("our version", back(ours - 16, [2]), "offsets of version 2 for groups of 64"),
        ("our groups", back(ours - 20, [32]), "offsets of version 1 for groups of 32"),
        (
            "our frame",
            back(ours - 24, [0; 8]),
            "2300000 bytes in frames of 0 do not fit a seek table of 141 frames",
        ),
        (
            "our length",
            back(ours - 32, u64::MAX.to_le_bytes()),
            "18446744073709551615 bytes in frames of 16384",
        ),
        ("our first", back(ours - 40, [1]), "the frames run from byte 1 to"),
        ("our last", back(ours - 64, [0; 8]), "the frames run from byte 0 to 0, not from 0 to"),
        ("our second", back(ours - 48, [0; 8]), "frames 0 on lead to byte"),
        ("our third", back(ours - 56, [255; 8]), "frames 64 on lead to byte"),
        ("packed size", back(table - 8, [255]), "frames 0 on lead to byte"),
        ("size of bytes", back(table - 12, [1]), "frames 0 on lead to byte"),
        (
            "checksum",
            back(table - 16, [1, 2, 3, 4]),
            "at byte 0: the zstd frame that begins here has checksum",
        ),
        ("frame magic", Box::new(|b| b[0] = 0), "at byte 0: the zstd frame that begins here is damaged"),
        ("frame", Box::new(|b| b[3000..3100].fill(7)), "the zstd frame that begins here"),
        (
            "no frames",
            then(
                foreign_of(&[100_000]),
                Box::new(|b| {
                    *b = b[b.len() - 9..].to_vec();
                    b[..4].fill(0);
                    b.splice(0..0, [0x5E, 0x2A, 0x4D, 0x18, 9, 0, 0, 0]);
                }),
            ),
            "but .bin has 0",
        ),
        (
            "foreign sum",
            then(foreign_of(&[100_000]), back(foreign_table - 8, [255; 4])),
            "the frames take 42",
        ),
        (
            "foreign bytes",
            then(foreign_of(&[100_000]), back(foreign_table - 12, [0, 0, 0, 4])),
            "but .bin has",
        ),
        (
            "foreign swap",
            then(
                foreign_of(&[100_000, 90_000]),
                Box::new(|b| {
                    // Sizes of the first two frames change places: their sum stays.
                    let at = b.len() - (8 + 25 * 8 + 9) + 8;
                    let (one, two) = (b[at + 4..at + 8].to_vec(), b[at + 12..at + 16].to_vec());
                    b[at + 4..at + 8].copy_from_slice(&two);
                    b[at + 12..at + 16].copy_from_slice(&one);
                }),
            ),
            "the zstd frame that begins here",
        ),
    ];
    for (name, change, want) in rows {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert!(bytes != good, "{name} changes nothing");
        fs::write(zst(&prefix), bytes).unwrap();
        let error = Corpus::open(&prefix).and_then(|c| c.verify()).expect_err(name);
        assert_eq!(error.exit_code(), 3, "{name}: {error}");
        let error = error.to_string();
        assert!(error.contains(want) && error.contains("/web.") && !error.contains('\n'), "{name}: {error}");
    }
}

#[test]
fn every_single_byte_of_a_compressed_corpus_matters_or_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("web");
    let want = flat(&corpus(folder.path(), "web", &[90, 30]));
    compress_corpus(&prefix, 1, false, Some(1), &mut silent()).unwrap();
    let good = fs::read(zst(&prefix)).unwrap();
    for at in 0..good.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(zst(&prefix), bad).unwrap();
            let read = Corpus::open(&prefix).and_then(|c| c.verify().map(|()| c));
            // Some bytes say nothing about the tokens (our frame's name: then the places are added up).
            assert!(read.is_err() || flat(&read.unwrap()) == want, "byte {at} changed by {flip:#x}");
        }
    }
}
