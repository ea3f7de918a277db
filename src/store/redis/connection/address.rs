//! Addresses of Redis: the forms of `--redis-url`.

use std::{
    fmt::{self, Display, Formatter},
    fs, io,
    path::{Path, PathBuf},
};

use redis::{ConnectionInfo, IntoConnectionInfo};
use thiserror::Error;

/// The address of a Redis in one of its topologies. Shown without its secrets.
#[derive(Clone)]
pub struct Target {
    /// Topology and connection settings.
    pub(super) topology: Topology,
    shown: String,
    /// The address as it was given.
    url: String,
    /// File that the address was read from.
    file: Option<PathBuf>,
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url
    }
}

/// The topology of a Redis, with the settings of connections to it.
#[derive(Clone)]
pub(super) enum Topology {
    /// One server.
    Node(Box<ConnectionInfo>),
    /// The master that sentinels name; `node` has the settings of a connection to it.
    Sentinel { sentinels: Vec<ConnectionInfo>, master: String, node: Box<ConnectionInfo> },
    /// The cluster to which any of these nodes belongs.
    Cluster(Vec<ConnectionInfo>),
}

/// The advice for an address that can't be parsed.
const FORMS: &str = "write redis://HOST:PORT, rediss://HOST:PORT (TLS), redis+sentinel://HOST,HOST/MASTER or \
                     redis+cluster://HOST,HOST, with USER:PASSWORD@ before the first host if needed";

/// The reason why an address can't be used. The text repeats no part of the address, because that may be a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// The form is unknown.
    #[error("{}", FORMS)]
    Form,
    /// A question mark before an at sign, so that a part of the credentials would be read as parameters.
    #[error("write ? and @ in a user or a password as %3F and %40")]
    NotEncoded,
    /// A fragment.
    #[error(
        "leave out # and what follows it (certificates are always verified), or write it as %23 in a user or a password"
    )]
    Fragment,
    /// The database is a parameter.
    #[error("write the database after the host: redis://HOST:PORT/5")]
    DatabaseParameter,
    /// An unknown parameter; contains the known ones.
    #[error("leave out what follows ?: there are no parameters{0}; in a user or a password write ? as %3F")]
    Parameter(String),
    /// A parameter occurs twice.
    #[error("{0} is given twice")]
    DuplicateParameter(String),
    /// Several hosts of one server.
    #[error("several hosts need redis+sentinel://HOST,HOST/MASTER or redis+cluster://HOST,HOST")]
    Hosts,
    /// Sentinels without a master.
    #[error("name the master after the sentinels: redis+sentinel://HOST,HOST/MASTER")]
    Master,
    /// A user of sentinels without a password.
    #[error("sentinel_username needs sentinel_password")]
    SentinelPassword,
    /// No sentinel.
    #[error("name at least one sentinel: redis+sentinel://HOST,HOST/MASTER")]
    Sentinels,
    /// A database of a cluster.
    #[error("a cluster has one database: leave out what follows the hosts")]
    ClusterDatabase,
    /// No node of a cluster.
    #[error("name at least one node: redis+cluster://HOST,HOST")]
    Nodes,
    /// The database is not a number from 0.
    #[error("the database must be a number from 0")]
    Database,
    /// The library rejects the address.
    #[error("{0}; {FORMS}")]
    Library(String),
    /// The file of the address can't be read.
    #[error("{file} can't be read: {error}")]
    Unreadable {
        /// Path of the file.
        file: String,
        /// Error of the system.
        error: String,
    },
}

