//! The key of watch tokens: a random secret that all replicas share, stored in Redis.

use std::{mem::replace, sync::Arc};

use redis::cmd;
use ring::rand::{SecureRandom, SystemRandom};
use tokio::sync::watch;
use tracing::{field::display, warn};

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
    /// The reason why the secret in Redis can't be used; `None` if it can.
    problem: watch::Sender<Option<NoTokenKey>>,
}

impl SharedSecret {
    /// Creates the secret of the replicas that use this Redis; it is unknown yet.
    pub fn new(client: Arc<Client>) -> Self {
        Self { client, current: watch::Sender::new(Err(NoTokenKey::Unread)), problem: watch::Sender::new(None) }
    }

    /// Returns a receiver of the secret and of its changes.
    pub fn subscribe(&self) -> watch::Receiver<SecretState> {
        self.current.subscribe()
    }

    /// Reads the secret, if anybody has subscribed to it. If Redis has no secret, a random one is stored there or,
    /// after a loss of data, the last known one.
    pub async fn learn(&self) -> Result<(), Fault> {
        if self.current.receiver_count() == 0 {
            return Ok(());
        }
        let (secret, error) = match self.read().await {
            Ok(secret) if secret.len() >= SECRET_MIN => (Ok(Arc::from(secret)), None),
            Ok(_) => (Err(NoTokenKey::TooShort), None),
            Err(Fault::Refused(error)) => (Err(NoTokenKey::Refused), Some(error)),
            Err(fault) => return Err(fault),
        };
        let problem = secret.as_ref().err().copied();
        if self.problem.send_replace(problem) != problem
            && let Some(problem) = problem
        {
            let (redis, key, error) = (self.client.target(), self.client.keys().secret(), error.map(display));
            warn!(%redis, key, %problem, error, "the key of watch tokens in Redis is not used");
        }
        self.current.send_if_modified(|known| {
            // A secret that can't be used does not replace the one in use.
            let is_other = *known != secret && (secret.is_ok() || known.is_err());
            if is_other && replace(known, secret).is_ok() {
                let redis = self.client.target();
                warn!(%redis, "the key of watch tokens in Redis has changed; earlier tokens are not valid");
            }
            is_other
        });
        Ok(())
    }

    /// Reads the secret from Redis. If there is none, stores one first.
    async fn read(&self) -> Result<Vec<u8>, Fault> {
        // Read before an attempt to write, because a Redis that is full or read-only still answers reads.
        let (key, pulse) = (self.client.keys().secret(), self.client.pulse());
        let there: Option<Vec<u8>> = pulse.query(cmd("GET").arg(key)).await?;
        if let Some(there) = there {
            return Ok(there);
        }
        let made = match &*self.current.borrow() {
            Ok(known) => known.to_vec(),
            Err(_) => random(),
        };
        let first: Option<Vec<u8>> = pulse.query(cmd("SET").arg(key).arg(&made).arg("NX").arg("GET")).await?;
        Ok(first.unwrap_or(made))
    }
}

/// Returns a new secret as text, which Redis and people can handle.
fn random() -> Vec<u8> {
    let mut random = [0; SECRET_MIN];
    SystemRandom::new().fill(&mut random).expect("the system has random numbers");
    random.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect()
}
