//! Who may connect, and who may do what.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, ValueEnum,
    builder::{BoolishValueParser, NonEmptyStringValueParser},
};

use crate::{
    auth::{Authenticator, JwtOptions},
    tls::{Clients, Tls, TlsOptions},
};

/// Who may connect, and who may do what.
#[derive(Args, Clone, Debug)]
pub struct SecurityConfig {
    /// Serve with TLS: the certificate, with those between it and its authority, PEM. Read again when it changes
    #[arg(long, env = "JOBTRACK_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The key of --tls-cert, PEM
    #[arg(long, env = "JOBTRACK_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Ask clients for certificates of these authorities, PEM; --auth-tokens says what their holders may do
    #[arg(long, env = "JOBTRACK_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether each client must show a certificate, or may bring a token instead; required by default
    #[arg(long, env = "JOBTRACK_TLS_CLIENT_AUTH", value_enum, requires = "tls_client_ca")]
    pub tls_client_auth: Option<ClientAuth>,

    /// Listen without TLS where others can listen in: beyond loopback
    #[arg(long, env = "JOBTRACK_INSECURE", value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Turn away who is not in this file: {"identities": [{"name": ..., "sha256": digest of a token, or "certificate":
    /// a URI or DNS name in one, "role": reader, reporter or admin, "owners": [...] or "*"}]}. Read again when it changes
    #[arg(long, env = "JOBTRACK_AUTH_TOKENS", value_name = "FILE")]
    pub auth_tokens: Option<PathBuf>,

    /// Take JWTs signed by a key of this JWK set, with the claims role and owners. Read again when it changes
    #[arg(long, env = "JOBTRACK_JWT_JWKS_FILE", value_name = "FILE", requires_all = ["jwt_issuer", "jwt_audience"])]
    pub jwt_jwks_file: Option<PathBuf>,

    /// What iss must be in a JWT
    #[arg(
        long,
        env = "JOBTRACK_JWT_ISSUER",
        value_name = "TEXT",
        requires = "jwt_jwks_file",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_issuer: Option<String>,

    /// What aud must name in a JWT
    #[arg(
        long,
        env = "JOBTRACK_JWT_AUDIENCE",
        value_name = "TEXT",
        requires = "jwt_jwks_file",
        value_parser = NonEmptyStringValueParser::new()
    )]
    pub jwt_audience: Option<String>,
}

/// Whether each client must show a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClientAuth {
    /// It must.
    Required,
    /// It may.
    Optional,
}

impl SecurityConfig {
    /// Whether what is given makes sense together. The error says what to do.
    pub(super) fn resolve(&self) -> Result<(), String> {
        if self.tls_client_ca.is_some() && self.auth_tokens.is_none() && self.jwt_jwks_file.is_none() {
            return Err("--tls-client-ca alone lets nobody do anything: --auth-tokens says what the holder of which \
                        certificate may do"
                .to_owned());
        }
        Ok(())
    }

    /// Whether a server may listen there. The error says what to do.
    pub fn permits(&self, address: SocketAddr) -> Result<(), String> {
        if self.tls_cert.is_some() || self.insecure || address.ip().to_canonical().is_loopback() {
            return Ok(());
        }
        Err(format!(
            "{address} is open to others, and without TLS whoever is between can read and change everything: give \
             --tls-cert and --tls-key, or --insecure if that network is trusted"
        ))
    }

    /// Whether everybody who reaches `address` may do everything, though others than this machine do.
    pub fn is_open(&self, address: SocketAddr) -> bool {
        self.auth_tokens.is_none() && self.jwt_jwks_file.is_none() && !address.ip().to_canonical().is_loopback()
    }

    /// TLS, if it is to be used. The error says what is wrong with which file.
    pub fn tls(&self) -> Result<Option<Tls>, String> {
        let (Some(certificate), Some(key)) = (self.tls_cert.clone(), self.tls_key.clone()) else { return Ok(None) };
        let required = self.tls_client_auth != Some(ClientAuth::Optional);
        let clients = self.tls_client_ca.clone().map(|authorities| Clients { authorities, required });
        Tls::open(TlsOptions { certificate, key, clients }).map(Some)
    }

    /// Who is known. The error says what is wrong with which file.
    pub fn authenticator(&self) -> Result<Authenticator, String> {
        let jwt = match (&self.jwt_jwks_file, &self.jwt_issuer, &self.jwt_audience) {
            (Some(jwks), Some(issuer), Some(audience)) => {
                Some(JwtOptions { jwks: jwks.clone(), issuer: issuer.clone(), audience: audience.clone() })
            }
            _ => None,
        };
        if self.auth_tokens.is_none() && jwt.is_none() {
            return Ok(Authenticator::open_to_all());
        }
        Authenticator::open(self.auth_tokens.clone(), jwt)
    }
}
