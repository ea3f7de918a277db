//! The key that signs watch tokens: random, from a file, or shared by replicas.

use std::{fmt, path::PathBuf, sync::Arc};

use ring::rand::{SecureRandom, SystemRandom};
use thiserror::Error;
use tokio::sync::watch;

use crate::{
    domain::NoTokenKey,
    reload::{Refresh, ReloadError, Reloaded, Replaceable},
};

/// Minimum length of a key in bytes: the length of an HMAC-SHA-256.
const KEY_MIN: usize = 32;

/// A secret that signs watch tokens.
pub type TokenKey = Arc<[u8]>;

/// A key, or the reason why it is unknown.
pub type KeyState = Result<TokenKey, NoTokenKey>;

/// The source of the key.
#[derive(Clone)]
pub struct TokenKeys {
    /// The current key, or the reason why it is unknown.
    current: watch::Receiver<KeyState>,
    /// The file of the key, if it has one.
    file: Option<Arc<Reloaded<KeyFile>>>,
}

impl TokenKeys {
    /// Creates a random key.
    pub fn random() -> Self {
        let mut key = [0; KEY_MIN];
        SystemRandom::new().fill(&mut key).expect("the system has random numbers");
        // The sender is dropped, so the value never changes.
        Self::shared(watch::channel(Ok(Arc::from(key))).1)
    }

    /// Uses the key that `current` contains.
    pub const fn shared(current: watch::Receiver<KeyState>) -> Self {
        Self { current, file: None }
    }

    /// Reads the key from a file. The error names the file and the problem.
    pub fn open(file: PathBuf) -> Result<Self, ReloadError> {
        let (sender, current) = watch::channel(Err(NoTokenKey::Unread));
        let sender = Arc::new(sender);
        let read = move |contents: &[Vec<u8>], _: Option<&KeyFile>| KeyFile::read(contents, sender.clone());
        let file = Reloaded::open(vec![file], read)?;
        file.load().publish();
        Ok(Self { current, file: Some(Arc::new(file)) })
    }

    /// Returns whether the key is read from a file.
    pub const fn is_in_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the reloader of the file.
    pub fn reloader(&self) -> Option<Arc<dyn Refresh>> {
        self.file.clone().map(|file| file as _)
    }

    /// Returns the current key, if it is known.
    pub fn current(&self) -> Result<KeyInUse, NoTokenKey> {
        let key = self.current.borrow().clone()?;
        Ok(KeyInUse { key, current: self.current.clone() })
    }
}

/// A key that a token was verified with, and that may be replaced.
#[derive(Clone)]
pub struct KeyInUse {
    key: TokenKey,
    current: watch::Receiver<KeyState>,
}

// Not derived, because the key is a secret.
impl fmt::Debug for KeyInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyInUse").finish_non_exhaustive()
    }
}

impl KeyInUse {
    /// Returns the secret.
    pub fn secret(&self) -> &[u8] {
        &self.key
    }

    /// Returns whether another key has replaced this one.
    pub fn is_replaced(&self) -> bool {
        self.current.borrow().as_ref() != Ok(&self.key)
    }

    /// Waits until another key replaces this one.
    pub async fn replaced(&self) {
        let mut current = self.current.clone();
        if current.wait_for(|current| current.as_ref() != Ok(&self.key)).await.is_err() {
            // The key can't change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// The content of a key file.
pub struct KeyFile {
    key: TokenKey,
    /// Channel to which the key is published when this file comes into force.
    current: Arc<watch::Sender<KeyState>>,
}

/// The reason why a key file is invalid.
#[derive(Debug, Error)]
#[error(
    "it must contain a random key of at least {KEY_MIN} bytes, and has {0}: create one, for example with openssl rand \
     -hex 32"
)]
struct TooShort(usize);

impl KeyFile {
    fn read(contents: &[Vec<u8>], current: Arc<watch::Sender<KeyState>>) -> Result<Self, TooShort> {
        let contents = contents.concat();
        // A line end is not a part of the key: editors and tools add one or remove it.
        let key = contents.trim_ascii();
        if key.len() < KEY_MIN {
            return Err(TooShort(key.len()));
        }
        Ok(Self { key: key.into(), current })
    }

    fn publish(&self) {
        _ = self.current.send_replace(Ok(self.key.clone()));
    }
}

impl Replaceable for KeyFile {
    fn on_replaced(&self, next: &Self) {
        next.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_is_read_without_its_line_end() {
        let read = |text: &str| {
            let file = KeyFile::read(&[text.as_bytes().to_vec()], Arc::new(watch::channel(Err(NoTokenKey::Unread)).0));
            file.map(|file| file.key.len()).map_err(|error| error.0)
        };
        assert_eq!(read(&"k".repeat(32)), Ok(32));
        assert_eq!(read(&format!("{}\r\n", "k".repeat(40))), Ok(40));
        assert_eq!(read(&format!("{}\n", "k".repeat(31))), Err(31));
        assert_eq!(read(" \n"), Err(0));
    }

    #[test]
    fn random_keys_differ() {
        let key = || TokenKeys::random().current().expect("it is known").secret().to_vec();
        assert_ne!(key(), key());
        assert_eq!(key().len(), KEY_MIN);
    }
}
