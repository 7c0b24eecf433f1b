//! How this process was started. A build without MPI that was started as one of several processes would train as
//! many copies of the same model, each believing to be alone: it refuses instead. A build with MPI meets the others.
//!
//! Variables: Open MPI `OMPI_COMM_WORLD_*`; MPICH, Intel MPI and Cray `PMI_*`; MVAPICH2 `MV2_COMM_WORLD_*`; PMIx
//! `PMIX_RANK` (no size); Flux `FLUX_*`; Slurm `SLURM_PROCID` with `SLURM_STEP_ID`. Slurm also sets `SLURM_NTASKS` and
//! `SLURM_PROCID` in a batch script, which is one process: there `SLURM_STEP_ID` is absent or a reserved number.

use crate::{Error, Result};

/// Launcher, variable with the number of processes, variable with the number of this one.
const SIZES: [(&str, &str, &str); 4] = [
    ("mpirun of Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("a PMI launcher", "PMI_SIZE", "PMI_RANK"),
    ("mpirun of MVAPICH2", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("flux run", "FLUX_JOB_SIZE", "FLUX_TASK_RANK"),
];

/// From here on, step numbers of Slurm are not of `srun`: interactive, batch, extern, pending, and the older numbers
/// of batch and extern (4294967294 and 4294967295).
const RESERVED_STEPS: u64 = 0xffff_fff0;

/// What a launcher says of this process, which is or may be one of several.
#[derive(Clone, Debug, PartialEq)]
pub struct Announced {
    pub launcher: &'static str,
    /// The variables that say so, "PMI_SIZE=4, PMI_RANK=0".
    pub shown: String,
    /// None where the launcher tells none.
    pub size: Option<usize>,
    pub rank: Option<usize>,
}

/// None if this process is alone. Error: `Launch`, if a number of processes is no number. `var` looks up the environment.
pub fn discover(var: impl Fn(&str) -> Option<String>) -> Result<Option<Announced>> {
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(value) = var(name) else { return Ok(None) };
        match value.trim().parse() {
            Ok(n) => Ok(Some(n)),
            Err(_) => {
                let problem =
                    format!("{name}={value} is not a number, so the number of processes is unknown");
                Err(Error::launch(problem, "unset it, or start one process with --ranks N"))
            }
        }
    };
    let several = |launcher: &'static str, size: Option<usize>, names: [&str; 2]| {
        let set: Vec<String> = names.iter().filter_map(|&v| Some(format!("{v}={}", var(v)?))).collect();
        let rank = if size.is_some() { number(names[1])? } else { None };
        Ok(Some(Announced { launcher, shown: set.join(", "), size, rank }))
    };
    let mut says_one = false;
    for (launcher, size, rank) in SIZES {
        match number(size)? {
            Some(1) => says_one = true,
            Some(n) => return several(launcher, Some(n), [size, rank]),
            None => {}
        }
    }
    if in_srun_step(&var) {
        let size = ["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"].into_iter().find(|v| var(v).is_some());
        match size {
            Some(size) if number(size)? == Some(1) => says_one = true,
            Some(size) => return several("srun", number(size)?, [size, "SLURM_PROCID"]),
            None => return several("srun", None, ["SLURM_STEP_ID", "SLURM_PROCID"]),
        }
    }
    // PMIx tells no size: 0 may be the first of many.
    if var("PMIX_RANK").is_some() && (number("PMIX_RANK")? != Some(0) || !says_one) {
        return several("a PMIx launcher", None, ["PMIX_RANK", "PMIX_NAMESPACE"]);
    }
    Ok(None)
}

impl Announced {
    /// Why a process that must be alone does not go on.
    pub fn refusal(&self, why: &str, remedy: &str) -> Error {
        let Announced { launcher, shown, .. } = self;
        Error::launch(format!("started as one of several processes by {launcher} ({shown}); {why}"), remedy)
    }
}

