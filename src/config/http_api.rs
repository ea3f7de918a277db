//! The HTTP API.

use clap::{Args, ValueEnum};
use url::{Origin, Url};

use super::values::host_name;

/// The configuration of the HTTP API.
#[allow(rustdoc::bare_urls, reason = "it is read in a terminal")]
#[derive(Args, Clone, Debug)]
pub struct HttpApiConfig {
    /// HTTP API (JSON and events) on the address for gRPC
    #[arg(long, env = "JOBTRACK_HTTP_API", default_value = "on", value_enum)]
    pub http_api: Switch,

    /// Origin of pages that may call this server from a browser, such as https://app.example.com; repeatable; * allows
    /// all, with authentication only
    #[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
    #[arg(long, env = "JOBTRACK_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<String>,

    /// Further name by which browsers and HTTP/1.1 clients may call a server without authentication, besides localhost,
    /// loopback addresses and the listen address; repeatable
    #[arg(long, env = "JOBTRACK_ALLOWED_HOST", value_name = "HOST", value_delimiter = ',', value_parser = host_name)]
    pub allowed_host: Vec<String>,
}

/// The state of the HTTP API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Serve the HTTP API.
    On,
    /// Serve gRPC and gRPC-Web only.
    Off,
}

/// Error text for a value that is not an origin.
const NO_ORIGIN: &str = "write it as SCHEME://HOST or SCHEME://HOST:PORT";

/// Stands for all origins.
pub const ANY_ORIGIN: &str = "*";

impl HttpApiConfig {
    /// Returns whether pages of all origins may call the server.
    pub fn allows_any_origin(&self) -> bool {
        self.cors_origin.iter().any(|origin| origin == ANY_ORIGIN)
    }
}

/// Returns an origin in the form in which browsers send it: in lower case, without the port that its scheme implies.
fn origin(text: &str) -> Result<String, &'static str> {
    if text == ANY_ORIGIN {
        return Ok(text.to_owned());
    }
    let url = Url::parse(text).map_err(|_| NO_ORIGIN)?;
    let has_user = !url.username().is_empty() || url.password().is_some() || text.contains('@');
    let has_path = text.ends_with('/') || !matches!(url.path(), "" | "/") || text.contains(['?', '#']);
    if !url.has_host() || has_user || has_path {
        return Err(NO_ORIGIN);
    }
    match url.origin() {
        origin @ Origin::Tuple(..) => Ok(origin.ascii_serialization()),
        // The origin of a browser extension, or of an application.
        Origin::Opaque(_) => Ok(text.to_ascii_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in
            ["https://app.example.com", "http://localhost:3000", "*", "http://[::1]:8080", "chrome-extension://abc"]
        {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for (given, sent) in [
            ("HTTPS://App.Example.com", "https://app.example.com"),
            ("https://a:443", "https://a"),
            ("http://a:80", "http://a"),
            ("https://a:80", "https://a:80"),
            ("http://[0:0::1]", "http://[::1]"),
            ("https://m\u{fc}ller.example", "https://xn--mller-kva.example"),
        ] {
            assert_eq!(origin(given).as_deref(), Ok(sent));
        }
        for bad in [
            "app.example.com",
            "https://app.example.com/",
            "https://app.example.com/a",
            "null",
            "",
            "https://a?b",
            "https://a#b",
            "https://user@a",
            "https://user:secret@a",
            "https://@a",
            "https://a:65536",
            "file:///a",
            "https://",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
