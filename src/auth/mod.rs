//! Authentication: finds the identity of a caller by its credentials.
//!
//! A bearer token is listed in the identities file, a JWT, or a watch token. A caller without a token is identified by
//! its client certificate. Authorization is in `grpc::middleware`, and in `tracker` for the owners of jobs.

mod certificate;
mod identities;
mod json;
mod jwk;
mod jwt;
mod signatures;
mod token_key;
mod watch_token;

use std::{future::pending, path::PathBuf, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::{
    certificate::Peer,
    jwt::JwtOptions,
    token_key::{TokenKey, TokenKeys},
    watch_token::{WatchToken, WatchTokens},
};

use self::{identities::Identities, jwt::Jwts, token_key::KeyInUse, watch_token::Maker};
use crate::{
    domain::{ANYONE, Identity, IdentityKind, JobError, Needed, SharedJobs, Unauthenticated},
    reload::{Refresh, ReloadError, Reloaded},
};

/// Scheme of an `authorization` header that can hold only a watch token. The HTTP API uses it for tokens in URLs: URLs
/// are shared and logged, so tokens of identities are not accepted in them.
pub const WATCH_TOKEN_SCHEME: &str = "WatchToken";

/// The identity of an authenticated caller, with the end of its credentials.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The identity.
    pub identity: Arc<Identity>,
    /// Time when the credentials expire.
    expires: Option<Instant>,
    /// Cancelled when the entry of the credentials, or the key that signed them, is removed from its file or changed.
    revoked: Option<CancellationToken>,
    /// Cancelled when the client certificate of the connection is no longer valid.
    outdated: Option<CancellationToken>,
    /// Signed credentials that the grant depends on, if there are any. Behind an `Arc`, because each call clones its
    /// grant.
    signed: Option<Arc<SignedCredentials>>,
}

/// The signed credentials that a grant depends on.
#[derive(Debug)]
enum SignedCredentials {
    /// A JWT: the digest of the key that signed it, and its expiry time in seconds since 1970.
    Jwt { key: Arc<str>, end: u64 },
    /// A client certificate: its expiry time in seconds since 1970.
    Certificate { end: u64 },
    /// A watch token, which ends when its key is replaced.
    WatchToken(KeyInUse),
}

impl Grant {
    /// Creates a grant that never ends.
    fn endless(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), expires: None, revoked: None, outdated: None, signed: None }
    }

    /// Creates a grant that ends when it is revoked.
    fn revocable(identity: Identity) -> Self {
        Self { revoked: Some(CancellationToken::new()), ..Self::endless(identity) }
    }

    fn revoke(&self) {
        self.revoked.iter().for_each(CancellationToken::cancel);
    }

    /// Returns whether the grant may end.
    pub const fn can_end(&self) -> bool {
        self.expires.is_some() || self.revoked.is_some() || self.outdated.is_some()
    }

    /// Waits until the credentials are no longer valid.
    pub async fn ended(&self) {
        let expired = async {
            match self.expires {
                Some(time) => sleep_until(time).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = cancelled(self.revoked.as_ref()) => {}
            () = cancelled(self.outdated.as_ref()) => {}
            () = self.key_replaced() => {}
            () = expired => {}
        }
    }

    fn has_ended(&self) -> bool {
        let is_replaced = self.key_in_use().is_some_and(KeyInUse::is_replaced);
        is_replaced || [&self.revoked, &self.outdated].into_iter().flatten().any(CancellationToken::is_cancelled)
    }

    fn key_in_use(&self) -> Option<&KeyInUse> {
        match self.signed.as_deref() {
            Some(SignedCredentials::WatchToken(key)) => Some(key),
            Some(SignedCredentials::Jwt { .. } | SignedCredentials::Certificate { .. }) | None => None,
        }
    }

    async fn key_replaced(&self) {
        match self.key_in_use() {
            Some(key) => key.replaced().await,
            None => pending().await,
        }
    }

    /// Makes a watch token for `jobs`, which the caller can see. The token expires after `ttl`, but not later than the
    /// caller's credentials.
    pub fn share(&self, tokens: &WatchTokens, jobs: SharedJobs, ttl: Duration) -> Result<WatchToken, JobError> {
        if self.identity.shared.is_some() {
            return Err(JobError::PermissionDenied(Needed::Identity));
        }
        let name = self.identity.name.clone();
        let (maker, end) = match (self.identity.kind, self.signed.as_deref()) {
            (IdentityKind::Anyone, _) => (Maker::Anyone, None),
            (IdentityKind::Listed, Some(SignedCredentials::Certificate { end })) => (Maker::Listed(name), Some(*end)),
            (IdentityKind::Listed, _) => (Maker::Listed(name), None),
            (IdentityKind::Subject, Some(SignedCredentials::Jwt { key, end })) => {
                (Maker::Subject { name, key: key.to_string() }, Some(*end))
            }
            // A stranger has no rights, so its calls are refused earlier. A subject always has a JWT.
            (IdentityKind::Subject | IdentityKind::Stranger, _) => {
                return Err(JobError::Unauthenticated(Unauthenticated::Invalid));
            }
        };
        tokens.issue(maker, jobs, ttl, end)
    }
}

async fn cancelled(token: Option<&CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => pending().await,
    }
}

/// Identifies callers by their credentials.
#[derive(Clone)]
pub struct Authenticator {
    /// Grant of all callers, if authentication is off.
    anonymous: Option<Grant>,
    identities: Option<Arc<Reloaded<Identities>>>,
    jwts: Option<Jwts>,
    watch_tokens: Arc<WatchTokens>,
}

