//! TLS, authentication and authorization.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, ValueEnum,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};

use super::ConfigError;
use crate::{
    auth::{Authenticator, JwtOptions, TokenKeys},
    reload::ReloadError,
    tls::{self, Clients, Tls, TlsOptions},
};

/// The configuration of TLS, authentication and authorization.
#[derive(Args, Clone, Debug)]
pub struct SecurityConfig {
    /// Serve with TLS: certificate chain (leaf and intermediates, PEM); reloaded when it changes
    #[arg(long, env = "JOBTRACK_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, PEM
    #[arg(long, env = "JOBTRACK_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Request client certificates signed by these authorities, PEM; --auth-tokens assigns roles to their names
    #[arg(long, env = "JOBTRACK_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Need for client certificates: required (the default), or optional, so that callers may use tokens instead
    #[arg(long, env = "JOBTRACK_TLS_CLIENT_AUTH", value_enum, requires = "tls_client_ca")]
    pub tls_client_auth: Option<ClientAuth>,

    /// Allow plaintext on non-loopback addresses
    #[arg(long, env = "JOBTRACK_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Require callers to be listed in this identities file, or to have a JWT (--jwt-jwks-file): {"identities":
    /// [{"name": ..., "sha256": digest of a token, or "certificate": name in a client certificate, "role": reader,
    /// reporter or admin, "owners": [...] or "*"}]}. Reloaded when it changes
    #[arg(long, env = "JOBTRACK_AUTH_TOKENS", value_name = "FILE")]
    pub auth_tokens: Option<PathBuf>,

    /// Accept JWTs signed by a key of this JWK set, with the claims role and owners. Reloaded when it changes
    #[arg(long, env = "JOBTRACK_JWT_JWKS_FILE", value_name = "FILE", requires_all = ["jwt_issuer", "jwt_audience"])]
    pub jwt_jwks_file: Option<PathBuf>,

    /// Required value of iss in a JWT
    #[arg(
        long,
        env = "JOBTRACK_JWT_ISSUER",
        value_name = "TEXT",
        requires = "jwt_jwks_file",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_issuer: Option<String>,

    /// Value that the aud of a JWT must have or contain
    #[arg(
        long,
        env = "JOBTRACK_JWT_AUDIENCE",
        value_name = "TEXT",
        requires = "jwt_jwks_file",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_audience: Option<String>,

    /// Sign watch tokens with the key in this file, at least 32 random bytes, the same for all replicas; without it the
    /// key is in Redis or, in memory mode, lives as long as the process. Reloaded when it changes
    #[arg(long, env = "JOBTRACK_TOKEN_KEY_FILE", value_name = "FILE")]
    pub token_key_file: Option<PathBuf>,
}

/// The need for client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// Each client must present a certificate.
    Required,
    /// Clients may present a certificate.
    Optional,
}

impl SecurityConfig {
    /// Checks the combination of the values. The error says what to do.
    pub(super) const fn resolve(&self) -> Result<(), ConfigError> {
        if self.tls_client_ca.is_some() && !self.has_authentication() {
            return Err(ConfigError::ClientCaAlone);
        }
        Ok(())
    }

    /// Checks that a server may listen on `address`. The error says what to do.
    pub fn permits(&self, address: SocketAddr) -> Result<(), ConfigError> {
        if self.tls_cert.is_some() || self.insecure || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(ConfigError::Plaintext(address))
    }

    /// Returns whether anyone who can connect from another machine has full access.
    pub fn is_open(&self, address: SocketAddr) -> bool {
        !self.has_authentication() && !address.ip().to_canonical().is_loopback()
    }

    /// Returns whether callers must have credentials.
    pub const fn has_authentication(&self) -> bool {
        self.auth_tokens.is_some() || self.jwt_jwks_file.is_some()
    }

    /// Reads the files of TLS, if it is configured. The error names the file and the problem.
    pub fn tls(&self) -> Result<Option<Tls>, ReloadError> {
        let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else { return Ok(None) };
        let auth = match self.tls_client_auth {
            Some(ClientAuth::Optional) => tls::ClientAuth::Optional,
            Some(ClientAuth::Required) | None => tls::ClientAuth::Required,
        };
        let clients = self.tls_client_ca.clone().map(|authorities| Clients { authorities, auth });
        Tls::open(TlsOptions { certificate, key, clients }).map(Some)
    }

    /// Reads the identities file, the JWK set, and the key of watch tokens. The error names the file and the problem.
    pub fn authenticator(&self) -> Result<Authenticator, ReloadError> {
        let jwt = match (&self.jwt_jwks_file, &self.jwt_issuer, &self.jwt_audience) {
            (Some(jwks), Some(issuer), Some(audience)) => {
                Some(JwtOptions { jwks: jwks.clone(), issuer: issuer.clone(), audience: audience.clone() })
            }
            _ => None,
        };
        let authenticator = if self.auth_tokens.is_none() && jwt.is_none() {
            Authenticator::open_to_all()
        } else {
            Authenticator::open(self.auth_tokens.clone(), jwt)?
        };
        match self.token_key_file.clone().map(TokenKeys::open).transpose()? {
            Some(keys) => Ok(authenticator.with_token_keys(keys)),
            None => Ok(authenticator),
        }
    }
}
