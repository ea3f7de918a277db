//! The identities file: digests of tokens and names in certificates, each with the identity and rights of its holder.
//!
//! ```json
//! {"identities": [
//!   {"name": "encoder", "sha256": "…", "role": "reporter", "owners": ["media"]},
//!   {"name": "ops", "certificate": "spiffe://example.org/ops", "role": "admin", "owners": "*"}
//! ]}
//! ```

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use super::{
    Grant,
    json::{self, JsonError},
};
use crate::{
    domain::{Identity, IdentityKind, MAX_NAME, MAX_OWNERS, Owners, Role},
    reload::Replaceable,
};

type Digest = [u8; SHA256_OUTPUT_LEN];

/// The credential that identifies the holder of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Credential {
    /// Digest of a token. The time to look up a digest does not reveal how much of a guessed token is right.
    Token(Digest),
    /// Name in a certificate.
    Certificate(String),
}

/// The identities in the file.
#[derive(Debug)]
pub struct Identities {
    grants: HashMap<Credential, Grant>,
    /// The identities by name, for the watch tokens that they made. A token contains only the name of its maker.
    /// Entries of the same name therefore count as one identity with the rights of all of them.
    makers: HashMap<String, Grant>,
}

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

/// The reason why the identities file is invalid.
#[derive(Debug, Error)]
pub enum IdentitiesError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("identity {name}: {problem}")]
    Entry { name: String, problem: EntryError },
}

/// The reason why an entry is invalid.
#[derive(Debug, Error)]
pub enum EntryError {
    #[error(
        "it must have name, role, owners, and either sha256 or certificate, each a string (owners a list of strings or \
         \"*\"), and no other key"
    )]
    Form,
    #[error("the name must not be empty")]
    EmptyName,
    #[error("it must have either sha256 or certificate")]
    Credential,
    #[error("the role must be reader, reporter or admin")]
    Role,
    #[error("owners must be \"*\" or a list of at most {MAX_OWNERS} strings of at most {MAX_NAME} bytes")]
    Owners,
    #[error("sha256 must be 64 hexadecimal digits")]
    Digest,
    #[error("sha256 is the digest of an empty token: create a token, for example with openssl rand -hex 32")]
    EmptyToken,
    #[error("another entry has the same token or certificate")]
    Duplicate,
}

impl Replaceable for Identities {
    fn on_replaced(&self, next: &Self) {
        revoke_others(&self.grants, &next.grants);
        revoke_others(&self.makers, &next.makers);
    }
}

/// Revokes the grants of `before` that are not in `next`, or have another identity there.
fn revoke_others<K: Eq + Hash>(before: &HashMap<K, Grant>, next: &HashMap<K, Grant>) {
    for (key, grant) in before {
        if next.get(key).is_none_or(|new| *new.identity != *grant.identity) {
            grant.revoke();
        }
    }
}

/// Returns a grant for `identity`: the grant with this key in `before`, if its identity is the same, or a new one.
fn grant<K: Eq + Hash>(before: Option<&HashMap<K, Grant>>, key: &K, identity: Identity) -> Grant {
    let before = before.and_then(|before| before.get(key)).filter(|grant| *grant.identity == identity);
    before.cloned().unwrap_or_else(|| Grant::revocable(identity))
}

/// Returns the identities by name. Entries of one name are one identity, with the rights of all of them.
fn by_name<'a>(identities: impl Iterator<Item = &'a Identity>) -> HashMap<String, Identity> {
    let mut named = HashMap::<String, Identity>::new();
    for identity in identities {
        if let Some(same) = named.get_mut(&identity.name) {
            same.role = same.role.max(identity.role);
            same.owners = same.owners.clone().or(&identity.owners);
        } else {
            named.insert(identity.name.clone(), identity.clone());
        }
    }
    named
}

impl Identities {
    /// Reads the file. Identities that are unchanged from `before` keep their grants, so that open streams go on.
    pub fn read(contents: &[Vec<u8>], before: Option<&Self>) -> Result<Self, IdentitiesError> {
        let file: File = json::parse(contents, r#"{"identities": [...]}"#)?;
        let mut grants = HashMap::new();
        for (at, value) in file.identities.into_iter().enumerate() {
            let name = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
            let name = name.map_or_else(|| format!("number {}", at + 1), |name| format!("{name:?}"));
            let invalid = |problem| IdentitiesError::Entry { name, problem };
            let (credential, identity) = match entry(value) {
                Ok(entry) => entry,
                Err(problem) => return Err(invalid(problem)),
            };
            let grant = grant(before.map(|before| &before.grants), &credential, identity);
            if grants.insert(credential, grant).is_some() {
                return Err(invalid(EntryError::Duplicate));
            }
        }
        let makers = by_name(grants.values().map(|grant| &*grant.identity)).into_iter().map(|(name, identity)| {
            let grant = grant(before.map(|before| &before.makers), &name, identity);
            (name, grant)
        });
        Ok(Self { makers: makers.collect(), grants })
    }

    /// Returns the grant of the identity of this name.
    pub fn by_name(&self, name: &str) -> Option<Grant> {
        self.makers.get(name).cloned()
    }

    /// Returns the grant for a token.
    pub fn by_token(&self, token: &str) -> Option<Grant> {
        self.grants.get(&Credential::Token(sha256(token.as_bytes()))).cloned()
    }

    /// Returns the grant for a name in a certificate.
    pub fn by_certificate(&self, name: &str) -> Option<Grant> {
        self.grants.get(&Credential::Certificate(name.to_owned())).cloned()
    }
}

fn entry(value: Value) -> Result<(Credential, Identity), EntryError> {
    let entry: Entry = serde_json::from_value(value).map_err(|_| EntryError::Form)?;
    if entry.name.is_empty() {
        return Err(EntryError::EmptyName);
    }
    let credential = match (entry.sha256, entry.certificate) {
        (Some(hex), None) => Credential::Token(token_digest(&hex)?),
        (None, Some(name)) if !name.is_empty() => Credential::Certificate(name),
        _ => return Err(EntryError::Credential),
    };
    let role = Role::parse(&entry.role).ok_or(EntryError::Role)?;
    let owners = owners(&entry.owners).ok_or(EntryError::Owners)?;
    let kind = IdentityKind::Listed;
    Ok((credential, Identity { kind, name: entry.name, role: Some(role), owners, shared: None }))
}

/// Parses a list of owners, or `"*"` for all.
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
fn token_digest(hex: &str) -> Result<Digest, EntryError> {
    let digest = parse_digest(hex).ok_or(EntryError::Digest)?;
    // A script that creates the file may hash an empty variable, with or without a line end.
    if ["", "\n", "\r\n", " ", " \n"].into_iter().any(|empty| sha256(empty.as_bytes()) == digest) {
        return Err(EntryError::EmptyToken);
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
