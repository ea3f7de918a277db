//! Connections to the replicas of a tracker, and calls with retries where these are safe.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout_at};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::{Error, pause::Pause, proto::v1::job_service_client::JobServiceClient};

/// Maximum number of times that a call is sent.
const ATTEMPTS_MAX: u32 = 5;

/// Maximum time of one try. An unresponsive replica must not use up the time in which another replica could answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);

/// Number of tokens in a full retry budget. A call that fails because its server is unavailable or unresponsive takes
/// one token, and a successful call gives back a tenth. No call is retried while half of the tokens are missing:
/// retries must not keep an overloaded server from recovering.
const RETRY_TOKENS: u32 = 100;

/// Number of units in a token: the budget is counted in tenths.
const TENTHS: u32 = 10;

/// Maximum size of an answer in bytes. The server sends at most 4 MiB.
const ANSWER_MAX: usize = 8 << 20;

/// The source of the token that calls carry.
#[derive(Clone, Debug)]
pub(crate) enum Token {
    /// Calls are anonymous, or the client has a certificate.
    None,
    /// The token itself.
    Fixed(MetadataValue<Ascii>),
    /// The token is in this file, which is read for each call: tokens may be replaced while a worker runs.
    File(PathBuf),
}

/// The condition under which a call is retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// A call is retried after each temporary error, because a second execution does no harm.
    Safe,
    /// A call is retried only if no server can have received it.
    Unsent,
}

/// Counters of the tries of one call.
#[derive(Default)]
struct Tries {
    /// Tries that a server may have received.
    sent: u32,
    /// Tries for which no connection could be made.
    unsent: usize,
}

/// A server, and the connection to it.
#[derive(Debug)]
pub(crate) struct Replica {
    /// The URL, as it was configured.
    pub url: String,
    /// The connection.
    pub channel: Channel,
}

/// The connections of a [`Tracker`](crate::Tracker).
#[derive(Debug)]
pub(crate) struct Connections {
    /// The replicas, at least one.
    pub replicas: Vec<Replica>,
    /// Number of the replica in use. It only rises, and is taken modulo the number of replicas.
    pub current: AtomicUsize,
    /// The source of the token.
    pub token: Token,
    /// Maximum time of a call, including its retries.
    pub timeout: Duration,
    /// Calls wait until a server can be reached.
    pub wait_for_ready: bool,
    /// The rest of the retry budget, in tenths of a token.
    pub budget: AtomicU32,
}

impl Connections {
    /// Returns connections with a full retry budget.
    pub fn new(replicas: Vec<Replica>, token: Token, timeout: Duration, wait_for_ready: bool) -> Self {
        debug_assert!(!replicas.is_empty());
        let budget = AtomicU32::new(RETRY_TOKENS * TENTHS);
        Self { replicas, current: AtomicUsize::new(0), token, timeout, wait_for_ready, budget }
    }

    /// Returns the number of the replica in use.
    pub fn current(&self) -> usize {
        self.current.load(Relaxed)
    }

    /// Returns the channel to a replica.
    pub fn channel(&self, replica: usize) -> Channel {
        self.replicas[replica % self.replicas.len()].channel.clone()
    }

    /// Returns the error of a call to a replica. If no connection could be made, the message names the URL.
    pub fn error(&self, replica: usize, status: Status) -> Error {
        let mut error = Error::from(status);
        if error.is_unsent {
            let url = &self.replicas[replica % self.replicas.len()].url;
            error.message = format!("can't connect to {url}: {}", error.message);
        }
        error
    }

    /// Returns a client of a replica.
    pub fn jobs(&self, replica: usize) -> JobServiceClient<Channel> {
        jobs(self.channel(replica))
    }

    /// Switches to the replica after this one, unless another call has switched already.
    pub fn leave(&self, replica: usize) {
        _ = self.current.compare_exchange(replica, replica.wrapping_add(1), Relaxed, Relaxed);
    }

