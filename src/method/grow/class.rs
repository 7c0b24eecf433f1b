//! What a tensor is to growth: the axes along its two sides. Operators know axes and not names, so this is the only table of
//! names.

/// An axis of the network. The residual stream carries zeros (or means) in what is new, and its readers may do as they like
/// there; heads and FFN units compute anything that is new, and their readers ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Residual,
    Query,
    Kv,
    Ffn,
    Vocab,
    /// Not grown: positions, types, channels of a head's norm, the one column of a vector.
    Fixed,
}

/// What a tensor does with the axis along its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// y = W·x: columns of copies share the weight.
    Reads,
    /// A table of rows: copies are equal.
    Writes,
}

/// A tensor as growth sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Class {
    pub rows: Axis,
    pub cols: Axis,
    pub side: Side,
    pub part: Part,
}

/// What more there is to know of some tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Scale or bias of a norm of the residual stream.
    Norm {
        of: NormOf,
        bias: bool,
    },
    /// Of the projections that give queries or keys.
    Query,
    Key,
    /// What a block adds to the stream.
    Output,
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormOf {
    Embedding,
    /// The first or second of a block.
    Block(u8),
    /// Before the projection of the head.
    Head,
}

/// The block of a tensor, and its name in it or in the network.
pub fn split(name: &str) -> (Option<usize>, &str) {
    let block = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match block.and_then(|(layer, rest)| Some((layer.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, name),
    }
}

impl Class {
    /// Of a tensor by its name, that of its block left out.
    pub fn of(name: &str) -> Class {
        let (module, param) = name.rsplit_once('.').unwrap_or((name, ""));
        let bias = param == "bias";
        let norm = |of| (Axis::Residual, Axis::Fixed, Side::Reads, Part::Norm { of, bias });
        let (rows, cols, side, part) = match module {
            "embed.tokens" => (Axis::Vocab, Axis::Residual, Side::Writes, Part::Plain),
            "embed.positions" | "embed.types" => (Axis::Fixed, Axis::Residual, Side::Writes, Part::Plain),
            "embed.norm" => norm(NormOf::Embedding),
            "norm1" => norm(NormOf::Block(1)),
            "norm2" => norm(NormOf::Block(2)),
            "norm" | "head.norm" => norm(NormOf::Head),
            "attn.q" => (Axis::Query, Axis::Residual, Side::Reads, Part::Query),
            "attn.k" => (Axis::Kv, Axis::Residual, Side::Reads, Part::Key),
            "attn.v" => (Axis::Kv, Axis::Residual, Side::Reads, Part::Plain),
            "attn.q_norm" | "attn.k_norm" => (Axis::Fixed, Axis::Fixed, Side::Reads, Part::Plain),
            "attn.o" => (Axis::Residual, Axis::Query, Side::Reads, Part::Output),
            "mlp.gate" | "mlp.up" => (Axis::Ffn, Axis::Residual, Side::Reads, Part::Plain),
            "mlp.down" => (Axis::Residual, Axis::Ffn, Side::Reads, Part::Output),
            "head.dense" => (Axis::Residual, Axis::Residual, Side::Reads, Part::Plain),
            "head" => (Axis::Vocab, Axis::Residual, Side::Reads, Part::Plain),
            _ => panic!("growth knows no tensor {name}"),
        };
        // A bias is along the rows of its matrix.
        let cols = if bias { Axis::Fixed } else { cols };
        Class { rows, cols, side, part }
    }
}
