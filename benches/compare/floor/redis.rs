//! Storage of a job in Redis with one command for each call.

use std::time::Duration;

use bb8_redis::{RedisConnectionManager, bb8::Pool};
use jobtrack::proto::v1::Job;
use prost::Message;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, aio::MultiplexedConnection, cmd};

/// Replaces a job and returns true, if it has the expected revision. Returns the current job otherwise.
const SCRIPT: &str = r"
local rev = redis.call('HGET', KEYS[1], 'rev')
if (rev or '') ~= ARGV[1] then
  return redis.call('HMGET', KEYS[1], 'doc', 'rev')
end
redis.call('HSET', KEYS[1], 'rev', ARGV[2], 'doc', ARGV[3])
redis.call('PUBLISH', KEYS[2], ARGV[4])
return ''
";

const CHANNEL: &str = "floor:changes";

/// Timeout of a command; long enough under valgrind, too.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The connections to Redis.
pub struct Link {
    connections: Connections,
    /// The digest of the script.
    script: String,
}

enum Connections {
    /// One connection, which all calls share.
    Shared(MultiplexedConnection),
    /// A stock pool: a connection belongs to one call at a time, and is tested with a PING before each use.
    Stock(Pool<RedisConnectionManager>),
}

impl Link {
    pub async fn shared(url: &str) -> Self {
        let client = Client::open(url).expect("a valid address");
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await.expect("Redis answers");
        Self::load(Connections::Shared(connection)).await
    }

    pub async fn stock(url: &str) -> Self {
        let manager = RedisConnectionManager::new(url).expect("a valid address");
        Self::load(Connections::Stock(Pool::builder().build(manager).await.expect("Redis answers"))).await
    }

    async fn load(connections: Connections) -> Self {
        let script = connections.query(cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await.expect("the script is correct");
        Self { connections, script }
    }

    /// Stores a version of a job. Returns whether the expected version was there.
    pub async fn put(&self, job: &Job) -> RedisResult<bool> {
        let before = if job.revision == 1 { String::new() } else { (job.revision - 1).to_string() };
        let mut command = cmd("EVALSHA");
        command.arg(&self.script).arg(2).arg(key(&job.id)).arg(CHANNEL);
        command.arg(before).arg(job.revision).arg(job.encode_to_vec()).arg(&job.id);
        let answer: redis::Value = self.connections.query(&command).await?;
        Ok(!matches!(answer, redis::Value::Array(_)))
    }

    /// Reads a job.
    pub async fn get(&self, id: &str) -> RedisResult<Option<Job>> {
        let command = cmd("HMGET").arg(key(id)).arg("doc").arg("rev").take();
        let (doc, _): (Option<Vec<u8>>, Option<i64>) = self.connections.query(&command).await?;
        Ok(doc.map(|doc| Job::decode(&*doc).expect("the floor has written it")))
    }
}

impl Connections {
    async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Shared(connection) => command.query_async(&mut connection.clone()).await,
            Self::Stock(pool) => {
                let mut connection = pool.get().await.expect("a connection comes free in time");
                command.query_async(&mut *connection).await
            }
        }
    }
}

fn key(id: &str) -> String {
    format!("floor:{id}")
}
