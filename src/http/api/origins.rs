//! Protection against web pages: the origins whose pages may read answers, and the host names of this server.
//!
//! A browser lets a page of any site send requests, but shows the answers only to pages that the server allows. That is
//! not enough in two cases. With DNS rebinding, a page has a host name that an attacker resolves to this machine; such
//! requests are refused because of their host. And a request may change jobs even if its page can't read the answer;
//! requests from other sites are refused because of their origin.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Version,
    header::{
        ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
        ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
    },
    uri::Authority,
};
use tonic::body::Body;

use super::errors::Refusal;

/// Headers of answers that scripts may read.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin, retry-after");

/// Methods that pages may use.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE");

/// Time in seconds for which a browser may cache the answer to a preflight: the maximum that all browsers accept.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Header by which a browser tells whether the page has the origin of the server.
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Origins whose pages may read answers.
#[derive(Clone, Debug)]
pub enum Origins {
    /// All origins.
    Any,
    /// The listed origins, each as `scheme://host` or `scheme://host:port`.
    Listed(Vec<String>),
}

/// Names by which this server may be called.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// All names: callers need credentials, which the page of an attacker does not have.
    Any,
    /// The names of this machine, and further names.
    Local {
        /// Address that the server listens on.
        listen: IpAddr,
        /// Further names, without ports and without dots at their ends, and addresses in their shortest form.
        others: Vec<String>,
    },
}

/// Checks of requests that may come from web pages.
#[derive(Clone, Debug)]
pub struct PageRules {
    /// Origins whose pages may read answers.
    pub origins: Origins,
    /// Names by which this server may be called.
    pub hosts: Hosts,
}

impl PageRules {
    /// Checks the host and the origin of a request.
    pub fn check(&self, request: &Request<Body>) -> Result<(), Refusal> {
        let (headers, host) = (request.headers(), host(request));
        let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
        if request.version() <= Version::HTTP_11 || origin.is_some() {
            self.check_host(headers, host.as_ref())?;
        }
        let Some(origin) = origin else { return Ok(()) };
        let is_same = headers.get(&SEC_FETCH_SITE).is_some_and(|site| site == "same-origin")
            || host.is_some_and(|host| is_origin_of(origin, &host));
        if is_same || self.origins.include(origin) { Ok(()) } else { Err(Refusal::other_origin(origin)) }
    }

    /// Checks the host of a request that may come from a web page.
    fn check_host(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Refusal> {
        match host {
            Some(host) if self.hosts.include(host.host()) => Ok(()),
            Some(host) => Err(Refusal::other_host(host.host())),
            // Browsers connect to host names that a strict parser rejects, such as `a{b.example`.
            None if headers.contains_key(HOST) && self.hosts.are_limited() => {
                let named = headers.get_all(HOST).iter().map(|host| String::from_utf8_lossy(host.as_bytes()));
                Err(Refusal::other_host(&named.collect::<Vec<_>>().join(", ")))
            }
            // Every browser sends a host: this request is not from a page.
            None => Ok(()),
        }
    }

    /// Adds the headers that allow a page of this origin to read the answer.
    pub fn allow(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Some(origin) = origin.filter(|origin| self.origins.include(origin.as_bytes())) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

/// Returns the headers of the answer to a preflight; `None` if the request is not a preflight.
pub fn preflight(request: &Request<Body>) -> Option<HeaderMap> {
    let asked = request.headers();
    let is_preflight = request.method() == Method::OPTIONS
        && asked.contains_key(ORIGIN)
        && asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    is_preflight.then(|| {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        headers
    })
}

impl Origins {
    fn include(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|listed| origin.eq_ignore_ascii_case(listed.as_bytes())),
        }
    }
}

impl Hosts {
    /// Returns whether some host names are refused.
    const fn are_limited(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

    fn include(&self, host: &str) -> bool {
        let Self::Local { listen, others } = self else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if let Ok(address) = host.parse::<IpAddr>() {
            // DNS rebinding needs a name. Addresses of other machines are refused
            // nevertheless.
            let is_here = address.is_loopback() || listen.is_unspecified() || address == *listen;
            return is_here || listed(others, &address.to_string());
        }
        host.eq_ignore_ascii_case("localhost") || listed(others, host)
    }
}

fn listed(names: &[String], host: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Returns the host of a request, with its port; `None` if the request has no host, several hosts or an invalid one.
pub fn host(request: &Request<Body>) -> Option<Authority> {
    let named = || {
        let mut hosts = request.headers().get_all(HOST).iter();
        let host = hosts.next().filter(|_| hosts.next().is_none())?;
        Authority::try_from(host.as_bytes()).ok()
    };
    request.uri().authority().cloned().or_else(named)
}

fn is_origin_of(origin: &[u8], host: &Authority) -> bool {
    let authority = origin.windows(3).position(|part| part == b"://").map(|at| &origin[at + 3..]);
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_known() {
        let hosts = Hosts::Local { listen: [10, 0, 0, 5].into(), others: vec!["jobs.internal".to_owned()] };
        for host in ["localhost", "LocalHost.", "127.0.0.1", "127.9.9.9", "[::1]", "10.0.0.5", "Jobs.Internal"] {
            assert!(hosts.include(host), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "10.0.0.6", "127.0.0.1.evil.example", "", "2130706433"] {
            assert!(!hosts.include(host), "{host}");
        }
        let everywhere = Hosts::Local { listen: [0, 0, 0, 0].into(), others: Vec::new() };
        assert!(everywhere.include("10.0.0.6") && !everywhere.include("evil.example"));
    }

    #[test]
    fn hosts_that_are_not_valid_are_refused() {
        let hosts = Hosts::Local { listen: [127, 0, 0, 1].into(), others: Vec::new() };
        let rules = PageRules { origins: Origins::Listed(Vec::new()), hosts };
        let check = |hosts: &[&[u8]]| {
            let mut request = Request::builder().version(Version::HTTP_11).uri("/v1/jobs");
            for host in hosts {
                request = request.header(HOST, *host);
            }
            rules.check(&request.body(Body::empty()).expect("a request")).is_ok()
        };
        assert!(check(&[b"localhost:50051"]) && check(&[]));
        // Chromium connects to the first of these.
        for host in [&b"a{b.evil.example"[..], b"a`b.evil.example", b"\xe4.example", b""] {
            assert!(!check(&[host]), "{}", String::from_utf8_lossy(host));
        }
        assert!(!check(&[b"localhost", b"evil.example"]));
    }

    #[test]
    fn an_origin_is_that_of_its_host_with_the_port() {
        let host = Authority::from_static("localhost:50051");
        assert!(is_origin_of(b"http://localhost:50051", &host));
        for other in [&b"http://localhost:3000"[..], b"http://localhost", b"null", b"http://localhost:50051.evil"] {
            assert!(!is_origin_of(other, &host));
        }
    }
}