impl Target {
    /// Parses an address.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Form)?;
        if rest.split_once('?').is_some_and(|(_, query)| query.contains('@')) {
            return Err(AddressError::NotEncoded);
        }
        if rest.contains('#') {
            return Err(AddressError::Fragment);
        }
        let (base, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let base = match (base, kind) {
            ("valkey", _) => "redis",
            ("valkeys", _) => "rediss",
            ("redis" | "rediss" | "unix", _) => base,
            _ => return Err(AddressError::Form),
        };
        let parts = Parts::of(rest);
        let topology = match kind {
            _ if base == "unix" || kind == "unix" => socket(url, &parts)?,
            "" => node(url, &parts)?,
            "sentinel" => sentinel(base, &parts)?,
            "cluster" => cluster(base, &parts)?,
            _ => return Err(AddressError::Form),
        };
        Ok(Self { topology, shown: redacted(scheme, rest), url: url.to_owned(), file: None })
    }
}

impl Target {
    /// Reads an address from a file.
    pub fn read(file: &Path) -> Result<Self, AddressError> {
        let problem =
            |error: io::Error| AddressError::Unreadable { file: file.display().to_string(), error: error.to_string() };
        let url = fs::read_to_string(file).map_err(problem)?;
        Ok(Self { file: Some(file.to_owned()), ..Self::parse(url.trim())? })
    }

    /// Returns the file that the address was read from.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns whether another address leads to the same database of the same servers, perhaps with other credentials.
    pub fn is_same_database(&self, other: &Self) -> bool {
        let server = |target: &Self| (target.shown.replacen("***@", "", 1), target.database());
        server(self) == server(other)
    }

