//! The rules of jobs, without a server: the state machine, the merge and documents.

mod attempts;
mod documents;
mod laws;
mod transitions;
