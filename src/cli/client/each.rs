//! Commands for several jobs.

use crate::cli::{
    exit::{CommandError, Exit},
    output::print_error,
};

/// Does something with each job. An error about one of them is told, and does not keep the others from their turn.
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