    /// Returns the number of the database.
    pub fn database(&self) -> i64 {
        match &self.topology {
            Topology::Node(info) | Topology::Sentinel { node: info, .. } => info.redis_settings().db(),
            Topology::Cluster(_) => 0,
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

/// The parts of an address with several hosts.
struct Parts<'a> {
    /// Credentials, including the `@` after them; may be empty.
    credentials: &'a str,
    hosts: Vec<&'a str>,
    path: Vec<&'a str>,
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (credentials, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
        let mut path = rest.split('/');
        let hosts = path.next().unwrap_or_default().split(',').filter(|host| !host.is_empty()).collect();
        Self { credentials, hosts, path: path.filter(|part| !part.is_empty()).collect(), query }
    }

    /// Returns a query parameter, without decoding it.
    fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters().find(|(key, _)| *key == name).map(|pair| pair.1)
    }

    fn parameters(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.query.split('&').filter(|pair| !pair.is_empty()).map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    /// Fails unless all parameters are among the `known` ones, each at most once: otherwise an unknown parameter would
    /// be ignored. The error does not name the unknown parameter, which may be a part of a password that was not
    /// encoded.
    fn check_parameters(&self, known: &[&str]) -> Result<(), AddressError> {
        let mut seen = Vec::new();
        for (name, _) in self.parameters() {
            if matches!(name, "db" | "database") && !known.contains(&name) {
                return Err(AddressError::DatabaseParameter);
            }
            if !known.contains(&name) {
                let but = if known.is_empty() { String::new() } else { format!(" but {}", known.join(" and ")) };
                return Err(AddressError::Parameter(but));
            }
            if seen.contains(&name) {
                return Err(AddressError::DuplicateParameter(name.to_owned()));
            }
            seen.push(name);
        }
        Ok(())
    }
}

fn node(url: &str, parts: &Parts<'_>) -> Result<Topology, AddressError> {
    parts.check_parameters(&[])?;
    if parts.hosts.len() > 1 {
        return Err(AddressError::Hosts);
    }
    Ok(Topology::Node(Box::new(connection(url)?)))
}

fn socket(url: &str, parts: &Parts<'_>) -> Result<Topology, AddressError> {
    parts.check_parameters(&["db", "user", "pass"])?;
    Ok(Topology::Node(Box::new(connection(url)?)))
}

fn sentinel(scheme: &str, parts: &Parts<'_>) -> Result<Topology, AddressError> {
    let (master, database) = match parts.path[..] {
        [master] => (master, "0"),
        [master, database] => (master, database),
        _ => return Err(AddressError::Master),
    };
    parts.check_parameters(&["sentinel_username", "sentinel_password"])?;
    if parts.parameter("sentinel_username").is_some() && parts.parameter("sentinel_password").is_none() {
        return Err(AddressError::SentinelPassword);
    }
    let user = parts.parameter("sentinel_username").unwrap_or_default();
    let credentials = parts.parameter("sentinel_password").map(|password| format!("{user}:{password}@"));
    let credentials = credentials.unwrap_or_default();
    let sentinel = |host: &&str| {
        let port = if has_port(host) { "" } else { ":26379" };
        connection(&format!("{scheme}://{credentials}{host}{port}"))
    };
    let sentinels: Vec<_> = parts.hosts.iter().map(sentinel).collect::<Result<_, _>>()?;
    if sentinels.is_empty() {
        return Err(AddressError::Sentinels);
    }
    let node = connection(&format!("{scheme}://{}localhost/{database}", parts.credentials))?;
    Ok(Topology::Sentinel { sentinels, master: master.to_owned(), node: Box::new(node) })
}

fn cluster(scheme: &str, parts: &Parts<'_>) -> Result<Topology, AddressError> {
    parts.check_parameters(&[])?;
    if !parts.path.is_empty() {
        return Err(AddressError::ClusterDatabase);
    }
    let node = |host: &&str| connection(&format!("{scheme}://{}{host}", parts.credentials));
    let nodes: Vec<_> = parts.hosts.iter().map(node).collect::<Result<_, _>>()?;
    if nodes.is_empty() {
        return Err(AddressError::Nodes);
    }
    Ok(Topology::Cluster(nodes))
}

fn connection(url: &str) -> Result<ConnectionInfo, AddressError> {
    // The library's errors name the part that is wrong without repeating it.
    let info = url.into_connection_info().map_err(|error| AddressError::Library(error.to_string()))?;
    if info.redis_settings().db() < 0 {
        return Err(AddressError::Database);
    }
    Ok(info)
}

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns the address without user, password and query: some addresses have the password in the place of the user.
fn redacted(scheme: &str, rest: &str) -> String {
    let Parts { credentials, hosts, path, .. } = Parts::of(rest);
    let secret = if credentials.is_empty() { "" } else { "***@" };
    let path: String = path.iter().flat_map(|part| ["/", *part]).collect();
    format!("{scheme}://{secret}{}{path}", hosts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_would_be_ignored_are_rejected() {
        for url in [
            "redis://u:p@h:1/5",
            "rediss://h",
            "valkey://h/0/",
            "unix:///run/redis.sock?db=5&user=u&pass=p",
            "redis+sentinel://u:p@h,h:1/main/5?sentinel_username=u&sentinel_password=p",
            "redis+cluster://h,h:1?",
        ] {
            assert!(Target::parse(url).is_ok(), "{url}");
        }
        for (url, words) in [
            ("redis://h?db=5", "redis://HOST:PORT/5"),
            ("redis://h/0?db=5", "redis://HOST:PORT/5"),
            ("rediss://h?database=5", "redis://HOST:PORT/5"),
            ("redis+cluster://h?db=5", "redis://HOST:PORT/5"),
            ("redis://h?protocol=3", "there are no parameters;"),
            ("redis://h?secret", "there are no parameters;"),
            ("redis+sentinel://h/main?secret=1", "but sentinel_username and sentinel_password"),
            ("redis+sentinel://h/main?sentinel_password=1&sentinel_password=2", "sentinel_password is given twice"),
            ("redis+sentinel://h/main?sentinel_username=secret", "needs sentinel_password"),
            ("unix:///run/redis.sock?secret=1", "but db and user and pass"),
            ("redis://h/0#secret", "leave out #"),
            ("redis://h,secret", "redis+cluster://"),
            ("redis://h/-1", "from 0"),
            ("unix:///run/redis.sock?db=-1", "from 0"),
        ] {
            let problem = Target::parse(url).expect_err(url).to_string();
            assert!(problem.contains(words) && !problem.contains("secret"), "{url}: {problem}");
        }
    }
}
