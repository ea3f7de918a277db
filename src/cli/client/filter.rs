//! Flags that select jobs.

use clap::Args;
use jobtrack_client::{JobFilter, State, proto::v1::Liveness};
use prost_types::Timestamp;

use super::values::{liveness, moment, pair, state};

/// Selects jobs: a job must match each flag that is set.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Selection of jobs")]
pub struct Filter {
    /// Any of these states: pending, running, succeeded, failed, cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state)]
    state: Vec<State>,

    /// Exactly this kind
    #[arg(long)]
    kind: Option<String>,

    /// Exactly this owner
    #[arg(long)]
    owner: Option<String>,

    /// Each of these labels
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,

    /// Created since this time: an age such as 2h, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    created_after: Option<Timestamp>,

    /// Created before this time: an age such as 2h, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    created_before: Option<Timestamp>,

    /// Last changed since this time: an age such as 2h, or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = moment)]
    updated_after: Option<Timestamp>,

    /// Any of these: live, lost
    #[arg(long, value_delimiter = ',', value_parser = liveness)]
    liveness: Vec<Liveness>,

    /// Exactly this worker: the one that reported last on the job
    #[arg(long)]
    worker: Option<String>,

    /// Beginning of the id
    #[arg(long, value_name = "PREFIX")]
    id_prefix: Option<String>,
}

impl Filter {
    /// Returns the filter; `None` if no flag is set.
    pub fn given(self) -> Option<JobFilter> {
        Some(self.into()).filter(|filter| *filter != JobFilter::default())
    }
}

impl From<Filter> for JobFilter {
    fn from(from: Filter) -> Self {
        Self {
            states: from.state.into_iter().map(Into::into).collect(),
            kind: from.kind.unwrap_or_default(),
            owner: from.owner.unwrap_or_default(),
            labels: from.label.into_iter().collect(),
            created_after: from.created_after,
            created_before: from.created_before,
            liveness: from.liveness.into_iter().map(Into::into).collect(),
            worker: from.worker.unwrap_or_default(),
            id_prefix: from.id_prefix.unwrap_or_default(),
            updated_after: from.updated_after,
        }
    }
}
