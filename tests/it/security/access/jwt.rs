//! JWTs, valid and forged.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jobtrack::proto::v1::{ListJobsRequest, WatchJobsRequest};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Status;

use super::{assert_denied, assert_unauthenticated, missing, read_as};
use crate::support::{
    Server,
    credentials::{Folder, bearer},
    new_job,
    process::output,
    reason, until,
};

/// Signs tokens, as `kid`.
struct Issuer {
    kid: &'static str,
    pair: EcdsaKeyPair,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key can be made");
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random);
        Self { kid, pair: pair.expect("it can be read") }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "use": "sig", "x": encode(x), "y": encode(y) })
    }

    fn header(&self) -> Value {
        json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid })
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&self.header(), claims)
    }

    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("it can be signed");
        format!("{message}.{}", encode(signature))
    }
}

/// Returns the time this long from now, in seconds since 1970.
fn seconds(from_now: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
    now.as_secs().cast_signed() + from_now
}

/// Returns the claims of an admin of all owners, after a change.
fn claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "sub": "tom", "iss": "https://issuer.test", "aud": "jobtrack", "exp": seconds(600),
        "role": "admin", "owners": "*",
    });
    change(&mut claims);
    claims
}

fn without(name: &str) -> Value {
    claims(|claims| _ = claims.as_object_mut().expect("an object").remove(name))
}

async fn server(keys: &[Value]) -> (Server, Folder) {
    let folder = Folder::new();
    let file = folder.write("keys.json", &json!({ "keys": keys }).to_string());
    let flags = ["--jwt-jwks-file", &file, "--jwt-issuer", "https://issuer.test", "--jwt-audience", "jobtrack"];
    (Server::with(&flags).await, folder)
}

async fn said_to(server: &Server, token: &str) -> Status {
    read_as(&server.channel().await, bearer(token, missing())).await
}

