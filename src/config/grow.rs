//! Growth as a phase or a command gives it: sizes and operators, and the model that comes of them (bert2BERT, arXiv 2110.07143;
//! LEMON, arXiv 2310.07999; G_stack, arXiv 2405.15319).

use super::model::{Head, ModelConfig, Norm, NormPlace, Positions, limit};
use super::table::Table;
use crate::Result as Read;

/// How width is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// New channels that carry nothing yet: lossless. For LayerNorm whole copies and the mean of the old channels in the rest
    /// (the average expansion of LEMON).
    ZeroPad,
    /// Every channel equally often, readers split unequally: lossless.
    Tile,
    /// bert2BERT's function-preserving initialisation: copies at random, readers split equally.
    Fpi,
    /// bert2BERT's advanced knowledge initialisation: FPI, new rows from the next block.
    Aki,
}

/// How depth is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// New blocks that change nothing yet: lossless.
    Identity,
    /// The whole stack again, the top blocks where that is not whole (G_stack).
    Stack,
    /// Every block followed by its copies.
    Interpolate,
}

pub const WIDTHS: &[(&str, Width)] =
    &[("zero_pad", Width::ZeroPad), ("tile", Width::Tile), ("fpi", Width::Fpi), ("aki", Width::Aki)];
pub const DEPTHS: &[(&str, Depth)] =
    &[("identity", Depth::Identity), ("stack", Depth::Stack), ("interpolate", Depth::Interpolate)];

fn name_of<T: PartialEq>(all: &[(&'static str, T)], one: &T) -> &'static str {
    all.iter().find(|(_, x)| x == one).expect("every operator has a name").0
}

impl Width {
    /// As the run file calls it.
    pub fn name(self) -> &'static str {
        name_of(WIDTHS, &self)
    }
}

impl Depth {
    /// As the run file calls it.
    pub fn name(self) -> &'static str {
        name_of(DEPTHS, &self)
    }
}

/// The sizes to grow to; what is not given stays, but for the kv heads of a model in which every head has its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub layers: Option<usize>,
    pub dim: Option<usize>,
    pub heads: Option<usize>,
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub ffn_dim: Option<usize>,
    pub vocab: Option<usize>,
}

