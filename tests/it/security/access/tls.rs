//! TLS, with and without client certificates.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use jobtrack::proto::v1::{CreateWatchTokenRequest, WatchJobsRequest, job_service_client::JobServiceClient};
use rcgen::SanType;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring::default_provider,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::{Code, Request, Status};

use super::{assert_denied, assert_unauthenticated, missing, read_as};
use crate::support::{
    Client, Server, create,
    credentials::{Authority, DAY, Folder, Signed, bearer, connect, dns, holder, identities, uri},
    reason,
};

/// A server with TLS, its files, and the authorities of its and of its clients' certificates.
struct World {
    server: Server,
    servers: Authority,
    clients: Authority,
    _folder: Folder,
}

impl World {
    /// Starts a server. Clients must have a certificate if `auth` is `required`, and may have one if it is `optional`.
    async fn start(auth: &str) -> Self {
        let (folder, servers, clients) = (Folder::new(), Authority::new(), Authority::new());
        let own = servers.server();
        let entries = [
            json!({ "name": "worker", "certificate": "spiffe://test/worker", "role": "reporter", "owners": "*" }),
            json!({ "name": "host", "certificate": "host.test", "role": "reader", "owners": "*" }),
            holder("a-token", "reader", &json!("*")),
        ];
        let flags = [
            ("--tls-cert", folder.write("cert.pem", &own.pem)),
            ("--tls-key", folder.write("key.pem", &own.key)),
            ("--tls-client-ca", folder.write("ca.pem", &clients.pem())),
            ("--tls-client-auth", auth.to_owned()),
            ("--auth-tokens", folder.write("identities.json", &identities(&entries))),
        ];
        let flags: Vec<_> = flags.iter().flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
        Self { server: Server::with(&flags).await, servers, clients, _folder: folder }
    }

    /// Returns the error of a read by a client with this certificate.
    async fn read(&self, own: Option<&Signed>) -> Result<Status, String> {
        self.read_with(own, Request::new(missing())).await
    }

    /// Returns the same for another request. `Err`: the connection was refused.
    async fn read_with(
        &self,
        own: Option<&Signed>,
        request: Request<jobtrack::proto::v1::GetJobRequest>,
    ) -> Result<Status, String> {
        let channel = connect(self.server.address, &self.servers, own).await.map_err(|error| format!("{error:?}"))?;
        let status = read_as(&channel, request).await;
        // The client library turns connection errors into a status; statuses of the server have details.
        if status.details().is_empty() { Err(format!("{status:?}")) } else { Ok(status) }
    }

    fn client(&self, names: Vec<SanType>) -> Signed {
        self.clients.sign_for(names, DAY)
    }
}

#[tokio::test]
async fn connection_without_a_valid_certificate_is_refused() {
    let world = World::start("required").await;
    let worker = || vec![uri("spiffe://test/worker")];
    let expired = world.clients.sign_until(worker(), SystemTime::now() - DAY);
    let of_another = Authority::new().sign_for(worker(), DAY);
    let own_key = Signed { key: world.client(worker()).key, ..world.client(worker()) };
    assert!(world.read(None).await.expect_err("no certificate").contains("CertificateRequired"));
    assert!(world.read(Some(&expired)).await.expect_err("an expired one").contains("CertificateExpired"));
    assert!(world.read(Some(&of_another)).await.expect_err("of another authority").contains("UnknownCA"));
    assert!(world.read(Some(&own_key)).await.is_err(), "a certificate with another key");
    assert_eq!(reason(&world.read(Some(&world.client(worker()))).await.expect("a valid one")), "JOB_NOT_FOUND");
    world.server.stop().await;
}

#[tokio::test]
async fn identity_of_a_certificate_is_its_uri_or_else_its_dns_name() {
    let world = World::start("required").await;
    let mut worker = client(&world, vec![dns("host.test"), uri("spiffe://test/worker")]).await;
    create(&mut worker, "a").await;
    let mut host = client(&world, vec![dns("host.test"), dns("other.test")]).await;
    let new = crate::support::new_job("b");
    assert_denied(&host.create_job(new).await.expect_err("a reader"), ("role", "reporter"));
    // Signed by the authority, but not listed, or without a name at all.
    let stranger = world.read(Some(&world.client(vec![uri("spiffe://test/other")]))).await.expect("it may connect");
    assert_denied(&stranger, ("role", "reader"));
    let nameless = world.read(Some(&world.client(Vec::new()))).await.expect("it may connect");
    assert_unauthenticated(&nameless, "INVALID");
    // A token takes precedence over the certificate.
    let host = world.client(vec![dns("host.test")]);
    let status = world.read_with(Some(&host), bearer("nonsense", missing())).await.expect("it may connect");
    assert_unauthenticated(&status, "INVALID");
    world.server.stop().await;
}

async fn client(world: &World, names: Vec<SanType>) -> Client {
    let own = world.client(names);
    JobServiceClient::new(connect(world.server.address, &world.servers, Some(&own)).await.expect("it may connect"))
}

