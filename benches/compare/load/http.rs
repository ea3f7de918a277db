//! The same calls to a server that speaks JSON over HTTP/1.1.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jobtrack::proto::v1::Progress;
use serde_json::{Value, json};

use crate::workload::{Jobs, Operation};

/// A client that keeps one connection for each concurrent call.
#[derive(Clone)]
pub struct JsonClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl JsonClient {
    pub fn new(address: SocketAddr) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self { client: Client::builder(TokioExecutor::new()).build(connector), address }
    }

    /// Makes a call about a job, and reads the response.
    pub async fn call(&self, operation: Operation, jobs: &Jobs, job: u32) {
        match operation {
            Operation::Get => self.send(Method::GET, &format!("/jobs/{}", jobs.id(job)), None).await,
            Operation::Create => self.send(Method::POST, "/jobs", Some(new_job(jobs, job))).await,
            Operation::Update => {
                let update = jobs.update_request(job);
                let report = report(&update.worker, &update.progress.unwrap_or_default());
                self.send(Method::POST, &format!("/jobs/{}/progress", update.job_id), Some(report)).await;
            }
        }
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) {
        let request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        let request = request.header("content-type", "application/json");
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let response = self.client.request(request.body(Full::new(body)).expect("a valid request")).await;
        let response = response.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(response.status().is_success(), "{path} ended with status {}", response.status());
        response.into_body().collect().await.expect("the answer ends in order");
    }
}

fn new_job(jobs: &Jobs, job: u32) -> Value {
    let request = jobs.create_request(job);
    json!({"id": request.job_id, "kind": request.kind, "owner": request.owner, "labels": request.labels})
}

fn report(worker: &str, progress: &Progress) -> Value {
    json!({
        "worker": worker,
        "completed": progress.completed,
        "total": progress.total,
        "unit": progress.unit,
        "stage": progress.stage,
        "stage_index": progress.stage_index,
        "stage_count": progress.stage_count,
        "message": progress.message,
    })
}
