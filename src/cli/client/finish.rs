//! `jobtrack complete` and `jobtrack fail`.

use clap::Args;
use jobtrack_client::{
    Failure,
    proto::v1::{CompleteJobRequest, FailJobRequest},
};

use super::{answer::Answer, target::Target, values::document};
use crate::cli::{
    connection::Connection,
    exit::{CommandError, Exit},
};

/// The job that ended well.
#[derive(Args)]
pub struct Complete {
    #[command(flatten)]
    target: Target,

    /// Result: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    result: Option<String>,

    /// Print nothing
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Complete {
    /// Ends the job as SUCCEEDED.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let request = CompleteJobRequest {
            result: self.result.map(|result| document("--result", &result)).transpose()?,
            attempt: self.target.attempt()?,
            job_id: self.target.id,
            claim: self.target.claim,
            expected_revision: None,
        };
        let job = self.connection.tracker()?.complete_with(request).await?;
        if !self.quiet {
            self.answer.print(&job)?;
        }
        Ok(Exit::Done)
    }
}

/// The job that ended badly.
#[derive(Args)]
pub struct Fail {
    #[command(flatten)]
    target: Target,

    /// The cause for programs, by convention in capitals
    #[arg(long, short, default_value = "", hide_default_value = true)]
    reason: String,

    /// The cause for people
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,

    /// Number of a code of gRPC, 1 to 16
    #[arg(long, value_name = "NUMBER")]
    code: Option<i32>,

    /// Your own data: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    details: Option<String>,

    /// Only this attempt failed: the job waits for the next one
    #[arg(long)]
    retry: bool,

    /// Print nothing
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Fail {
    /// Ends the job, or its attempt, as FAILED.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let details = self.details.map(|details| document("--details", &details)).transpose()?;
        let failure = Failure { code: self.code, reason: self.reason, message: self.message, details };
        let request = FailJobRequest {
            failure: Some(failure),
            attempt: self.target.attempt()?,
            job_id: self.target.id,
            claim: self.target.claim,
            retry: self.retry,
            expected_revision: None,
        };
        let job = self.connection.tracker()?.fail_with(request).await?;
        if !self.quiet {
            self.answer.print(&job)?;
        }
        Ok(Exit::Done)
    }
}
