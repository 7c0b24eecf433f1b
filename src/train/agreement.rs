//! Whether all ranks are about to do the same: program, run file, corpora, where they begin, and what each phase runs.
//! Compared before anything is computed, so that a stale copy on one host is named and does not train.

use crate::comm::{Comm, processes};
use crate::config::RunConfig;
use crate::data::Domain;
use crate::device::{Category, Device};
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::fs::File;
use std::io::{self, BufReader};
use std::sync::OnceLock;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_64};

/// What must be the same, as a person calls it, and its hash.
pub type Fact = (String, u64);

/// `start`: the step of the checkpoint that was found, if any. `programs`: as `rehearsal::programs`.
pub fn facts(config: &RunConfig, domains: &[Domain], start: Option<u64>, programs: &[u64]) -> Vec<Fact> {
    let mut all = vec![
        ("the program".to_string(), program()),
        ("the run file".into(), xxh3_64(config.resolved_toml().as_bytes())),
    ];
    all.extend(domains.iter().map(|d| (format!("corpus {:?}", d.name), d.corpus.hash())));
    // A step is its own hash; u64::MAX is none.
    all.push(("the newest checkpoint".into(), start.unwrap_or(u64::MAX)));
    all.extend(programs.iter().enumerate().map(|(i, hash)| (format!("what phase {i} computes"), *hash)));
    all
}

/// The hash of the program's file; of its version where the file cannot be read. Ranks that are threads ask once.
fn program() -> u64 {
    static HASH: OnceLock<u64> = OnceLock::new();
    let read = || {
        let mut hash = Xxh3Default::new();
        io::copy(&mut BufReader::with_capacity(1 << 20, File::open(std::env::current_exe()?)?), &mut hash)?;
        Ok::<u64, io::Error>(hash.digest())
    };
    *HASH.get_or_init(|| read().unwrap_or_else(|_| xxh3_64(crate::VERSION.as_bytes())))
}

/// Refuses a run whose ranks differ in a fact: `Launch`, the same on all ranks. Collective.
pub fn check(dev: &Device, world: &dyn Comm, facts: &[Fact]) -> Result<()> {
    let (n, me, k) = (world.size(), world.rank(), facts.len() + 1);
    // How many facts there are, and the facts; halves of 32 bits are exact in f64.
    let halves = |h: u64| [(h >> 32) as f64, (h & 0xffff_ffff) as f64];
    let own: Vec<f64> =
        std::iter::once(facts.len() as u64).chain(facts.iter().map(|f| f.1)).flat_map(halves).collect();
    // Ranks that read different run files may have different numbers of facts: the longest says how wide a row is.
    let widest = Tensor::from_slice(dev, 1, 1, &[k as f64], Category::Comm);
    let widest = world.all_reduce(widest, crate::comm::Reduce::Max, "number of facts")?.wait()?;
    let width = 2 * widest.data::<f64>()[0] as usize;
    let mut all = Tensor::zeros(dev, n, width, crate::device::DType::F64, Category::Comm);
    all.data_mut::<f64>()[me * width..me * width + 2 * k].copy_from_slice(&own);
    let all = world.all_gather(all, "facts of the run")?.wait()?;
    let rows: Vec<&[f64]> = all.data::<f64>().chunks(width).collect();
    // Whom most agree with is right; rank 0 among equals.
    let votes = |&r: &usize| rows.iter().filter(|row| **row == rows[r]).count();
    let right = (0..n).rev().max_by_key(votes).expect("a world has ranks");
    let Some(odd) = (0..n).find(|&r| rows[r] != rows[right]) else { return Ok(()) };
    let differ = |i: usize| rows[odd][2 * i..2 * i + 2] != rows[right][2 * i..2 * i + 2];
    let names = facts.iter().enumerate().filter(|(i, _)| differ(i + 1)).map(|(_, f)| f.0.as_str());
    let names: Vec<&str> = names.collect();
    let names = if names.is_empty() { "the run file".to_string() } else { names.join(", ") };
    let on = |rank: usize| processes::host(rank).map_or(String::new(), |host| format!(" on {host}"));
    Err(Error::launch(
        format!("rank {odd}{} differs from rank {right}{} in {names}", on(odd), on(right)),
        "start all ranks with the same program, run file and data",
    ))
}
