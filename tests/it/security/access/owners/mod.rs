//! Jobs of other owners are indistinguishable from missing jobs.

mod lists;
mod missing;
mod streams;

use jobtrack::proto::v1::JobFilter;
use serde_json::json;

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
};

/// Starts a server where Alice has two owners, Bob another one, and Nobody the jobs without an owner.
async fn server(flags: &[&str]) -> (Server, Folder) {
    let folder = Folder::new();
    let entries = [
        holder("alice", "admin", &json!(["a1", "a2"])),
        holder("alice2", "admin", &json!(["a1", "a2"])),
        holder("bob", "admin", &json!(["bob"])),
        holder("nobody", "admin", &json!([""])),
        holder("root", "admin", &json!("*")),
    ];
    let file = folder.write("identities.json", &identities(&entries));
    (Server::with(&[&["--auth-tokens", &file], flags].concat()).await, folder)
}

fn by_owner(owner: &str) -> JobFilter {
    JobFilter { owner: owner.to_owned(), ..JobFilter::default() }
}
