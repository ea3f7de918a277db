//! Permanent errors, which no retry solves (mostly configuration errors): how they are recognised, and the advice for
//! each.

use redis::{ErrorKind, RedisError, ServerErrorKind, cmd};

use super::{
    client::Client,
    connection::{Fault, REQUIRED, Reason, text},
    schema::keys::{EPOCH, IndexKey, Keys, Partition},
};
use crate::domain::JobId;

/// The rights that the Redis user needs, in the syntax of `ACL SETUSER`.
const RIGHTS: &str = "~job:* ~jobs:* ~jobtrack:epoch &jobs:* +@read +@write +@pubsub +@scripting +@connection \
                      -@dangerous +time +info +role +cluster|slots +cluster|myid (other keys with another --key-prefix)";

/// Script that returns those of the given commands that the user may not use.
const ASK: &str = include_str!("rights.lua");

/// Describes a permanent error, with advice; `None` if a retry may solve the error. `database` is the number of the
/// database in use.
fn mistake(error: &RedisError, database: i64) -> Option<String> {
    use ServerErrorKind::Moved;
    let whole = error.to_string();
    let has = |words: &str| whole.contains(words);
    let refused = "the user or the password is refused: check the address, or the file that it is read from";
    Some(match (error.kind(), error.code()) {
        _ if matches!(Reason::of(error), Reason::NoAuth | Reason::WrongPass) => refused.to_owned(),
        (ErrorKind::MasterNameNotFoundBySentinel, _) => "the sentinels know no master of this name".to_owned(),
        (ErrorKind::InvalidClientConfig, _) => text(error),
        (ErrorKind::Parse, _) => "the server at this address is not a Redis: check the host and the port".to_owned(),
        (ErrorKind::Server(Moved), _) => "it is part of a cluster: write redis+cluster://".to_owned(),
        (_, Some("DENIED")) => {
            "its protected mode refuses other machines: set a password there, and give it in the address".to_owned()
        }
        (_, Some("WRONGTYPE")) => {
            "another program uses keys that jobtrack needs: choose another --key-prefix, or another database".to_owned()
        }
        _ if is_missing_right(error) => missing_right(error, &[]),
        _ if has("cluster support disabled") => "it is not a cluster: write redis://".to_owned(),
        _ if has("SELECT is not allowed in cluster mode") => {
            "it is part of a cluster, which has one database: write redis+cluster://".to_owned()
        }
        _ if has("DB index is out of range") || has("invalid DB index") => format!(
            "it has no database {database}: give a lower number after the host, or raise its setting `databases`"
        ),
        _ if has("unknown command 'CLUSTER'") || has("unknown command `CLUSTER`") => {
            "it is not a cluster: write redis://, or redis+sentinel://HOST,HOST/MASTER if it is a Sentinel".to_owned()
        }
        _ if has("unknown command")
            || has("Unknown Redis command")
            || has("unknown subcommand")
            || has("syntax error") =>
        {
            format!("it does not know a command ({}): {REQUIRED}, with no command renamed or disabled", text(error))
        }
        _ if has("InvalidContentType") => "TLS failed: the server does not use TLS: write redis://".to_owned(),
        _ if has("certificate") => format!("TLS failed: {whole}"),
        _ => return None,
    })
}

/// Returns whether an error shows that the user lacks a right. A right that is missing within a script has no error
/// code of its own.
fn is_missing_right(error: &RedisError) -> bool {
    let text = error.to_string();
    error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm)
        || text.contains("The user executing the script can't")
        || text.contains("has no permissions to")
}

fn missing_right(error: &RedisError, refused: &[String]) -> String {
    let refused = if refused.is_empty() { String::new() } else { format!("; refused: {}", refused.join(", ")) };
    format!("the user lacks rights that jobtrack needs ({}{refused}); it needs {RIGHTS}", text(error))
}

/// Returns one example of each command that jobtrack sends or its scripts execute, with its keys. Optional commands,
/// those of some topologies only, and those that execute scripts are left out.
fn commands(keys: &Keys) -> Vec<String> {
    let id = JobId::lower_bound();
    let partition = Partition::of(&id);
    let (job, beat, commits) = (keys.job(&id), keys.beat(partition), keys.commits(partition));
    let (index, channel) = (keys.index(partition, IndexKey::Created), keys.changes(partition));
    vec![
        format!("DEL {job}"),
        format!("EXISTS {job}"),
        format!("GET {commits}"),
        format!("HDEL {beat} x"),
        format!("HGET {job} v"),
        format!("HGETALL {beat}"),
        format!("HMGET {job} v"),
        format!("HSET {job} v x"),
        format!("HSTRLEN {job} v"),
        format!("INCR {commits}"),
        "PING".to_owned(),
        format!("PUBLISH {channel} x"),
        format!("PUBSUB NUMSUB {channel}"),
        format!("SET {EPOCH} x NX GET"),
        format!("SUBSCRIBE {channel}"),
        "TIME".to_owned(),
        format!("ZADD {index} 0 x"),
        format!("ZCARD {index}"),
        format!("ZCOUNT {index} 0 1"),
        format!("ZRANGEBYSCORE {index} 0 1"),
        format!("ZREM {index} x"),
        format!("ZREVRANGEBYSCORE {index} 1 0"),
    ]
}

