//! Hugging Face directories (config.json and safetensors), both ways, for five families. One file per family says
//! what its config keys mean and what its tensors are called; everything else is written once.
//!
//!     read_config    config.json -> (Family, ModelConfig); what would change the mathematics is refused by name
//!     HfSource       the weights as a `TensorSource`, read box by box from mapped files
//!     export         any `TensorSource` -> a directory that `from_pretrained` loads

mod atomic;
mod bert;
mod config;
mod decode;
mod export;
mod family;
mod fields;
mod files;
mod gpt2;
mod import;
mod llama;
mod map;
mod qwen;
mod rope;

pub use config::{config_json, read_config, write_config};
pub use export::{Export, export};
pub use family::Family;
pub use import::{HfSource, Options};
