//! `jobtrack token`.

use std::time::Duration;

use clap::Args;
use jobtrack_client::proto::v1::CreateWatchTokenRequest;

use super::values::{to_proto, view};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::{Json, Output, print},
        text::escape,
    },
    config,
};

/// The jobs to share.
#[derive(Args)]
pub struct Token {
    /// Ids of the jobs, at most 100
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    /// Validity of the token, at most 7d
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = config::duration)]
    ttl: Duration,

    /// Show documents to the holder: metadata, results and details
    #[arg(long)]
    full: bool,

    /// Print only the URL
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Token {
    /// Creates a token. Prints the token and the URL at which its holder can follow the jobs.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let request =
            CreateWatchTokenRequest { job_ids: self.ids, ttl: Some(to_proto(self.ttl)), view: view(self.full).into() };
        let made = self.connection.tracker()?.create_watch_token(request).await?;
        let format = self.output.format;
        if format.is_json() {
            print(&Json::of("CreateWatchTokenResponse", format).write(&made))?;
            return Ok(Exit::Done);
        }
        let url = escape(&url(self.connection.server(), &made.path, &made.token)).into_owned();
        if self.quiet {
            print(&format!("{url}\n"))?;
        } else {
            let expires = made.expire_time.map(|time| time.to_string()).unwrap_or_default();
            print(&format!("Token    {}\nURL      {url}\nExpires  {expires}\n", escape(&made.token)))?;
        }
        Ok(Exit::Done)
    }
}

/// Returns the URL of the events, with the token as its only credential.
fn url(servers: &str, path: &str, token: &str) -> String {
    let server = servers.split(',').next().unwrap_or_default().trim().trim_end_matches('/');
    let separator = if path.contains('?') { '&' } else { '?' };
    format!("{server}{path}{separator}access_token={token}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_that_of_the_first_replica() {
        let made = url("https://a:1/, https://b", "/v1/jobs/x/events", "t");
        assert_eq!(made, "https://a:1/v1/jobs/x/events?access_token=t");
        assert_eq!(url("http://a", "/v1/events?id=x&id=y", "t"), "http://a/v1/events?id=x&id=y&access_token=t");
    }
}
