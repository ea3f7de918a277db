//! Verification of JWTs: signature by a key of the issuer, issuer, audience and expiry.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, decode, decode_header,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use super::{
    Grant, SignedCredentials,
    identities::owners,
    json::{self, JsonError},
    jwk::{self, KeyError},
    signatures::PROVIDER,
    watch_token::WATCH_TOKEN_TYPE,
};
use crate::{
    domain::{Identity, IdentityKind, Owners, Role},
    reload::{Refresh, ReloadError, Reloaded, Replaceable},
};

/// Maximum difference between the issuer's clock and this machine's.
const LEEWAY: Duration = Duration::from_secs(10);

/// The JWTs to accept.
#[derive(Clone, Debug)]
pub struct JwtOptions {
    /// File with the issuer's keys, a JWK set.
    pub jwks: PathBuf,
    /// Required value of `iss`.
    pub issuer: String,
    /// Value that `aud` must have or contain.
    pub audience: String,
}

/// The reason why a JWK set is invalid.
#[derive(Debug, Error)]
enum JwksError {
    #[error(transparent)]
    Json(#[from] JsonError),
    #[error("a key has no kid")]
    NoId,
    #[error("key {name} {problem}")]
    Key { name: String, problem: KeyError },
    #[error("it has no key for verifying signatures")]
    Empty,
}

/// Verifies JWTs.
#[derive(Clone)]
pub struct Jwts {
    keys: Arc<Reloaded<Keys>>,
}

/// The issuer's keys by their ids.
struct Keys(HashMap<String, Key>);

struct Key {
    jwk: Jwk,
    decoding: DecodingKey,
    /// The only accepted algorithm of the key, and the required claims.
    validation: Validation,
    revoked: CancellationToken,
    /// Digest of the key and its issuer, which is the same in every process.
    digest: Arc<str>,
}

/// The claims that become parts of the grant. [`Validation`] checks `iss`, `aud`, `exp` and `nbf`.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    role: Option<Value>,
    owners: Option<Value>,
}

impl Jwts {
    /// Reads the keys.
    pub fn open(options: JwtOptions) -> Result<Self, ReloadError> {
        // Fails if the provider was installed before, by another server in this process.
        _ = PROVIDER.install_default();
        let JwtOptions { jwks, issuer, audience } = options;
        let read = move |contents: &[Vec<u8>], before: Option<&Keys>| Keys::read(contents, before, &issuer, &audience);
        Ok(Self { keys: Arc::new(Reloaded::open(vec![jwks], read)?) })
    }

    /// Returns the reloader of the file of keys.
    pub fn reloader(&self) -> Arc<dyn Refresh> {
        self.keys.clone()
    }

    /// Returns the grant for a token, if it is valid.
    pub fn verify(&self, token: &str) -> Option<Grant> {
        let keys = self.keys.load();
        let rejected = |why: &dyn std::fmt::Display| debug!(%why, "JWT rejected");
        let header = decode_header(token).inspect_err(|error| rejected(error)).ok()?;
        let key = header.kid.and_then(|kid| keys.0.get(&kid));
        if header.typ.as_deref() == Some(WATCH_TOKEN_TYPE) {
            rejected(&"its type is that of a watch token, which an issuer can't make");
            return None;
        }
        let Some(key) = key.filter(|_| header.crit.is_none()) else {
            rejected(&"it names no known key, or requires an extension");
            return None;
        };
        let claims = decode::<Claims>(token, &key.decoding, &key.validation);
        let claims = claims.inspect_err(|error| rejected(error)).ok()?.claims;
        let identity = identity(&claims)?;
        let end = Duration::try_from_secs_f64(claims.exp).unwrap_or(Duration::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = Instant::now().checked_add(end.saturating_add(LEEWAY).saturating_sub(now));
        let signed = SignedCredentials::Jwt { key: key.digest.clone(), end: end.as_secs() };
        let revoked = Some(key.revoked.clone());
        Some(Grant { expires, revoked, signed: Some(Arc::new(signed)), ..Grant::endless(identity) })
    }

    /// Returns the grant of the subject `name`, which made a watch token with a JWT. The key that signed the JWT, which
    /// has this `digest`, must still be in the set. The grant includes all owners, because the watch token names only
    /// jobs that its maker could see.
    pub fn maker(&self, name: String, digest: &str) -> Option<Grant> {
        let keys = self.keys.load();
        let key = keys.0.values().find(|key| *key.digest == *digest)?;
        let (kind, role) = (IdentityKind::Subject, Some(Role::Reader));
        let identity = Identity { kind, name, role, owners: Owners::All, shared: None };
        Some(Grant { revoked: Some(key.revoked.clone()), ..Grant::endless(identity) })
    }
}

/// Returns the identity in the claims. Without a role it may call nothing, and without owners it may see no job.
fn identity(claims: &Claims) -> Option<Identity> {
    if claims.sub.is_empty() {
        return None;
    }
    let role = claims.role.as_ref().and_then(Value::as_str).and_then(Role::parse);
    let owners = claims.owners.as_ref().and_then(owners).unwrap_or(Owners::Only([].into()));
    // The kind distinguishes a subject from an entry of the identities file with the same name.
    Some(Identity { kind: IdentityKind::Subject, name: format!("jwt:{}", claims.sub), role, owners, shared: None })
}

impl Replaceable for Keys {
    fn on_replaced(&self, next: &Self) {
        for (id, key) in &self.0 {
            if next.0.get(id).is_none_or(|new| new.jwk != key.jwk) {
                key.revoked.cancel();
            }
        }
    }
}

impl Keys {
    /// Reads the file. Grants of JWTs stay valid if their keys are the same as in `before`.
    fn read(contents: &[Vec<u8>], before: Option<&Self>, issuer: &str, audience: &str) -> Result<Self, JwksError> {
        let set: Value = json::parse(contents, "a JWK set")?;
        if let Some(name) = jwk::private_key(&set) {
            return Err(JwksError::Key { name, problem: KeyError::Private });
        }
        let set: JwkSet = json::parse(contents, "a JWK set")?;
        let mut keys = HashMap::new();
        for jwk in set.keys {
            if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
                continue;
            }
            let Some(id) = jwk.common.key_id.clone() else { return Err(JwksError::NoId) };
            let invalid = |problem| JwksError::Key { name: format!("{id:?}"), problem };
            let Some(algorithm) = jwk::algorithm(&jwk).map_err(invalid)? else {
                continue;
            };
            let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| invalid(KeyError::Unreadable))?;
            jwk::refuse_weak(&decoding, algorithm).map_err(invalid)?;
            let before = before.and_then(|before| before.0.get(&id)).filter(|key| key.jwk == jwk);
            let revoked = before.map(|key| key.revoked.clone()).unwrap_or_default();
            let validation = validation(algorithm, issuer, audience);
            let digest = key_digest(&jwk, issuer).into();
            if keys.insert(id.clone(), Key { jwk, decoding, validation, revoked, digest }).is_some() {
                return Err(invalid(KeyError::Duplicate));
            }
        }
        if keys.is_empty() {
            return Err(JwksError::Empty);
        }
        Ok(Self(keys))
    }
}

/// Returns a digest of a key and of its issuer: a watch token ends when either is replaced.
fn key_digest(jwk: &Jwk, issuer: &str) -> String {
    let text = serde_json::to_string(&(jwk, issuer)).unwrap_or_default();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).simple().to_string()
}

fn validation(algorithm: Algorithm, issuer: &str, audience: &str) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.leeway = LEEWAY.as_secs();
    validation.validate_nbf = true;
    validation.set_issuer(&[issuer]);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation
}
