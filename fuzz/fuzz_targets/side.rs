//! PREFIX.stream.X and PREFIX.col.X, beside a corpus of ten tokens in two documents.
#![no_main]
use espalier::data::{Corpus, side};
use espalier::{folder, index, json, put};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    put("web.json", json(10, 2).as_bytes());
    put("web.idx", &index(&[4, 6], &[0, 1, 2]));
    put("web.bin", &[1; 20]);
    let corpus = Corpus::open(&folder().join("web")).expect("it is sound");
    // The hash is the corpus's, so that the rest is what decides.
    let mut bytes = data.to_vec();
    if let Some(hash) = bytes.get_mut(16..24) {
        hash.copy_from_slice(&corpus.hash().to_le_bytes());
    }
    put("web.stream.x", &bytes);
    put("web.col.x", &bytes);
    if let Ok(stream) = side::Stream::open(&corpus, "x") {
        let mut values = [0.0; 10];
        let _ = stream.read(0, &mut values);
        let _ = stream.read(5, &mut values);
        let _ = stream.verify();
    }
    if let Ok(column) = side::Column::open(&corpus, "x") {
        let _ = (0..3).map(|doc| column.get(doc)).filter(Result::is_ok).count();
        let _ = column.verify();
    }
});
