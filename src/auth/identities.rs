//! The identities file: tokens, by their digests, and certificates, each with whose they are and what that one may do.
//!
//! ```json
//! {"identities": [
//!   {"name": "encoder", "sha256": "…", "role": "reporter", "owners": ["media"]},
//!   {"name": "ops", "certificate": "spiffe://example.org/ops", "role": "admin", "owners": "*"}
//! ]}
//! ```

use std::collections::{BTreeSet, HashMap};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use serde_json::Value;

use super::{Grant, json};
use crate::{
    domain::{Identity, IdentityKind, MAX_NAME, MAX_OWNERS, Owners, Role},
    reload::Replaceable,
};

type Digest = [u8; SHA256_OUTPUT_LEN];

/// What an entry is found by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Credential {
    /// The digest of a token: it can be looked up without telling by the time how much of a guess was right.
    Token(Digest),
    /// A name in a certificate.
    Certificate(String),
}

/// Everyone who is in the file.
#[derive(Debug)]
pub struct Identities(HashMap<Credential, Grant>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    identities: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    sha256: Option<String>,
    certificate: Option<String>,
    role: String,
    owners: Value,
}

impl Replaceable for Identities {
    fn give_way(&self, next: &Self) {
        for (credential, grant) in &self.0 {
            if next.0.get(credential).is_none_or(|new| *new.identity != *grant.identity) {
                grant.revoke();
            }
        }
    }
}

impl Identities {
    /// Reads the file. Those who were in the one before as they are now keep their grants.
    pub fn read(contents: &[Vec<u8>], before: Option<&Self>) -> Result<Self, String> {
        let file: File = json::parse(contents, r#"{"identities": [...]}"#)?;
        let mut grants = HashMap::new();
        for (at, value) in file.identities.into_iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
            let name = name.map_or_else(|| format!("number {}", at + 1), |name| format!("{name:?}"));
            let (credential, identity) = entry(value).map_err(|problem| format!("identity {name}: {problem}"))?;
            let before = before.and_then(|before| before.0.get(&credential));
            let same = before.filter(|grant| *grant.identity == identity).cloned();
            if grants.insert(credential, same.unwrap_or_else(|| Grant::revocable(identity))).is_some() {
                return Err(format!("identity {name}: its token or certificate is that of another entry"));
            }
        }
        Ok(Self(grants))
    }

    /// Whose token this is.
    pub fn by_token(&self, token: &str) -> Option<Grant> {
        self.0.get(&Credential::Token(sha256(token.as_bytes()))).cloned()
    }

    /// Whose certificate has this name.
    pub fn by_certificate(&self, name: &str) -> Option<Grant> {
        self.0.get(&Credential::Certificate(name.to_owned())).cloned()
    }
}

fn entry(value: Value) -> Result<(Credential, Identity), String> {
    let entry: Entry = serde_json::from_value(value).map_err(|_| {
        "it must have name, role, owners, and either sha256 or certificate, each a text (owners a list of texts or \"*\"), and \
         nothing else"
    })?;
    if entry.name.is_empty() {
        return Err("the name must not be empty".to_owned());
    }
    let credential = match (entry.sha256, entry.certificate) {
        (Some(hex), None) => Credential::Token(token_digest(&hex)?),
        (None, Some(name)) if !name.is_empty() => Credential::Certificate(name),
        _ => return Err("it must have either sha256 or certificate".to_owned()),
    };
    let role = Role::parse(&entry.role).ok_or("the role must be reader, reporter or admin")?;
    let owners = owners(&entry.owners)
        .ok_or_else(|| format!("owners must be \"*\" or a list of at most {MAX_OWNERS} texts of {MAX_NAME} bytes"))?;
    Ok((credential, Identity { kind: IdentityKind::Listed, name: entry.name, role: Some(role), owners }))
}

/// A list of owners, or `"*"` for all.
pub fn owners(value: &Value) -> Option<Owners> {
    if value == "*" {
        return Some(Owners::All);
    }
    let owners = value.as_array().filter(|owners| owners.len() <= MAX_OWNERS)?;
    let owner = |owner: &Value| owner.as_str().filter(|owner| owner.len() <= MAX_NAME).map(str::to_owned);
    owners.iter().map(owner).collect::<Option<BTreeSet<_>>>().map(Owners::Only)
}

fn sha256(text: &[u8]) -> Digest {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, text).as_ref());
    bytes
}

/// Parses the digest of a token.
fn token_digest(hex: &str) -> Result<Digest, String> {
    let digest = parse_digest(hex).ok_or("sha256 must be 64 hexadecimal digits")?;
    // A script that makes the file may have an empty variable, with or without the end of a line.
    if ["", "\n", "\r\n", " ", " \n"].into_iter().any(|empty| sha256(empty.as_bytes()) == digest) {
        return Err(
            "sha256 is the digest of an empty token: make it of one such as openssl rand -hex 32 gives".to_owned()
        );
    }
    Ok(digest)
}

fn parse_digest(hex: &str) -> Option<Digest> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = hex.as_bytes().chunks_exact(2);
    if hex.len() != 2 * SHA256_OUTPUT_LEN {
        return None;
    }
    let bytes = pairs.map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?)).collect::<Option<Vec<_>>>()?;
    bytes.try_into().ok()
}
