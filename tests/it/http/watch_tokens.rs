//! Watch tokens in URLs, as a page passes them to `EventSource`.

use http::Method;
use serde_json::json;

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    events::Events,
    json::Http,
};

#[tokio::test(flavor = "multi_thread")]
async fn watch_token_in_an_address_follows_its_job_and_nothing_else() {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("admin", "admin", &json!("*"))]));
    for flags in [&[][..], &["--auth-tokens", &file]] {
        let server = Server::with(flags).await;
        let http = Http::new(server.address);
        let headers = [("authorization", "Bearer admin"), ("content-type", "application/json")];
        for id in ["a", "b"] {
            let body = json!({"jobId": id, "kind": "k", "metadata": {"secret": true}}).to_string();
            http.send(Method::POST, "/v1/jobs", &headers, body).await.ok();
        }
        let made = http.send(Method::POST, "/v1/jobs/a:watchToken", &headers, "{}").await.ok();
        let token = made["token"].as_str().expect("a token");
        assert_eq!(made["path"], "/v1/jobs/a/events");
        let mut events = Events::open(&http, &format!("/v1/jobs/a/events?access_token={token}"), &[]).await;
        let snapshot = events.expect("SNAPSHOT").await;
        assert_eq!((&snapshot.data["job"]["id"], snapshot.data["job"].get("metadata")), (&json!("a"), None));
        http.get(&format!("/v1/jobs/a?access_token={token}")).await.ok();
        for path in ["/v1/jobs/b", "/v1/jobs/b/events", "/v1/jobs", "/v1/stats"] {
            http.get(&format!("{path}?access_token={token}")).await.refused(403);
        }
        http.delete(&format!("/v1/jobs/a?force=true&access_token={token}")).await.refused(403);
        // A header that a proxy has added gives the holder of a watch token no further rights.
        for added in ["Basic dTpw", "Bearer other"] {
            let added = [("authorization", added)];
            let reply = http.send(Method::GET, &format!("/v1/jobs/b?access_token={token}"), &added, "").await;
            assert!([401, 403].contains(&reply.status.as_u16()), "{}", reply.status);
        }
        // The token of an identity is not accepted in a URL, and neither is a modified watch token.
        for other in ["admin", &format!("{token}x"), &token[1..], "%00", ""] {
            http.get(&format!("/v1/jobs/a?access_token={other}")).await.refused(401);
        }
        server.stop().await;
    }
}
