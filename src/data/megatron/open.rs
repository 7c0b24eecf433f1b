//! The sources of a run under Megatron's order: each corpus built for the samples that the whole cursor draws from it.

use super::{Blend, Key, Size};
use crate::data::cursor::{Cursor, FILE};
use crate::data::domain::{Domain, MOST_BYTES};
use crate::data::mixture::Mixture;
use crate::data::source::Source;
use crate::{Error, Result};

/// A source for each domain. `mixture`: the blend, at its beginning. Arrays of all corpora are built side by side.
pub fn sources(cursor: &Cursor, domains: Vec<Domain>, mixture: &Mixture) -> Result<Vec<Source>> {
    let names: Vec<String> = domains.iter().map(|domain| domain.name.clone()).collect();
    let Some(samples) = cursor.samples else {
        let problem = "Megatron's order depends on the number of samples, which is not known here";
        return Err(Error::config(FILE, "data", problem, "state it, or set order = \"stream\""));
    };
    let blend = Blend::new(&cursor.one_mix(&names)?, samples);
    let mut plans = Vec::new();
    let mut bytes = 0u64;
    for (d, domain) in domains.iter().enumerate() {
        if blend.built[d] == 0 {
            plans.push(None);
            continue;
        }
        let part = domain.training_part()?;
        let key = Key {
            seed: seed(cursor)?,
            seq_len: cursor.seq_len as u64,
            samples: blend.built[d],
            sequences: part.sequences.clone(),
        };
        let size = Size::new(&key, part.tokens).filter(|size| size.bytes <= MOST_BYTES);
        let Some(size) = size else {
            let what = format!("an order of {} samples out of {} sequences", key.samples, part.of.len());
            return Err(domain.too_large(&what));
        };
        bytes += size.bytes;
        if bytes > MOST_BYTES {
            return Err(domain.too_large(&format!("{:.1} GiB of arrays", bytes as f64 / f64::from(1 << 30))));
        }
        plans.push(Some((key, size, part.tokens)));
    }
    let sources = build(domains, plans, cursor.seq_len)?;
    check_draws(&sources, &blend, mixture.clone())?;
    Ok(sources)
}

fn seed(cursor: &Cursor) -> Result<u32> {
    let seed = cursor.seed.checked_add(cursor.number).and_then(|seed| u32::try_from(seed).ok());
    seed.ok_or_else(|| {
        let problem = match cursor.number {
            0 => format!("it is {}", cursor.seed),
            n => format!("it is {}, and a new cursor adds 1, here {n} in all", cursor.seed),
        };
        let remedy = "Megatron's order has seeds below 2^32; lower it or set order = \"stream\"";
        Error::config(FILE, "run.seed", problem, remedy)
    })
}

fn build(domains: Vec<Domain>, plans: Vec<Option<(Key, Size, u64)>>, seq_len: usize) -> Result<Vec<Source>> {
    std::thread::scope(|scope| {
        let one = |(domain, plan): (Domain, Option<(Key, Size, u64)>)| {
            scope.spawn(move || match plan {
                None => Ok(Source::none(domain, seq_len)),
                Some((key, size, tokens)) => {
                    let arrays = domain.arrays(key, size)?;
                    Ok(Source::megatron(domain, arrays, tokens, seq_len))
                }
            })
        };
        let threads: Vec<_> = domains.into_iter().zip(plans).map(one).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|source| source.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    })
}

/// As Megatron does it: a blend that draws more from a corpus than was built of it is an error.
fn check_draws(sources: &[Source], blend: &Blend, mut mixture: Mixture) -> Result<()> {
    let total: u64 = blend.target.iter().sum();
    // After n samples a corpus has given at most w n + 1, so most blends need no count.
    let short =
        |d: usize| blend.built[d] > 0 && blend.share[d] * total as f64 + 1.0 > sources[d].limit() as f64;
    if !(0..sources.len()).any(short) {
        return Ok(());
    }
    mixture.seek(total);
    for (d, (name, drawn)) in mixture.snapshot().counts.into_iter().enumerate() {
        let has = sources[d].limit();
        if drawn > has {
            let problem =
                format!("the blend draws {drawn} samples from \"{name}\", which was built for {has}");
            let remedy = "lower its weight in the mix or set order = \"stream\"";
            return Err(Error::config(FILE, format!("mix.{name}"), problem, remedy));
        }
    }
    Ok(())
}
