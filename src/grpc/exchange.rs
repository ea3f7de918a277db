//! A request and its response, as the transport that carries them and the middleware that answers them see it.
//!
//! The middleware knows when a response must have ended; only the transport can end one that its caller does not read.
//! Both run in the task of the exchange, so that what they share needs neither a lock nor an allocation per call.

use std::{
    cell::{Cell, RefCell},
    future::pending,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use tokio::{
    task::futures::TaskLocalFuture,
    task_local,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::newcomers::Newcomer;
use crate::{
    auth::{Grant, Peer},
    domain::{JobError, Unauthenticated},
    limits::{Connection, Limits},
};

task_local! {
    static EXCHANGE: Exchange;
}

/// A connection, as its calls see it.
pub struct ClientConnection {
    /// Address of the peer.
    pub address: SocketAddr,
    /// Holder of the certificate that the peer has shown.
    pub peer: Option<Peer>,
    /// Counts the calls that have come.
    pub calls: AtomicU64,
    /// Counts the open watches.
    pub watches: Connection,
    /// Whether somebody has authenticated on it.
    pub newcomer: Newcomer,
    /// Cancelled when it takes no more calls.
    pub drain: CancellationToken,
    /// Bounds the bytes of its calls, and of all calls.
    pub limits: Arc<Limits>,
}

impl ClientConnection {
    /// Takes no more calls if nobody has authenticated.
    pub fn turn_away(&self) {
        if !self.newcomer.is_authenticated() {
            self.drain.cancel();
        }
    }
}

/// What transport and middleware share of one call.
pub struct Exchange {
    connection: Arc<ClientConnection>,
    expiry: RefCell<Expiry>,
    /// Bytes of the request and of the response that are counted.
    held: Cell<usize>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.release(self.held.get());
    }
}

impl Exchange {
    /// Runs `response` as the answer to a request that came on `connection`.
    pub fn scope<F: Future>(connection: Arc<ClientConnection>, response: F) -> TaskLocalFuture<Self, F> {
        EXCHANGE.scope(Self { connection, expiry: RefCell::default(), held: Cell::default() }, response)
    }

    /// Returns what ends the response, as the middleware has said.
    pub fn expiry(&mut self) -> &mut Expiry {
        self.expiry.get_mut()
    }

    /// Has the response end by `expiry`, even if its caller does not read it.
    pub fn expire_by(expiry: Expiry) {
        // There is none where a service is called without a connection.
        _ = EXCHANGE.try_with(|exchange| exchange.expiry.replace(expiry));
    }

    /// Takes back what was counted of this call's request: its handler has returned.
    pub fn release_request() {
        _ = EXCHANGE.try_with(|exchange| exchange.release(exchange.held.get()));
    }

    /// Counts `bytes` more of this call's request, until its handler has returned.
    pub fn hold_request(bytes: usize) -> Result<(), JobError> {
        EXCHANGE.try_with(|exchange| exchange.hold(bytes)).unwrap_or(Ok(()))
    }

    /// Counts `bytes` more, until they are released or the call ends.
    pub fn hold(&self, bytes: usize) -> Result<(), JobError> {
        let connection = &*self.connection;
        connection.limits.hold_bytes(&connection.watches, bytes).map_err(JobError::Exhausted)?;
        self.held.set(self.held.get() + bytes);
        Ok(())
    }

    /// Takes back that so many bytes were counted.
    pub fn release(&self, bytes: usize) {
        debug_assert!(bytes <= self.held.get(), "no more is released than was counted");
        self.held.set(self.held.get() - bytes);
        self.connection.limits.release_bytes(&self.connection.watches, bytes);
    }

    /// Returns what `read` finds out about the connection of this call, if it came on one.
    pub fn of_connection<T>(read: impl FnOnce(&ClientConnection) -> T) -> Option<T> {
        EXCHANGE.try_with(|exchange| read(&exchange.connection)).ok()
    }
}

/// What ends a response that its caller does not read.
#[derive(Debug, Default)]
pub struct Expiry {
    /// When it must have ended.
    pub deadline: Option<Instant>,
    /// On whose behalf it is sent, if that may end.
    pub grant: Option<Grant>,
}

impl Expiry {
    /// Waits until the response must end. Returns why.
    pub async fn reached(&self) -> JobError {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => pending().await,
            }
        };
        let grant = async {
            match &self.grant {
                Some(grant) => grant.ended().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = grant => JobError::Unauthenticated(Unauthenticated::Ended),
            () = deadline => JobError::DeadlineExceeded,
        }
    }
}
