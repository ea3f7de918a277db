//! Authentication: from the credentials of a call to an identity.
//!
//! A bearer token is one of the identities file, or a JWT. A caller without a token is identified by its client
//! certificate. Authorization happens elsewhere.

mod certificate;
mod identities;
mod json;
mod jwk;
mod jwt;
mod signatures;

use std::{future::pending, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::{certificate::Peer, jwt::JwtOptions};

use self::{identities::Identities, jwt::Jwts};
use crate::{
    domain::{ANYONE, Identity, Unauthenticated},
    reload::{Refresh, ReloadError, Reloaded},
};

/// The identity of an authenticated caller, with the end of its credentials.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The identity.
    pub identity: Arc<Identity>,
    /// Time when the credentials expire.
    expires: Option<Instant>,
    /// Cancelled when the credentials are removed from their file.
    revoked: Option<CancellationToken>,
    /// Cancelled when the client certificate of the connection is no longer valid.
    outdated: Option<CancellationToken>,
}

impl Grant {
    /// Creates a grant without an end.
    fn endless(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), expires: None, revoked: None, outdated: None }
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
            () = expired => {}
        }
    }

    fn has_ended(&self) -> bool {
        [&self.revoked, &self.outdated].into_iter().flatten().any(CancellationToken::is_cancelled)
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
}

impl Authenticator {
    /// Creates an authenticator that gives every caller full access, without credentials.
    pub fn open_to_all() -> Self {
        Self { anonymous: Some(Grant::endless(ANYONE.clone())), identities: None, jwts: None }
    }

    /// Creates an authenticator for the callers in the file `identities` and for JWTs. The error names the file and the
    /// problem.
    pub fn open(identities: Option<PathBuf>, jwt: Option<JwtOptions>) -> Result<Self, ReloadError> {
        let identities = identities.map(|file| Reloaded::open(vec![file], Identities::read)).transpose()?;
        let jwts = jwt.map(Jwts::open).transpose()?;
        Ok(Self { anonymous: None, identities: identities.map(Arc::new), jwts })
    }

    /// Returns the reloaders of the files.
    pub fn sources(&self) -> Vec<Arc<dyn Refresh>> {
        let identities = self.identities.iter().map(|identities| identities.clone() as _);
        identities.chain(self.jwts.iter().map(Jwts::source)).collect()
    }

    /// Authenticates a call with these headers on a connection of `peer`.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, Unauthenticated> {
        if let Some(anonymous) = &self.anonymous {
            return Ok(anonymous.clone());
        }
        let mut grant = self.find(headers, peer)?;
        if grant.has_ended() {
            // The file was reloaded during the lookup: the new one may have the same credentials.
            grant = self.find(headers, peer)?;
        }
        // Even a call with a token ends with the certificate that opened the connection.
        grant.outdated = peer.map(|peer| peer.expired.clone());
        if grant.has_ended() { Err(Unauthenticated::Invalid) } else { Ok(grant) }
    }

    fn find(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, Unauthenticated> {
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        match (authorizations.next(), authorizations.next(), peer) {
            (Some(one), None, _) => self.bearer(one).ok_or(Unauthenticated::Invalid),
            (Some(_), Some(_), _) => Err(Unauthenticated::Invalid),
            (None, _, Some(peer)) => self.by_certificate(peer),
            (None, _, None) => Err(Unauthenticated::Missing),
        }
    }

    /// Returns the grant for the bearer token in a header.
    fn bearer(&self, header: &HeaderValue) -> Option<Grant> {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        let token = Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())?;
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_token(token));
        known.or_else(|| self.jwts.as_ref()?.verify(token))
    }

    /// Returns the grant for the certificate of `peer`.
    fn by_certificate(&self, peer: &Peer) -> Result<Grant, Unauthenticated> {
        let name = peer.name.as_deref().ok_or(Unauthenticated::Invalid)?;
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_certificate(name));
        Ok(known.unwrap_or_else(|| Grant::endless(Identity::stranger(name))))
    }
}
