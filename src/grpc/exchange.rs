//! One request and its response: the state that the transport and the middleware share.
//!
//! The middleware sets the time by which a response must have ended. Only the transport can end a response that the
//! caller does not read. Both run in the task of the exchange, so the shared state needs neither a lock nor an
//! allocation per call.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
};

use prost::Message;
use tokio::{
    sync::Semaphore,
    task::{futures::TaskLocalFuture, yield_now},
    task_local,
};
use tokio_util::sync::CancellationToken;

use super::{expiry::Expiry, message_size::HEAVY_MIN, unauthenticated::AuthenticationState};
use crate::{
    auth::Peer,
    domain::JobError,
    offload::offload,
    quota::{ConnectionUsage, Quotas},
};

task_local! {
    static EXCHANGE: Exchange;
}

/// State of a client's connection that its calls share.
pub struct ClientConnection {
    /// Address of the peer.
    pub address: SocketAddr,
    /// Holder of the peer's certificate, if it sent one.
    pub peer: Option<Peer>,
    /// Number of calls received over HTTP/2, by which an idle connection is detected.
    pub calls: AtomicU64,
    /// The connection's usage of the quotas: open watches, and bytes of its calls.
    pub usage: ConnectionUsage,
    /// Records whether a caller has authenticated on this connection.
    pub authentication: AuthenticationState,
    /// Cancelled when the connection accepts no more calls.
    pub drain: CancellationToken,
    /// The server's quotas, which limit the bytes of this connection's calls and of all calls.
    pub quotas: Arc<Quotas>,
    /// Semaphore with one permit, the turn: only one call of the connection at a time decodes or encodes a heavy
    /// message, so that many such calls do not delay the calls of other connections.
    pub turn: Semaphore,
}

impl ClientConnection {
    /// Creates the semaphore for [`turn`](Self::turn).
    pub const fn turns() -> Semaphore {
        Semaphore::const_new(1)
    }

    /// A connection from this machine.
    #[cfg(test)]
    pub fn of_test(quotas: Quotas) -> Self {
        use super::unauthenticated::UnauthenticatedConnections;

        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            peer: None,
            calls: 0.into(),
            usage: ConnectionUsage::default(),
            authentication: UnauthenticatedConnections::default().register(),
            drain: CancellationToken::new(),
            quotas: Arc::new(quotas),
            turn: Self::turns(),
        }
    }

    /// Returns a function that returns whether calls are open that may have several writes at a time: more than one
    /// call, or a watch.
    pub fn may_batch(self: &Arc<Self>) -> impl Fn() -> bool + use<> {
        let (connection, usage) = (Arc::downgrade(self), self.usage.clone());
        // The task that serves the connection has one reference to it. Each open call has another, and a second one
        // while it waits for its turn.
        move || connection.strong_count() > 2 || usage.has_watches()
    }

    /// Accepts no more calls unless a caller has authenticated.
    pub fn drain_if_unauthenticated(&self) {
        if !self.authentication.is_authenticated() {
            self.drain.cancel();
        }
    }
}

/// State of one call that the transport and the middleware share.
pub struct Exchange {
    connection: Arc<ClientConnection>,
    expiry: RefCell<Expiry>,
    /// Bytes of the request that are counted in the quotas.
    request: Cell<usize>,
    /// The request is compressed, and only its compressed bytes have been counted.
    is_compressed: Cell<bool>,
    /// Bytes of the response that are counted in the quotas.
    response: Cell<usize>,
    has_turn: Cell<bool>,
    /// Another thread works for the call, which keeps its turn meanwhile.
    is_offloaded: Cell<bool>,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.release(&self.request);
        self.release_response();
        self.end_turn();
    }
}

impl Exchange {
    /// Runs `response`, the answer to a request on `connection`, with a new exchange.
    pub fn scope<F: Future>(connection: Arc<ClientConnection>, response: F) -> TaskLocalFuture<Self, F> {
        let exchange = Self {
            connection,
            expiry: RefCell::default(),
            request: Cell::default(),
            is_compressed: Cell::default(),
            response: Cell::default(),
            has_turn: Cell::default(),
            is_offloaded: Cell::default(),
        };
        EXCHANGE.scope(exchange, response)
    }

    /// Returns the reasons for which the response ends early, as the middleware has set them.
    pub fn expiry(&mut self) -> &mut Expiry {
        self.expiry.get_mut()
    }

