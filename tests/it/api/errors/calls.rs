//! Errors that concern a call itself and not its content: its deadline, its size and its encoding.

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, GetJobRequest, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest,
    job_service_client::JobServiceClient,
};
use prost::Message;
use rstest::rstest;
use tonic::{Code, Status, codec::CompressionEncoding};
use tonic_types::StatusExt;

use super::{all_jobs, assert_refusal, read};
use crate::support::{
    Server, create, error_info, new_job,
    raw::{Raw, answer, assert_invalid, call, frame, methods},
};

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_unary_call_whose_time_passes_exceeds_its_deadline() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for method in methods(false) {
        // The request is never sent, so only the deadline can end the call.
        let (response, request) = raw.open(&method, &[("grpc-timeout", "20m")]).await;
        let status = answer(response).await.outcome().expect_err(&method);
        assert_refusal(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None, &method);
        drop(request);
    }
    create(&mut server.client().await, "a").await;
    let waiting =
        GetJobRequest { job_id: "a".into(), min_revision: Some(2), ..GetJobRequest::default() }.encode_to_vec();
    let status = raw.send("JobService/GetJob", &[("grpc-timeout", "20m")], frame(&waiting)).await.outcome();
    let status = status.expect_err("the revision does not come");
    assert_refusal(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None, "waiting");
    server.stop().await;
}

#[tokio::test]
async fn a_call_that_arrives_too_late_is_not_carried_out() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let message = frame(&new_job("a").encode_to_vec());
    for timeout in ["0n", "1n"] {
        let late = raw.send("JobService/CreateJob", &[("grpc-timeout", timeout)], message.clone()).await;
        let status = late.outcome().expect_err("it is too late");
        assert_refusal(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None, timeout);
    }
    assert!(all_jobs(&mut server.client().await).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_stream_whose_time_passes_exceeds_its_deadline() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let raw = Raw::connect(server.address).await;
    let calls = [
        call("JobService/WatchJob", &WatchJobRequest { job_id: "a".into(), ..Default::default() }),
        call("JobService/WatchJobs", &WatchJobsRequest::default()),
    ];
    for call in calls {
        let stream = raw.send(call.method, &[("grpc-timeout", "500m")], frame(&call.message)).await;
        assert!(!stream.body.is_empty(), "{}: events came before the deadline", call.method);
        let status = stream.outcome().expect_err(call.method);
        assert_refusal(&status, Code::DeadlineExceeded, "DEADLINE_EXCEEDED", None, call.method);
    }
    server.stop().await;
}

#[tokio::test]
async fn malformed_deadline_is_ignored() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    create(&mut server.client().await, "a").await;
    let message = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() }.encode_to_vec();
    for timeout in ["", "0", "n", "-1n", "1.5S", "1x", "123456789n", "99999999H"] {
        let answer = raw.send("JobService/GetJob", &[("grpc-timeout", timeout)], frame(&message)).await;
        answer.outcome().unwrap_or_else(|status| panic!("{timeout:?}: {status:?}"));
    }
    server.stop().await;
}

/// Returns a heartbeat for job `a`, padded with an unknown field.
fn heartbeat_of(size: usize) -> Vec<u8> {
    let mut message = UpdateProgressRequest { job_id: "a".into(), ..Default::default() }.encode_to_vec();
    // Field 2000, and its length in three bytes.
    let padding = size - message.len() - 5;
    message.extend([0x82, 0x7d]);
    prost::encode_length_delimiter(padding, &mut message).expect("there is room");
    assert_eq!(message.len() + padding, size);
    message.resize(size, 0);
    message
}

fn assert_too_large(status: &Status, limit: &str, what: &str) {
    assert_refusal(status, Code::ResourceExhausted, "MESSAGE_TOO_LARGE", None, what);
    assert_eq!(error_info(status).metadata.get("limit").map(String::as_str), Some(limit), "{what}");
    assert!(status.get_error_details().retry_info().is_none(), "{what}: trying again is no use");
}

#[tokio::test]
async fn a_request_over_two_mebibytes_is_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let mut client = server.client().await;
    let job = create(&mut client, "a").await;
    for method in methods(false).iter().chain(&methods(true)) {
        let sent = raw.send(method, &[], frame(&heartbeat_of(2 * MIB + 1))).await;
        assert_too_large(&sent.outcome().expect_err(method), "2097152", method);
    }
    assert_eq!(read(&mut client, "a").await, job, "a refusal stores nothing");

    let accepted = raw.send("JobService/UpdateProgress", &[], frame(&heartbeat_of(2 * MIB))).await;
    accepted.outcome().expect("2 MiB are accepted");
    server.stop().await;
}

#[rstest]
#[tokio::test]
async fn a_request_that_unpacks_to_too_much_is_refused(
    #[values(CompressionEncoding::Gzip, CompressionEncoding::Zstd)] encoding: CompressionEncoding,
) {
    let server = Server::start().await;
    let mut client = JobServiceClient::new(server.channel().await).send_compressed(encoding);
    let job = create(&mut client, "a").await;
    let bomb = UpdateProgressRequest { job_id: "a".into(), worker: "0".repeat(16 * MIB), ..Default::default() };
    assert_too_large(&client.update_progress(bomb).await.expect_err("it is too large"), "2097152", "bomb");
    assert_eq!(read(&mut server.client().await, "a").await, job, "a refusal stores nothing");
    server.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_decoded_is_malformed() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for method in methods(false).iter().chain(&methods(true)) {
        // The first byte announces 7 bytes, only one of which follows.
        let status = raw.send(method, &[], frame(&[0x0a, 0x07, b'a'])).await.outcome().expect_err(method);
        assert_invalid(&status, &["request"], method);
    }
    assert!(all_jobs(&mut server.client().await).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn an_answer_over_four_mebibytes_is_refused() {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    let ids: Vec<String> = (0..4).map(|n| format!("large-{n}")).collect();
    for id in &ids {
        create(&mut client, id).await;
        let result = Some(super::limits::document(MIB));
        let request = CompleteJobRequest { job_id: id.clone(), result, ..Default::default() };
        client.complete_job(request).await.expect("1 MiB is accepted");
    }
    let batch = |ids: &[String]| {
        call(
            "JobService/BatchGetJobs",
            &BatchGetJobsRequest { job_ids: ids.to_vec(), ..BatchGetJobsRequest::default() },
        )
    };
    raw.call(&batch(&ids[..3])).await.expect("3 MiB and a little are not too much");
    assert_too_large(&raw.call(&batch(&ids)).await.expect_err("it is too large"), "4194304", "BatchGetJobs");
    server.stop().await;
}
