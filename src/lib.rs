//! jobtrack: a job tracker over gRPC.
//!
//! # The house
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`telemetry`] | log lines, metrics and traces | nothing |
//! | [`domain`] | what a job is and may become; pure | nothing |
//! | [`clock`] | what time it is | `domain` |
//! | [`store`] | where jobs are kept | `clock`, `domain`, `telemetry` |
//! | [`watch`] | from a store's announcements to subscribers | the above |
//! | [`tracker`] | the use cases | the above |
//! | `reload` | values that follow their files | nothing |
//! | [`auth`] | who calls | `domain`, `reload` |
//! | [`tls`] | what connections are taken with | `reload` |
//! | `socket` | options of accepted sockets | nothing |
//! | `files` | how many files may be open | nothing |
//! | [`grpc`] | the services, and what each call passes | the above, `proto` |
//! | [`http`] | metrics and probes | the above, but `grpc` |
//! | [`server`] | puts one together and runs it | the above, `config` |
//! | [`cli`] | the command line | `server`, `config`, `telemetry`, `proto` |
//!
//! # One request
//!
//! `UpdateProgress` comes in over a connection that `grpc/http2.rs` serves, and through `grpc/call.rs`, which sees to who may make it, its deadline and its log line, to the
//! handler in
//! `grpc/jobs.rs`. `grpc/convert` makes a [`Change`](domain::Change) of it, or refuses it. [`Calls::change`]
//! reads the job, lets [`Job::apply`](domain::Job::apply) decide what becomes of it, and stores that by
//! [`JobStore::replace`](store::JobStore::replace). The store announces it to the [`Hub`](watch::Hub), which hands it
//! to those who watch; their events go out through `grpc/stream.rs`. A refusal is a
//! [`JobError`](domain::JobError) up to `grpc/status.rs`.
//!
//! [`Calls::change`]: tracker::Calls::change

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod files;
pub mod grpc;
pub mod http;
pub mod limits;
pub mod proto;
mod reload;
pub mod server;
mod socket;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tracker;
pub mod watch;
