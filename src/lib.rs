//! jobtrack: a job tracker over gRPC.
//!
//! # Module map
//!
//! Each module with what it may use; `tests/it/layering` checks that. `docs/architecture.md` follows a write and a
//! watch through them, and lists the invariants.
//!
//! | module | responsibility | may use |
//! |---|---|---|
//! | [`telemetry`] | log lines, metrics and traces | nothing |
//! | [`domain`] | jobs, changes, the state machine, merging; pure | nothing |
//! | [`proto`] | generated messages, and events that are encoded once for all watchers | nothing |
//! | `reload` | values that are read again when their files change | nothing |
//! | `socket` | options of accepted sockets | nothing |
//! | `files` | the limit on the number of open files | nothing |
//! | `offload` | other threads, for computations that would delay calls | nothing |
//! | [`clock`] | the clock that supplies the time of each change | `domain` |
//! | [`store`] | stores jobs: in memory, in Redis, and during outages of Redis | `domain`, `clock`, `offload`, `telemetry` |
//! | [`watch`] | turns commits into the events of each stream | `domain`, `clock`, `store`, `telemetry` |
//! | [`quota`] | quotas of each caller and connection | `domain`, `telemetry` |
//! | [`tracker`] | the use cases, each for one caller; the sweep of due jobs | `domain`, `clock`, `quota`, `store`, `watch`, `telemetry` |
//! | [`auth`] | identifies callers by tokens, JWTs and certificates; watch tokens | `domain`, `reload` |
//! | [`tls`] | certificates and handshakes of the server | `reload` |
//! | [`grpc`] | connections, the middleware of each call, the services, conversions | `domain`, `quota`, `store`, `watch`, `tracker`, `proto`, `auth`, `tls`, `socket`, `offload`, `telemetry` |
//! | [`http`] | metrics and probes; the HTTP API, in front of `grpc` | `domain`, `store`, `tracker`, `proto`, `auth`, `tls`, `socket`, `offload`, `grpc`, `telemetry` |
//! | [`config`] | flags, environment variables and their checks | `domain`, `quota`, `reload`, `store`, `auth`, `tls`, `telemetry` |
//! | [`server`] | the composition root: opens, runs and stops a server | `domain`, `clock`, `quota`, `store`, `watch`, `tracker`, `auth`, `tls`, `reload`, `files`, `grpc`, `http`, `config`, `telemetry` |
//! | [`cli`] | the commands: `serve`, `health`, and those that call a server | `proto`, `tls`, `files`, `http`, `config`, `server`, `telemetry` |
//! | `main` | the entry point | `cli` |
//!
//! # One request
//!
//! `UpdateProgress` passes the middleware of [`grpc`], which checks credentials, deadline and limits, and reaches its
//! handler. `grpc::convert` makes a [`Change`](domain::Change) of the request, or refuses it. [`CallerSession::change`]
//! reads the job, [`Job::apply`](domain::Job::apply) makes the next version or refuses, and
//! [`JobStore::replace`](store::JobStore::replace) stores the version. The store announces the version to the
//! [`Hub`](watch::Hub), which passes it on to the watchers. A refusal is a [`JobError`](domain::JobError) until
//! `grpc::status` makes a gRPC status of it.
//!
//! [`CallerSession::change`]: tracker::CallerSession::change

pub mod auth;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
mod files;
pub mod grpc;
pub mod http;
mod offload;
pub mod proto;
pub mod quota;
mod reload;
pub mod server;
mod socket;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod tracker;
pub mod watch;
