//! The holder of a client certificate.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;
use x509_parser::parse_x509_certificate;

/// The client of a connection, known by its verified certificate.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name in the certificate: the first URI among the subject's alternative names, or else the first DNS name.
    pub name: Option<Arc<str>>,
    /// Expiry time of the certificate in seconds since 1970.
    pub end: Option<u64>,
    /// Cancelled when the certificate is no longer valid.
    pub expired: CancellationToken,
}

impl Peer {
    /// Creates the holder of `certificate`.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        let name = EndEntityCert::try_from(certificate).ok().and_then(|certificate| {
            let first = certificate.valid_uri_names().next().or_else(|| certificate.valid_dns_names().next());
            first.map(Arc::from)
        });
        // webpki has verified the certificate, so this parser can be expected to read it. If it can't, watch tokens
        // that the peer makes expire after their `ttl` only.
        let parsed = parse_x509_certificate(certificate).ok();
        let end = parsed.and_then(|(_, parsed)| u64::try_from(parsed.validity.not_after.timestamp()).ok());
        Self { name, end, expired: CancellationToken::new() }
    }
}
