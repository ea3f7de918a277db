//! Environment variables with the prefix of jobtrack that have no effect.

use std::env;

use super::{
    client::{ATTEMPT, JOB_ID},
    connection::TOKEN,
};

const PREFIX: &str = "JOBTRACK_";

/// Variables of client commands and libraries that belong to no flag.
const OF_CLIENTS: [&str; 3] = [TOKEN, JOB_ID, ATTEMPT];

/// Returns the names of the variables that have the prefix, but belong to no flag of `command` or of one of its
/// subcommands.
pub fn unknown(command: &clap::Command) -> Vec<String> {
    let arguments = command.get_subcommands().chain([command]).flat_map(clap::Command::get_arguments);
    let of_flags = arguments.filter_map(|arg| arg.get_env()?.to_str());
    let known: Vec<_> = of_flags.chain(OF_CLIENTS).collect();
    let given = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let has_prefix = |name: &String| name.starts_with(PREFIX) && !is_of_kubernetes(name);
    given.filter(has_prefix).filter(|name| !known.contains(&name.as_str())).collect()
}

/// Returns whether Kubernetes sets a variable of this name in each container, for a service whose name begins with
/// `jobtrack`. Such a variable is not a mistake of the user.
fn is_of_kubernetes(name: &str) -> bool {
    let is_port = |rest: &str| rest.is_empty() || rest.starts_with('_');
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.match_indices("_PORT").any(|(at, word)| is_port(&name[at + word.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_kubernetes_sets_are_recognized() {
        for name in [
            "JOBTRACK_SERVICE_HOST",
            "JOBTRACK_REDIS_SERVICE_PORT_REDIS",
            "JOBTRACK_PORT",
            "JOBTRACK_REDIS_PORT_6379_TCP_ADDR",
        ] {
            assert!(is_of_kubernetes(name), "{name}");
        }
        for name in ["JOBTRACK_REDIS_ULR", "JOBTRACK_PORTS", "JOBTRACK_LISTENS"] {
            assert!(!is_of_kubernetes(name), "{name}");
        }
    }
}
