//! Saved on four ranks that are threads, resumed on one to four: `common/layouts.rs` has the table.

use super::layouts::{Over, check, rewrite};
use espalier::comm::run_ranks;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

struct Threads;

impl Over for Threads {
    fn program(&self, ranks: usize, folder: &Path, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
        command.env_clear().current_dir(folder).args(args).args(["--ranks", &ranks.to_string()]);
        let out = command.output().expect("the program starts");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    fn rewrite(&self, ranks: usize, root: &Path) {
        run_ranks(ranks, Duration::from_secs(60), |world| rewrite(&world, root)).expect("state is written");
    }
}

#[test]
fn saved_on_four_ranks_it_goes_on_in_any_layout_of_one_to_four_with_the_same_state() {
    check(&Threads);
}
