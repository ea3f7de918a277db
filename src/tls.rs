//! TLS: which certificate the server shows, which ones of clients it takes, and how a client connects.

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
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server::TlsStream};
use tracing::warn;
use x509_parser::{certificate::Validity, parse_x509_certificate, time::ASN1Time};

use crate::reload::{Refresh, Reloaded, Replaceable};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// The files, all PEM.
#[derive(Clone, Debug)]
pub struct TlsOptions {
    /// The server's certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// The certificate's key.
    pub key: PathBuf,
    /// Whose certificates clients may show.
    pub clients: Option<Clients>,
}

/// What is asked of clients.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The authorities that sign their certificates.
    pub authorities: PathBuf,
    /// Whether each must show one.
    pub required: bool,
}

/// Takes connections under TLS, each with the files as they are then.
#[derive(Clone)]
pub struct Tls(Arc<Reloaded<Settings>>);

struct Settings {
    server: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    /// When the server's certificate is valid, if it can be read that far.
    validity: Option<Validity>,
}

impl Tls {
    /// Reads the files. The error says what is wrong with them.
    pub fn open(options: TlsOptions) -> Result<Self, String> {
        let TlsOptions { certificate, key, clients } = options;
        let required = clients.as_ref().is_some_and(|clients| clients.required);
        let files = [certificate, key].into_iter().chain(clients.map(|clients| clients.authorities)).collect();
        Ok(Self(Arc::new(Reloaded::open(files, move |contents, _| Settings::read(contents, required))?)))
    }

    /// What follows the files.
    pub fn source(&self) -> Arc<dyn Refresh> {
        self.0.clone()
    }

    /// Shakes hands with a client.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let acceptor = TlsAcceptor::from(self.0.load().server.clone());
        timeout(HANDSHAKE, acceptor.accept(stream)).await?
    }

    /// Returns for how many seconds the server's certificate will be valid; negative since it expired.
    pub fn seconds_left(&self) -> Option<i64> {
        let validity = self.0.load().validity.clone()?;
        Some(validity.not_after.timestamp() - ASN1Time::now().timestamp())
    }

    /// Whether a client could still show these certificates, its own first.
    pub fn still_takes(&self, certificates: &[CertificateDer<'_>]) -> bool {
        let settings = self.0.load();
        let (Some(clients), [own, others @ ..]) = (&settings.clients, certificates) else { return false };
        clients.verify_client_cert(own, others, UnixTime::now()).is_ok()
    }
}

/// Connections go on with what they began with.
impl Replaceable for Settings {}

impl Settings {
    /// Of the certificate, the key, and the authorities of clients, if there are any.
    fn read(contents: &[Vec<u8>], required: bool) -> Result<Self, String> {
        let [certificate, key, authorities @ ..] = contents else { return Err("a file is missing".to_owned()) };
        let chain = certificates(certificate).ok_or("the certificate is not PEM")?;
        let validity = chain.first().and_then(|own| Some(parse_x509_certificate(own).ok()?.1.validity().clone()));
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the key is not an unencrypted PEM key")?;
        let clients = authorities.first().map(|authorities| verifier(authorities, required)).transpose()?;
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &clients {
            Some(clients) => builder.with_client_cert_verifier(clients.clone()),
            None => builder.with_no_client_auth(),
        };
        let mut server = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate".to_owned(),
            error => format!("the certificate or the key can't be used: {error}"),
        })?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Who resumes a session shows no certificate, so that none would be looked at again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        if let Some(validity) = &validity {
            warn_of_invalidity(validity);
        }
        Ok(Self { server: Arc::new(server), clients, validity })
    }
}

/// Warns of a certificate that clients which verify it will refuse. It is no reason not to serve: the clock of this
/// machine may be wrong, and the file is read again when a new certificate is there.
fn warn_of_invalidity(validity: &Validity) {
    let now = ASN1Time::now();
    if validity.not_after < now {
        warn!(
            expired = %validity.not_after,
            "the server's certificate has expired, so clients refuse it: replace the file, which is read again"
        );
    } else if validity.not_before > now {
        warn!(valid_from = %validity.not_before, "the server's certificate is not valid yet, so clients refuse it");
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

/// Adds a way out to an error of a handshake, where its text has none.
fn explain(error: io::Error) -> anyhow::Error {
    // The certificates that `openssl req -x509` makes without further options.
    let is_authority = error.to_string().contains("CaUsedAsEndEntity");
    let error = anyhow::Error::from(error);
    if is_authority {
        return error
            .context("the certificate of the server is one of an authority: make one with CA:FALSE, signed by it");
    }
    error
}

/// The authorities of a PEM file.
fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(pem).ok_or("the authorities are not PEM certificates")? {
        roots.add(authority).map_err(|error| format!("an authority can't be used: {error}"))?;
    }
    Ok(roots)
}

fn verifier(authorities: &[u8], required: bool) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = roots(authorities)?;
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| format!("the client authorities can't be used: {error}"))
}

/// All certificates of a PEM file; `None` if there is none, or one can't be read.
fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let certificates = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().ok()?;
    Some(certificates).filter(|certificates| !certificates.is_empty())
}
