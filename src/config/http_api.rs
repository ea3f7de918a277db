//! The HTTP API.

use clap::{Args, ValueEnum};
use http::Uri;

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
    /// Serve it.
    On,
    /// Serve gRPC and gRPC-Web only.
    Off,
}

/// Stands for all origins.
pub const ANY_ORIGIN: &str = "*";

impl HttpApiConfig {
    /// Returns whether pages of all origins may call the server.
    pub fn allows_any_origin(&self) -> bool {
        self.cors_origin.iter().any(|origin| origin == ANY_ORIGIN)
    }
}

/// Parses an origin, as browsers send it.
fn origin(text: &str) -> Result<String, &'static str> {
    if text == ANY_ORIGIN {
        return Ok(text.to_owned());
    }
    let uri: Option<Uri> = text.parse().ok().filter(|_| !text.ends_with('/'));
    let is_origin = uri.is_some_and(|uri| uri.scheme().is_some() && uri.path() == "/" && uri.query().is_none());
    if is_origin { Ok(text.to_ascii_lowercase()) } else { Err("write it as SCHEME://HOST or SCHEME://HOST:PORT") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["https://app.example.com", "http://localhost:3000", "*", "http://[::1]:8080"] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for bad in
            ["app.example.com", "https://app.example.com/", "https://app.example.com/a", "null", "", "https://a?b"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
