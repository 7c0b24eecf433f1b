//! Groups of ranks: the mesh, collectives of several groups at once, and what is recorded of them.

use super::*;

fn groups(ranks: usize, tp: usize) -> Vec<[Vec<usize>; 2]> {
    let got = run_ranks(ranks, LONG, |world| {
        let mesh = Mesh::new(world, tp)?;
        let members = |c: &Arc<dyn Comm>| -> Result<Vec<usize>> {
            let mut x = vec![0f64; c.size()];
            x[c.rank()] = mesh.world.rank() as f64;
            let x = c.all_gather(tensor(&x), "members")?.wait()?.to_f64();
            Ok(x.into_iter().map(|x| x as usize).collect())
        };
        Ok([members(&mesh.dp)?, members(&mesh.tp)?])
    });
    got.unwrap()
}

#[test]
fn groups_of_two_by_two_and_three_by_two_are_rows_and_columns() {
    let want = |dp: [usize; 2], tp: [usize; 2]| [dp.to_vec(), tp.to_vec()];
    assert_eq!(
        groups(4, 2),
        [want([0, 2], [0, 1]), want([1, 3], [0, 1]), want([0, 2], [2, 3]), want([1, 3], [2, 3])]
    );
    let six = groups(6, 2);
    assert_eq!(six[3], [vec![1, 3, 5], vec![2, 3]]);
    assert_eq!(six[4], [vec![0, 2, 4], vec![4, 5]]);
    assert_eq!(groups(3, 3)[1], [vec![1], vec![0, 1, 2]]);
    assert_eq!(groups(1, 1), [[vec![0], vec![0]]]);
}

#[test]
fn tp_sizes_that_do_not_divide_the_ranks_are_refused_with_those_that_do() {
    for tp in [0, 4] {
        let e = run_ranks(6, LONG, |world| Mesh::new(world, tp).map(drop)).unwrap_err();
        assert!(e.to_string().contains(&format!("tp = {tp}")) && e.to_string().contains("1, 2, 3, 6"), "{e}");
    }
}

#[test]
fn a_split_is_ordered_by_key() {
    let got = run_ranks(4, LONG, |world| Ok(world.split(7, 10 - world.rank(), "back")?.rank()));
    assert_eq!(got.unwrap(), [3, 2, 1, 0]);
}

#[test]
fn several_collectives_of_two_groups_may_be_in_flight() {
    let got = run_ranks(4, LONG, |world| {
        let r = world.rank();
        let mesh = Mesh::new(world, 2)?;
        let fill = |x: usize, len| tensor(&vec![x as f64; len]);
        let a = mesh.dp.all_reduce(fill(r, 5000), Reduce::Sum, "a")?;
        let b = mesh.dp.all_reduce(fill(10 * r, 3), Reduce::Sum, "b")?;
        let c = mesh.tp.all_reduce(fill(100 * r, 7000), Reduce::Sum, "c")?;
        let d = mesh.dp.broadcast(fill(r, 2000), 1, "d")?;
        let (c, a) = (c.wait()?, a.wait()?);
        let (b, d) = (b.wait()?, d.wait()?);
        Ok([a, b, c, d].map(|t| (t.len(), t.data::<f64>()[0], t.data::<f64>()[t.len() - 1])))
    });
    // dp groups are {0, 2} and {1, 3}, tp groups {0, 1} and {2, 3}.
    for (r, got) in got.unwrap().into_iter().enumerate() {
        let (t, d) = ((r % 2) as f64, (r / 2) as f64);
        let want = [(5000, 2.0 * t + 2.0), (3, 20.0 * t + 20.0), (7000, 400.0 * d + 100.0), (2000, t + 2.0)];
        assert_eq!(got, want.map(|(n, x)| (n, x, x)), "rank {r}");
    }
}

#[test]
fn a_pretended_mesh_counts_what_a_real_one_sends() {
    let step = |mesh: &Mesh, dev: &Device| -> Result<[Traffic; 3]> {
        let t = || Tensor::empty(dev, 8, 60, DType::F32, Category::Grads);
        mesh.tp.all_reduce(t(), Reduce::Sum, "x")?.wait()?;
        mesh.dp.reduce_scatter(t(), "x")?.wait()?;
        mesh.dp.all_gather(t(), "x")?.wait()?;
        mesh.world.all_to_all(t(), "x")?.wait()?;
        Ok([&mesh.world, &mesh.dp, &mesh.tp].map(|c| c.traffic()))
    };
    let planned = step(&Mesh::pretend(3, 2), &Device::meta()).unwrap();
    let real = run_ranks(6, LONG, |world| {
        let before = Mesh::new(world, 2)?;
        let splits = before.world.traffic();
        let [world, dp, tp] = step(&before, &Device::cpu(1))?;
        Ok([world - splits, dp, tp])
    });
    assert_eq!(real.unwrap(), vec![planned; 6]);
    let meta = run_ranks(2, LONG, |world| {
        // Without the other rank: nothing moves.
        let t = Tensor::empty(&Device::meta(), 1 << 20, 1 << 20, DType::F32, Category::Grads);
        if world.rank() == 1 {
            world.all_reduce(t, Reduce::Sum, "x")?.wait()?;
        }
        Ok(world.traffic().bytes())
    });
    assert_eq!(meta.unwrap(), [0, 4 << 40]);
}

#[test]
fn recent_lists_the_collectives_of_all_groups_with_their_progress() {
    let got = run_ranks(2, LONG, |world| {
        let mesh = Mesh::new(world.clone(), 2)?;
        let p = mesh.tp.all_reduce(tensor(&[1f32; 5]), Reduce::Sum, "blocks.3 grads")?;
        let open = world.recent();
        p.wait()?;
        Ok((open, world.recent()))
    });
    for (open, closed) in got.unwrap() {
        let kinds: Vec<_> = closed.iter().map(|r| (r.kind, r.sequence, &*r.axis)).collect();
        let want = [(Kind::Split, 0, "world"), (Kind::Split, 1, "world"), (Kind::AllReduce, 0, "tp")];
        assert_eq!(kinds, want);
        assert_eq!((&*closed[2].what, closed[2].bytes), ("blocks.3 grads", 20));
        assert_eq!(open[2].progress, record::Progress::Started);
        assert!(closed.iter().all(|r| r.progress == record::Progress::Done));
    }
}
