//! The streams of events.

mod dispatch;
mod job;
mod job_resume;
mod jobs;
mod jobs_resume;
mod laws;
mod slow_subscribers;
