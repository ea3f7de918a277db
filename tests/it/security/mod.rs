//! Credentials, rights, secrets and hostile peers.

mod access;
mod canaries;
mod hostile;
mod watch_tokens;
