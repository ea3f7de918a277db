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
    sync::Semaphore,
    task::{futures::TaskLocalFuture, yield_now},
    task_local,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{message_size::HEAVY_MIN, unauthenticated::AuthenticationState};
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
    /// Whether a caller has authenticated on it.
    pub authentication: AuthenticationState,
    /// Cancelled when it takes no more calls.
    pub drain: CancellationToken,
    /// Bounds the bytes of its calls, and of all calls.
    pub limits: Arc<Limits>,
    /// Bounds the calls that read or write a heavy message at a time: other connections have their turn between them.
    pub turn: Semaphore,
}

impl ClientConnection {
    /// Calls that read or write a heavy message at a time.
    pub const fn turns() -> Semaphore {
        Semaphore::const_new(1)
    }

    /// A connection from this machine.
    #[cfg(test)]
    pub fn of_test(limits: Limits) -> Self {
        use super::unauthenticated::UnauthenticatedConnections;

        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            peer: None,
            calls: 0.into(),
            watches: Connection::default(),
            authentication: UnauthenticatedConnections::default().register(),
            drain: CancellationToken::new(),
            limits: Arc::new(limits),
            turn: Self::turns(),
        }
    }

    /// Accepts no more calls unless a caller has authenticated.
    pub fn drain_if_unauthenticated(&self) {
        if !self.authentication.is_authenticated() {
            self.drain.cancel();
        }
    }
}

/// What transport and middleware share of one call.
pub struct Exchange {
    connection: Arc<ClientConnection>,
    expiry: RefCell<Expiry>,
    /// Counted bytes of the request.
    request: Cell<usize>,
    /// Counted bytes of the response.
    response: Cell<usize>,
    has_turn: Cell<bool>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.release(&self.request);
        self.release_response();
        self.end_turn();
    }
}

