//! Records as version 0.1 wrote them: the whole job as JSON in one field. They are read, and written anew when they
//! change.

use crate::domain::{Job, JobId, TOMBSTONE_LIFE, Timestamp};

/// Reads the job `id`; `None` if it is damaged.
pub fn decode(id: &JobId, json: &[u8], durable_time: Option<Timestamp>) -> Option<Job> {
    let mut job: Job = serde_json::from_slice(json).ok().filter(|job: &Job| job.id == *id)?;
    // When it was taken and when its worker was heard, those records do not say.
    job.since = Some(job.create_time);
    job.heard = Some(job.update_time);
    job.durable_time = durable_time;
    if job.removal.is_some() {
        job.forget_time = Some(job.update_time + TOMBSTONE_LIFE);
    }
    Some(job)
}
