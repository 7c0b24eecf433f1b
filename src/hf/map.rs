//! Where the file keeps one of our tensors: its name there, and how to find an element.

use super::family::Family;
use crate::params::ParamSpec;

/// A module of ours: "embed.tokens", or "attn.q" inside a block.
#[derive(Clone, Copy)]
pub struct Module<'a> {
    pub block: bool,
    pub module: &'a str,
    /// The tensor is its bias, otherwise its weight.
    pub bias: bool,
}

/// How a stored tensor holds ours. Biases are vectors, which have no other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Same,
    /// (in, out)
    Transposed,
    /// (in, out), part `part` of `of` equal ones along out.
    Fused {
        part: usize,
        of: usize,
    },
}

/// A tensor of the file and which part of it is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub name: String,
    /// of the whole stored tensor
    pub shape: Vec<usize>,
    /// Stored as (in, out).
    pub transposed: bool,
    /// Our row 0 along the stored tensor's out side.
    pub first: usize,
}

impl Stored {
    /// Element (row, col) of ours as an index into the stored tensor; along which of the two the next element of
    /// the file lies, `transposed` says.
    pub fn index(&self, row: usize, col: usize) -> usize {
        let width = self.shape.get(1).copied().unwrap_or(1);
        if self.transposed { col * width + self.first + row } else { (self.first + row) * width + col }
    }
}

/// `None` if the family has no such tensor.
pub fn stored(family: Family, spec: &ParamSpec) -> Option<Stored> {
    let (path, param) = spec.name.rsplit_once('.')?;
    let (layer, module) = match path.strip_prefix("blocks.") {
        Some(rest) => rest.split_once('.').map(|(layer, module)| (Some(layer), module))?,
        None => (None, path),
    };
    let (name, layout) = family.module(Module { block: layer.is_some(), module, bias: param == "bias" })?;
    let name = match layer {
        Some(layer) => format!("{}{layer}.{name}.{param}", family.blocks()),
        None => format!("{name}.{param}"),
    };
    let (part, of) = if let Layout::Fused { part, of } = layout { (part, of) } else { (0, 1) };
    let rows = of * spec.rows;
    let transposed = !spec.vector && layout != Layout::Same;
    let shape = match (spec.vector, transposed) {
        (true, _) => vec![rows],
        (_, true) => vec![spec.cols, rows],
        (_, false) => vec![rows, spec.cols],
    };
    Some(Stored { name, shape, transposed, first: part * spec.rows })
}

/// The name as the model with a head has it: files of headless models lack the prefix, and files converted from
/// TensorFlow call the parameters of norms gamma and beta.
pub fn full_name(family: Family, name: &str) -> String {
    let name = match (name.strip_suffix(".gamma"), name.strip_suffix(".beta")) {
        (Some(norm), _) => format!("{norm}.weight"),
        (_, Some(norm)) => format!("{norm}.bias"),
        _ => name.to_string(),
    };
    let headed = ["lm_head.", "cls.", family.base()].iter().any(|prefix| name.starts_with(prefix));
    if headed { name } else { format!("{}{name}", family.base()) }
}