#[tokio::test]
async fn token_for_another_audience_or_time_is_rejected() {
    let issuer = Issuer::new("k1");
    let (server, _folder) = server(&[issuer.jwk()]).await;
    let good = issuer.sign(&claims(|_| {}));
    assert_eq!(reason(&said_to(&server, &good).await), "JOB_NOT_FOUND");
    let also_good = [
        claims(|claims| claims["aud"] = json!(["other", "jobtrack"])),
        claims(|claims| claims["nbf"] = json!(seconds(-5))),
        claims(|claims| claims["exp"] = json!(seconds(-5))),
    ];
    for claims in also_good {
        assert_eq!(reason(&said_to(&server, &issuer.sign(&claims)).await), "JOB_NOT_FOUND", "{claims}");
    }
    let bad = [
        ("another audience", claims(|claims| claims["aud"] = json!("other"))),
        ("other audiences", claims(|claims| claims["aud"] = json!(["other", "jobtrack2"]))),
        ("no audience", without("aud")),
        ("another issuer", claims(|claims| claims["iss"] = json!("https://issuer.test.evil"))),
        ("no issuer", without("iss")),
        ("expired", claims(|claims| claims["exp"] = json!(seconds(-60)))),
        ("a string for a time", claims(|claims| claims["exp"] = json!(seconds(600).to_string()))),
        ("no end", without("exp")),
        ("an end that is null", claims(|claims| claims["exp"] = Value::Null)),
        ("a negative end", claims(|claims| claims["exp"] = json!(-1))),
        ("not yet", claims(|claims| claims["nbf"] = json!(seconds(600)))),
        ("a string for a beginning", claims(|claims| claims["nbf"] = json!("0"))),
        ("nobody", claims(|claims| claims["sub"] = json!(""))),
        ("no subject", without("sub")),
    ];
    for (what, claims) in bad {
        let status = said_to(&server, &issuer.sign(&claims)).await;
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{what}");
        assert_unauthenticated(&status, "INVALID");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_the_issuer_has_not_signed_is_refused() {
    let issuer = Issuer::new("k1");
    let (server, _folder) = server(&[issuer.jwk()]).await;
    let claims = claims(|_| {});
    let header = |alg: &str| json!({ "alg": alg, "typ": "JWT", "kid": "k1" });
    let unsigned = |alg: &str| format!("{}.{}.", encode(header(alg).to_string()), encode(claims.to_string()));
    let good = issuer.sign(&claims);
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let shared = |secret: &[u8]| {
        let message = unsigned("HS256").trim_end_matches('.').to_owned();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", encode(tag))
    };
    let mut flipped = URL_SAFE_NO_PAD.decode(signature).expect("it is base64");
    flipped[7] ^= 1;
    let more = encode(self::claims(|claims| claims["sub"] = json!("ann")).to_string());
    let stranger = Issuer::new("k1");
    let tokens = [
        ("no algorithm", unsigned("none")),
        ("no algorithm, in other words", unsigned("nOnE")),
        ("no algorithm, and a signature", format!("{}{signature}", unsigned("none"))),
        ("no signature", format!("{message}.")),
        ("two parts", message.to_owned()),
        ("another signature", format!("{message}.{}", encode(&flipped))),
        ("other claims", format!("{}.{more}.{signature}", encode(issuer.header().to_string()))),
        ("the public key for a secret", shared(issuer.pair.public_key().as_ref())),
        ("the public key in JSON for a secret", shared(issuer.jwk().to_string().as_bytes())),
        ("an empty secret", shared(b"")),
        ("another algorithm of the kind", issuer.sign_as(&header("ES384"), &claims)),
        ("an algorithm of another kind", issuer.sign_as(&header("RS256"), &claims)),
        ("a key of the same name", stranger.sign(&claims)),
        ("an unknown key", Issuer::new("k2").sign(&claims)),
        ("no key", issuer.sign_as(&json!({ "alg": "ES256" }), &claims)),
        ("a key that it brings along", {
            stranger.sign_as(&json!({ "alg": "ES256", "kid": "k2", "jwk": stranger.jwk() }), &claims)
        }),
        ("an extension", {
            issuer.sign_as(&json!({ "alg": "ES256", "kid": "k1", "crit": ["b64"], "b64": true }), &claims)
        }),
    ];
    for (what, token) in tokens {
        let status = said_to(&server, &token).await;
        assert_eq!(status.code(), tonic::Code::Unauthenticated, "{what}");
        assert_unauthenticated(&status, "INVALID");
    }
    assert_eq!(reason(&said_to(&server, &good).await), "JOB_NOT_FOUND");
    server.stop().await;
}

#[tokio::test]
async fn calls_beyond_the_claims_of_a_token_are_denied() {
    let issuer = Issuer::new("k1");
    let (server, _folder) = server(&[issuer.jwk()]).await;
    for role in [json!("superuser"), json!(null), json!(["admin"]), json!("ADMIN")] {
        let token = issuer.sign(&claims(|claims| claims["role"] = role));
        assert_denied(&said_to(&server, &token).await, ("role", "reader"));
    }
    assert_denied(&said_to(&server, &issuer.sign(&without("role"))).await, ("role", "reader"));
    let mut client = server.client().await;
    client.create_job(bearer(&issuer.sign(&claims(|_| {})), new_job("a"))).await.expect("an admin of all owners");
    for owners in [json!(null), json!([]), json!("a"), json!([1])] {
        let token = issuer.sign(&claims(|claims| claims["owners"] = owners));
        assert_denied(&client.create_job(bearer(&token, new_job("b"))).await.expect_err("nobody's"), ("owner", ""));
        let list = client.list_jobs(bearer(&token, ListJobsRequest::default())).await.expect("a list").into_inner();
        assert_eq!((list.jobs, list.total_size), (Vec::new(), Some(0)));
    }
    let token = issuer.sign(&claims(|claims| claims["owners"] = json!([""])));
    client.create_job(bearer(&token, new_job("b"))).await.expect("a job without an owner");
    server.stop().await;
}

#[tokio::test]
async fn a_stream_ends_with_its_token_or_the_key_of_it() {
    let (first, second) = (Issuer::new("k1"), Issuer::new("k2"));
    let (server, folder) = server(&[first.jwk(), second.jwk()]).await;
    let mut client = server.client().await;
    let mut streams = Vec::new();
    // Clocks may differ by ten seconds.
    let brief = first.sign(&claims(|claims| claims["exp"] = json!(seconds(-8))));
    for token in [&brief, &first.sign(&claims(|_| {})), &second.sign(&claims(|_| {}))] {
        let stream = client.watch_jobs(bearer(token, WatchJobsRequest::default())).await.expect("a stream");
        let mut stream = stream.into_inner();
        stream.message().await.expect("a bookmark").expect("a bookmark");
        streams.push(stream);
    }
    let mut third = streams.pop().expect("three");
    let [mut expiring, mut revoked] = <[_; 2]>::try_from(streams).expect("two");
    let end = timeout(Duration::from_secs(5), expiring.message()).await.expect("in time").expect_err("it expired");
    assert_unauthenticated(&end, "ENDED");
    folder.write("keys.json", &json!({ "keys": [second.jwk()] }).to_string());
    let end = timeout(Duration::from_secs(5), revoked.message()).await.expect("in time").expect_err("its key is gone");
    assert_unauthenticated(&end, "ENDED");
    assert_unauthenticated(&said_to(&server, &first.sign(&claims(|_| {}))).await, "INVALID");
    client.create_job(bearer(&second.sign(&claims(|_| {})), new_job("a"))).await.expect("the other key counts");
    third.message().await.expect("a change").expect("the other stream goes on");
    drop(third);
    folder.write("keys.json", &json!({ "keys": [first.jwk(), second.jwk()] }).to_string());
    until("the key counts again", async || {
        (reason(&said_to(&server, &first.sign(&claims(|_| {}))).await) == "JOB_NOT_FOUND").then_some(())
    })
    .await;
    server.stop().await;
}

/// Returns an RSA key with a modulus of this many bits.
fn rsa_key(bits: usize, exponent: &str) -> Value {
    json!({ "kty": "RSA", "kid": "r", "n": encode(vec![0xff; bits / 8]), "e": exponent })
}

/// Returns a key set with one such key and these private members.
fn rsa(bits: usize, exponent: &str, private: &[&str]) -> String {
    let mut key = rsa_key(bits, exponent);
    for member in private {
        key[member] = json!("Y2FuYXJ5");
    }
    json!({ "keys": [key] }).to_string()
}

#[test]
fn keys_that_can_not_be_used_are_refused() {
    let folder = Folder::new();
    let good = Issuer::new("k1").jwk();
    let with = |name: &str, value: Value| {
        let mut key = good.clone();
        key[name] = value;
        json!({ "keys": [key] }).to_string()
    };
    let secret = json!({ "keys": [good, { "kty": "oct", "kid": "s", "k": "Y2FuYXJ5", "alg": "HS256" }] }).to_string();
    let files = [
        (String::new(), "JWK set"),
        (json!({ "keys": [] }).to_string(), "no key"),
        (with("use", json!("enc")), "no key"),
        (with("kid", Value::Null), "kid"),
        (with("alg", json!("RS256")), "alg"),
        (with("alg", json!("HS256")), "alg"),
        (secret, "shared secret"),
        (json!({ "keys": [good, good] }).to_string(), "occurs twice"),
        (with("d", json!("Y2FuYXJ5")), "private part"),
        (with("y", good["x"].clone()), "not a point on its curve"),
        (with("x", json!("AAAA")), "not a point on its curve"),
        (rsa(1024, "AQAB", &[]), "has 1024 bits"),
        (rsa(2040, "AQAB", &[]), "2048 to 8192"),
        (rsa(8200, "AQAB", &[]), "2048 to 8192"),
        (rsa(2048, "AQ", &[]), "exponent"),
        (rsa(2048, "AQAA", &[]), "exponent"),
        (rsa(2048, "AQAB", &["qi"]), "private part"),
        // Private parts are refused in keys that are not for signatures, too.
        (with("use", json!("enc")).replace("\"kid\"", "\"d\":\"Y2FuYXJ5\",\"kid\""), "private part"),
        (with("alg", json!("ES256")).replace("\"kid\"", "\"kid\":\"Y2FuYXJ5\",\"kid\""), "twice"),
        (with("alg", json!("ES256")).replace("\"keys\"", "\"keys\":[],\"keys\""), "twice"),
    ];
    let serve = |file: &str| {
        let flags = ["--jwt-issuer", "i", "--jwt-audience", "a", "--jwt-jwks-file"];
        output(&[&["--listen", "127.0.0.1:0"], &flags[..], &[file]].concat())
    };
    for (content, word) in files {
        let file = folder.write("keys.json", &content);
        let output = serve(&file);
        let text = String::from_utf8(output.stderr).expect("errors are text");
        assert_eq!(output.status.code(), Some(1), "{content}: {text}");
        assert!(text.contains(&file) && text.contains(word), "{content}: {text}");
        assert!(!text.contains("Y2FuYXJ5") && !text.contains("panicked"), "{content}: {text}");
    }
    let file = folder.write("keys.json", &json!({ "keys": [good] }).to_string());
    for flags in [vec!["--jwt-jwks-file", &file], vec!["--jwt-jwks-file", &file, "--jwt-issuer", "i"]] {
        let output = output(&flags);
        let text = String::from_utf8(output.stderr).expect("errors are text");
        assert!(output.status.code() == Some(2) && text.contains("--jwt-audience"), "{text}");
    }
}

#[tokio::test]
async fn valid_rsa_key_is_accepted() {
    let (server, _folder) = server(&[rsa_key(2048, "AQAB"), Issuer::new("k1").jwk()]).await;
    server.stop().await;
}
