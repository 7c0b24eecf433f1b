//! Saved on four processes, resumed on one to four: `common/layouts.rs` has the table.

use super::collectives::LONG;
use super::launcher::{SCENARIO, run};
use super::layouts::{Over, check, rewrite};
use espalier::Result;
use espalier::comm::{Setup, processes};
use std::path::Path;

/// The part of a worker, in the folder of the table.
pub fn work(ranks: usize) -> Result<()> {
    processes::run(ranks, &Setup::new(LONG), |world| rewrite(&world, Path::new("."))).map(drop)
}

struct Processes;

impl Over for Processes {
    fn program(&self, ranks: usize, folder: &Path, args: &[&str]) {
        let e = run(ranks, folder, env!("CARGO_BIN_EXE_espalier"), args, &[]);
        assert_eq!(e.code, Some(0), "{args:?}: {}", e.stderr);
    }
    fn rewrite(&self, ranks: usize, root: &Path) {
        let own = std::env::current_exe().unwrap();
        let args = ["--exact", "collectives::worker", "--nocapture"];
        let e = run(ranks, root, own.to_str().unwrap(), &args, &[(SCENARIO, "reshard")]);
        assert_eq!(e.code, Some(0), "{ranks} ranks: {}\n{}", e.stdout, e.stderr);
    }
}

#[test]
fn saved_on_four_processes_it_goes_on_in_any_layout_of_one_to_four_with_the_same_state() {
    check(&Processes);
}
