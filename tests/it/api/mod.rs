//! Jobs as a caller sees them: creations, reports, attempts, ends, lists, views and errors.

mod attempts;
mod errors;
mod filters;
mod jobs;
mod purge;
mod reports;
mod views;
