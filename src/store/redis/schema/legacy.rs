//! Records of version 0.1: the whole job as JSON in one field. They are read, and rewritten in the current format when
//! they change.

use crate::domain::{Job, JobId, TOMBSTONE_LIFE, Timestamp};

/// Decodes the job `id`; `None` if it is damaged.
pub fn decode(id: &JobId, json: &[u8], durable_time: Option<Timestamp>) -> Option<Job> {
    let mut job: Job = serde_json::from_slice(json).ok().filter(|job: &Job| job.id == *id)?;
    // These records contain neither the time at which the id was taken, nor that of the worker's last report, nor that
    // at which the current attempt began.
    job.attempt_start_time = job.start_time.filter(|_| job.attempt > 0);
    job.since = Some(job.create_time);
    job.heard = Some(job.update_time);
    job.durable_time = durable_time;
    if job.removal.is_some() {
        job.forget_time = Some(job.update_time + TOMBSTONE_LIFE);
    }
    Some(job)
}
