//! Who calls: from the credentials that come with a call to an identity.
//!
//! A bearer token is one of the identities file, or a JWT. A caller that brings none is who its client certificate says.
//! What a caller may do is decided elsewhere.

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
    reload::{Refresh, Reloaded},
};

/// A caller that is known, for as long as its credentials count.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// The credentials say until when they count.
    expires: Option<Instant>,
    /// They were taken back.
    revoked: Option<CancellationToken>,
    /// They were a certificate, which is no longer valid.
    outdated: Option<CancellationToken>,
}

impl Grant {
    /// For ever.
    fn endless(identity: Identity) -> Self {
        Self { identity: Arc::new(identity), expires: None, revoked: None, outdated: None }
    }

    /// For as long as nobody takes it back.
    fn revocable(identity: Identity) -> Self {
        Self { revoked: Some(CancellationToken::new()), ..Self::endless(identity) }
    }

    fn revoke(&self) {
        self.revoked.iter().for_each(CancellationToken::cancel);
    }

    /// Whether there may be an end to it.
    pub const fn can_end(&self) -> bool {
        self.expires.is_some() || self.revoked.is_some() || self.outdated.is_some()
    }

    /// Waits until the credentials no longer count.
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

/// Knows callers by their credentials.
pub struct Authenticator {
    /// For those without credentials; `None`: they are turned away.
    anonymous: Option<Grant>,
    identities: Option<Arc<Reloaded<Identities>>>,
    jwts: Option<Jwts>,
}

impl Authenticator {
    /// Tells no callers apart: each may do everything.
    pub fn open_to_all() -> Self {
        Self { anonymous: Some(Grant::endless(ANYONE.clone())), identities: None, jwts: None }
    }

    /// Knows those of the file `identities` and the bearers of `jwt`; nobody else. The error says what is wrong.
    pub fn open(identities: Option<PathBuf>, jwt: Option<JwtOptions>) -> Result<Self, String> {
        let identities = identities.map(|file| Reloaded::open(vec![file], Identities::read)).transpose()?;
        let jwts = jwt.map(Jwts::open).transpose()?;
        Ok(Self { anonymous: None, identities: identities.map(Arc::new), jwts })
    }

    /// What follows files.
    pub fn sources(&self) -> Vec<Arc<dyn Refresh>> {
        let identities = self.identities.iter().map(|identities| identities.clone() as _);
        identities.chain(self.jwts.iter().map(Jwts::source)).collect()
    }

    /// Who calls, with these headers over a connection of `peer`.
    pub fn authenticate(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, Unauthenticated> {
        if let Some(anonymous) = &self.anonymous {
            return Ok(anonymous.clone());
        }
        let mut grant = self.find(headers, peer)?;
        if grant.has_ended() {
            // The file was read again while it was looked for.
            grant = self.find(headers, peer)?;
        }
        // A connection is no better than the certificate it began with, whatever comes over it.
        grant.outdated = peer.map(|peer| peer.expired.clone());
        if grant.has_ended() { Err(Unauthenticated::Invalid) } else { Ok(grant) }
    }

    fn find(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Grant, Unauthenticated> {
        let mut authorizations = headers.get_all(AUTHORIZATION).iter();
        match (authorizations.next(), authorizations.next(), peer) {
            (Some(one), None, _) => self.bearer(one).ok_or(Unauthenticated::Invalid),
            (Some(_), Some(_), _) => Err(Unauthenticated::Invalid),
            (None, _, Some(peer)) => self.holder(peer),
            (None, _, None) => Err(Unauthenticated::Missing),
        }
    }

    /// Who has the token of this header.
    fn bearer(&self, header: &HeaderValue) -> Option<Grant> {
        let (scheme, token) = header.to_str().ok()?.split_once(' ')?;
        let token = Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())?;
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_token(token));
        known.or_else(|| self.jwts.as_ref()?.verify(token))
    }

    /// Who holds the certificate of `peer`.
    fn holder(&self, peer: &Peer) -> Result<Grant, Unauthenticated> {
        let name = peer.name.as_deref().ok_or(Unauthenticated::Invalid)?;
        let known = self.identities.as_ref().and_then(|identities| identities.load().by_certificate(name));
        Ok(known.unwrap_or_else(|| Grant::endless(Identity::stranger(name))))
    }
}
