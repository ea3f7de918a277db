//! Watch tokens: compact JWTs that this server signs for itself, with a shared secret.
//!
//! All watch tokens have the same header. A token with any other header is rejected, so a token can't choose an
//! algorithm or a key. The header has a type of its own, which tokens of an issuer must not have.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::debug;

use super::{
    signatures::PROVIDER,
    token_key::{KeyInUse, TokenKeys},
};
use crate::domain::{JobError, JobId, SharedJobs, Timestamp, Unauthenticated, View, Violation};

/// Type in the header of a watch token.
pub const WATCH_TOKEN_TYPE: &str = "jobtrack-watch+jwt";

/// Maximum length of a token in bytes. Proxies reject longer headers.
const TOKEN_MAX: usize = 8 * 1024;

/// A watch token.
#[derive(Clone)]
pub struct WatchToken {
    /// The token itself.
    pub text: String,
    /// Time from which the token is not valid.
    pub expires: Timestamp,
}

// Not derived, because the token is a secret.
impl fmt::Debug for WatchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchToken").finish_non_exhaustive()
    }
}

/// The maker of a token: the caller whose rights limit those of the token's holder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Maker {
    /// No authentication was configured.
    Anyone,
    /// The identity of this name in the identities file.
    Listed(String),
    /// The subject of a JWT.
    Subject {
        /// The caller's name.
        name: String,
        /// Digest of the issuer's key that signed the JWT.
        key: String,
    },
}

/// The claims. A claim that this version does not know may be a restriction, so it makes a token invalid.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    jobs: BTreeMap<JobId, u64>,
    view: ClaimedView,
    maker: Maker,
    /// Seconds since 1970.
    exp: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ClaimedView {
    Basic,
    Full,
}

/// A valid token.
pub struct Verified {
    /// The maker, whose rights must be looked up.
    pub maker: Maker,
    /// The jobs of the token.
    pub jobs: SharedJobs,
    /// Time from which the token is not valid.
    pub expires: Instant,
    /// The key that has signed it.
    pub key: KeyInUse,
}

/// Makes and verifies watch tokens.
pub struct WatchTokens {
    pub(super) keys: TokenKeys,
    header: Header,
    /// The encoded header, with the dot after it.
    prefix: String,
    validation: Validation,
}

impl Default for WatchTokens {
    fn default() -> Self {
        Self::new(TokenKeys::random())
    }
}

impl WatchTokens {
    /// Creates a signer of tokens, which uses the key of `keys`.
    pub fn new(keys: TokenKeys) -> Self {
        // Fails if the provider is installed already.
        _ = PROVIDER.install_default();
        let header = Header { typ: Some(WATCH_TOKEN_TYPE.to_owned()), ..Header::new(Algorithm::HS256) };
        let example = encode(&header, &(), &EncodingKey::from_secret(&[])).expect("the header can be encoded");
        let prefix = example.split_inclusive('.').next().unwrap_or_default().to_owned();
        let mut validation = Validation::new(Algorithm::HS256);
        // `verify` checks the expiry itself, because an expired token has an error of its own. Watch tokens have no
        // audience.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_required_spec_claims::<&str>(&[]);
        Self { keys, header, prefix, validation }
    }

    /// Returns whether a bearer token has the header of watch tokens. Such a token can't be credentials of any other
    /// kind, even if it is invalid.
    pub fn has_header(&self, token: &str) -> bool {
        token.starts_with(&self.prefix)
    }

