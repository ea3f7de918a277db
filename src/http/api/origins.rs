//! Requests that pages of browsers make: which pages may read answers, and under which names this server may be called.
//!
//! A page of another site may send requests to this server, but the browser shows it no answer unless the server allows
//! that. Two kinds of requests have an effect all the same. Those of a page whose name an attacker has directed to this
//! machine (DNS rebinding) are refused for their host. Those of other sites are refused for their origin.

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

/// Time in seconds for which a browser may rely on the answer to a preflight: the most that all of them accept.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

/// Header by which browsers tell the relation of a page to the server.
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Origins whose pages may read answers.
#[derive(Clone, Debug)]
pub enum Origins {
    /// All.
    Any,
    /// These, each as `scheme://host` or `scheme://host:port`.
    Listed(Vec<String>),
}

/// Names by which this server may be called.
#[derive(Clone, Debug)]
pub enum Hosts {
    /// All: callers have credentials, which a page of an attacker does not have.
    Any,
    /// Those of this machine, and others.
    Local {
        /// Address that the server listens on.
        listen: IpAddr,
        /// Further names, without ports and without dots at their ends, and addresses in their shortest form.
        others: Vec<String>,
    },
}

/// Checks of requests that pages may have made.
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

    /// Checks the host of a request that a page may have made.
    fn check_host(&self, headers: &HeaderMap, host: Option<&Authority>) -> Result<(), Refusal> {
        match host {
            Some(host) if self.hosts.include(host.host()) => Ok(()),
            Some(host) => Err(Refusal::other_host(host.host())),
            // Browsers connect to names that are no authority for others, such as `a{b.example`.
            None if headers.contains_key(HOST) && self.hosts.are_limited() => {
                let named = headers.get_all(HOST).iter().map(|host| String::from_utf8_lossy(host.as_bytes()));
                Err(Refusal::other_host(&named.collect::<Vec<_>>().join(", ")))
            }
            // No browser leaves it out.
            None => Ok(()),
        }
    }

    /// Adds to the headers of an answer that its page may read it.
    pub fn allow(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        if let Some(origin) = origin.filter(|origin| self.origins.include(origin.as_bytes())) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

/// Returns the headers that answer a preflight; `None`: the request is none.
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
    /// Returns whether some names are refused.
    const fn are_limited(&self) -> bool {
        matches!(self, Self::Local { .. })
    }

    fn include(&self, host: &str) -> bool {
        let Self::Local { listen, others } = self else { return true };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if let Ok(address) = host.parse::<IpAddr>() {
            // An address can't be directed elsewhere, but it may be meant for another machine.
            let is_here = address.is_loopback() || listen.is_unspecified() || address == *listen;
            return is_here || listed(others, &address.to_string());
        }
        host.eq_ignore_ascii_case("localhost") || listed(others, host)
    }
}

fn listed(names: &[String], host: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Returns the host that a request is for, with its port; `None`: it has none, several, or one that is not valid.
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
