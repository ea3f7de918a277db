//! Checks of an issuer's keys: the algorithm of each, and keys that are unsafe to verify signatures with.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm},
};
use ring::{
    agreement::{self, ECDH_P256, ECDH_P384, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral},
    rand::SystemRandom,
    signature::ED25519_PUBLIC_KEY_LEN,
};
use serde_json::Value;
use thiserror::Error;

/// Minimum size of the modulus of an RSA key, in bits: smaller keys are no longer secure.
const RSA_BITS_MIN: usize = 2048;
/// Maximum size of the modulus: ring verifies no signature by a larger key.
const RSA_BITS_MAX: usize = 8192;

/// The members of a JWK that only its owner may have (RFC 7518, 6.2.2 and 6.3.2; RFC 8037, 2).
const PRIVATE_MEMBERS: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// The reason why a key can't be used.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("can't be read")]
    Unreadable,
    #[error("is a shared secret: everyone who can verify with it can also sign")]
    SharedSecret,
    #[error("has an alg for encryption, but its use is not enc")]
    Encryption,
    #[error("has an alg that does not fit its type")]
    Algorithm,
    #[error(
        "has its private part, so everyone who can read this file could sign: replace the key pair, and store only the \
         public key here"
    )]
    Private,
    #[error("must have {ED25519_PUBLIC_KEY_LEN} bytes: replace it")]
    Ed25519Length,
    #[error("has {0} bits and must have {RSA_BITS_MIN} to {RSA_BITS_MAX}: replace it")]
    RsaBits(usize),
    #[error("has an exponent with which signatures are unsafe (65537 is usual): replace it")]
    RsaExponent,
    #[error("is not a point on its curve: replace it")]
    NotOnCurve,
    #[error("occurs twice")]
    Duplicate,
}

/// Returns the algorithm of a key: the one that it names, or else the usual one for its type. `None` for a key that is
/// not supported, or not for signatures.
pub fn algorithm(jwk: &Jwk) -> Result<Option<Algorithm>, KeyError> {
    let (default, fitting): (_, &[Algorithm]) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (
            Algorithm::RS256,
            &[
                Algorithm::RS256,
                Algorithm::RS384,
                Algorithm::RS512,
                Algorithm::PS256,
                Algorithm::PS384,
                Algorithm::PS512,
            ],
        ),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => (Algorithm::ES256, &[Algorithm::ES256]),
            EllipticCurve::P384 => (Algorithm::ES384, &[Algorithm::ES384]),
            _ => return Ok(None),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, &[Algorithm::EdDSA])
        }
        AlgorithmParameters::OctetKey(_) => {
            return Err(KeyError::SharedSecret);
        }
        _ => return Ok(None),
    };
    let given = match jwk.common.key_algorithm {
        None => default,
        Some(KeyAlgorithm::UNKNOWN_ALGORITHM) => return Ok(None),
        Some(given) => Algorithm::try_from(given).map_err(|_| KeyError::Encryption)?,
    };
    if fitting.contains(&given) { Ok(Some(given)) } else { Err(KeyError::Algorithm) }
}

/// Returns the name of a key of the set that has its private part, whatever the key is for.
pub fn private_key(set: &Value) -> Option<String> {
    let keys = set.get("keys").and_then(Value::as_array);
    for (at, key) in keys.into_iter().flatten().enumerate() {
        if PRIVATE_MEMBERS.iter().any(|member| key.get(member).is_some()) {
            let name = key.get("kid").and_then(Value::as_str);
            let name = name.map_or_else(|| format!("number {}", at + 1), |name| format!("{name:?}"));
            return Some(name);
        }
    }
    None
}

/// Fails if no signature by a key can be verified, or if signatures by it can be forged.
pub fn refuse_weak(key: &DecodingKey, algorithm: Algorithm) -> Result<(), KeyError> {
    match (key.kind(), algorithm) {
        (DecodingKeyKind::RsaModulusExponent { n, e }, _) => refuse_weak_rsa(n, e),
        (DecodingKeyKind::SecretOrDer(point), Algorithm::ES256) => check_point(&ECDH_P256, point),
        (DecodingKeyKind::SecretOrDer(point), Algorithm::ES384) => check_point(&ECDH_P384, point),
        (DecodingKeyKind::SecretOrDer(point), _) if point.len() != ED25519_PUBLIC_KEY_LEN => {
            Err(KeyError::Ed25519Length)
        }
        _ => Ok(()),
    }
}

fn refuse_weak_rsa(modulus: &[u8], exponent: &[u8]) -> Result<(), KeyError> {
    let bits = match without_zeros(modulus) {
        [] => 0,
        [first, rest @ ..] => rest.len() * 8 + first.ilog2() as usize + 1,
    };
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err(KeyError::RsaBits(bits));
    }
    // The bounds of ring. With an exponent of 1, every message would be its own signature.
    let value = match without_zeros(exponent) {
        bytes if bytes.len() <= 8 => bytes.iter().fold(0, |value: u64, byte| value << 8 | u64::from(*byte)),
        _ => 0,
    };
    if value % 2 == 0 || !(3..1 << 33).contains(&value) {
        return Err(KeyError::RsaExponent);
    }
    Ok(())
}

fn without_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]
}

/// Fails unless a point is on the curve. ring checks that only during a key agreement.
fn check_point(curve: &'static agreement::Algorithm, point: &[u8]) -> Result<(), KeyError> {
    let other = EphemeralPrivateKey::generate(curve, &SystemRandom::new());
    let agreed = other.and_then(|other| agree_ephemeral(other, &UnparsedPublicKey::new(curve, point), |_| ()));
    agreed.map_err(|_| KeyError::NotOnCurve)
}
