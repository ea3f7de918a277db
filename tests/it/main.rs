//! Everything that is tested from outside, in one binary.

mod support;

mod access;
mod api;
mod binary;
mod canaries;
mod dispatch;
mod errors;
mod failover;
mod failover_laws;
mod faketime_support;
mod faults;
mod guards;
mod history;
mod hostile;
mod laws;
mod layering;
mod limits;
mod metrics;
mod near_cache;
mod redis_failover;
mod redis_link;
mod redis_repairs;
mod redis_start;
mod redis_support;
mod replicas;
mod soak;
mod store_contract;
mod traces;
mod transitions;
mod watch_job;
mod watch_job_resume;
mod watch_jobs;
mod watch_jobs_resume;
mod watch_laws;
mod watch_slow;
