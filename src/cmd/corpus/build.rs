//! `corpus build`: text to a corpus.

use super::progress::Rate;
use crate::data::build::{Control, Format, Keys, Options, Summary, Wanted, build};
use crate::data::tokenizer::{EndOfDocument, Spec};
use crate::{Error, Result, signal};
use std::path::PathBuf;
use std::time::Duration;

/// Text files (one document each) and JSONL files (one document a line) to a corpus
///
/// Files may be compressed with gzip or zstd. The same command goes on after an interruption. Tokens that a tokenizer's
/// template adds ([CLS], <s>) are not added; documents without text are left out or, with --keep-empty, kept. Other keys of JSONL become document
/// columns OUT.col.KEY; prompts and completions get a side stream OUT.stream.loss, 0 for tokens of the prompt.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus build texts/ --out data/web
  espalier corpus build pages.jsonl.zst --out data/web --tokenizer gpt2
  espalier corpus build texts/ --out data/own --tokenizer train-bpe:8192
  espalier corpus build chats.jsonl --out data/chat --prompt-key prompt --completion-key completion")]
pub struct Build {
    /// Files, or directories that are searched for *.txt, *.md, *.jsonl and *.ndjson, compressed or not
    #[arg(value_name = "INPUT")]
    files: Vec<PathBuf>,
    /// The same, where that reads better
    #[arg(long, num_args = 1.., value_name = "INPUT", required_unless_present = "files")]
    input: Vec<PathBuf>,
    /// Prefix of the files to write: OUT.bin, OUT.idx, OUT.json, OUT.tokenizer.json
    #[arg(long)]
    out: PathBuf,
    /// byte, gpt2, a tokenizer.json (or its folder), train-bpe:SIZE or train-wordpiece:SIZE
    #[arg(long, default_value = "byte")]
    tokenizer: String,
    /// The token that ends each document [default: the tokenizer's <|endoftext|>, </s>, [SEP] or the like]
    #[arg(long, value_name = "TOKEN", conflicts_with = "no_eod")]
    eod: Option<String>,
    /// End documents with no token
    #[arg(long)]
    no_eod: bool,
    /// Special tokens written out in the text stay text [default: they become their ids]
    #[arg(long)]
    special_as_text: bool,
    /// Round the vocabulary up, such as to a multiple of 128
    #[arg(long, value_name = "N")]
    pad_vocab_to_multiple: Option<u32>,
    /// auto (by the name: .jsonl, .ndjson and .json are lines), text or jsonl
    #[arg(long, default_value = "auto")]
    format: String,
    /// Key of the text in JSONL
    #[arg(long, default_value = "text", conflicts_with_all = ["prompt_key", "completion_key"])]
    text_key: String,
    /// Key of the prompt, whose tokens are not trained on
    #[arg(long, requires = "completion_key")]
    prompt_key: Option<String>,
    /// Key of the completion
    #[arg(long, requires = "prompt_key")]
    completion_key: Option<String>,
    /// Keys that become document columns; "" for none [default: all that hold numbers, strings or booleans]
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Keep documents without text, as documents without tokens [default: they are left out]
    #[arg(long)]
    keep_empty: bool,
    /// Pass over at most N lines that are bad, and say which
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip_bad: u64,
    /// Longest line, or stretch of text the tokenizer needs whole [default: 64; 8 if it needs documents whole]
    #[arg(long, value_name = "MIB")]
    max_document: Option<usize>,
    /// Text a tokenizer is trained on at most, spread over the input
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    train_sample: u64,
    /// Threads that encode [default: all cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Throw away what an earlier build left unfinished
    #[arg(long)]
    restart: bool,
    /// Seconds between entries of the journal that a killed build goes on from
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    journal_every: f64,
}

impl Build {
    pub fn run(self) -> Result<()> {
        let options = self.options()?;
        signal::listen();
        let mut rate = Rate::new();
        let control = Control { stop: &signal::asked_to_stop, show: &mut |progress| rate.show(progress) };
        let result = build(&options, control);
        drop(rate);
        match result? {
            Some(summary) => {
                self.report(&summary);
                Ok(())
            }
            None => Err(Error::Stopped { what: format!("building {}", self.out.display()) }),
        }
    }

    fn options(&self) -> Result<Options> {
        let wrong = |key: &str, problem: String, remedy: &str| {
            Err(Error::config("corpus build", key, problem, remedy))
        };
        let inputs: Vec<PathBuf> = self.files.iter().chain(&self.input).cloned().collect();
        let mut options = Options::new(&inputs, &self.out);
        options.tokenizer = Spec::parse(&self.tokenizer)?;
        options.end = match (&self.eod, self.no_eod) {
            (_, true) => EndOfDocument::None,
            (Some(token), _) => EndOfDocument::Token(token.clone()),
            (None, _) => EndOfDocument::Usual,
        };
        options.special_as_text = self.special_as_text;
        options.pad_vocab = self.pad_vocab_to_multiple;
        options.format = match self.format.as_str() {
            "auto" => Format::Auto,
            "text" => Format::Text,
            "jsonl" => Format::Jsonl,
            other => {
                return wrong("--format", format!("\"{other}\" is not a format"), "give auto, text or jsonl");
            }
        };
        options.keys = match (&self.prompt_key, &self.completion_key) {
            (Some(prompt), Some(completion)) => {
                Keys::Pair { prompt: prompt.clone(), completion: completion.clone() }
            }
            _ => Keys::Text(self.text_key.clone()),
        };
        if let Some(names) = &self.columns {
            options.columns = Wanted::Named(names.iter().filter(|name| !name.is_empty()).cloned().collect());
        }
        options.keep_empty = self.keep_empty;
        options.skip_bad = self.skip_bad;
        options.max_document = self.max_document.map(|mib| mib.saturating_mul(1 << 20));
        options.train_bytes = self.train_sample.saturating_mul(1 << 20);
        options.threads = self.threads.unwrap_or(options.threads);
        options.restart = self.restart;
        options.journal_every = match Duration::try_from_secs_f64(self.journal_every) {
            Ok(every) => every,
            Err(_) => {
                let problem = format!("{} is no length of time", self.journal_every);
                return wrong("--journal-every", problem, "give seconds, such as 10");
            }
        };
        Ok(options)
    }

    fn report(&self, s: &Summary) {
        let out = self.out.display();
        println!(
            "{out}: {} documents, {} tokens from {} bytes in {} files",
            s.documents, s.tokens, s.source_bytes, s.files
        );
        if self.tokenizer != "byte" {
            println!("  vocabulary {} ({})", s.vocab, self.tokenizer);
        }
        if s.empty > 0 {
            let done = if self.keep_empty { "kept" } else { "left out" };
            println!("  {} documents without text {done}", s.empty);
        }
        if !s.columns.is_empty() {
            println!("  document columns: {}", s.columns.join(", "));
        }
        if self.prompt_key.is_some() {
            println!("  side stream loss: 0 for tokens of the prompt, 1 for the rest");
        }
        if s.bad > 0 {
            println!("  {} bad lines passed over:", s.bad);
            s.bad_examples.iter().for_each(|line| println!("    {line}"));
            if s.bad > s.bad_examples.len() as u64 {
                println!("    ...");
            }
        }
        if s.resumed {
            println!("  went on from what an earlier build left");
        }
    }
}
