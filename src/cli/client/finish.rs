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

/// The job to complete.
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

/// The job to fail.
#[derive(Args)]
pub struct Fail {
    #[command(flatten)]
    target: Target,

    /// Reason of the failure, for programs; by convention in capitals
    #[arg(long, short, default_value = "", hide_default_value = true)]
    reason: String,

    /// Description of the failure, for people
    #[arg(long, short, default_value = "", hide_default_value = true)]
    message: String,

    /// gRPC status code, 1 to 16
    #[arg(long, value_name = "NUMBER")]
    code: Option<i32>,

    /// Your own data: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    details: Option<String>,

    /// End only this attempt: the job waits for the next attempt
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
    /// Ends the job as FAILED, or with `--retry` only its attempt.
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