/// Fails if the user may not use one of the commands. The other checks do not execute all of them. This check is itself
/// an EVAL, which the others do not need as long as Redis has the scripts in its cache.
pub async fn check_rights(client: &Client) -> Result<(), RedisError> {
    let refused = refused_commands(client).await.map_err(Fault::into_error)?;
    if refused.is_empty() {
        return Ok(());
    }
    let problem = "not all commands are allowed".to_owned();
    Err((ErrorKind::Server(ServerErrorKind::NoPerm), "a right is missing", problem).into())
}

/// Describes a permanent error of a check, with all commands that are refused; `None` if a retry may solve the error.
pub async fn explain(client: &Client, error: &RedisError) -> Option<String> {
    let problem = mistake(error, client.target().database())?;
    if !is_missing_right(error) {
        return Some(problem);
    }
    let refused = refused_commands(client).await.unwrap_or_default();
    Some(missing_right(error, &refused))
}

async fn refused_commands(client: &Client) -> Result<Vec<String>, Fault> {
    client.pulse().query(cmd("EVAL").arg(ASK).arg(0).arg(commands(client.keys()))).await
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    /// Collects the upper-case words that follow `mark` in the sources of this store.
    fn words_behind(mark: &str, folder: &Path, into: &mut BTreeSet<String>) {
        for path in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                words_behind(mark, &path, into);
                continue;
            }
            let text = fs::read_to_string(path).expect("sources are text");
            let words =
                text.split(mark).skip(1).map(|rest| rest.split(|letter: char| !letter.is_ascii_uppercase()).next());
            into.extend(words.flatten().filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }

    /// The error of an answer.
    fn answer(text: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{text}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error.into(),
            other => panic!("{text} is read as {other:?}"),
        }
    }

    #[test]
    fn temporary_errors_are_not_reported_as_configuration_errors() {
        for text in [
            "LOADING Redis is loading the dataset in memory",
            "READONLY You can't write against a read only replica.",
            "OOM command not allowed when used memory > 'maxmemory'.",
            "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
            "NOREPLICAS Not enough good replicas to write.",
            "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
            "NOSCRIPT No matching script. Please use EVAL.",
            "ERR max number of clients reached",
        ] {
            assert_eq!(mistake(&answer(text), 0), None, "{text}");
        }
        for kind in [std::io::ErrorKind::ConnectionRefused, std::io::ErrorKind::TimedOut] {
            assert_eq!(mistake(&std::io::Error::from(kind).into(), 0), None);
        }
    }

    #[test]
    fn configuration_errors_contain_advice() {
        for (text, words) in [
            ("WRONGPASS invalid username-password pair or user is disabled.", "password is refused"),
            ("NOAUTH Authentication required.", "password is refused"),
            ("NOPERM User x has no permissions to run the 'zadd' command", "'zadd'"),
            ("ERR The user executing the script can't run this command or subcommand script: f00", "it needs ~job:*"),
            ("ERR ACL failure in script: User x has no permissions to run the 'zadd' command script: f00", "'zadd'"),
            ("ERR DB index is out of range", "no database 16"),
            ("ERR SELECT is not allowed in cluster mode", "redis+cluster://"),
            ("ERR This instance has cluster support disabled", "write redis://"),
            ("MOVED 5 127.0.0.1:7000", "redis+cluster://"),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", "--key-prefix"),
            ("DENIED Redis is running in protected mode because protected mode is enabled", "password"),
            ("ERR syntax error", REQUIRED),
            ("ERR unknown command 'EVAL', with args beginning with: 'x'", REQUIRED),
        ] {
            let problem = mistake(&answer(text), 16);
            assert!(problem.as_ref().is_some_and(|problem| problem.contains(words)), "{text}: {problem:?}");
        }
    }

    #[test]
    fn each_command_is_checked() {
        let mut used = BTreeSet::from(["SUBSCRIBE", "ZREVRANGEBYSCORE"].map(str::to_owned));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis");
        for mark in ["cmd(\"", "call('"] {
            words_behind(mark, &folder, &mut used);
        }
        for other in ["CLUSTER", "EVAL", "EVALSHA", "INFO", "ROLE", "SENTINEL"] {
            assert!(used.remove(other), "{other}");
        }
        let commands = commands(&Keys::new("job:", 0));
        let checked: BTreeSet<_> = commands.iter().filter_map(|command| command.split(' ').next()).collect();
        assert_eq!(used.iter().map(String::as_str).collect::<BTreeSet<_>>(), checked);
    }
}