    /// Returns a request with the credentials of the caller.
    pub fn request<T>(&self, message: T) -> Result<Request<T>, Error> {
        let mut request = Request::new(message);
        let value = match &self.token {
            Token::None => return Ok(request),
            Token::Fixed(value) => value.clone(),
            Token::File(path) => {
                let token = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
                bearer(token.trim()).ok_or_else(|| unreadable(path, &"the content is not a token"))?
            }
        };
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }

    /// Sends a call of the job service; see [`call_of`](Self::call_of).
    pub async fn call<T: Clone, R>(
        &self,
        repeat: Repeat,
        message: T,
        send: impl AsyncFn(JobServiceClient<Channel>, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error> {
        self.call_of(jobs, repeat, message, send).await
    }

    /// Sends a call with the client that `client` returns for a channel. Retries the call after temporary errors, until
    /// it is answered or its time has run out.
    pub async fn call_of<C, T: Clone, R>(
        &self,
        client: fn(Channel) -> C,
        repeat: Repeat,
        message: T,
        send: impl AsyncFn(C, Request<T>) -> Result<Response<R>, Status>,
    ) -> Result<R, Error> {
        let deadline = Instant::now() + self.timeout;
        let mut pause = Pause::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut tries = Tries::default();
        loop {
            let replica = self.current();
            let mut request = self.request(message.clone())?;
            let time = deadline.saturating_duration_since(Instant::now()).min(TRY_TIMEOUT);
            let end_of_try = Instant::now() + time;
            request.set_timeout(time);
            let error = match timeout_at(end_of_try, send(client(self.channel(replica)), request)).await {
                Ok(Ok(answer)) => {
                    self.succeeded();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => self.error(replica, status),
                Err(_) => timed_out(time),
            };
            if !self.is_repeatable(&error, repeat, &mut tries) {
                return Err(error);
            }
            self.leave(replica);
            let next = Instant::now() + error.retry_after.unwrap_or_else(|| pause.next());
            if next >= deadline {
                return Err(error);
            }
            sleep(next - Instant::now()).await;
        }
    }

    /// Counts a failed try of a call. Returns whether the call is retried after this error.
    fn is_repeatable(&self, error: &Error, repeat: Repeat, tries: &mut Tries) -> bool {
        if error.is_unsent {
            tries.unsent += 1;
            // Without `wait_for_ready` each replica is tried once.
            return self.wait_for_ready || tries.unsent < self.replicas.len();
        }
        tries.sent += 1;
        let passes = matches!(error.code, Code::Unavailable | Code::DeadlineExceeded);
        passes && self.failed() && repeat == Repeat::Safe && tries.sent < ATTEMPTS_MAX
    }

    /// Takes a token from the retry budget for a failed call. Returns whether calls may be retried.
    fn failed(&self) -> bool {
        let take = |left: u32| Some(left.saturating_sub(TENTHS));
        let left = self.budget.fetch_update(Relaxed, Relaxed, take).unwrap_or_default();
        left > RETRY_TOKENS * TENTHS / 2
    }

    /// Gives back a part of the retry budget after a successful call.
    fn succeeded(&self) {
        let give = |left: u32| (left < RETRY_TOKENS * TENTHS).then_some(left + 1);
        // The update fails if the budget is full.
        _ = self.budget.fetch_update(Relaxed, Relaxed, give);
    }
}

fn jobs(channel: Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel).max_decoding_message_size(ANSWER_MAX)
}

fn timed_out(time: Duration) -> Error {
    // The last try may have had only what was left of the time of the call.
    Error::new(Code::DeadlineExceeded, "", format!("no answer within {} ms", time.as_millis()))
}

/// Returns the header for a bearer token; `None` if the token is empty or has characters that are invalid in a header.
pub(crate) fn bearer(token: &str) -> Option<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().ok().filter(|_| !token.is_empty())?;
    value.set_sensitive(true);
    Some(value)
}

fn unreadable(path: &std::path::Path, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::Unavailable, "TOKEN_FILE", format!("token file {}: {error}", path.display()))
}