    /// Sets the reasons for which the response ends, even if its caller does not read it.
    pub fn expire_by(expiry: Expiry) {
        // Tests call services without a connection, and so without an exchange.
        _ = EXCHANGE.try_with(|exchange| exchange.expiry.replace(expiry));
    }

    /// Counts `bytes` more of this call's request, until [`release_request`](Self::release_request).
    pub fn hold_request(bytes: usize) -> Result<(), JobError> {
        let hold = |exchange: &Self| exchange.hold(&exchange.request, bytes);
        EXCHANGE.try_with(hold).unwrap_or(Ok(()))
    }

    /// Returns the maximum number of bytes that the calls of this connection may occupy together; `None` if it is
    /// unlimited.
    pub fn room() -> Option<usize> {
        EXCHANGE.try_with(|exchange| exchange.connection.quotas.bytes_per_connection()).ok().flatten()
    }

    /// Records that this call's request is compressed.
    pub fn mark_compressed() {
        _ = EXCHANGE.try_with(|exchange| exchange.is_compressed.set(true));
    }

    /// Counts the decoded size of this call's request in addition to its compressed size, if it was compressed.
    pub fn hold_decoded(request: &impl Message) -> Result<(), JobError> {
        let hold = |exchange: &Self| {
            let bytes = if exchange.is_compressed.take() { request.encoded_len() } else { 0 };
            if bytes == 0 { Ok(()) } else { exchange.hold(&exchange.request, bytes) }
        };
        EXCHANGE.try_with(hold).unwrap_or(Ok(()))
    }

    /// Releases the counted bytes of this call's request, and ends its turn. To be called when the handler has stored
    /// the request, or has returned.
    pub fn release_request() {
        _ = EXCHANGE.try_with(|exchange| {
            exchange.end_turn();
            exchange.release(&exchange.request);
        });
    }

    /// Counts the `bytes` of this call's response before it is encoded.
    pub fn reserve_response(bytes: usize) -> Result<(), JobError> {
        EXCHANGE.try_with(|exchange| exchange.hold_response(bytes)).unwrap_or(Ok(()))
    }

    /// Raises the number of counted bytes of the response to `bytes`, unless it is that high already.
    pub fn hold_response(&self, bytes: usize) -> Result<(), JobError> {
        match bytes.saturating_sub(self.response.get()) {
            0 => Ok(()),
            more => self.hold(&self.response, more),
        }
    }

    /// Releases the counted bytes of the response.
    pub fn release_response(&self) {
        self.release(&self.response);
    }

    /// Returns whether the response is known to be heavy.
    pub fn has_heavy_response(&self) -> bool {
        self.response.get() >= HEAVY_MIN
    }

    /// Waits until no other call of the connection decodes or encodes a heavy message.
    pub async fn take_turn(&mut self) {
        if !self.has_turn.get() {
            wait_for_turn(&self.connection.turn).await;
            self.has_turn.set(true);
        }
    }

    /// Returns a future that waits for the turn of the current call; `None` if the call has its turn already. The
    /// future must be polled in the task of the call.
    pub fn turn() -> Option<impl Future<Output = ()> + Send + use<>> {
        let waiting = |exchange: &Self| (!exchange.has_turn.get()).then(|| exchange.connection.clone());
        let connection = EXCHANGE.try_with(waiting).ok().flatten()?;
        Some(async move {
            wait_for_turn(&connection.turn).await;
            EXCHANGE.with(|exchange| {
                debug_assert!(!exchange.has_turn.get(), "a call that has its turn does not wait for it");
                exchange.has_turn.set(true);
            });
        })
    }

    /// Lets another call of the connection decode or encode a heavy message.
    pub fn end_turn(&self) {
        if self.has_turn.take() {
            self.connection.turn.add_permits(1);
        }
    }

    /// Ends the turn of the current call, which waits, unless another thread works for the call.
    pub fn end_idle_turn() {
        _ = EXCHANGE.try_with(|exchange| {
            if !exchange.is_offloaded.get() {
                exchange.end_turn();
            }
        });
    }

    /// Returns whether the current call's request is heavy.
    pub fn has_heavy_request() -> bool {
        EXCHANGE.try_with(|exchange| exchange.request.get() >= HEAVY_MIN).unwrap_or_default()
    }

