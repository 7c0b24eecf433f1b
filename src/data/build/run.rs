//! One build from its options to the files: plan, tokenizer, the chunks in order, columns, names.

use super::columns::Columns;
use super::encode::{Encoded, Worker, path_of};
use super::inputs::{Format, Input, find};
use super::journal::{self, Plan, State};
use super::pipeline::{self, Go};
use super::reader::Reader;
use super::{Control, Keys, Options, Progress, Summary, Wanted};
use crate::data::Corpus;
use crate::data::side::{SideType, StreamWriter, allowed};
use crate::data::staging::Staging;
use crate::data::tokenizer::{Cuts, Spec, Tokenizer, fingerprint, train};
use crate::data::writer::CorpusWriter;
use crate::{Error, Result};
use serde_json::json;
use std::path::Path;
use std::time::Instant;

/// The side stream of prompt and completion pairs.
const LOSS: &str = "loss";
const DEFINITION: &str = "corpus.tokenizer.json";
const BAD_EXAMPLES: usize = 5;

pub(super) fn run(options: &Options, mut control: Control) -> Result<Option<Summary>> {
    check(options)?;
    let inputs = find(&options.inputs, options.format)?;
    if let (Keys::Pair { .. }, Some(text)) =
        (&options.keys, inputs.iter().find(|input| input.format != Format::Jsonl))
    {
        let problem = "is text, but prompts and completions are read from JSONL";
        return Err(Error::data(&text.path, problem, "leave it out, or say --format jsonl"));
    }
    let plan = plan(options, inputs)?;
    let mut staging = Staging::open(&options.out)?;
    let kept = staging.file("plan.json").exists() && !options.restart;
    let mut state = None;
    if kept {
        staging.keep = true;
        let earlier = journal::read(&staging.file("plan.json"))?.unwrap_or_else(|| plan.clone());
        plan.check(&earlier, staging.folder())?;
        state = journal::read(&staging.file("state.json"))?;
        staging.keep = state.is_some();
    } else {
        staging.clear()?;
    }
    let tokenizer = tokenizer(options, &plan.inputs, &staging)?;
    let vocab = options.pad_vocab.map_or(tokenizer.vocab(), |n| tokenizer.padded_vocab(n));
    let mut summary =
        Summary { files: plan.inputs.len() as u64, vocab, resumed: state.is_some(), ..Summary::default() };
    if let Some(state) = state.as_ref().filter(|_| staging.is_complete()) {
        staging.publish()?;
        summary.count(state);
        return Ok(Some(summary));
    }
    if !kept {
        journal::write(staging.folder(), "plan.json", &plan)?;
    }
    let mut build = Build::new(options, &plan.inputs, &tokenizer, vocab, staging, state)?;
    if build.read(&mut control)? == Go::Stop {
        return Ok(None);
    }
    summary.count(&build.state);
    build.finish()?;
    Ok(Some(summary))
}

impl Summary {
    fn count(&mut self, state: &State) {
        self.documents = state.mark.documents;
        self.tokens = state.mark.tokens;
        self.source_bytes = state.mark.source_bytes;
        self.empty = state.empty;
        self.bad = state.bad;
        self.bad_examples = state.bad_examples.clone();
        self.columns = state.columns.names();
    }
}

fn check(options: &Options) -> Result<()> {
    let bad =
        |key: &str, problem: String, remedy: &str| Err(Error::config("corpus build", key, problem, remedy));
    if let Wanted::Named(names) = &options.columns
        && let Some(name) = names.iter().find(|name| !allowed(name))
    {
        let problem = format!("\"{name}\" cannot name a document column");
        return bad("--columns", problem, "a column has 1 to 100 letters, digits, _ and -");
    }
    if options.threads == 0 {
        return bad("--threads", "0 threads were asked for".into(), "give 1 or more");
    }
    if options.tokenizer == Spec::Byte && options.pad_vocab.is_some() {
        let problem = "the byte vocabulary has 257 tokens and is not padded".into();
        return bad("--pad-vocab-to-multiple", problem, "leave it out; model.vocab may be larger");
    }
    if options.pad_vocab == Some(0) {
        return bad("--pad-vocab-to-multiple", "0 has no multiples".into(), "give 1 or more, such as 128");
    }
    Ok(())
}

