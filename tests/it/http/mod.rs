//! The HTTP API: JSON and server-sent events on the port of gRPC.

mod errors;
mod events;
mod forms;
mod fuzz;
mod owners;
mod pages;
mod paths;
mod protocols;
mod same_answers;
mod transcoder;
mod watch_tokens;
