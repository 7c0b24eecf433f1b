//! A dry run as a page of text: aligned columns, sizes in binary units.

use super::curve::{self, Point};
use super::{DryRun, Phase, Sparse, Taught};
use crate::comm::processes;
use crate::device::Category;
use crate::method::ledger::Ledger;
use crate::method::spdf::AboutGrid;
use crate::train::progress::count;
use std::fmt;

/// Phases listed in full; of more, the rest is counted.
const LISTED: usize = 6;

/// 0 B, 640 B, 12.3 KiB, 4.56 MiB, 7.89 GiB
pub fn bytes(n: u64) -> String {
    let (units, mut x, mut unit) = (["B", "KiB", "MiB", "GiB", "TiB"], n as f64, 0);
    while x >= 1024.0 && unit + 1 < units.len() {
        (x, unit) = (x / 1024.0, unit + 1);
    }
    let digits = if unit == 0 || x >= 100.0 {
        0
    } else if x >= 10.0 {
        1
    } else {
        2
    };
    format!("{x:.digits$} {}", units[unit])
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (m, l) = (&self.model, &self.layout);
        let s = |n: usize| if n == 1 { "" } else { "s" };
        writeln!(f, "{} -> {}   (dry run: nothing is trained or written)\n", self.run_file, self.run_dir)?;
        writeln!(
            f,
            "model       {} layers, dim {}, {} heads, {} kv heads, vocab {}, {}",
            m.layers, m.dim, m.heads, m.kv_heads, m.vocab, m.dtype
        )?;
        writeln!(
            f,
            "            {} parameters, {} of them in matrix products",
            count(m.params as f64),
            count(m.matmul_params as f64)
        )?;
        writeln!(
            f,
            "            {}FLOP a token, causal; {}FLOP with attention counted in full",
            count(m.flops_per_token_causal),
            count(m.flops_per_token_full)
        )?;
        writeln!(
            f,
            "layout      {} rank{} = dp {} x tp {}, {} thread{} each; zero {}, recompute {}",
            l.ranks,
            s(l.ranks),
            l.dp,
            l.tp,
            l.threads_per_rank,
            s(l.threads_per_rank),
            l.zero,
            l.recompute
        )?;
        if l.nodes_open || l.shard != l.dp || l.ranks_per_node != l.ranks {
            self.nodes(f)?;
        }
        if let Some(auto) = &self.auto {
            write!(f, "{auto}")?;
        }
        for (i, c) in self.corpora.iter().enumerate().take(LISTED) {
            let (head, tokens) = (if i == 0 { "corpora" } else { "" }, count(c.tokens as f64));
            writeln!(
                f,
                "{head:<12}{:<12} {tokens:>9} tokens, {} documents, {}",
                c.name, c.documents, c.path
            )?;
        }
        self.phases(f)?;
        self.rates(f)?;
        self.memory(f)
    }
}

impl DryRun {
    fn nodes(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let l = &self.layout;
        let (nodes, copies) = (l.ranks / l.ranks_per_node, l.dp / l.shard);
        let open = if l.nodes_open { " (--ranks-per-node says otherwise)" } else { "" };
        writeln!(
            f,
            "            {nodes} node{} of {} ranks{open}; state split over {} of dp {}, {copies} cop{} of it",
            if nodes == 1 { "" } else { "s" },
            l.ranks_per_node,
            l.shard,
            l.dp,
            if copies == 1 { "y" } else { "ies" }
        )
    }