    /// Does `work` of the current call on another thread, in the turn of the call: the threads are shared by all
    /// callers, so a connection may occupy only one of them at a time. Work that has begun goes on if its call ends
    /// earlier, and is then not counted.
    pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        if let Some(turn) = Self::turn() {
            turn.await;
        }
        let _offloading = Offloading::new();
        offload(work).await
    }

    fn hold(&self, count: &Cell<usize>, bytes: usize) -> Result<(), JobError> {
        let connection = &*self.connection;
        connection.quotas.hold_bytes(&connection.usage, bytes).map_err(JobError::Exhausted)?;
        count.set(count.get() + bytes);
        Ok(())
    }

    fn release(&self, count: &Cell<usize>) {
        match count.take() {
            0 => {}
            bytes => self.connection.quotas.release_bytes(&self.connection.usage, bytes),
        }
    }

    /// Calls `read` with the connection of the current call, if there is one, and returns the result.
    pub fn of_connection<T>(read: impl FnOnce(&ClientConnection) -> T) -> Option<T> {
        EXCHANGE.try_with(|exchange| read(&exchange.connection)).ok()
    }
}

/// Acquires the permit of `turn`. At the end of its turn the caller must return the permit with `add_permits`.
async fn wait_for_turn(turn: &Semaphore) {
    if let Ok(permit) = turn.try_acquire() {
        return permit.forget();
    }
    let permit = turn.acquire().await.expect("it is never closed");
    // tokio first runs the task that was woken most recently. Yielding lets the calls of other connections run in
    // between.
    yield_now().await;
    permit.forget();
}

/// A guard that exists while another thread works for the current call.
struct Offloading;

impl Offloading {
    fn new() -> Self {
        Self::mark(true);
        Self
    }

    fn mark(is_offloaded: bool) {
        _ = EXCHANGE.try_with(|exchange| exchange.is_offloaded.set(is_offloaded));
    }
}

impl Drop for Offloading {
    fn drop(&mut self) {
        Self::mark(false);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;

    use super::*;
    use crate::offload::occupy;

    /// A call on `connection`.
    fn call(connection: &Arc<ClientConnection>) -> Exchange {
        let mut scope = Box::pin(Exchange::scope(connection.clone(), async {}));
        assert!(scope.as_mut().now_or_never().is_some());
        scope.as_mut().take_value().expect("it was not taken before")
    }

    #[tokio::test]
    async fn one_call_of_a_connection_has_its_turn_at_a_time() {
        let connection = Arc::new(ClientConnection::of_test(Quotas::default()));
        let (mut first, mut second, mut third) = (call(&connection), call(&connection), call(&connection));
        first.take_turn().await;
        first.take_turn().await;
        {
            let mut waiting = Box::pin(second.take_turn());
            assert!(waiting.as_mut().now_or_never().is_none());
            first.end_turn();
            // The second call gets the turn, but its future is dropped before it runs again.
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        third.take_turn().await;
        assert!(Box::pin(second.take_turn()).now_or_never().is_none());
        drop(third);
        second.take_turn().await;
    }

    #[tokio::test]
    async fn connections_have_their_turns_apart() {
        let connections = [(); 2].map(|()| Arc::new(ClientConnection::of_test(Quotas::default())));
        let [mut first, mut second] = connections.each_ref().map(call);
        first.take_turn().await;
        second.take_turn().await;
    }

    #[tokio::test]
    async fn call_keeps_its_turn_while_another_thread_works_for_it() {
        let connection = Arc::new(ClientConnection::of_test(Quotas::default()));
        let occupied = occupy().await;
        let mut working = Box::pin(Exchange::scope(connection.clone(), async {
            let mut done = Box::pin(Exchange::offload(|| 7));
            poll_fn(|cx| {
                let polled = done.as_mut().poll(cx);
                Exchange::end_idle_turn();
                polled
            })
            .await
        }));
        assert!(working.as_mut().now_or_never().is_none());
        let mut other = call(&connection);
        assert!(Box::pin(other.take_turn()).now_or_never().is_none());
        drop(occupied);
        assert_eq!(working.as_mut().await, 7);
        drop(working);
        other.take_turn().await;
    }

    #[tokio::test]
    async fn what_is_counted_is_released_once() {
        let connection = Arc::new(ClientConnection::of_test(Quotas::default()));
        let held = || connection.quotas.call_bytes();
        let call = call(&connection);
        call.hold_response(100).expect("there is room");
        call.hold_response(70).expect("these bytes are counted already");
        assert_eq!(held(), 100);
        call.release_response();
        assert_eq!(held(), 0);
        call.hold_response(70).expect("there is room");
        drop(call);
        assert_eq!(held(), 0);
    }
}