impl Exchange {
    /// Runs `response` as the answer to a request that came on `connection`.
    pub fn scope<F: Future>(connection: Arc<ClientConnection>, response: F) -> TaskLocalFuture<Self, F> {
        let exchange = Self {
            connection,
            expiry: RefCell::default(),
            request: Cell::default(),
            response: Cell::default(),
            has_turn: Cell::default(),
        };
        EXCHANGE.scope(exchange, response)
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

    /// Counts `bytes` more of this call's request, until its handler has returned.
    pub fn hold_request(bytes: usize) -> Result<(), JobError> {
        let hold = |exchange: &Self| exchange.hold(&exchange.request, bytes);
        EXCHANGE.try_with(hold).unwrap_or(Ok(()))
    }

    /// Takes back what was counted of this call's request: its handler has returned.
    pub fn release_request() {
        _ = EXCHANGE.try_with(|exchange| {
            exchange.end_turn();
            exchange.release(&exchange.request);
        });
    }

    /// Counts the `bytes` that this call's response is going to have, before it is encoded.
    pub fn announce_response(bytes: usize) -> Result<(), JobError> {
        EXCHANGE.try_with(|exchange| exchange.hold_response(bytes)).unwrap_or(Ok(()))
    }

    /// Sees to it that at least so many `bytes` of the response are counted.
    pub fn hold_response(&self, bytes: usize) -> Result<(), JobError> {
        match bytes.saturating_sub(self.response.get()) {
            0 => Ok(()),
            more => self.hold(&self.response, more),
        }
    }

    /// Takes back what was counted of the response.
    pub fn release_response(&self) {
        self.release(&self.response);
    }

    /// Returns whether the response is known to be heavy.
    pub fn has_heavy_response(&self) -> bool {
        self.response.get() >= HEAVY_MIN
    }

    /// Waits until no other call of the connection reads or writes a heavy message.
    pub async fn take_turn(&mut self) {
        if !self.has_turn.get() {
            wait_for_turn(&self.connection.turn).await;
            self.has_turn.set(true);
        }
    }

    /// The same, of the call in whose task this is polled; `None`: it has its turn already.
    pub fn turn() -> Option<impl Future<Output = ()> + Send + use<>> {
        let waiting = |exchange: &Self| (!exchange.has_turn.get()).then(|| exchange.connection.clone());
        let connection = EXCHANGE.try_with(waiting).ok().flatten()?;
        Some(async move {
            wait_for_turn(&connection.turn).await;
            EXCHANGE.with(|exchange| {
                debug_assert!(!exchange.has_turn.get(), "a call waits for a turn that it has");
                exchange.has_turn.set(true);
            });
        })
    }

    /// Lets another call of the connection read or write a heavy message.
    pub fn end_turn(&self) {
        if self.has_turn.take() {
            self.connection.turn.add_permits(1);
        }
    }

    /// The same, after the request of this call was read.
    pub fn request_is_read() {
        _ = EXCHANGE.try_with(Self::end_turn);
    }

    fn hold(&self, count: &Cell<usize>, bytes: usize) -> Result<(), JobError> {
        let connection = &*self.connection;
        connection.limits.hold_bytes(&connection.watches, bytes).map_err(JobError::Exhausted)?;
        count.set(count.get() + bytes);
        Ok(())
    }

    fn release(&self, count: &Cell<usize>) {
        match count.take() {
            0 => {}
            bytes => self.connection.limits.release_bytes(&self.connection.watches, bytes),
        }
    }

    /// Returns what `read` finds out about the connection of this call, if it came on one.
    pub fn of_connection<T>(read: impl FnOnce(&ClientConnection) -> T) -> Option<T> {
        EXCHANGE.try_with(|exchange| read(&exchange.connection)).ok()
    }
}

/// Waits for a permit, which is to be added again.
async fn wait_for_turn(turn: &Semaphore) {
    if let Ok(permit) = turn.try_acquire() {
        return permit.forget();
    }
    let permit = turn.acquire().await.expect("it is never closed");
    // The runtime runs first what was woken last: others that are ready have their turn between two calls of a connection.
    yield_now().await;
    permit.forget();
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// A call on `connection`.
    fn call(connection: &Arc<ClientConnection>) -> Exchange {
        let mut scope = Box::pin(Exchange::scope(connection.clone(), async {}));
        assert!(scope.as_mut().now_or_never().is_some());
        scope.as_mut().take_value().expect("it was not taken before")
    }

    #[tokio::test]
    async fn one_call_of_a_connection_has_its_turn_at_a_time() {
        let connection = Arc::new(ClientConnection::of_test(Limits::default()));
        let (mut first, mut second, mut third) = (call(&connection), call(&connection), call(&connection));
        first.take_turn().await;
        first.take_turn().await;
        {
            let mut waiting = Box::pin(second.take_turn());
            assert!(waiting.as_mut().now_or_never().is_none());
            first.end_turn();
            // It has its turn, and leaves before it goes on.
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        third.take_turn().await;
        assert!(Box::pin(second.take_turn()).now_or_never().is_none());
        drop(third);
        second.take_turn().await;
    }

    #[tokio::test]
    async fn connections_have_their_turns_apart() {
        let connections = [(); 2].map(|()| Arc::new(ClientConnection::of_test(Limits::default())));
        let [mut first, mut second] = connections.each_ref().map(call);
        first.take_turn().await;
        second.take_turn().await;
    }

    #[tokio::test]
    async fn what_is_counted_is_released_once() {
        let connection = Arc::new(ClientConnection::of_test(Limits::default()));
        let held = || connection.limits.call_bytes();
        let call = call(&connection);
        call.hold_response(100).expect("there is room");
        call.hold_response(70).expect("they are among those");
        assert_eq!(held(), 100);
        call.release_response();
        assert_eq!(held(), 0);
        call.hold_response(70).expect("there is room");
        drop(call);
        assert_eq!(held(), 0);
    }
}
