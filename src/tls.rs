//! TLS: the server's certificate, the verification of client certificates, and connections to a server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result as Outcome};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use thiserror::Error;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server::TlsStream};
use tracing::warn;
use x509_parser::{certificate::Validity, parse_x509_certificate, time::ASN1Time};

use crate::reload::{Refresh, ReloadError, Reloaded, Replaceable};

/// Maximum time for a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// The files of TLS, all in PEM.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// Certificate chain of the server: leaf and intermediates.
    pub certificate: PathBuf,
    /// Private key of the certificate.
    pub key: PathBuf,
    /// Verification of client certificates; `None` if no client certificates are requested.
    pub clients: Option<Clients>,
}

/// The verification of client certificates.
#[derive(Clone, Debug)]
pub struct Clients {
    /// File with the authorities that sign the certificates of clients.
    pub authorities: PathBuf,
    /// Client certificate mode: required or optional.
    pub auth: ClientAuth,
}

/// The need for client certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Each client must present a certificate.
    Required,
    /// Clients may present a certificate.
    Optional,
}

/// The reason why the files of TLS can't be used.
#[derive(Debug, Error)]
enum TlsError {
    #[error("a file is missing")]
    FileMissing,
    #[error("the certificate is not PEM")]
    Certificate,
    #[error("the key is not an unencrypted PEM key")]
    Key,
    #[error("the key does not belong to the certificate")]
    OtherKey,
    #[error("the certificate or the key can't be used: {0}")]
    Unusable(rustls::Error),
    #[error("{0}")]
    Versions(rustls::Error),
    #[error("the authorities are not PEM certificates")]
    Authorities,
    #[error("an authority can't be used: {0}")]
    Authority(rustls::Error),
    #[error("the client authorities can't be used: {0}")]
    Verifier(VerifierBuilderError),
}

/// Accepts TLS connections, each with the current contents of the files.
#[derive(Clone)]
pub struct Tls(Arc<Reloaded<Settings>>);

struct Settings {
    server: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// Validity of the server's certificate; `None` if it can't be parsed.
    validity: Option<Validity>,
}

impl Tls {
    /// Reads the files. The error names the file and the problem.
    pub fn open(options: TlsOptions) -> Result<Self, ReloadError> {
        let TlsOptions { certificate, key, clients } = options;
        let auth = clients.as_ref().map_or(ClientAuth::Optional, |clients| clients.auth);
        let files = [certificate, key].into_iter().chain(clients.map(|clients| clients.authorities)).collect();
        Ok(Self(Arc::new(Reloaded::open(files, move |contents, _| Settings::read(contents, auth))?)))
    }

    /// Returns the reloader of the files.
    pub fn reloader(&self) -> Arc<dyn Refresh> {
        self.0.clone()
    }

    /// Performs the handshake with a client.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.0.load().server.clone());
        timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await?
    }

    /// Returns the number of seconds until the server's certificate expires; negative if it has expired.
    pub fn seconds_left(&self) -> Option<i64> {
        let validity = self.0.load().validity.clone()?;
        Some(validity.not_after.timestamp() - ASN1Time::now().timestamp())
    }

    /// Returns whether a client with these certificates, its own first, would be accepted now.
    pub fn still_accepts(&self, certificates: &[CertificateDer<'_>]) -> bool {
        let settings = self.0.load();
        let (Some(clients), [own, others @ ..]) = (&settings.clients, certificates) else { return false };
        clients.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}

/// Open connections keep the settings that they began with.
impl Replaceable for Settings {}

impl Settings {
    /// Reads the certificate, the key, and the authorities of clients, if there are any.
    fn read(contents: &[Vec<u8>], auth: ClientAuth) -> Result<Self, TlsError> {
        let [certificate, key, authorities @ ..] = contents else { return Err(TlsError::FileMissing) };
        let chain = certificates(certificate).ok_or(TlsError::Certificate)?;
        let validity = chain.first().and_then(|own| Some(parse_x509_certificate(own).ok()?.1.validity().clone()));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| TlsError::Key)?;
        let clients = authorities.first().map(|authorities| verifier(authorities, auth)).transpose()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Versions)?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::OtherKey,
            error => TlsError::Unusable(error),
        })?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Sessions can't be resumed: a client that resumes a session presents no certificate, so a removed authority
        // would stay accepted.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        if let Some(validity) = &validity {
            warn_of_invalidity(validity);
        }
        Ok(Self { server: Arc::new(server), clients, validity })
    }
}

/// Warns about a certificate that clients will reject. The server runs nevertheless: the clock of this machine may be
/// wrong, and a new certificate is used as soon as it is in the file.
fn warn_of_invalidity(validity: &Validity) {
    let now = ASN1Time::now();
    if validity.not_after < now {
        warn!(
            expired = %validity.not_after,
            "the server's certificate has expired: clients reject it; replace the file, which is reloaded"
        );
    } else if validity.not_before > now {
        warn!(valid_from = %validity.not_before, "the server's certificate is not valid yet: clients reject it");
    }
}

/// Connects to the gRPC server at `address`, HOST:PORT, whose certificate must be for that host and signed by one of
/// `authorities`, a PEM file.
pub async fn connect(address: &str, authorities: &Path) -> Outcome<client::TlsStream<TcpStream>> {
    let file = authorities.display();
    let pem = fs::read(authorities).with_context(|| format!("{file} can't be read"))?;
    let roots = roots(&pem).map_err(|problem| anyhow::anyhow!("{file}: {problem}"))?;
    let (host, _) = address.rsplit_once(':').with_context(|| format!("{address:?} is not HOST:PORT"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).with_context(|| format!("{address:?} is not HOST:PORT"))?;
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(explain)
}

/// Adds a remedy to a handshake error that does not explain itself.
fn explain(error: io::Error) -> anyhow::Error {
    // `openssl req -x509` creates such certificates without further options.
    let is_authority = error.to_string().contains("CaUsedAsEndEntity");
    let error = anyhow::Error::from(error);
    if is_authority {
        return error.context(
            "the certificate of the server is that of an authority: create one with CA:FALSE, signed by that authority",
        );
    }
    error
}

/// Reads the authorities in a PEM file.
fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem).ok_or(TlsError::Authorities)? {
        roots.add(authority).map_err(TlsError::Authority)?;
    }
    Ok(roots)
}

fn verifier(authorities: &[u8], auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = roots(authorities)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let builder = match auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(TlsError::Verifier)
}

/// Reads the certificates in a PEM file; `None` if there is none, or one can't be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}
