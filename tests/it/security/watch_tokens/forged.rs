//! Forged watch tokens, and tokens of an issuer beside them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jobtrack::proto::v1::CreateWatchTokenRequest;
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::{
    assert_denied, assert_unauthenticated, create, entries, error, get, issue, next, request, token_for, watch,
};
use crate::support::{
    Client, Server,
    credentials::{Folder, bearer, identities},
    watching::millis,
};

/// The key in the key file of these tests.
const KEY: &str = "0123456789abcdef0123456789abcdef";

const TYPE: &str = "jobtrack-watch+jwt";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

/// Returns a token with this header and these claims, signed with a shared secret.
fn signed_with(secret: &[u8], header: &Value, claims: &Value) -> String {
    let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
    format!("{message}.{}", encode(tag))
}

/// An issuer of JWTs.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self(pair.expect("it can be read"))
    }

    fn keys(&self, kid: &str) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let key = json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encode(x), "y": encode(y) });
        json!({ "keys": [key] }).to_string()
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes()).expect("it can be signed");
        format!("{message}.{}", encode(signature))
    }

    /// Returns a JWT of a reporter of Alice's owner that ends this many seconds from now.
    fn jwt(&self, kid: &str, life: i64) -> String {
        self.sign(&json!({ "alg": "ES256", "typ": "JWT", "kid": kid }), &subject(life))
    }
}

fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.as_secs().cast_signed() + from_now
}

/// Returns the claims of an identity.
fn subject(life: i64) -> Value {
    json!({
        "sub": "tom", "iss": "https://issuer.test", "aud": "jobtrack", "exp": seconds(life),
        "role": "admin", "owners": ["a1"],
    })
}

/// Starts a server with the usual identities, an issuer's keys and a key file.
async fn server(issuer: &Issuer) -> (Server, Folder) {
    let folder = Folder::new();
    let identities = folder.write("identities.json", &identities(&entries()));
    let keys = folder.write("keys.json", &issuer.keys("k1"));
    let key = folder.write("key", KEY);
    let flags = [
        ["--auth-tokens", &identities],
        ["--jwt-jwks-file", &keys],
        ["--jwt-issuer", "https://issuer.test"],
        ["--jwt-audience", "jobtrack"],
        ["--token-key-file", &key],
        // Each forged token is a failure.
        ["--max-auth-failures-per-second", "0"],
    ];
    (Server::with(&flags.concat()).await, folder)
}

async fn refused(client: &mut Client, token: &str) -> Status {
    get(client, token, "a").await.expect_err(token)
}

#[tokio::test]
async fn no_byte_of_a_token_can_be_changed() {
    let (server, _folder) = server(&Issuer::new()).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let token = token_for(&mut client, &["a"]).await;
    get(&mut client, &token, "a").await.expect("its job");
    for at in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("it is ASCII");
        assert_unauthenticated(&refused(&mut client, &changed).await, "INVALID");
    }
    let (head, signature) = token.rsplit_once('.').expect("three parts");
    let others = [
        token[..token.len() - 1].to_owned(),
        format!("{token}="),
        format!("{token}A"),
        format!("{token}.{signature}"),
        format!("{head}."),
        head.to_owned(),
        format!("{}.", head.split('.').next().expect("a header")),
    ];
    for other in others {
        assert_unauthenticated(&refused(&mut client, &other).await, "INVALID");
    }
    server.stop().await;
}

