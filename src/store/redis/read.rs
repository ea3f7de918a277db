//! Reading many records, whatever their size.

use futures_util::future::try_join_all;
use redis::{Cmd, Pipeline, Value, cmd};

use super::{
    RedisStore,
    connection::{Answer, Fault, read},
    schema::{
        codec::{READ, decode},
        keys::Partition,
    },
};
use crate::{domain::JobId, store::Record};

/// How large records that are read together may be, in bytes: they have to arrive within the limit of one command.
pub const PART: usize = 2 * 1024 * 1024;

/// How many records are read without asking for their sizes first.
const FEW: usize = 2;

impl RedisStore {
    /// The records of `ids`, in the same order.
    pub(super) async fn read_many(&self, ids: &[JobId]) -> Result<Vec<Record>, Fault> {
        let mut records = Vec::with_capacity(ids.len());
        while records.len() < ids.len() {
            records.extend(self.read_first(&ids[records.len()..]).await?);
        }
        Ok(records)
    }

    /// The records of the first of `ids`, as many as can be read together.
    pub(super) async fn read_first(&self, ids: &[JobId]) -> Result<Vec<Record>, Fault> {
        let mut some = ids.len().min(FEW);
        if ids.len() > FEW {
            let mut sum = 0;
            let fits = |size: &usize| {
                sum += size;
                sum <= PART
            };
            some = self.sizes(ids).await?.into_iter().take_while(fits).count().max(1);
        }
        let ids = &ids[..some];
        let answers = self.ask_each(ids, |key| cmd("HMGET").arg(key).arg(&READ).take()).await?;
        ids.iter().zip(answers).map(|(id, answer)| record(id, answer)).collect()
    }

    async fn sizes(&self, ids: &[JobId]) -> Result<Vec<usize>, Fault> {
        let answers = self.ask_each(ids, |key| cmd("HSTRLEN").arg(key).arg(READ[0]).take()).await?;
        // What is no hash is found out when it is read.
        Ok(answers.into_iter().map(|answer| read(answer).unwrap_or_default()).collect())
    }

    /// The answer for each of `ids` to the command that `ask` makes of its key.
    async fn ask_each(&self, ids: &[JobId], ask: impl Fn(String) -> Cmd) -> Result<Vec<Answer>, Fault> {
        let mut parts = vec![(Vec::new(), Pipeline::new()); Partition::all().count()];
        for (at, id) in ids.iter().enumerate() {
            let (places, commands) = &mut parts[Partition::of(id).index()];
            places.push(at);
            commands.add_command(ask(self.keys.job(id)));
        }
        parts.retain(|(places, _)| !places.is_empty());
        let answers = try_join_all(parts.iter().map(|(_, commands)| self.bulk.query_all(commands))).await?;
        let mut all: Vec<_> = ids.iter().map(|_| Ok(Value::Nil)).collect();
        for ((places, _), answers) in parts.iter().zip(answers) {
            for (place, answer) in places.iter().zip(answers) {
                all[*place] = answer;
            }
        }
        Ok(all)
    }
}

fn record(id: &JobId, answer: Answer) -> Result<Record, Fault> {
    let record = match answer {
        Ok(fields) => decode(id, fields),
        Err(error) if error.code() == Some("WRONGTYPE") => Record::Corrupt,
        Err(error) => return Err(Fault::Refused(error)),
    };
    if let Record::Corrupt = record {
        super::corrupt(id);
    }
    Ok(record)
}
