//! Invariants of every history: of the state machine, the merge, the tokens and the clocks.

mod clocks;
mod merge;
mod merge_rules;
mod tokens;
mod transitions;

use jobtrack::domain::{self, Job};

fn merged(a: &Job, b: &Job) -> Job {
    domain::merge(a, b).job
}
