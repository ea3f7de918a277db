//! What a caller sees, over the wire.

use jobtrack::proto::v1::{GetJobRequest, Source, job::State};

use crate::support::{Server, create};

#[tokio::test]
async fn a_job_can_be_created_and_read() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let created = create(&mut client, "a").await;
    assert_eq!((created.state(), created.revision), (State::Pending, 1));

    let answer = client.get_job(GetJobRequest { job_id: "a".into(), min_revision: None }).await;
    let answer = answer.expect("the job is there").into_inner();
    assert_eq!(answer.source(), Source::Memory);
    assert_eq!(answer.job, Some(created));
    server.stop().await;
}