fn plan(options: &Options, inputs: Vec<Input>) -> Result<Plan> {
    let tokenizer = match &options.tokenizer {
        Spec::File(path) => format!("{} {:016x}", path.display(), fingerprint(path)?),
        spec => spec.to_string(),
    };
    let all = json!({
        "tokenizer": tokenizer,
        "eod": options.end,
        "special-as-text": options.special_as_text,
        "pad-vocab-to-multiple": options.pad_vocab,
        "keys": options.keys,
        "columns": options.columns,
        // Absent in the journals of builds that know no such option.
        "keep-empty": options.keep_empty.then_some(true),
        "train-mib": match options.tokenizer {
            Spec::Train(..) => options.train_bytes.into(),
            _ => serde_json::Value::Null,
        },
    });
    let serde_json::Value::Object(all) = all else { unreachable!("written as an object") };
    Ok(Plan { version: journal::VERSION, options: all, inputs })
}

/// The tokenizer, whose definition then lies in the folder.
fn tokenizer(options: &Options, inputs: &[Input], staging: &Staging) -> Result<Tokenizer> {
    let kept = staging.file(DEFINITION);
    let mut tokenizer = match &options.tokenizer {
        Spec::Byte => Tokenizer::byte(),
        _ if kept.exists() => Tokenizer::read(&kept)?,
        Spec::Gpt2 => Tokenizer::gpt2()?,
        Spec::File(path) => Tokenizer::read(path)?,
        Spec::Train(kind, size) => {
            let longest = options.max_document.unwrap_or(most(Cuts::Lines));
            let texts = super::sample::sample(inputs, &options.keys, longest, options.train_bytes)?;
            let source = options.inputs.first().map_or(Path::new("input"), |p| p.as_path());
            Tokenizer::from_json(&train(*kind, *size, &texts, source)?, source)?
        }
    };
    if let Some(definition) = tokenizer.definition().filter(|_| !kept.exists() && !staging.is_complete()) {
        journal::write_text(staging.folder(), DEFINITION, definition.as_bytes())?;
    }
    tokenizer.end_with(&options.end, &options.tokenizer.to_string())?;
    tokenizer.special_as_text(options.special_as_text);
    Ok(tokenizer)
}

fn most(cuts: Cuts) -> usize {
    match cuts {
        Cuts::Anywhere | Cuts::Lines => 64 << 20,
        Cuts::Nowhere => 8 << 20,
    }
}

struct Build<'a> {
    options: &'a Options,
    inputs: &'a [Input],
    tokenizer: &'a Tokenizer,
    writer: CorpusWriter,
    loss: Option<StreamWriter>,
    columns: Columns,
    state: State,
    progress: Progress,
}

