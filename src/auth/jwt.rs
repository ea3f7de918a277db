//! JWTs: signed by a key of the issuer's, for us, and not for ever.

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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Grant, identities::owners, json, jwk, signatures::PROVIDER};
use crate::{
    domain::{Identity, IdentityKind, Owners, Role},
    reload::{Refresh, Reloaded, Replaceable},
};

/// By how much the issuer's clock may differ from ours.
const LEEWAY: Duration = Duration::from_secs(10);

/// Which JWTs count.
#[derive(Clone, Debug)]
pub struct JwtOptions {
    /// The file with the issuer's keys, a JWK set.
    pub jwks: PathBuf,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be, or name among others.
    pub audience: String,
}

/// Verifies JWTs.
pub struct Jwts {
    keys: Arc<Reloaded<Keys>>,
}

/// The issuer's keys by their ids.
struct Keys(HashMap<String, Key>);

struct Key {
    jwk: Jwk,
    decoding: DecodingKey,
    /// The one algorithm that this key is for, and what the claims must be.
    validation: Validation,
    revoked: CancellationToken,
}

/// The claims that matter besides those that are [validated](Validation).
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    role: Option<Value>,
    owners: Option<Value>,
}

impl Jwts {
    /// Reads the keys.
    pub fn open(options: JwtOptions) -> Result<Self, String> {
        // It is there already if another server in this process was first.
        _ = PROVIDER.install_default();
        let JwtOptions { jwks, issuer, audience } = options;
        let read = move |contents: &[Vec<u8>], before: Option<&Keys>| Keys::read(contents, before, &issuer, &audience);
        Ok(Self { keys: Arc::new(Reloaded::open(vec![jwks], read)?) })
    }

    /// What follows the file of keys.
    pub fn source(&self) -> Arc<dyn Refresh> {
        self.keys.clone()
    }

    /// Whose token this is.
    pub fn verify(&self, token: &str) -> Option<Grant> {
        let keys = self.keys.load();
        let refused = |why: &dyn std::fmt::Display| debug!(%why, "a JWT was refused");
        let header = decode_header(token).inspect_err(|error| refused(error)).ok()?;
        let key = header.kid.and_then(|kid| keys.0.get(&kid));
        let Some(key) = key.filter(|_| header.crit.is_none()) else {
            refused(&"it names no known key, or asks for an extension");
            return None;
        };
        let claims = decode::<Claims>(token, &key.decoding, &key.validation);
        let claims = claims.inspect_err(|error| refused(error)).ok()?.claims;
        let identity = identity(&claims)?;
        let ends = Duration::try_from_secs_f64(claims.exp).unwrap_or(Duration::MAX).saturating_add(LEEWAY);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = Instant::now().checked_add(ends.saturating_sub(now));
        Some(Grant { expires, revoked: Some(key.revoked.clone()), ..Grant::endless(identity) })
    }
}

/// Whom the claims are about. Without a role, or without owners, it may do nothing, or touch no job.
fn identity(claims: &Claims) -> Option<Identity> {
    if claims.sub.is_empty() {
        return None;
    }
    let role = claims.role.as_ref().and_then(Value::as_str).and_then(Role::parse);
    let owners = claims.owners.as_ref().and_then(owners).unwrap_or(Owners::Only([].into()));
    // A subject is nobody of the identities file.
    Some(Identity { kind: IdentityKind::Subject, name: format!("jwt:{}", claims.sub), role, owners })
}

impl Replaceable for Keys {
    fn give_way(&self, next: &Self) {
        for (id, key) in &self.0 {
            if next.0.get(id).is_none_or(|new| new.jwk != key.jwk) {
                key.revoked.cancel();
            }
        }
    }
}

impl Keys {
    /// Reads the file. What was signed by a key that was in the one before goes on.
    fn read(contents: &[Vec<u8>], before: Option<&Self>, issuer: &str, audience: &str) -> Result<Self, String> {
        let set: Value = json::parse(contents, "a JWK set")?;
        jwk::refuse_private(&set)?;
        let set: JwkSet = json::parse(contents, "a JWK set")?;
        let mut keys = HashMap::new();
        for jwk in set.keys {
            if jwk.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature) {
                continue;
            }
            let Some(id) = jwk.common.key_id.clone() else { return Err("a key has no kid".to_owned()) };
            let Some(algorithm) = jwk::algorithm(&jwk).map_err(|problem| format!("key {id:?} {problem}"))? else {
                continue;
            };
            let decoding = DecodingKey::from_jwk(&jwk).map_err(|_| format!("key {id:?} can't be read"))?;
            jwk::refuse_weak(&decoding, algorithm).map_err(|problem| format!("key {id:?} {problem}"))?;
            let before = before.and_then(|before| before.0.get(&id)).filter(|key| key.jwk == jwk);
            let revoked = before.map(|key| key.revoked.clone()).unwrap_or_default();
            let validation = validation(algorithm, issuer, audience);
            if keys.insert(id.clone(), Key { jwk, decoding, validation, revoked }).is_some() {
                return Err(format!("there are two keys {id:?}"));
            }
        }
        if keys.is_empty() {
            return Err("it has no key that signatures can be verified with".to_owned());
        }
        Ok(Self(keys))
    }
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