/// Whether `srun` started this process or one above it.
fn in_srun_step(var: &impl Fn(&str) -> Option<String>) -> bool {
    let step = |id: String| match id.trim().parse::<u64>() {
        Ok(id) => id < RESERVED_STEPS,
        Err(_) => !["batch", "extern", "interactive"].contains(&id.trim()),
    };
    var("SLURM_PROCID").is_some() && var("SLURM_STEP_ID").or_else(|| var("SLURM_STEPID")).is_some_and(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(env: &[(&str, &str)]) -> Result<Option<Announced>> {
        discover(|name| env.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn one_process_may_start() {
        let alone: [&[(&str, &str)]; 9] = [
            &[],
            &[("OMPI_COMM_WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "0"), ("PMIX_RANK", "0")],
            &[("PMI_SIZE", "1"), ("PMI_RANK", "0")],
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_JOB_ID", "7")],
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_STEP_ID", "4294967291")],
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_STEP_ID", "4294967294")],
            &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_STEP_ID", "batch")],
            &[
                ("SLURM_NTASKS", "8"),
                ("SLURM_STEP_NUM_TASKS", "1"),
                ("SLURM_PROCID", "0"),
                ("SLURM_STEP_ID", "0"),
                ("PMIX_RANK", "0"),
            ],
            &[("SLURM_NTASKS", "8"), ("SLURM_STEP_ID", "0")],
        ];
        for env in alone {
            assert!(start(env).is_ok_and(|a| a.is_none()), "{env:?}: {:?}", start(env));
        }
    }

    #[test]
    fn one_of_several_processes_is_known_by_the_variables_of_its_launcher() {
        #[allow(clippy::type_complexity)] // a table of cases
        type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, Option<usize>, Option<usize>);
        let several: [Case; 9] = [
            (
                &[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "2")],
                "OMPI_COMM_WORLD_SIZE=4",
                Some(4),
                Some(2),
            ),
            (&[("PMI_SIZE", "2"), ("PMI_RANK", "0")], "PMI_SIZE=2, PMI_RANK=0", Some(2), Some(0)),
            (&[("MV2_COMM_WORLD_SIZE", "2")], "MV2_COMM_WORLD_SIZE=2", Some(2), None),
            (&[("FLUX_JOB_SIZE", "3"), ("FLUX_TASK_RANK", "1")], "FLUX_JOB_SIZE=3", Some(3), Some(1)),
            (&[("PMIX_RANK", "0")], "PMIX_RANK=0", None, None),
            (&[("PMIX_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "1")], "PMIX_RANK=1", None, None),
            (
                &[("SLURM_NTASKS", "8"), ("SLURM_PROCID", "3"), ("SLURM_STEP_ID", "0")],
                "SLURM_NTASKS=8, SLURM_PROCID=3",
                Some(8),
                Some(3),
            ),
            (
                // mpirun -n 1 inside a step of four.
                &[
                    ("OMPI_COMM_WORLD_SIZE", "1"),
                    ("SLURM_NTASKS", "4"),
                    ("SLURM_PROCID", "0"),
                    ("SLURM_STEP_ID", "2"),
                ],
                "SLURM_NTASKS=4",
                Some(4),
                Some(0),
            ),
            (&[("SLURM_PROCID", "0"), ("SLURM_STEP_ID", "0")], "SLURM_STEP_ID=0", None, None),
        ];
        for (env, named, size, rank) in several {
            let found = start(env).expect(named).expect(named);
            assert_eq!((found.size, found.rank), (size, rank), "{env:?}");
            let text = found.refusal("alone", "do this").to_string();
            assert!(text.contains(named) && text.ends_with("alone; do this"), "{env:?}: {text}");
        }
    }

    #[test]
    fn a_size_that_is_not_a_number_is_refused() {
        let text = start(&[("PMI_SIZE", "four")]).expect_err("unknown size").to_string();
        assert!(text.contains("PMI_SIZE=four is not a number"), "{text}");
    }
}
