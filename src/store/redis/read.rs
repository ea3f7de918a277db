//! Reads of records, one or many, whatever their size and however slow the connection.

use std::sync::Arc;

use futures_util::future::try_join_all;
use redis::{Cmd, Pipeline, Value, cmd};

use super::{
    client::{BATCH_BYTES_START, Client},
    connection::{Answer, Command, Fault, read},
    errors::{corrupt, error_of},
    schema::{
        codec::{self, decode},
        keys::{PARTITIONS, Partition},
    },
};
use crate::{
    domain::{JobId, Version, View},
    store::{Record, StoreError, Stored},
};

/// Maximum number of records that are read without asking for their sizes first.
const UNSIZED_RECORDS_MAX: usize = 2;

/// Usual size of a record without documents, in bytes.
const BASIC_BYTES: usize = 512;

/// The fields of a record that may be large compared with a batch: first those that every read includes.
const LARGE_FIELDS: [&str; 5] = ["job", "doc", "result", "metadata", "details"];

/// The number of these fields that every read includes.
const LARGE_BASIC_FIELDS: usize = 2;

/// Reads records.
pub struct Reader {
    client: Arc<Client>,
}

impl Reader {
    /// Creates a reader.
    pub const fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    /// Implements [`JobStore::get`](crate::store::JobStore::get).
    pub async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        let mut command = cmd("HMGET");
        command.arg(self.client.keys().job(id)).arg(&codec::READ_FULL);
        let fields = self.client.metrics().time(Command::Get, self.client.calls().query(&command)).await;
        match decode(id, fields.map_err(|fault| error_of(fault, id))?).await {
            Record::Missing => Ok(None),
            Record::Found(stored) => Ok(Some(stored)),
            Record::Corrupt => Err(corrupt(id)),
        }
    }

    /// Returns the records of `ids`, in the same order.
    pub async fn read_many(&self, ids: &[JobId], view: View) -> Result<Vec<Record>, Fault> {
        let sizes = self.sizes(ids, view).await?;
        let mut records = Vec::with_capacity(ids.len());
        while records.len() < ids.len() {
            let (from, count) = (records.len(), self.fitting(&sizes[records.len()..]));
            records.extend(self.read_part(&ids[from..from + count], view).await?);
        }
        Ok(records)
    }

    /// Returns the records of the first of `ids`, as many as fit into a batch.
    pub async fn read_first(&self, ids: &[JobId], view: View) -> Result<Vec<Record>, Fault> {
        let count = self.fitting(&self.sizes(ids, view).await?);
        self.read_part(&ids[..count], view).await
    }

    /// Returns how many of the first records, which have these sizes, fit into a batch: at least one, if there are any.
    fn fitting(&self, sizes: &[usize]) -> usize {
        let (mut sum, most) = (0, self.client.batch_size().get());
        let fits = |size: &&usize| {
            sum += **size;
            sum <= most
        };
        sizes.iter().take_while(fits).count().max(1).min(sizes.len())
    }

    async fn read_part(&self, ids: &[JobId], view: View) -> Result<Vec<Record>, Fault> {
        let answers = self.ask_each(ids, |key| cmd("HMGET").arg(key).arg(codec::fields(view)).take()).await;
        self.client.batch_size().learn(&answers);
        let mut records = Vec::with_capacity(ids.len());
        for (id, answer) in ids.iter().zip(answers?) {
            records.push(record(id, answer).await?);
        }
        Ok(records)
    }

    /// Returns the versions of the records of `ids`; `None` for records that are missing, damaged, or of version 0.1.
    pub async fn read_versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, Fault> {
        let answers = self.ask_each(ids, |key| cmd("HGET").arg(key).arg("v").take()).await;
        let version = |answer| read::<Option<String>>(answer).ok().flatten();
        Ok(answers?.into_iter().map(|answer| codec::parse_version(&version(answer)?)).collect())
    }

    /// Returns the approximate size of each record in bytes, as far as batches depend on it.
    async fn sizes(&self, ids: &[JobId], view: View) -> Result<Vec<usize>, Fault> {
        let fields = match view {
            // As long as batches arrive in time, exact sizes are not worth a round trip.
            View::Basic if self.client.batch_size().get() >= BATCH_BYTES_START => {
                return Ok(vec![BASIC_BYTES; ids.len()]);
            }
            View::Basic => &LARGE_FIELDS[..LARGE_BASIC_FIELDS],
            View::Full if ids.len() <= UNSIZED_RECORDS_MAX => return Ok(vec![0; ids.len()]),
            View::Full => &LARGE_FIELDS,
        };
        let ask = |field: &'static str| self.ask_each(ids, move |key| cmd("HSTRLEN").arg(key).arg(field).take());
        let asked = fields.iter().copied().map(ask);
        let mut sizes = vec![0; ids.len()];
        for answers in try_join_all(asked).await? {
            // A key that is not a hash is detected when it is read.
            for (size, answer) in sizes.iter_mut().zip(answers) {
                *size += read::<usize>(answer).unwrap_or_default();
            }
        }
        Ok(sizes)
    }

    /// Returns the answer for each of `ids` to the command that `ask` makes of its key.
    async fn ask_each(&self, ids: &[JobId], ask: impl Fn(String) -> Cmd) -> Result<Vec<Answer>, Fault> {
        let parts = by_partition(ids.iter().map(|id| (id, ask(self.client.keys().job(id)))));
        let answers = try_join_all(parts.iter().map(|(_, commands)| self.client.bulk().query_all(commands))).await?;
        let mut all: Vec<_> = ids.iter().map(|_| Ok(Value::Nil)).collect();
        for ((positions, _), answers) in parts.iter().zip(answers) {
            for (position, answer) in positions.iter().zip(answers) {
                all[*position] = answer;
            }
        }
        Ok(all)
    }
}

/// Returns a pipeline of the commands of each partition, with the indexes of these commands in `commands`.
pub fn by_partition<'a>(commands: impl Iterator<Item = (&'a JobId, Cmd)>) -> Vec<(Vec<usize>, Pipeline)> {
    let mut parts = vec![(Vec::new(), Pipeline::new()); PARTITIONS];
    for (position, (id, command)) in commands.enumerate() {
        let (positions, pipeline) = &mut parts[Partition::of(id).index()];
        positions.push(position);
        pipeline.add_command(command);
    }
    parts.retain(|(positions, _)| !positions.is_empty());
    parts
}

async fn record(id: &JobId, answer: Answer) -> Result<Record, Fault> {
    let record = match answer {
        Ok(fields) => decode(id, fields).await,
        Err(error) if error.code() == Some("WRONGTYPE") => Record::Corrupt,
        Err(error) => return Err(Fault::Refused(error)),
    };
    if let Record::Corrupt = record {
        _ = corrupt(id);
    }
    Ok(record)
}
