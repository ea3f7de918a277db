//! The job and the attempt that a worker reports on.

use std::env;

use clap::Args;

use crate::cli::exit::CommandError;

/// Variable with the job of the surrounding `jobtrack run`.
pub const JOB_ID: &str = "JOBTRACK_JOB_ID";

/// Variable with the number of the attempt of that job.
pub const ATTEMPT: &str = "JOBTRACK_ATTEMPT";

/// A job, and its attempt, which must be the current one.
#[derive(Args)]
pub struct Target {
    /// Id of the job; by default the job of the surrounding `jobtrack run`
    #[arg(env = JOB_ID, value_name = "ID")]
    pub id: String,

    /// Number of the attempt, which must be the current one; by default that of the surrounding `jobtrack run`
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    attempt: Option<i32>,

    /// Claim of the attempt, as `jobtrack start` prints it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub claim: String,
}

impl Target {
    /// Returns the number of the attempt. `JOBTRACK_ATTEMPT` is used only for the job in `JOBTRACK_JOB_ID`, and only
    /// without a claim.
    pub fn attempt(&self) -> Result<Option<i32>, CommandError> {
        let is_own = self.claim.is_empty() && env::var(JOB_ID).is_ok_and(|id| id == self.id);
        match env::var_os(ATTEMPT) {
            Some(text) if self.attempt.is_none() && is_own => {
                let number = text.to_str().and_then(|text| text.parse().ok()).filter(|number| *number > 0);
                // Without the number, a report of an attempt that was taken over would count.
                let invalid = || CommandError::Usage(format!("{ATTEMPT}={}: not a number from 1", text.display()));
                number.map(Some).ok_or_else(invalid)
            }
            _ => Ok(self.attempt),
        }
    }
}