#[tokio::test]
async fn unsigned_and_confused_tokens_are_refused() {
    let issuer = Issuer::new();
    let (server, _folder) = server(&issuer).await;
    let mut client = server.client().await;
    create(&mut client, &["a", "b"]).await;
    let token = token_for(&mut client, &["a"]).await;
    let parts: Vec<_> = token.split('.').collect();
    let (header, claims) = (decode(parts[0]), decode(parts[1]));
    assert_eq!(header, json!({ "typ": TYPE, "alg": "HS256" }));
    // The key of this test is right: the same claims are accepted under the same header.
    let remade = |header: &str, claims: &Value| {
        let message = format!("{header}.{}", encode(claims.to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, KEY.as_bytes()), message.as_bytes());
        format!("{message}.{}", encode(tag))
    };
    get(&mut client, &remade(parts[0], &claims), "a").await.expect("it is as good as that of the server");

    let with = |changed: &Value| {
        let mut header = header.clone();
        header.as_object_mut().expect("an object").extend(changed.as_object().expect("an object").clone());
        header
    };
    let public = issuer.0.public_key().as_ref().to_vec();
    let unsigned = |alg: &str| format!("{}.{}.", encode(with(&json!({ "alg": alg })).to_string()), parts[1]);
    let mut extended = claims.clone();
    extended["role"] = json!("admin");
    let mut forever = claims.clone();
    forever.as_object_mut().expect("an object").remove("exp");
    let identity = subject(600);
    let mut forged = vec![
        ("no algorithm", unsigned("none")),
        ("no algorithm, in capitals", unsigned("NONE")),
        ("no signature", unsigned("HS256")),
        ("another algorithm", signed_with(KEY.as_bytes(), &with(&json!({ "alg": "HS512" })), &claims)),
        ("a key id", signed_with(KEY.as_bytes(), &with(&json!({ "kid": "k1" })), &claims)),
        ("an extension", signed_with(KEY.as_bytes(), &with(&json!({ "crit": ["exp"] })), &claims)),
        ("the type of a JWT", signed_with(KEY.as_bytes(), &with(&json!({ "typ": "JWT" })), &claims)),
        ("a JWT", signed_with(KEY.as_bytes(), &json!({ "alg": "HS256", "typ": "JWT", "kid": "k1" }), &identity)),
        ("the claims of a JWT", remade(parts[0], &identity)),
        ("a claim more", remade(parts[0], &extended)),
        ("no end", remade(parts[0], &forever)),
        ("the public key as a secret", signed_with(&public, &header, &claims)),
        ("the public key for a JWT", signed_with(&public, &json!({ "alg": "HS256", "kid": "k1" }), &identity)),
        ("no secret", signed_with(b"", &header, &claims)),
    ];
    // The issuer's key makes no watch token, whatever the header says.
    for alg in ["ES256", "HS256"] {
        for kid in [json!({}), json!({ "kid": "k1" })] {
            let mut header = with(&kid);
            header["alg"] = json!(alg);
            forged.push(("the issuer's signature", issuer.sign(&header, &claims)));
            forged.push(("an identity of the type of a watch token", issuer.sign(&header, &identity)));
        }
    }
    for (what, token) in forged {
        let status = get(&mut client, &token, "a").await.expect_err(what);
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
        assert_unauthenticated(&status, "INVALID");
    }
    // Makers that nobody is, though the signature is right.
    for maker in [json!("anyone"), json!({ "listed": "tom" }), json!({ "subject": { "name": "jwt:tom", "key": "k1" } })]
    {
        let mut claims = claims.clone();
        claims["maker"] = maker;
        assert_unauthenticated(&refused(&mut client, &remade(parts[0], &claims)).await, "INVALID");
    }
    // A genuine token and a genuine JWT are different credentials.
    get(&mut client, &issuer.jwt("k1", 600), "b").await.expect("an admin");
    assert_denied(&get(&mut client, &token, "b").await.expect_err("another job"), ("job_id", "b"));
    server.stop().await;
}

#[tokio::test]
async fn token_made_with_a_jwt_ends_with_it() {
    let issuer = Issuer::new();
    let (server, folder) = server(&issuer).await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let status = client.create_watch_token(bearer(&issuer.jwt("k1", 600), request(&["absent"]))).await;
    assert_eq!(status.expect_err("it does not exist").code(), Code::NotFound);
    let long = CreateWatchTokenRequest { ttl: millis(3_600_000), ..request(&["a"]) };
    let answer = issue(&mut client, &issuer.jwt("k1", 600), long.clone()).await;
    assert!(answer.expire_time.expect("an end").seconds <= seconds(600), "it ends with the JWT");
    let within = issue(&mut client, &issuer.jwt("k1", 7200), long).await;
    assert!(within.expire_time.expect("an end").seconds <= seconds(3602), "it ends before the JWT");
    let mut stream = watch(&mut client, &answer.token, "a").await.expect("a stream");
    next(&mut stream).await.expect("a snapshot");
    // The key's id stays, and its key is another one.
    folder.write("keys.json", &Issuer::new().keys("k1"));
    assert_unauthenticated(&error(&mut stream).await, "ENDED");
    for token in [&answer.token, &within.token] {
        assert_unauthenticated(&refused(&mut client, token).await, "INVALID");
    }
    // The key itself counts, not its id.
    folder.write("keys.json", &issuer.keys("k1"));
    super::until("the key is back", async || get(&mut client, &answer.token, "a").await.ok()).await;
    server.stop().await;
}