    /// Makes a token for `jobs` that is valid for `ttl`, but not beyond `end` in seconds since 1970.
    pub fn issue(
        &self,
        maker: Maker,
        jobs: SharedJobs,
        ttl: Duration,
        end: Option<u64>,
    ) -> Result<WatchToken, JobError> {
        let key = self.keys.current().map_err(JobError::NoTokenKey)?;
        let exp = (now() + ttl).as_nanos().div_ceil(1_000_000_000);
        let exp = u64::try_from(exp).unwrap_or(u64::MAX).min(end.unwrap_or(u64::MAX));
        let view = match jobs.view {
            View::Basic => ClaimedView::Basic,
            View::Full => ClaimedView::Full,
        };
        let claims = Claims { jobs: jobs.incarnations, view, maker, exp };
        let text = encode(&self.header, &claims, &EncodingKey::from_secret(key.secret()));
        let text = text.expect("the claims can be encoded");
        debug_assert!(self.has_header(&text), "all watch tokens have the same header");
        if text.len() > TOKEN_MAX {
            let (length, field) = (text.len(), "job_ids".to_owned());
            let description = format!("must be fewer: the token would have {length} bytes, and may have {TOKEN_MAX}");
            return Err(JobError::Invalid(vec![Violation { field, description }]));
        }
        let expires = Timestamp::from_micros(i64::try_from(exp).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        Ok(WatchToken { text, expires })
    }

    /// Verifies the signature and the time of a token. Fails with [`JobError::NoTokenKey`] while the key is unknown.
    pub fn verify(&self, token: &str) -> Result<Verified, JobError> {
        let key = self.keys.current().map_err(JobError::NoTokenKey)?;
        let claims = decode::<Claims>(token, &DecodingKey::from_secret(key.secret()), &self.validation);
        let claims = claims.inspect_err(|error| debug!(why = %error, "watch token rejected"));
        let Claims { jobs, view, maker, exp } =
            claims.map_err(|_| JobError::Unauthenticated(Unauthenticated::Invalid))?.claims;
        let left = Duration::from_secs(exp).saturating_sub(now());
        if left.is_zero() {
            return Err(JobError::Unauthenticated(Unauthenticated::Expired));
        }
        let view = match view {
            ClaimedView::Basic => View::Basic,
            ClaimedView::Full => View::Full,
        };
        Ok(Verified { maker, jobs: SharedJobs { incarnations: jobs, view }, expires: Instant::now() + left, key })
    }
}

/// Returns the time since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NoTokenKey;

    const HOUR: Duration = Duration::from_secs(3600);

    fn jobs() -> SharedJobs {
        let id = JobId::parse("a").expect("a valid id");
        SharedJobs { incarnations: [(id, 7)].into(), view: View::Basic }
    }

    #[test]
    fn a_token_is_verified_with_the_key_that_signed_it() {
        let tokens = WatchTokens::new(TokenKeys::random());
        let token = tokens.issue(Maker::Listed("tom".to_owned()), jobs(), HOUR, None).expect("the key is known");
        let verified = tokens.verify(&token.text).expect("it is valid");
        assert_eq!((verified.maker, verified.jobs), (Maker::Listed("tom".to_owned()), jobs()));
        let other = WatchTokens::new(TokenKeys::random()).verify(&token.text).err();
        assert_eq!(other, Some(JobError::Unauthenticated(Unauthenticated::Invalid)));
    }

    #[test]
    fn no_byte_of_a_token_can_be_changed() {
        let tokens = WatchTokens::new(TokenKeys::random());
        let token = tokens.issue(Maker::Anyone, jobs(), HOUR, None).expect("the key is known").text;
        for at in 0..token.len() {
            for other in b"Aa0-_.=" {
                let mut bytes = token.clone().into_bytes();
                if bytes[at] != *other {
                    bytes[at] = *other;
                    let changed = String::from_utf8(bytes).expect("it is ASCII");
                    assert!(!tokens.has_header(&changed) || tokens.verify(&changed).is_err(), "{at} {other}");
                }
            }
            assert!(!tokens.has_header(&token[..at]) || tokens.verify(&token[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn a_hundred_ids_of_uuids_fit_into_a_token() {
        let tokens = WatchTokens::new(TokenKeys::random());
        let ids = |length: usize| {
            let id = |number| JobId::parse(&format!("{number:0length$}")).expect("a valid id");
            SharedJobs { incarnations: (0..100).map(|number| (id(number), (1 << 53) - 1)).collect(), view: View::Full }
        };
        assert!(tokens.issue(Maker::Listed("n".repeat(64)), ids(36), HOUR, None).is_ok());
        let JobError::Invalid(violations) = tokens.issue(Maker::Anyone, ids(128), HOUR, None).expect_err("too long")
        else {
            panic!("it is the request that is invalid");
        };
        assert_eq!(violations[0].field, "job_ids");
    }

    #[test]
    fn without_a_key_nothing_is_known() {
        let tokens = WatchTokens::new(TokenKeys::random());
        let token = tokens.issue(Maker::Anyone, jobs(), HOUR, None).expect("the key is known").text;
        let unread = tokio::sync::watch::channel(Err(NoTokenKey::Unread)).1;
        let (tokens, expected) =
            (WatchTokens::new(TokenKeys::shared(unread)), JobError::NoTokenKey(NoTokenKey::Unread));
        assert_eq!(tokens.verify(&token).err(), Some(expected.clone()));
        assert_eq!(tokens.issue(Maker::Anyone, jobs(), HOUR, None).err(), Some(expected));
    }
}
