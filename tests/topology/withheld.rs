//! An update that is withheld changes nothing on any rank; and what ranks hold alike is compared.

use super::batch::rows;
use super::muon::muon;
use super::replica::{SEQ_LEN, Setup, VOCAB, llama};
use espalier::Result;
use espalier::device::DType;
use espalier::params::Shard;
use espalier::train::alike;
use espalier::train::corpora::weight_sum;
use espalier::train::numbers::{Fault, finite};
use espalier::train::replica::Replica;
use espalier::train::step::{Update, step, step_unless};
use espalier::train::vote::Ballot;

/// Every bit that a rank keeps from update to update.
fn state(r: &mut Replica) -> Result<Vec<u8>> {
    r.flow.settle(&mut r.params)?;
    let mut all = r.optim.t.to_le_bytes().to_vec();
    let kept = r.params.units.iter().flat_map(|u| [&u.weights, &u.master]);
    for t in kept.chain(r.optim.moments.iter().flatten()).filter(|t| t.exists()) {
        all.extend_from_slice(t.bytes());
    }
    Ok(all)
}

/// Update `n`; its loss is not a number if `broken`. Whether it was made.
fn update(r: &mut Replica, n: u64, broken: bool) -> Result<bool> {
    let dp = (r.mesh.dp.rank(), r.mesh.dp.size());
    let batches = [rows(n, 4 / dp.1 * dp.0, 4 / dp.1, SEQ_LEN, VOCAB)];
    let all = weight_sum(&[rows(n, 0, 4, SEQ_LEN, VOCAB)]);
    let weight_sum = if broken { f64::NAN } else { all };
    let update = Update { step: n, lr: 1e-2, clip: Some(1.0), weight_sum, z_loss: 0.0, teacher: 0.0 };
    let judge = |loss, norm| finite(loss, norm).err().map(|what| Fault { what, stops: false });
    Ok(step_unless(r, &batches, &update, Ballot::new(1), judge)?.fault.is_none())
}

#[test]
fn a_withheld_update_leaves_every_bit_on_every_rank_and_the_next_is_made_as_if_it_had_not_been() {
    let adamw = Setup::solo(llama()).kind;
    for (zero, dtype) in (0..=3).flat_map(|zero| [(zero, DType::F32), (zero, DType::Bf16)]) {
        let kind = if zero == 1 { muon() } else { adamw };
        let setup = Setup { dp: 2, zero, dtype, kind, ..Setup::solo(llama()) };
        let calm = setup.run(|r| {
            assert!(update(r, 0, false)? && update(r, 2, false)?);
            state(r)
        });
        let disturbed = setup.run(|r| {
            assert!(update(r, 0, false)?);
            let before = state(r)?;
            for _ in 0..2 {
                assert!(!update(r, 1, true)?, "it was made");
                assert!(state(r)? == before, "ZeRO {zero}, {dtype}: the state changed");
            }
            assert!(update(r, 2, false)?);
            state(r)
        });
        assert!(disturbed == calm, "ZeRO {zero}, {dtype}: the update after it differs");
    }
}

#[test]
fn a_plain_step_refuses_what_is_not_finite() {
    let said = Setup::solo(llama()).run(|r| {
        let update =
            Update { step: 7, lr: 1e-2, clip: None, weight_sum: f64::NAN, z_loss: 0.0, teacher: 0.0 };
        let e = step(r, &[rows(0, 0, 2, SEQ_LEN, VOCAB)], &update, Ballot::new(1)).unwrap_err();
        Ok((e.exit_code(), e.to_string()))
    });
    assert!(said[0].0 == 6 && said[0].1.contains("step 7: loss NaN, gradient norm NaN"), "{said:?}");
}

/// Flips a bit of what `rank` of the world holds of block 0; the tensor, as all ranks name it with the rank.
fn flipped(setup: &Setup, rank: usize, replicated: bool, master: bool) -> (String, Vec<Option<String>>) {
    let names = setup.run(|r| {
        assert!(update(r, 0, false)?);
        alike::compare(r, 1)?;
        let same = r.mesh.world.rank() == rank;
        let unit = &mut r.params.units[1];
        let is = |s: &Shard| (*s == Shard::Replicated) == replicated;
        let p = unit.params.iter().find(|p| is(&p.spec.shard)).expect("such a tensor");
        let (name, at) = (p.spec.name.clone(), p.range().start);
        if same && master {
            // The slice of this rank may begin in another tensor; any bit of it will do.
            unit.master.bytes_mut()[0] ^= 1;
        } else if same {
            let size = unit.dtype.bytes();
            unit.weights.bytes_mut()[at * size] ^= 1;
        }
        Ok((name, alike::compare(r, 2).err().map(|e| format!("{} {e}", e.exit_code()))))
    });
    (names[0].0.clone(), names.into_iter().map(|n| n.1).collect())
}

#[test]
fn a_bit_that_flips_on_one_rank_is_found_and_named_on_all() {
    let base = Setup::solo(llama());
    for (setup, rank, replicated, of) in [
        (Setup { dp: 2, zero: 0, ..base.clone() }, 1, true, 0),
        (Setup { dp: 2, zero: 1, dtype: DType::Bf16, ..base.clone() }, 1, false, 0),
        (Setup { dp: 4, zero: 2, ..base.clone() }, 0, false, 1),
        (Setup { tp: 2, ..base.clone() }, 1, true, 0),
        (Setup { dp: 4, shard: 2, zero: 1, kind: muon(), ..base.clone() }, 3, false, 0),
    ] {
        let (tensor, said) = flipped(&setup, rank, replicated, false);
        let want =
            format!("5 rank {rank}: after update 2 its weights of {tensor} are not those of rank {of},");
        for said in &said {
            let said = said.as_ref().expect("a difference is found");
            assert!(said.starts_with(&want), "{said}\n  instead of\n{want}");
        }
    }
    // State that two shard groups keep, each on ranks of its own.
    let setup = Setup { dp: 4, zero: 3, shard: 2, ..base };
    let (_, said) = flipped(&setup, 3, false, true);
    for said in said {
        let said = said.expect("a difference is found");
        assert!(said.contains("5 rank 3: after update 2 its optimizer state of blocks.0."), "{said}");
        assert!(said.contains("are not those of rank 1,"), "{said}");
    }
}