/// Key, problem, remedy.
pub type Refused = (&'static str, String, String);

impl Sizes {
    /// The keys, as run files and the command line have them.
    pub const KEYS: [&'static str; 7] =
        ["layers", "dim", "heads", "kv_heads", "head_dim", "ffn_dim", "vocab"];

    /// The size of a key of `KEYS`.
    pub fn get(&self, key: &str) -> Option<usize> {
        let all = [self.layers, self.dim, self.heads, self.kv_heads, self.head_dim, self.ffn_dim, self.vocab];
        Sizes::KEYS.iter().zip(all).find(|(k, _)| **k == key)?.1
    }

    /// Sets the size of a key of `KEYS`; whether there is such a key.
    pub fn set(&mut self, key: &str, size: usize) -> bool {
        let field = match key {
            "layers" => &mut self.layers,
            "dim" => &mut self.dim,
            "heads" => &mut self.heads,
            "kv_heads" => &mut self.kv_heads,
            "head_dim" => &mut self.head_dim,
            "ffn_dim" => &mut self.ffn_dim,
            "vocab" => &mut self.vocab,
            _ => return false,
        };
        *field = Some(size);
        true
    }
}

/// What a model becomes and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Grow {
    pub to: Sizes,
    pub width: Width,
    pub depth: Depth,
    /// Of random maps, of unequal splits and of what is new.
    pub seed: u64,
}

/// Growth at the start of a phase.
#[derive(Clone, Debug, PartialEq)]
pub struct PhaseGrow {
    pub grow: Grow,
    /// The model from this phase on.
    pub model: ModelConfig,
}

/// Largest size of each of `Sizes::KEYS`.
pub(super) const LIMITS: [usize; 7] =
    [limit::LAYERS, limit::DIM, limit::HEADS, limit::HEADS, limit::HEAD_DIM, limit::FFN_DIM, limit::VOCAB];

/// `phase.grow`; `from` is the model of the phase before, `seed` the run's.
pub(super) fn read(t: &Table, from: &ModelConfig, seed: u64) -> Read<PhaseGrow> {
    let sizes = t.opt_table("to")?.ok_or_else(|| t.missing("to", "to = { dim = 768 }"))?;
    let mut to = Sizes::default();
    for (key, most) in Sizes::KEYS.into_iter().zip(LIMITS) {
        if let Some(size) = sizes.usize(key, 1..=most)? {
            to.set(key, size);
        }
    }
    let width = t.choice("width", WIDTHS)?.unwrap_or(Width::ZeroPad);
    let depth = t.choice("depth", DEPTHS)?.unwrap_or(Depth::Identity);
    let seed = t.int("seed", 0..=i64::MAX as u64)?.unwrap_or(seed);
    let grow = Grow { to, width, depth, seed };
    let model = grow.target(from).map_err(|(key, problem, remedy)| sizes.error(key, problem, remedy))?;
    if model == *from {
        return Err(t.error("to", "the network has these sizes", "give a larger one, or leave `grow` out"));
    }
    Ok(PhaseGrow { grow, model })
}

/// As the run file has it.
pub(super) fn text(g: &Grow) -> String {
    let size = |key: &str| Some(format!("{key} = {}", g.to.get(key)?));
    let to: Vec<String> = Sizes::KEYS.into_iter().filter_map(size).collect();
    let (width, depth) = (g.width.name(), g.depth.name());
    format!("{{ to = {{ {} }}, width = \"{width}\", depth = \"{depth}\", seed = {} }}", to.join(", "), g.seed)
}

/// Whole copies of the residual stream under the average expansion.
pub fn averaged_copies(from: usize, to: usize) -> usize {
    to / from
}

impl Grow {
    /// The model that `from` becomes. Errors: the first size that no rule of the operators reaches, with the nearest that
    /// are reached.
    pub fn target(&self, from: &ModelConfig) -> Result<ModelConfig, Refused> {
        let to = &self.to;
        let heads = to.heads.unwrap_or(from.heads);
        let own_kv = from.kv_heads == from.heads;
        let grown = ModelConfig {
            layers: to.layers.unwrap_or(from.layers),
            dim: to.dim.unwrap_or(from.dim),
            heads,
            kv_heads: to.kv_heads.unwrap_or(if own_kv { heads } else { from.kv_heads }),
            head_dim: to.head_dim.unwrap_or(from.head_dim),
            ffn_dim: to.ffn_dim.unwrap_or(from.ffn_dim),
            vocab: to.vocab.unwrap_or(from.vocab),
            ..from.clone()
        };
        let sizes = |c: &ModelConfig| [c.layers, c.dim, c.heads, c.kv_heads, c.head_dim, c.ffn_dim, c.vocab];
        for (key, (old, new)) in Sizes::KEYS.into_iter().zip(sizes(from).into_iter().zip(sizes(&grown))) {
            if new < old {
                let problem = format!("{new} is smaller than {old}, and a model only grows");
                return Err((key, problem, format!("give {old} or more")));
            }
        }
        self.dim_problem(from, &grown).map_or(Ok(()), Err)?;
        self.head_problem(from, &grown).map_or(Ok(()), Err)?;
        let grown = ModelConfig { norm_eps: self.norm_eps(from, &grown), ..grown };
        grown.problem().map_or(Ok(grown), Err)
    }

    /// Statistics over more channels that carry no more: ε shrinks with them.
    fn norm_eps(&self, from: &ModelConfig, to: &ModelConfig) -> f64 {
        match (self.width, from.norm) {
            (Width::ZeroPad, Norm::Rms) => from.norm_eps * from.dim as f64 / to.dim as f64,
            (Width::ZeroPad, Norm::Layer) => {
                let whole = averaged_copies(from.dim, to.dim) * from.dim;
                from.norm_eps * whole as f64 / to.dim as f64
            }
            (Width::Tile | Width::Fpi | Width::Aki, _) => from.norm_eps,
        }
    }

    fn dim_problem(&self, from: &ModelConfig, to: &ModelConfig) -> Option<Refused> {
        let (old, new) = (from.dim, to.dim);
        let (below, above) = (new / old * old, (new / old + 1) * old);
        let multiple = new.is_multiple_of(old);
        if self.width == Width::Tile && !multiple {
            let problem = format!("tile makes whole copies of {old}, and {new} is no multiple of it");
            return Some(("dim", problem, format!("give {below} or {above}, or use another width")));
        }
        // The channels that such a norm adds would have to be the mean of what it gives, which depends on the token.
        let averages = from.norm == Norm::Layer
            && (from.norm_place == NormPlace::Post || from.embed_norm || from.head == Head::Mlm);
        if self.width == Width::ZeroPad && new != old && averages && !multiple {
            let problem = format!(
                "zero_pad cannot take LayerNorm from {old} to {new} where its output is the residual stream (post-norm, embed_norm, mlm head)"
            );
            let remedy = format!("give {below} or {above}, which are whole copies, or use width fpi or aki");
            return Some(("dim", problem, remedy));
        }
        None
    }

    fn head_problem(&self, from: &ModelConfig, to: &ModelConfig) -> Option<Refused> {
        let (group, k) = (from.heads / from.kv_heads, to.kv_heads);
        if !to.heads.is_multiple_of(k) || to.heads / k < group {
            let least = (to.heads.div_ceil(k)).max(group) * k;
            let near = match to.heads / k * k {
                below if below >= group * k => format!("{below} or {least}"),
                _ => least.to_string(),
            };
            let problem =
                format!("{} heads are no whole groups of at least {group} for {k} kv heads", to.heads);
            return Some(("heads", problem, format!("give {near}, or another kv_heads")));
        }
        let (old, new) = (from.head_dim, to.head_dim);
        if old == new {
            return None;
        }
        let stays = |why: &str| {
            let problem = format!("{why}, so head_dim stays {old} and cannot be {new}");
            Some(("head_dim", problem, format!("give {old}, and more heads instead")))
        };
        match (self.width, from.positions) {
            (Width::Fpi | Width::Aki, _) => stays("fpi and aki copy whole heads"),
            _ if from.qk_norm => stays("the norm of each head is over its channels"),
            (_, Positions::Rope { .. }) if !new.is_multiple_of(old) => {
                let (below, above) = (new / old * old, (new / old + 1) * old);
                let problem =
                    format!("rotary pairs keep their angles in multiples of {old}, which {new} is not");
                Some(("head_dim", problem, format!("give {below} or {above}")))
            }
            _ => None,
        }
    }
}