impl<'a> Build<'a> {
    fn new(
        options: &'a Options,
        inputs: &'a [Input],
        tokenizer: &'a Tokenizer,
        vocab: u32,
        staging: Staging,
        state: Option<State>,
    ) -> Result<Build<'a>> {
        let (prefix, rows) = (staging.corpus(), staging.file("columns"));
        let loss = match (&options.keys, &state) {
            (Keys::Text(_), _) => None,
            (Keys::Pair { .. }, None) => Some(StreamWriter::create(&prefix, LOSS, SideType::U8)?),
            (Keys::Pair { .. }, Some(state)) => {
                // An earlier process may have come to the point where the stream got its name.
                let (named, growing) =
                    (staging.file("corpus.stream.loss"), staging.file("corpus.stream.loss.tmp"));
                if named.exists() {
                    std::fs::rename(&named, &growing).map_err(Error::io(&named, "rename"))?;
                }
                Some(StreamWriter::resume(&prefix, LOSS, SideType::U8, state.mark.tokens)?)
            }
        };
        let state = state.unwrap_or_default();
        let end = tokenizer.end_of_document();
        let mut writer = CorpusWriter::resume(staging, vocab, tokenizer.id().clone(), end, state.mark)?;
        writer.keep_empty(options.keep_empty);
        if loss.is_some() {
            writer.weigh_by(LOSS);
        }
        let progress =
            Progress { total: inputs.iter().map(|input| input.bytes).sum(), ..Progress::default() };
        let columns = Columns::resume(rows, state.columns.clone())?;
        Ok(Build { options, inputs, tokenizer, writer, loss, columns, state, progress })
    }

    /// Reads and encodes the rest of the input.
    fn read(&mut self, control: &mut Control) -> Result<Go> {
        let (tokenizer, options, inputs) = (self.tokenizer, self.options, self.inputs);
        let cuts = tokenizer.cuts();
        let most = options.max_document.unwrap_or(most(cuts));
        let path = path_of(inputs);
        let worker = || Worker {
            encoder: tokenizer.encoder(),
            cuts,
            most,
            keys: &options.keys,
            wanted: &options.columns,
            path: &path,
        };
        let reader = Reader::new(inputs, cuts, most, self.state.place);
        let mut noted = Instant::now();
        let stop = control.stop;
        let go = pipeline::run(
            reader,
            options.threads,
            worker,
            |encoded| {
                self.take(encoded)?;
                (control.show)(&self.progress);
                if noted.elapsed() >= options.journal_every {
                    self.note()?;
                    noted = Instant::now();
                }
                Ok(Go::On)
            },
            || Ok(if stop() { Go::Stop } else { Go::On }),
        )?;
        self.note()?;
        Ok(go)
    }

    /// Writes one chunk.
    fn take(&mut self, encoded: Encoded) -> Result<()> {
        let mut at = 0;
        let mut bad = encoded.bad.into_iter().peekable();
        for (number, piece) in encoded.pieces.iter().enumerate() {
            while let Some((_, error)) = bad.next_if(|(before, _)| *before <= number) {
                self.pass_over(error)?;
            }
            let before = self.writer.tokens();
            self.writer.push(&encoded.tokens[at..at + piece.tokens])?;
            at += piece.tokens;
            self.state.document_bytes += piece.bytes;
            if piece.ends {
                let bytes = std::mem::take(&mut self.state.document_bytes);
                let empty = !self.writer.in_document();
                self.state.empty += u64::from(empty);
                if !empty || self.options.keep_empty {
                    self.writer.end_document(bytes)?;
                    self.columns.push(&piece.columns)?;
                    self.progress.documents += 1;
                }
            }
            if let Some(loss) = &mut self.loss {
                loss.fill(0.0, piece.prompt as u64)?;
                loss.fill(1.0, self.writer.tokens() - before - piece.prompt as u64)?;
            }
        }
        bad.try_for_each(|(_, error)| self.pass_over(error))?;
        if let Some(error) = encoded.failed {
            return Err(error);
        }
        self.state.place = encoded.next;
        self.progress.read = encoded.read;
        self.progress.text += encoded.text_bytes;
        self.progress.tokens = self.writer.tokens();
        Ok(())
    }

    fn pass_over(&mut self, error: Error) -> Result<()> {
        if self.state.bad >= self.options.skip_bad {
            return Err(error);
        }
        self.state.bad += 1;
        if self.state.bad_examples.len() < BAD_EXAMPLES {
            self.state.bad_examples.push(error.to_string());
        }
        Ok(())
    }

    /// Makes all so far safe; from then on the folder stays whatever happens.
    fn note(&mut self) -> Result<()> {
        self.state.mark = self.writer.sync()?;
        self.state.columns = self.columns.sync()?;
        if let Some(loss) = &mut self.loss {
            loss.sync()?;
        }
        let staging = self.writer.staging();
        journal::write(staging.folder(), "state.json", &self.state)?;
        staging.keep = true;
        Ok(())
    }

    /// Completes what lies in the folder and gives it its names.
    fn finish(mut self) -> Result<()> {
        if let Err(e) = self.writer.stage() {
            self.writer.staging().keep = false;
            return Err(e);
        }
        let prefix = self.writer.staging().corpus();
        let hash = Corpus::open(&prefix)?.hash();
        if let Some(loss) = self.loss.take() {
            loss.finish(hash)?;
        }
        self.columns.finish(&prefix, hash)?;
        self.writer.publish()
    }
}
