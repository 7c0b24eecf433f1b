//! Input of `corpus build`: text and JSONL, plain, gzip or zstd. The first byte says how it is read.
#![no_main]
use espalier::data::build::{Control, Format, Keys, Options, Wanted, build};
use espalier::data::{Corpus, side};
use espalier::{folder, put, use_all};
use std::cell::Cell;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&how, input)) = data.split_first() else { return };
    let prefix = folder().join("built");
    let mut options = Options::new(&[put("input", input)], &prefix);
    options.format = if how & 1 == 0 { Format::Jsonl } else { Format::Text };
    if how & 2 != 0 {
        options.keys = Keys::Pair { prompt: "prompt".into(), completion: "text".into() };
    }
    if how & 4 != 0 {
        options.columns = Wanted::Named(vec!["meta".into(), "n".into()]);
    }
    options.skip_bad = u64::from(how >> 3);
    (options.threads, options.restart, options.max_document) = (1, true, Some(1 << 16));
    // A few bytes can stand for gigabytes; what matters happens in the first megabytes.
    let text = Cell::new(0);
    let control = Control { stop: &|| text.get() > 1 << 22, show: &mut |progress| text.set(progress.text) };
    if let Ok(Some(summary)) = build(&options, control) {
        use_all(&prefix).expect("what was built is sound");
        let corpus = Corpus::open(&prefix).expect("it was opened before");
        for name in &summary.columns {
            let column = side::Column::open(&corpus, name).expect("its columns are sound");
            assert!((0..corpus.documents()).all(|doc| column.get(doc).is_ok()));
            std::fs::remove_file(side::column_path(&prefix, name).expect("allowed")).expect("it was read");
        }
        let _ = std::fs::remove_file(side::stream_path(&prefix, "loss").expect("allowed"));
    }
});
