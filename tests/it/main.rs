//! All tests from outside, in one binary. The folders name the subject under test; `support` starts the servers and has
//! the helpers that several of them use.

mod support;

mod api;
mod cli;
mod clients;
mod domain;
mod guards;
mod http;
mod layering;
mod limits;
mod observability;
mod outage;
mod process;
mod replicas;
mod robustness;
mod security;
mod store;
mod store_contract;
mod watch;
