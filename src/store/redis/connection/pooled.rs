//! A pooled connection, and the requests on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{Arg, Cmd, Pipeline, RedisError, RedisResult, Value, aio::ConnectionLike};
use tokio::time::{Instant, sleep};

use super::{
    connector::RawConnection,
    fault::{Answer, is_on_the_move, is_unavailable, is_without_answer},
    reachability::{Clock, LANES, Lane},
};

/// Pause before a command is sent again whose keys are moving between nodes.
pub const MOVE_PAUSE: Duration = Duration::from_millis(10);

/// Maximum number of times that one of several commands is sent again while its keys are moving.
const MOVE_RETRIES_MAX: usize = 10;

/// Commands that are sent together.
#[derive(Clone, Copy)]
pub enum Request<'a> {
    /// A single one.
    Command(&'a Cmd),
    /// Several, all of one slot.
    Commands(&'a Pipeline),
}

impl<'a> Request<'a> {
    /// Returns the first key, which determines the node of a cluster to which the request is sent; `None` if any node
    /// can execute it.
    pub fn key(self) -> Option<&'a [u8]> {
        let command = match self {
            Self::Command(command) => Some(command),
            Self::Commands(commands) => commands.cmd_iter().next(),
        };
        command.and_then(key_of)
    }
}

/// The generation of a connection: that of the connector, and the number of times that the pool had replaced its
/// connections.
pub type Generation = (u64, u64);

/// A connection that is shared by its clones.
#[derive(Clone)]
pub struct PooledConnection {
    raw: RawConnection,
    generation: Generation,
    known: Arc<Known>,
}

/// The state that all clones of a connection share.
struct Known {
    /// A command failed on the connection.
    broken: AtomicBool,
    clock: Clock,
    /// Time of the last answer; for a cluster, in each lane.
    last_answers: Box<[AtomicU64]>,
}

impl PooledConnection {
    /// Creates the first clone of a connection that was made just now.
    pub fn new(raw: RawConnection, generation: Generation) -> Self {
        let clock = Clock::new();
        // Making the connection counts as a first answer.
        let lanes = if raw.is_cluster() { LANES } else { 1 };
        let last_answers = (0..lanes).map(|_| AtomicU64::new(clock.now())).collect();
        Self { raw, generation, known: Arc::new(Known { broken: AtomicBool::new(false), clock, last_answers }) }
    }

    /// Returns whether this is a connection to a cluster.
    pub const fn is_cluster(&self) -> bool {
        self.raw.is_cluster()
    }

    /// Returns the number of commands that wait for a permit to use the connection.
    pub fn waiting(&self) -> u32 {
        match &self.raw {
            RawConnection::Node(_) => 0,
            RawConnection::Cluster(raw) => raw.waiting(),
        }
    }

    /// Returns whether a command failed on the connection, or the connection is not of this generation.
    pub fn is_broken(&self, generation: Generation) -> bool {
        self.known.broken.load(Relaxed) || !self.is_of(generation)
    }

    /// Returns whether the connection is of this generation.
    pub fn is_of(&self, generation: Generation) -> bool {
        self.generation == generation
    }

    /// Prevents further use of the connection.
    pub fn mark_broken(&self) {
        self.known.broken.store(true, Relaxed);
    }

    /// Sends `request`. Returns a future of its answers, which also fails if one of them says that Redis can't serve
    /// now, and a function that returns the time of the last answer to any request in the same `lane`.
    pub fn send<'a>(
        &'a mut self,
        request: Request<'a>,
        lane: Option<Lane>,
    ) -> (impl Future<Output = RedisResult<Vec<Answer>>> + 'a, impl Fn() -> Option<Instant> + 'a) {
        let Self { raw, known, .. } = self;
        let (clock, last) = (known.clock, lane.map(|lane| &known.last_answers[lane]));
        // Time of the last answer to a command of this request: to a cluster, a request may consist of many commands.
        let own = raw.is_cluster().then(|| Arc::new(AtomicU64::new(0)));
        let progress = own.clone();
        let progress = move || progress.iter().for_each(|own| own.store(clock.now(), Relaxed));
        let sending = async move {
            let outcome = carry(raw, request, &progress).await;
            if let Some(last) = last
                && !outcome.as_ref().is_err_and(is_without_answer)
            {
                last.store(clock.now(), Relaxed);
            }
            outcome
        };
        let last_answer = move || {
            let [last, own] = [last, own.as_deref()].map(|time| time.map_or(0, |time| time.load(Relaxed)));
            clock.moment(last.max(own))
        };
        (sending, last_answer)
    }
}

