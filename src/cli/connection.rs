//! The tracker that a client command calls.

use std::{env, path::PathBuf, time::Duration};

use clap::Args;
use jobtrack_client::{Builder, DEFAULT_SERVER, Tracker};

use super::exit::CommandError;
use crate::config;

/// Variable with the token of the caller. A flag would show the token to all users of the machine.
pub const TOKEN: &str = "JOBTRACK_TOKEN";

/// Flags of the connection to a tracker.
#[derive(Args, Clone, Debug)]
#[expect(clippy::doc_markdown, reason = "the text is shown in a terminal")]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// URL of the tracker, http://HOST:PORT or https://HOST:PORT; separate the URLs of several replicas by commas
    #[arg(long, env = "JOBTRACK_SERVER", default_value = DEFAULT_SERVER, value_name = "URL")]
    server: String,

    /// File with the token of the caller; by default the token is the value of the variable JOBTRACK_TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// File with the CA certificates that verify the certificate of the tracker, PEM; by default those of the system
    #[arg(long, env = "JOBTRACK_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// File with the certificate of the caller, PEM
    #[arg(long, env = "JOBTRACK_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// File with the private key of the caller's certificate, PEM
    #[arg(long, env = "JOBTRACK_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// Maximum time of a call, including its retries
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = config::duration)]
    call_timeout: Duration,
}

impl Connection {
    /// Returns the URL of the tracker.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the number of replicas that the URL names.
    pub fn replicas(&self) -> usize {
        self.server.split(',').count()
    }

    /// Returns the maximum time of a call.
    pub const fn call_timeout(&self) -> Duration {
        self.call_timeout
    }

    /// Returns a builder with the settings of these flags.
    pub fn builder(&self) -> Builder {
        let mut builder = Tracker::builder(&self.server).timeout(self.call_timeout);
        builder = match (&self.token_file, env::var(TOKEN)) {
            (Some(file), _) => builder.token_file(file),
            (None, Ok(token)) if !token.is_empty() => builder.token(token),
            (None, _) => builder,
        };
        if let Some(file) = &self.ca_file {
            builder = builder.ca_file(file);
        }
        match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => builder.client_cert(certificate, key),
            _ => builder,
        }
    }

    /// Returns the tracker. Calls fail at once if no replica can be reached, because a user waits for the answer.
    pub fn tracker(&self) -> Result<Tracker, CommandError> {
        Ok(self.builder().wait_for_ready(false).connect_lazy()?)
    }
}