impl Authenticator {
    /// Creates an authenticator that gives every caller full access, without credentials. Only a watch token restricts
    /// its holder.
    pub fn open_to_all() -> Self {
        let anonymous = Some(Grant::endless(ANYONE.clone()));
        Self { anonymous, identities: None, jwts: None, watch_tokens: Arc::default() }
    }

    /// Creates an authenticator for the callers in the file `identities` and for JWTs. The error names the file and the
    /// problem.
    pub fn open(identities: Option<PathBuf>, jwt: Option<JwtOptions>) -> Result<Self, ReloadError> {
        let identities = identities.map(|file| Reloaded::open(vec![file], Identities::read)).transpose()?;
        let jwts = jwt.map(Jwts::open).transpose()?;
        Ok(Self { anonymous: None, identities: identities.map(Arc::new), jwts, watch_tokens: Arc::default() })
    }

    /// Signs watch tokens with the key of `keys`, rather than with a random one.
    #[must_use]
    pub fn with_token_keys(self, keys: TokenKeys) -> Self {
        Self { watch_tokens: Arc::new(WatchTokens::new(keys)), ..self }
    }

    /// Returns whether the key of watch tokens is read from a file.
    pub fn has_key_file(&self) -> bool {
        self.watch_tokens.keys.is_in_file()
    }

    /// Returns the signer and verifier of watch tokens.
    pub const fn watch_tokens(&self) -> &Arc<WatchTokens> {
        &self.watch_tokens
    }

    /// Returns the reloaders of the files.
    pub fn reloaders(&self) -> Vec<Arc<dyn Refresh>> {
        let identities = self.identities.iter().map(|identities| identities.clone() as _);
        identities.chain(self.jwts.iter().map(Jwts::reloader)).chain(self.watch_tokens.keys.reloader()).collect()
    }

    /// Authenticates a call with these headers on a connection of `peer`. Fails with [`JobError::NoTokenKey`] if the
    /// call has a watch token and the key of watch tokens is unknown.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, JobError> {
        let mut grant = self.find(headers, peer)?;
        if grant.has_ended() {
            // The identities or keys were reloaded during the lookup. The new version may contain the same credentials.
            grant = self.find(headers, peer)?;
        }
        // A call with a token ends, too, when the client certificate of its connection is no longer valid.
        grant.outdated = peer.map(|peer| peer.expired.clone());
        if grant.has_ended() { Err(invalid()) } else { Ok(grant) }
    }

    fn find(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, JobError> {
        if let Some(anonymous) = &self.anonymous {
            // A proxy may have added an `authorization` header of its own, which must not hide the watch token of a
            // URL.
            let given = headers.get_all(AUTHORIZATION).iter();
            let is_one = |token: &&str| self.watch_tokens.has_header(token);
            let mut tokens =
                given.filter_map(|header| watch_token(header).or_else(|| bearer_token(header).filter(is_one)));
            return tokens.next().map_or_else(|| Ok(anonymous.clone()), |token| self.by_watch_token(token));
        }
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        match (authorizations.next(), authorizations.next(), peer) {
            (Some(one), None, _) => match watch_token(one) {
                Some(token) => self.by_watch_token(token),
                None => self.by_token(bearer_token(one).ok_or_else(invalid)?),
            },
            (Some(_), Some(_), _) => Err(invalid()),
            (None, _, Some(peer)) => self.by_certificate(peer),
            (None, _, None) => Err(JobError::Unauthenticated(Unauthenticated::Missing)),
        }
    }

    /// Returns the grant for a bearer token.
    fn by_token(&self, token: &str) -> Result<Grant, JobError> {
        if self.watch_tokens.has_header(token) {
            return self.by_watch_token(token);
        }
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_token(token));
        known.or_else(|| self.jwts.as_ref()?.verify(token)).ok_or_else(invalid)
    }

    /// Returns the grant for a watch token: the grant of the token's maker, restricted to the jobs of the token.
    fn by_watch_token(&self, token: &str) -> Result<Grant, JobError> {
        let verified = self.watch_tokens.verify(token)?;
        let maker = match verified.maker {
            Maker::Anyone => self.anonymous.clone(),
            Maker::Listed(name) => self.identities.as_ref().and_then(|identities| identities.load().by_name(&name)),
            Maker::Subject { name, key } => self.jwts.as_ref().and_then(|jwts| jwts.maker(name, &key)),
        };
        let maker = maker.ok_or_else(invalid)?;
        let identity = Arc::new(maker.identity.as_watch_token_holder(verified.jobs));
        let signed = Some(Arc::new(SignedCredentials::WatchToken(verified.key)));
        Ok(Grant { identity, expires: Some(verified.expires), signed, ..maker })
    }

    /// Returns the grant for the certificate of `peer`.
    fn by_certificate(&self, peer: &Peer) -> Result<Grant, JobError> {
        let name = peer.name.as_deref().ok_or_else(invalid)?;
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_certificate(name));
        let grant = known.unwrap_or_else(|| Grant::endless(Identity::stranger(name)));
        Ok(Grant { signed: peer.end.map(|end| Arc::new(SignedCredentials::Certificate { end })), ..grant })
    }
}

/// Returns the token of a bearer header.
fn bearer_token(header: &HeaderValue) -> Option<&str> {
    let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

/// Returns the token of a header with [`WATCH_TOKEN_SCHEME`].
fn watch_token(header: &HeaderValue) -> Option<&str> {
    let text = header.to_str().ok()?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    (scheme == WATCH_TOKEN_SCHEME).then(|| token.trim())
}

const fn invalid() -> JobError {
    JobError::Unauthenticated(Unauthenticated::Invalid)
}
