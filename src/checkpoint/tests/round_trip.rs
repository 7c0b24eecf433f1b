use super::*;

const TOPOLOGIES: [Ranks; 12] = [
    SOLO,
    ranks(1, 2, 0),
    ranks(1, 4, 0),
    ranks(2, 1, 0),
    ranks(2, 1, 1),
    ranks(2, 2, 1),
    ranks(3, 1, 1),
    ranks(2, 1, 2),
    ranks(2, 1, 3),
    ranks(3, 2, 3),
    Ranks { replicas: 2, ..ranks(4, 1, 3) },
    Ranks { replicas: 2, ..ranks(4, 1, 1) },
];

#[test]
fn every_topology_reads_bit_by_bit_what_any_other_wrote() {
    for model in models() {
        for dtype in [DType::F32, DType::Bf16] {
            for from in TOPOLOGIES {
                let dir = tempfile::tempdir().unwrap();
                let saved = save_all(dir.path(), &model, dtype, from, 500);
                assert_eq!(saved.path, dir.path().join("step-00000500"));
                let c = Checkpoint::open(&saved.path).unwrap();
                c.verify().unwrap();
                assert_eq!(c.manifest().topology, Topology { dp: from.dp, tp: from.tp, zero: from.zero });
                assert_eq!(c.manifest().bytes(), saved.bytes);
                assert_eq!(c.text("run.toml").unwrap().as_deref(), Some("schema = 1\n"));
                assert_eq!(c.text("none").unwrap(), None);
                for to in TOPOLOGIES {
                    assert_reads(&c, &model, dtype, to);
                }
            }
        }
    }
}

/// Of kv heads fewer than ranks of tp one rank of those that hold the same writes.
#[test]
fn a_kv_head_on_several_ranks_is_stored_once_and_read_by_any_topology() {
    let topologies = [
        SOLO,
        ranks(1, 2, 0),
        ranks(1, 4, 0),
        ranks(2, 4, 1),
        ranks(2, 4, 3),
        Ranks { replicas: 2, ..ranks(4, 4, 2) },
    ];
    for kv_heads in [1, 2] {
        let model = ModelConfig { kv_heads, qkv_bias: true, ..models()[0].clone() };
        let dir = tempfile::tempdir().unwrap();
        let one = contents(&save_all(&dir.path().join("one"), &model, DType::Bf16, SOLO, 20).path);
        for (i, from) in topologies.into_iter().enumerate() {
            let saved = save_all(&dir.path().join(format!("{i}")), &model, DType::Bf16, from, 20);
            let c = Checkpoint::open(&saved.path).unwrap();
            assert_eq!(values_stored(&c), model.params() * (2 + 3 * 4), "{from:?}, {kv_heads} kv heads");
            for to in topologies {
                assert_reads(&c, &model, DType::Bf16, to);
            }
            let to = dir.path().join(format!("to{i}"));
            merge(&c, &to, true).unwrap();
            assert!(contents(&to) == one, "{from:?}");
        }
    }
}

/// Bytes of values in all files.
fn values_stored(c: &Checkpoint) -> u64 {
    let files = c.manifest().files.iter().filter(|f| f.name.ends_with(".safetensors"));
    let bytes = files.map(|f| {
        let bytes = std::fs::read(c.path().join(&f.name)).unwrap();
        safetensors::SafeTensors::read_metadata(&bytes).unwrap().1.data_len() as u64
    });
    bytes.sum()
}