#[tokio::test]
async fn token_suffices_if_certificates_are_optional() {
    let world = World::start("optional").await;
    assert_unauthenticated(&world.read(None).await.expect("it may connect"), "MISSING");
    let status = world.read_with(None, bearer("a-token", missing())).await.expect("it may connect");
    assert_eq!(reason(&status), "JOB_NOT_FOUND");
    let host = world.client(vec![dns("host.test")]);
    assert_eq!(reason(&world.read(Some(&host)).await.expect("it may connect")), "JOB_NOT_FOUND");
    let of_another = Authority::new().sign_for(vec![dns("host.test")], DAY);
    assert!(world.read(Some(&of_another)).await.is_err(), "a bad certificate is worse than none");
    world.server.stop().await;
}

#[tokio::test]
async fn watch_token_ends_no_later_than_the_certificate_of_its_maker() {
    let world = World::start("required").await;
    let worker = || vec![uri("spiffe://test/worker")];
    let end = SystemTime::now() + Duration::from_secs(600);
    let brief = world.clients.sign_until(worker(), end);
    let mut ends = Vec::new();
    for own in [brief, world.client(worker())] {
        let channel = connect(world.server.address, &world.servers, Some(&own)).await.expect("it may connect");
        let mut client = JobServiceClient::new(channel);
        let id = format!("job-{}", ends.len());
        create(&mut client, &id).await;
        let request = CreateWatchTokenRequest { job_ids: vec![id], ..CreateWatchTokenRequest::default() };
        let made = client.create_watch_token(request).await.expect("a token").into_inner();
        ends.push(made.expire_time.expect("an end").seconds);
    }
    let end = end.duration_since(SystemTime::UNIX_EPOCH).expect("it is later than 1970").as_secs();
    assert_eq!(ends[0], i64::try_from(end).expect("a time"));
    assert!(ends[1] > ends[0] + 1800, "an hour by default: {ends:?}");
    world.server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_certificate_expires() {
    let world = World::start("required").await;
    let own = world.clients.sign_for(vec![dns("host.test")], Duration::from_secs(4));
    let channel = connect(world.server.address, &world.servers, Some(&own)).await.expect("it may connect");
    let mut client = JobServiceClient::new(channel.clone());
    let mut stream = client.watch_jobs(WatchJobsRequest::default()).await.expect("a stream").into_inner();
    // The token belongs to a call, so the connection still counts as unauthenticated.
    let by_token = bearer("a-token", WatchJobsRequest::default());
    let mut by_token = client.watch_jobs(by_token).await.expect("a stream").into_inner();
    let end = async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    };
    let end = timeout(Duration::from_secs(15), end).await.expect("it ends");
    assert_unauthenticated(&end, "ENDED");
    let end = async {
        loop {
            if let Err(status) = by_token.message().await {
                return status;
            }
        }
    };
    assert_unauthenticated(&timeout(Duration::from_secs(15), end).await.expect("it ends"), "ENDED");
    assert_unauthenticated(&read_as(&channel, Request::new(missing())).await, "INVALID");
    assert_unauthenticated(&read_as(&channel, bearer("a-token", missing())).await, "INVALID");
    world.server.stop().await;
}

#[tokio::test]
async fn plaintext_connection_to_a_tls_port_is_closed() {
    let world = World::start("required").await;
    let words: [(&str, &[u8], u64); 4] = [
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 2),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: jobtrack\r\n\r\n", 2),
        ("half a hello", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc], 8),
        ("nothing", b"", 8),
    ];
    for (what, words, seconds) in words {
        let mut stream = TcpStream::connect(world.server.address).await.expect("it listens");
        stream.write_all(words).await.expect("it has accepted");
        let closed = timeout(Duration::from_secs(seconds), stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "{what}: still open after {seconds} s");
    }
    let channel = world.server.channel().await;
    let status = read_as(&channel, Request::new(missing())).await;
    assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
    assert!(world.read(Some(&world.client(vec![dns("host.test")]))).await.is_ok(), "others are served");
    world.server.stop().await;
}

/// Opens a TLS connection that negotiates this protocol.
async fn raw(world: &World, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.servers.pem().as_bytes()).expect("PEM")).expect("an authority");
    let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("they are known");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(world.server.address).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("it speaks TLS")
}

#[tokio::test]
async fn grpc_web_is_served_over_http1_and_tls() {
    let world = World::start("optional").await;
    let mut stream = raw(&world, b"http/1.1").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let head = "POST /jobtrack.v1.JobService/ListJobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                content-type: application/grpc-web+proto\r\nauthorization: Bearer a-token\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(&[head.as_bytes(), &[0; 5]].concat()).await.expect("it reads");
    let mut said = Vec::new();
    timeout(Duration::from_secs(5), stream.read_to_end(&mut said))
        .await
        .expect("it answers")
        .expect("it closes in order");
    let said = String::from_utf8_lossy(&said);
    assert!(said.starts_with("HTTP/1.1 200") && said.contains("grpc-status:0"), "{said}");
    world.server.stop().await;
}

#[tokio::test]
async fn silent_tls_connection_is_closed() {
    let world = World::start("optional").await;
    for words in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
        let mut stream = raw(&world, b"h2").await;
        stream.write_all(words).await.expect("it reads");
        stream.flush().await.expect("it reads");
        let closed = timeout(Duration::from_secs(13), stream.read(&mut [0; 1])).await;
        assert!(closed.is_ok(), "still open after {words:?}");
    }
    world.server.stop().await;
}
