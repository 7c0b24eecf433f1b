//! `parallel.shard = "node"`: state split over the ranks of a node is state split over that many ranks, and what is said
//! of nodes that are not here.

use super::{config, espalier, output, run_file};
use espalier::config::Shard;
use espalier::train::run::{Launch, placed};
use serde_json::Value;
use std::time::Duration;

fn dry(file: &str, shard: &str, args: &[&str]) -> Value {
    let shard = format!("parallel.shard={shard}");
    let base = ["train", file, "--ranks", "8", "--threads", "1", "--dry-run", "--json", "--set", &shard];
    serde_json::from_str(&output(&[&base[..], args].concat())).expect("JSON")
}

#[test]
fn a_shard_group_is_the_data_parallel_ranks_of_a_node() {
    let c = config("preset = \"llama-tiny\"\nlayers = 1", "[parallel]\ntp = 2\nshard = \"node\"");
    let launch = |ranks_per_node| Launch {
        ranks: 8,
        threads: Some(1),
        deadline: Duration::from_secs(60),
        ranks_per_node,
    };
    let size = |n| {
        let placed = placed(&c, &launch(n)).expect("nodes that fit");
        assert!(placed.resolved_toml().contains("shard = \"node\""), "a resume looks again");
        (placed.parallel.shard, placed.parallel.shard_size(4))
    };
    assert_eq!(size(None), (Shard::Node(None), 4), "threads are on one node");
    assert_eq!(size(Some(4)), (Shard::Node(Some(2)), 2));
    assert_eq!(size(Some(2)), (Shard::Node(Some(1)), 1));
    let says = |n, text: &str| {
        let e = placed(&c, &launch(Some(n))).expect_err("no such nodes").to_string();
        assert!(e.contains(text), "{e}");
    };
    says(1, "tp = 2 does not divide the 1 ranks of a node");
    says(3, "--ranks-per-node 3 does not divide 8 ranks");
}

#[test]
fn a_dry_run_tells_what_nodes_that_are_not_here_need() {
    let dir = tempfile::tempdir().expect("a directory");
    let rest =
        "global_batch = 8\n[model]\npreset = \"llama-tiny\"\nvocab = 257\n[parallel]\ntp = 2\nzero = 2";
    let file = run_file(dir.path(), rest);
    let node = dry(&file, "node", &["--ranks-per-node", "4"]);
    let two = dry(&file, "2 ranks", &[]);
    for part in ["memory", "phases"] {
        assert_eq!(node[part], two[part], "{part}");
    }
    assert_eq!((&node["layout"]["shard"], &node["layout"]["ranks_per_node"]), (&2.into(), &4.into()));
    let all = dry(&file, "all", &[]);
    assert_ne!(node["memory"], all["memory"]);
    assert_eq!(dry(&file, "node", &[])["memory"], all["memory"], "one node, if nothing else is said");

    let args = ["train", &file, "--ranks", "8", "--dry-run", "--set", "parallel.shard=node"];
    let page = output(&[&args[..], &["--ranks-per-node", "4"]].concat());
    assert!(page.contains("2 nodes of 4 ranks; state split over 2 of dp 4, 2 copies of it"), "{page}");
    let page = output(&args);
    assert!(page.contains("1 node of 8 ranks (--ranks-per-node says otherwise)"), "{page}");
    let refused = espalier(&[&args[..], &["--ranks-per-node", "5"]].concat()).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && said.contains("--ranks-per-node 5 does not divide 8"),
        "{said}"
    );
}