#[test]
fn padding_is_not_written() {
    let [llama, _] = models();
    for ranks in [SOLO, ranks(2, 2, 1), ranks(1, 4, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoint::open(&save_all(dir.path(), &llama, DType::Bf16, ranks, 1).path).unwrap();
        // bf16 weights, f32 master, m and v
        assert_eq!(values_stored(&c), llama.params() * (2 + 3 * 4), "{ranks:?}");
    }
}

#[test]
fn a_one_rank_checkpoint_is_an_ordinary_safetensors_file() {
    for model in models() {
        let dir = tempfile::tempdir().unwrap();
        let path = save_all(dir.path(), &model, DType::Bf16, SOLO, 1).path;
        let c = Checkpoint::open(&path).unwrap();
        let names: Vec<String> = contents(&path).iter().map(|(n, _)| n.display().to_string()).collect();
        let want = [
            "manifest.json",
            "optim-r00000.safetensors",
            "run.toml",
            "tokenizer.json",
            "weights-r00000.safetensors",
        ];
        assert_eq!(names, want);
        let read = |name: &str| std::fs::read(path.join(name)).unwrap();
        let (weights, optim) = (read(want[4]), read(want[1]));
        let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
        let optim = safetensors::SafeTensors::deserialize(&optim).unwrap();
        assert_eq!(weights.len(), c.manifest().params.len());
        assert_eq!(optim.len(), 3 * weights.len());
        for p in &c.manifest().params {
            let (w, m) = (weights.tensor(&p.name).unwrap(), optim.tensor(&format!("m/{}", p.name)).unwrap());
            assert_eq!((w.shape(), m.shape()), (&p.shape()[..], &p.shape()[..]));
            let (last, i) = (w.data().last_chunk::<2>().unwrap(), p.len() - 1);
            assert_eq!(bf16::from_le_bytes(*last).load(), value(Kind::Weight, DType::Bf16, &p.name, i));
            let last = m.data().last_chunk::<4>().unwrap();
            assert_eq!(f32::from_le_bytes(*last), value(Kind::M, DType::Bf16, &p.name, i));
        }
        // Some readers map values directly: they begin at a multiple of 8.
        for name in [want[1], want[4]] {
            assert_eq!(u64::from_le_bytes(*read(name).first_chunk().unwrap()) % 8, 0);
        }
    }
}

#[test]
fn parts_of_tensors_have_names_that_no_reader_takes_for_the_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let path = save_all(dir.path(), &models()[0], DType::F32, ranks(1, 2, 0), 1).path;
    let bytes = std::fs::read(path.join("weights-r00001.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    // Replicated tensors lie in the file of the first tp rank only, so here all are parts.
    assert!(file.names().iter().all(|n| n.ends_with("@1")), "{:?}", file.names());
    assert_eq!(file.tensor("blocks.0.attn.q.weight@1").unwrap().shape(), [16, 32]);
    assert_eq!(file.tensor("blocks.0.attn.o.weight@1").unwrap().shape(), [32, 16]);
    assert_eq!(file.tensor("embed.tokens.weight@1").unwrap().shape(), [72, 32]);
}

#[test]
fn merged_files_are_byte_for_byte_those_of_one_rank() {
    for model in models() {
        for dtype in [DType::F32, DType::Bf16] {
            let dir = tempfile::tempdir().unwrap();
            let one = contents(&save_all(&dir.path().join("one"), &model, dtype, SOLO, 20).path);
            for (i, ranks) in TOPOLOGIES.into_iter().enumerate() {
                let many = save_all(&dir.path().join(format!("{i}")), &model, dtype, ranks, 20);
                let (to, light) = (dir.path().join(format!("to{i}")), dir.path().join(format!("light{i}")));
                let from = Checkpoint::open(&many.path).unwrap();
                merge(&from, &to, true).unwrap();
                assert!(contents(&to) == one, "{ranks:?}");
                merge(&from, &light, false).unwrap();
                let light = Checkpoint::open(&light).unwrap();
                light.verify().unwrap();
                assert!(!light.has_moments());
                let (mut params, ..) = replica(&model, dtype, SOLO, 0, false);
                light.load_weights(&Device::cpu(1), &mut params, Values::Stored).unwrap();
                assert!(merge(&from, &to, true).unwrap_err().to_string().contains("create"));
            }
        }
    }
}

#[test]
fn equal_states_give_equal_bytes() {
    for ranks in [SOLO, ranks(2, 2, 1)] {
        let [a, b] = [0, 1].map(|_| {
            let dir = tempfile::tempdir().unwrap();
            contents(&save_all(dir.path(), &models()[1], DType::Bf16, ranks, 20).path)
        });
        assert!(a == b, "{ranks:?}");
    }
}

#[test]
fn what_the_manifest_says_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let model = &models()[0];
    let path = save_all(dir.path(), model, DType::F32, SOLO, 8).path;
    let manifest = Manifest::read(&path).unwrap();
    assert_eq!(manifest.meta, meta(model, DType::F32, 8));
    let (params, ..) = replica(model, DType::F32, SOLO, 0, false);
    let specs: Vec<ParamSpec> = params.iter().map(|(_, p)| p.spec.clone()).collect();
    assert_eq!(manifest.params, specs);
}

#[test]
fn masters_come_in_full_precision_and_f32_weights_serve_as_masters() {
    let [model, _] = models();
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoint::open(&save_all(dir.path(), &model, DType::Bf16, SOLO, 1).path).unwrap();
    let (mut params, ..) = replica(&model, DType::F32, SOLO, 0, false);
    c.load_weights(&Device::cpu(1), &mut params, Values::Master).unwrap();
    for (u, p) in params.iter() {
        let got = u.weights.data::<f32>();
        assert!(elements(p).all(|(at, i)| got[at] == value(Kind::Master, DType::F32, &p.spec.name, i)));
    }
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoint::open(&save_all(dir.path(), &model, DType::F32, SOLO, 1).path).unwrap();
    assert_reads(&c, &model, DType::Bf16, ranks(2, 1, 1));
}

#[test]
fn a_checkpoint_without_moments_gives_weights_and_says_what_it_lacks() {
    let [model, _] = models();
    let dir = tempfile::tempdir().unwrap();
    let (params, _, tp, dp) = replica(&model, DType::F32, SOLO, 0, true);
    let state = SaveState { params: &params, optim: None, tp, dp };
    let saved = save(dir.path(), &state, &meta(&model, DType::F32, 0), &[], &|| Ok(())).unwrap();
    assert_eq!(contents(&saved.path).len(), 2);
    let c = Checkpoint::open(&saved.path).unwrap();
    assert!(!c.has_moments());
    let (mut params, mut optim, ..) = replica(&model, DType::F32, SOLO, 0, false);
    c.load_weights(&Device::cpu(1), &mut params, Values::Stored).unwrap();
    let e = c.load_optimizer(&mut params, &mut optim).unwrap_err().to_string();
    assert!(e.contains("no m of tensor embed.tokens.weight"), "{e}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_by_tensor() {
    let [model, _] = models();
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoint::open(&save_all(dir.path(), &model, DType::F32, SOLO, 1).path).unwrap();
    let load = |model: &ModelConfig| {
        let (mut params, mut optim, ..) = replica(model, DType::F32, SOLO, 0, false);
        let weights = c.load_weights(&Device::cpu(1), &mut params, Values::Stored).unwrap_err().to_string();
        assert_eq!(weights, c.load_optimizer(&mut params, &mut optim).unwrap_err().to_string());
        weights
    };
    let wide = load(&ModelConfig { ffn_dim: 44, ..model.clone() });
    assert!(wide.contains("blocks.0.mlp.gate.weight is [40, 32] here and [44, 32] in the model"), "{wide}");
    let deep = load(&ModelConfig { layers: 2, ..model.clone() });
    assert!(
        deep.contains("no tensor blocks.1.norm1.weight [32] (nearest: blocks.0.norm1.weight [32])"),
        "{deep}"
    );
    let less = load(&ModelConfig { tied: true, ..model.clone() });
    assert!(less.contains("tensor head.weight [200, 32] is not in the model"), "{less}");
}

#[test]
fn any_box_of_a_tensor_can_be_read() {
    let [model, _] = models();
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoint::open(&save_all(dir.path(), &model, DType::F32, ranks(2, 2, 1), 1).path).unwrap();
    for name in ["blocks.0.attn.o.weight", "embed.tokens.weight", "blocks.0.attn.q.weight"] {
        let spec = spec(&c, name);
        for (row, rows) in [(0, 1), (3, 29), (7, 9), (0, 32)] {
            for (col, cols) in [(0, 32), (0, 16), (5, 20), (15, 2), (31, 1)] {
                let area = Area { row, rows, col, cols };
                for kind in [Kind::Weight, Kind::M] {
                    let mut got = vec![0.0; area.len()];
                    c.read(kind, spec, area, &mut got).unwrap().unwrap();
                    for (i, x) in got.into_iter().enumerate() {
                        let at = (row + i / cols) * spec.cols + col + i % cols;
                        assert_eq!(x, value(kind, DType::F32, name, at), "{kind} {name} {area} element {i}");
                    }
                }
            }
        }
    }
}