async fn carry(raw: &mut RawConnection, request: Request<'_>, progress: &impl Fn()) -> RedisResult<Vec<Answer>> {
    match (raw, request) {
        (RawConnection::Node(raw), Request::Command(command)) => one(raw.req_packed_command(command).await?),
        (RawConnection::Cluster(raw), Request::Command(command)) => {
            one(raw.send(command, request.key(), progress).await?)
        }
        (RawConnection::Node(raw), Request::Commands(commands)) => {
            let answers = raw.req_packed_commands(commands, 0, commands.len()).await?;
            unless_failed(answers.into_iter().map(Value::extract_error).collect())
        }
        // Sent one by one: of several commands in one request, only the first would find keys that are moving.
        (RawConnection::Cluster(raw), Request::Commands(commands)) => {
            let (raw, key) = (&*raw, request.key());
            let ask = async |command| {
                for _ in 0..MOVE_RETRIES_MAX {
                    let answer = raw.send(command, key, progress).await.and_then(Value::extract_error);
                    if !answer.as_ref().is_err_and(is_on_the_move) {
                        return answer;
                    }
                    sleep(MOVE_PAUSE).await;
                }
                raw.send(command, key, progress).await?.extract_error()
            };
            unless_failed(join_all(commands.cmd_iter().map(ask)).await)
        }
    }
}

fn one(answer: Value) -> RedisResult<Vec<Answer>> {
    Ok(vec![Ok(answer.extract_error()?)])
}

/// Returns the answers, unless one of them says that Redis can't serve now.
fn unless_failed(answers: Vec<Answer>) -> RedisResult<Vec<Answer>> {
    let failed = |error: &&RedisError| is_unavailable(error) || is_on_the_move(error);
    let failure = answers.iter().filter_map(|answer| answer.as_ref().err()).find(failed).cloned();
    failure.map_or(Ok(answers), Err)
}

fn key_of(command: &Cmd) -> Option<&[u8]> {
    let mut args = command.args_iter();
    let Arg::Simple(name) = args.next()? else { return None };
    let before = match name {
        b"TIME" | b"PING" | b"PUBSUB" => return None,
        // Skips the script and the number of keys.
        b"EVAL" | b"EVALSHA" => 2,
        _ => 0,
    };
    let Arg::Simple(key) = args.nth(before)? else { return None };
    Some(key)
}

#[cfg(test)]
mod tests {
    use redis::cmd;

    use super::{super::reachability::lane_of, *};

    #[test]
    fn commands_of_a_partition_share_a_lane() {
        let lane = |command: &Cmd| key_of(command).map(lane_of);
        assert_eq!(lane(cmd("HMGET").arg("a:job:{3}:x").arg("doc")), Some(Some(3)));
        assert_eq!(lane(cmd("EVALSHA").arg("f00").arg(2).arg("job:{12}:x").arg("jobs:{12}:commits")), Some(Some(12)));
        assert_eq!(lane(cmd("SET").arg("jobtrack:epoch").arg("f00")), Some(None));
        assert_eq!(lane(cmd("GET").arg("{tag}:x")), Some(None));
        assert_eq!(lane(cmd("GET").arg("{99}:x")), Some(None));
        assert_eq!(lane(&cmd("TIME")), None);
    }
}
