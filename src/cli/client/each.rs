//! Commands for several jobs.

use crate::cli::{
    exit::{CommandError, Exit},
    output::print_error,
};

/// Calls `act` with each id. An error about one job is printed, and the remaining jobs are processed. Any other error
/// ends the command.
pub async fn each(ids: &[String], act: impl AsyncFn(&str) -> Result<(), CommandError>) -> Result<Exit, CommandError> {
    let mut exit = Exit::Done;
    for id in ids {
        match act(id).await {
            Ok(()) => {}
            Err(error) if error.is_of_job() => {
                print_error(&error);
                exit = exit.and(error.exit());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(exit)
}
