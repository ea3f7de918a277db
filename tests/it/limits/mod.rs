//! Limits: quotas of callers, and the memory for jobs.

mod memory;
mod quotas;
