//! Callers that are restricted to owners can see and change only the jobs of these owners, as through gRPC.

use http::Method;
use serde_json::json;

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    events::Events,
    json::Http,
};

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_other_owners_are_not_found() {
    let folder = Folder::new();
    let entries = ["one", "two"].map(|name| holder(name, "reporter", &json!([name])));
    let file = folder.write("identities.json", &identities(&entries));
    let server = Server::with(&["--auth-tokens", &file]).await;
    let http = Http::new(server.address);
    let json = ("content-type", "application/json");
    let [one, two] = ["Bearer one", "Bearer two"].map(|token| [("authorization", token), json]);
    for (headers, id, owner) in [(&one, "a", "one"), (&two, "b", "two")] {
        let body = json!({"jobId": id, "kind": "k", "owner": owner}).to_string();
        http.send(Method::POST, "/v1/jobs", headers, body).await.ok();
    }
    for path in ["/v1/jobs/b", "/v1/jobs/b/events", "/v1/jobs/nothing/events"] {
        http.send(Method::GET, path, &one, "").await.refused(404);
    }
    for verb in ["start", "progress", "complete", "cancel", "confirmCancel"] {
        http.send(Method::POST, &format!("/v1/jobs/b:{verb}"), &one, "{}").await.refused(404);
    }
    http.send(Method::POST, "/v1/jobs/b:fail", &one, json!({"failure": {"code": 1}}).to_string()).await.refused(404);
    http.send(Method::DELETE, "/v1/jobs/b?force=true", &one, "").await.refused(404);
    http.send(Method::GET, "/v1/stats", &one, "").await.refused(403);
    http.send(Method::POST, "/v1/jobs:purge", &one, "{}").await.refused(403);
    let foreign = json!({"kind": "k", "owner": "two"}).to_string();
    http.send(Method::POST, "/v1/jobs", &one, foreign).await.refused(403);
    let listed = http.send(Method::GET, "/v1/jobs", &one, "").await.ok();
    assert_eq!((listed["jobs"].as_array().map(Vec::len), &listed["jobs"][0]["id"]), (Some(1), &json!("a")));
    let found = http.send(Method::GET, "/v1/jobs:batchGet?id=a&id=b", &one, "").await.ok();
    assert_eq!((&found["jobs"][0]["id"], &found["missingIds"]), (&json!("a"), &json!(["b"])));

    // Each stream begins with the job of its owner, and has only the changes of that job.
    let mut streams = [Events::open(&http, "/v1/events", &one).await, Events::open(&http, "/v1/events", &two).await];
    for (stream, id) in streams.iter_mut().zip(["a", "b"]) {
        assert_eq!(stream.expect("SNAPSHOT").await.data["job"]["id"], id);
        stream.expect("BOOKMARK").await;
    }
    for (headers, id) in [(&two, "b"), (&one, "a")] {
        http.send(Method::POST, &format!("/v1/jobs/{id}:progress"), headers, "{}").await.ok();
    }
    assert_eq!(streams[0].expect("UPDATE").await.data["job"]["id"], "a");
    server.stop().await;
}
