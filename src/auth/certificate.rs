//! The holder of a client certificate.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;
use webpki::EndEntityCert;

/// The client of a connection, known by its verified certificate.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Name in the certificate: the first URI among the subject's alternative names, or else the first DNS name.
    pub name: Option<Arc<str>>,
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
        Self { name, expired: CancellationToken::new() }
    }
}
