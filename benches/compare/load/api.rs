//! The same calls in JSON, and events, through jobtrack's HTTP API.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jobtrack::proto::v1::Progress;
use serde_json::{Value, json};

use crate::workload::{Jobs, Operation};

/// A client: one connection of HTTP/2, or one of HTTP/1.1 for each concurrent request.
#[derive(Clone)]
pub struct ApiClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
    version: Version,
}

impl ApiClient {
    pub fn new(address: SocketAddr, version: Version) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(version == Version::HTTP_2).build(connector);
        Self { client, address, version }
    }

    /// Makes a call about a job, and reads the response.
    pub async fn call(&self, operation: Operation, jobs: &Jobs, job: u32) {
        let (method, path, body) = match operation {
            Operation::Get => (Method::GET, format!("/v1/jobs/{}", jobs.id(job)), Bytes::new()),
            Operation::Create => (Method::POST, "/v1/jobs".to_owned(), new_job(jobs, job).to_string().into()),
            Operation::Update => {
                let update = jobs.update_request(job);
                let report =
                    json!({"worker": update.worker, "progress": progress(&update.progress.unwrap_or_default())});
                (Method::POST, format!("/v1/jobs/{}:progress", update.job_id), report.to_string().into())
            }
        };
        self.open(method, &path, body).await.collect().await.expect("the answer ends in order");
    }

    /// Follows a job.
    pub async fn events(&self, jobs: &Jobs, job: u32) -> Incoming {
        let path = format!("/v1/jobs/{}/events?bookmarkInterval=3600s", jobs.id(job));
        self.open(Method::GET, &path, Bytes::new()).await
    }

    async fn open(&self, method: Method, path: &str, body: Bytes) -> Incoming {
        let request = Request::builder().method(method).version(self.version);
        let request = request.uri(format!("http://{}{path}", self.address)).header("content-type", "application/json");
        let response = self.client.request(request.body(Full::new(body)).expect("a valid request")).await;
        let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(response.status().is_success(), "{path} ended with status {}", response.status());
        response.into_body()
    }
}

fn new_job(jobs: &Jobs, job: u32) -> Value {
    let request = jobs.create_request(job);
    json!({"jobId": request.job_id, "kind": request.kind, "owner": request.owner, "labels": request.labels})
}

fn progress(progress: &Progress) -> Value {
    json!({
        "completed": progress.completed.map(|number| number.to_string()),
        "total": progress.total.map(|number| number.to_string()),
        "unit": progress.unit,
        "stage": progress.stage,
        "stageIndex": progress.stage_index,
        "stageCount": progress.stage_count,
        "message": progress.message,
    })
}
