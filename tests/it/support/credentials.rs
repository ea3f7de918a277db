//! Certificates, tokens, and the files that a server reads them from.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tonic::{
    Request,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Error, Identity},
};
use uuid::Uuid;

/// A temporary folder, removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("files-{}", Uuid::new_v4()));
        fs::create_dir_all(&path).expect("a directory can be made");
        Self(path)
    }

    /// Returns the path of a file of this name.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// Writes a file, replacing it atomically. Returns its path.
    pub fn write(&self, name: &str, content: &str) -> String {
        let new = self.0.join(format!("{name}.new"));
        fs::write(&new, content).expect("a file can be written");
        fs::rename(new, self.0.join(name)).expect("a file can be moved");
        self.path(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// A certificate authority.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Signed {
    pub pem: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, Uuid::new_v4().to_string());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate can be made"))
    }

    /// Returns the authority's own certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns a certificate for these names with this remaining life.
    pub fn sign_for(&self, names: Vec<SanType>, life: Duration) -> Signed {
        self.sign_until(names, SystemTime::now() + life)
    }

    /// Returns a certificate for these names that ends at this time.
    pub fn sign_until(&self, names: Vec<SanType>, end: SystemTime) -> Signed {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.not_after = end.into();
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate can be made");
        Signed { pem: certificate.pem(), key: key.serialize_pem() }
    }

    /// Returns a certificate for a server on this machine.
    pub fn server(&self) -> Signed {
        self.sign_for(vec![dns("localhost")], DAY)
    }
}

/// A life that exceeds any test.
pub const DAY: Duration = Duration::from_secs(86_400);

/// Returns a DNS name.
pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a valid name"))
}

/// Returns a URI, the name of a workload.
pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("a valid URI"))
}

/// Opens a TLS connection to a server whose certificate `authority` signed, with `own` as the client certificate.
pub async fn connect(address: SocketAddr, authority: &Authority, own: Option<&Signed>) -> Result<Channel, Error> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name("localhost");
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(&own.pem, &own.key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address is a URI");
    endpoint.tls_config(tls)?.connect().await
}

/// Returns the contents of an identities file.
pub fn identities(entries: &[Value]) -> String {
    json!({ "identities": entries }).to_string()
}

/// Returns an entry for the holder of `token`, which is also its name.
pub fn holder(token: &str, role: &str, owners: &Value) -> Value {
    let digest = digest(&SHA256, token.as_bytes());
    let sha256 = digest.as_ref().iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    json!({ "name": token, "sha256": sha256, "role": role, "owners": owners })
}

/// Returns a request of the holder of `token`.
pub fn bearer<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("a header's value"));
    request
}
