//! A random secret that all replicas share, stored in Redis.

use std::{
    mem::replace,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use redis::cmd;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tracing::warn;

use super::{client::Client, connection::Fault};
use crate::domain::NoTokenKey;

/// Minimum length of the secret in bytes. Anything shorter was not written by jobtrack, and is not used.
const SECRET_MIN: usize = 32;

/// The secret, or the reason why it is not known.
pub type SecretState = Result<Arc<[u8]>, NoTokenKey>;

/// The secret as it was last read.
pub struct SharedSecret {
    client: Arc<Client>,
    current: watch::Sender<SecretState>,
    /// The secret in Redis can't be used.
    is_unusable: AtomicBool,
}

impl SharedSecret {
    /// Creates the secret of the replicas that use this Redis; it is unknown yet.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, current: watch::Sender::new(Err(NoTokenKey::Unread)), is_unusable: AtomicBool::new(false) }
    }

    /// Returns a receiver of the secret and of its changes.
    pub fn subscribe(&self) -> watch::Receiver<SecretState> {
        self.current.subscribe()
    }

    /// Reads the secret, if anybody uses it. If Redis has none, it gets a random one or, after a loss of data, the last
    /// known one.
    pub async fn learn(&self) -> Result<(), Fault> {
        if self.current.receiver_count() == 0 {
            return Ok(());
        }
        // Read first: a Redis that is full or read-only accepts no other command.
        let (key, pulse) = (self.client.keys().secret(), self.client.pulse());
        let mut there: Option<Vec<u8>> = pulse.query(cmd("GET").arg(key)).await?;
        if there.is_none() {
            let known = self.current.borrow().as_ref().map(|known| known.to_vec()).ok();
            let made = known.unwrap_or_else(random);
            let first: Option<Vec<u8>> = pulse.query(cmd("SET").arg(key).arg(&made).arg("NX").arg("GET")).await?;
            there = Some(first.unwrap_or(made));
        }
        let secret = there.filter(|secret| secret.len() >= SECRET_MIN).map(Arc::from).ok_or(NoTokenKey::TooShort);
        if self.is_unusable.swap(secret.is_err(), Relaxed) != secret.is_err() && secret.is_err() {
            let redis = self.client.target();
            warn!(%redis, key, "the key of watch tokens in Redis is shorter than {SECRET_MIN} bytes and is not used");
        }
        self.current.send_if_modified(|known| {
            // One that is not used does not replace the one that is.
            let is_other = *known != secret && (secret.is_ok() || known.is_err());
            if is_other && replace(known, secret).is_ok() {
                let redis = self.client.target();
                warn!(%redis, "the key of watch tokens in Redis has changed; earlier tokens are not valid");
            }
            is_other
        });
        Ok(())
    }
}

/// Returns a new secret as text, which Redis and people can handle.
fn random() -> Vec<u8> {
    let mut random = [0; SECRET_MIN];
    SystemRandom::new().fill(&mut random).expect("the system has random numbers");
    random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}