    fn phases(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "\n{:<12}{:>9}{:>9}{:>9}{:>10}{:>15}{:>9}{:>10}{:>10}{:>9}",
            "phase",
            "tokens",
            "steps",
            "seq_len",
            "batch",
            "dp x acc x mb",
            "update",
            "schedule",
            "sample",
            "adam t"
        )?;
        for p in self.phases.iter().take(LISTED) {
            let c = &p.start;
            writeln!(
                f,
                "{:<12}{:>9}{:>9}{:>9}{:>10}{:>15}{:>9}{:>10}{:>10}{:>9}",
                p.name,
                count(p.tokens as f64),
                p.steps,
                p.seq_len,
                match p.batches.first() {
                    Some(first) if p.batches.len() > 1 =>
                        format!("{}..{}", first.global_batch, p.global_batch),
                    _ => p.global_batch.to_string(),
                },
                format!("{} x {} x {}", self.layout.dp, p.micro_steps, p.micro_batch),
                c.update,
                c.schedule,
                c.sample,
                c.adam_t
            )?;
            writeln!(f, "{:<12}  {}", "", mix(p))?;
            if p.batches.len() > 1 {
                writeln!(f, "{:<12}  {}", "", ramp(p))?;
            }
            if let Some(g) = &p.grow {
                writeln!(f, "{:<12}  {}", "", larger(g))?;
            }
            if let Some(s) = &p.spdf {
                writeln!(f, "{:<12}  {}", "", zeros(s))?;
                for g in &s.grids {
                    writeln!(f, "{:<12}  {}", "", grid(g))?;
                }
            }
            if let Some(t) = &p.salt {
                writeln!(f, "{:<12}  {}", "", taught(t, p.steps))?;
            }
        }
        if self.phases.len() > LISTED {
            writeln!(f, "and {} more; --json lists all", self.phases.len() - LISTED)?;
        }
        let flops: f64 = self.phases.iter().map(|p| p.flops).sum();
        let tokens: u64 = self.phases.iter().map(|p| p.tokens).sum();
        writeln!(f, "{:<12}{:>9} tokens, {:.2e} FLOP, causal", "all", count(tokens as f64), flops)
    }

    fn rates(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let most = self.curve.iter().copied().fold(0.0, f64::max);
        writeln!(f, "\nlearning rate by update")?;
        for (i, row) in curve::bars(&self.curve).into_iter().enumerate() {
            let label = if i == 0 { format!("{most:.2e}") } else { String::new() };
            writeln!(f, "{label:>11} {row}")?;
        }
        writeln!(f, "{:>11} {}", "0", self.names_under_the_plot())?;
        let points: Vec<&Point> = self.phases.iter().flat_map(|p| &p.lr).collect();
        for (i, line) in points.chunks(5).enumerate().take(3) {
            let points: Vec<_> =
                line.iter().map(|p| format!("{:>7}: {:<8}", p.update, format!("{:.2e}", p.lr))).collect();
            writeln!(f, "{:<12}{}", if i == 0 { "at update" } else { "" }, points.join(" ").trim_end())?;
        }
        Ok(())
    }

    /// Each phase's name where it begins.
    fn names_under_the_plot(&self) -> String {
        let total: u64 = self.phases.iter().map(|p| p.steps).sum();
        let mut line = String::new();
        for p in &self.phases {
            let column = (p.start.update as u128 * self.curve.len() as u128 / total.max(1) as u128) as usize;
            if line.chars().count() <= column {
                let gap = column - line.chars().count();
                line += &format!("{}|{} ", " ".repeat(gap), p.name);
            }
        }
        line.trim_end().to_string()
    }

    fn memory(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (m, size) = (&self.memory, |n: usize| bytes(n as u64));
        writeln!(f, "\nmemory of a rank, at its peak")?;
        let categories: Vec<String> =
            Category::ALL.map(|c| format!("{:<12}{:>10}", c.name(), size(m.peak[c.name()]))).into();
        for pair in categories.chunks(3) {
            writeln!(f, "  {}", pair.join("      "))?;
        }
        writeln!(f, "  {:<32}{:>10}", "at most at once", size(m.at_once))?;
        writeln!(f, "  {:<32}{:>10}   one buffer of each size, kept for reuse", "arena", size(m.arena))?;
        let o = &m.outside;
        writeln!(
            f,
            "  {:<32}{:>10}   estimate: products {}, attention {}, data {}",
            "outside the arena",
            size(o.rank()),
            size(o.products),
            size(o.attention),
            size(o.data)
        )?;
        writeln!(f, "  {:<32}{:>10}   the one that needs most", "a rank", size(m.rank))?;
        writeln!(
            f,
            "  {:<32}{:>10}   {}, {} for the program",
            "process",
            size(m.process),
            if processes::joined().is_some() { "one rank" } else { "all ranks" },
            size(o.process)
        )?;
        for p in self.phases.iter().take(LISTED) {
            let sent: Vec<_> = p.sent_bytes.iter().map(|(axis, n)| format!("{axis} {}", bytes(*n))).collect();
            writeln!(
                f,
                "{:<12}an update sends, per rank: {}; program {}",
                p.name,
                sent.join(", "),
                p.program
            )?;
        }
        let (each, seconds) = (bytes(self.checkpoint_bytes), self.slurm_signal_s);
        writeln!(f, "checkpoint  {each} each; in a Slurm job --signal=USR1@{seconds} leaves time for one")
    }
}

