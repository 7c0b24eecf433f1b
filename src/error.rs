//! What can go wrong, in one enum. Each message is one sentence with the place, the value and the remedy.

use std::path::{Path, PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be honoured: run file, `--set`, command line, Hugging Face config.
    #[error("{file}: {key}: {problem}{}", hint(.remedy))]
    Config { file: String, key: String, problem: String, remedy: String },
    /// A corpus, tokenizer or text that is missing, damaged or does not fit.
    #[error("{}{}: {problem}{}", .path.display(), at(.offset), hint(.remedy))]
    Data { path: PathBuf, offset: Option<u64>, problem: String, remedy: String },
    /// A checkpoint or weight file that is missing, damaged or does not fit.
    #[error("{}: {problem}{}", .path.display(), hint(.remedy))]
    Checkpoint { path: PathBuf, problem: String, remedy: String },
    /// Another rank did not arrive at a collective, or failed.
    #[error("rank {rank}: {problem}")]
    RankLost { rank: usize, problem: String },
    /// A loss or gradient that is not finite.
    #[error("step {step}: {problem}{}", hint(.remedy))]
    Numerics { step: u64, problem: String, remedy: String },
    /// The way the program was started: ranks, launcher, device.
    #[error("{problem}{}", hint(.remedy))]
    Launch { problem: String, remedy: String },
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}{}", .path.display(), hint(remedy(.source)))]
    Io { path: PathBuf, action: &'static str, source: std::io::Error },
    /// The run was asked to stop and has written a checkpoint.
    #[error("stopped at step {step} as asked; the same command resumes")]
    Requeue { step: u64 },
    /// Work other than a run was asked to stop and has left what it needs to go on.
    #[error("{what} stopped as asked; the same command goes on")]
    Stopped { what: String },
}

impl Error {
    pub fn config(
        file: impl ToString,
        key: impl ToString,
        problem: impl ToString,
        remedy: impl ToString,
    ) -> Error {
        Error::Config {
            file: file.to_string(),
            key: key.to_string(),
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }
    pub fn data(path: impl AsRef<Path>, problem: impl ToString, remedy: impl ToString) -> Error {
        Error::Data {
            path: path.as_ref().into(),
            offset: None,
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }
    pub fn checkpoint(path: impl AsRef<Path>, problem: impl ToString, remedy: impl ToString) -> Error {
        Error::Checkpoint {
            path: path.as_ref().into(),
            problem: problem.to_string(),
            remedy: remedy.to_string(),
        }
    }
    pub fn launch(problem: impl ToString, remedy: impl ToString) -> Error {
        Error::Launch { problem: problem.to_string(), remedy: remedy.to_string() }
    }
    /// For `map_err`: what was done to which file.
    pub fn io(path: impl AsRef<Path>, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { path, action, source }
    }
    /// The exit code of the process: 2 configuration, 3 data, 4 checkpoint, 5 rank lost, 6 numerics, 75 requeue.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::Config { .. } | Error::Launch { .. } => 2,
            Error::Data { .. } => 3,
            Error::Checkpoint { .. } => 4,
            Error::RankLost { .. } => 5,
            Error::Numerics { .. } => 6,
            Error::Io { .. } => 3,
            Error::Requeue { .. } | Error::Stopped { .. } => 75,
        }
    }
}

/// What usually helps when the system refuses.
fn remedy(source: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::*;
    match source.kind() {
        NotFound => "check the path",
        PermissionDenied | ReadOnlyFilesystem => "check who may read and write there",
        StorageFull | QuotaExceeded => "make room, or choose another disk",
        AlreadyExists | IsADirectory | NotADirectory => "choose another path, or move what is there",
        _ => "",
    }
}

fn hint(remedy: &str) -> String {
    if remedy.is_empty() { String::new() } else { format!("; {remedy}") }
}

fn at(offset: &Option<u64>) -> String {
    offset.map_or(String::new(), |o| format!(" at byte {o}"))
}