/// "batch grows: 2 in 5 updates, 4 in 3, 6 in 2, 8 in 90", with the middle of many left out
fn ramp(p: &Phase) -> String {
    let part = |b: &super::Batch| format!("{} in {}", b.global_batch, b.updates);
    let mut parts: Vec<String> = p.batches.iter().map(part).collect();
    if parts.len() > LISTED {
        parts.splice(3..parts.len() - 2, ["..".to_string()]);
    }
    parts[0] += " updates";
    format!("batch grows: {}", parts.join(", "))
}

/// What is zero, and what that saves by the paper's counting and with causal attention.
fn zeros(s: &Sparse) -> String {
    let Ledger { dense, sparse, .. } = &s.flops_per_token;
    format!(
        "{} of {} weights are zero: {:.2}x fewer FLOP a token with attention in full (the paper's counting), {:.2}x causal; \
         {}",
        count(s.zeros as f64),
        count(s.values as f64),
        dense.full / sparse.full,
        dense.causal / sparse.causal,
        if s.compact { "neither stored nor computed" } else { "computed dense" }
    )
}

/// "64 x 32 blocks keep 8 of each row, 16 of each column (12 matrices)"
fn grid(g: &AboutGrid) -> String {
    let kept = |(least, most): (usize, usize)| match least == most {
        true => least.to_string(),
        false => format!("{least} or {most}"),
    };
    format!(
        "{} x {} blocks keep {} of each row, {} of each column ({} matrices)",
        g.rows,
        g.cols,
        kept(g.of_row),
        kept(g.of_col),
        g.tensors
    )
}

fn taught(t: &Taught, steps: u64) -> String {
    let Taught { teacher, params, updates, costs } = t;
    format!(
        "taught by {teacher}, {} parameters, in {updates} of {steps} updates: {:+.1} % FLOP in these, {:+.1} % in the phase",
        count(*params as f64),
        100.0 * costs.while_taught,
        100.0 * costs.of_phase
    )
}

/// "web 95 %, 1.2 M tokens, pass 0.80 | laws 5 %, ..."
fn mix(p: &Phase) -> String {
    let share = |s: &super::Share| {
        let (share, tokens) = (100.0 * s.share, count(s.tokens as f64));
        let digits = if share.fract() == 0.0 { 0 } else { 1 };
        format!("{} {share:.digits$} %, {tokens} tokens, {:.2} epochs", s.corpus, s.epochs)
    };
    p.mix.iter().filter(|s| s.share > 0.0).map(share).collect::<Vec<_>>().join(" | ")
}

fn larger(g: &super::Grown) -> String {
    let m = &g.model;
    format!(
        "grows by {} and {} to {} layers, dim {}, {} heads ({} kv) of {}, ffn {}, vocab {}: {} parameters",
        g.width,
        g.depth,
        m.layers,
        m.dim,
        m.heads,
        m.kv_heads,
        m.head_dim,
        m.ffn_dim,
        m.vocab,
        count(g.params as f64)
    )
}
