//! Callers whose calls are heavy: those of others are answered in time nevertheless.

use std::{
    convert::Infallible,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use jobtrack::proto::{
    EncodedStruct,
    v1::{BatchGetJobsRequest, CompleteJobRequest},
};
use prost_types::{ListValue, Struct, Value, value::Kind};
use tokio::{runtime, sync::oneshot, task::JoinSet};

use crate::support::{
    Client, create,
    pace::Pace,
    process::Process,
    raw::{Raw, call, frame},
    replicas::read,
    with_long_deadline,
};

/// Heavy readers, each with a connection of its own.
const READERS: usize = 50;

/// Calls of the one caller.
const CALLS: usize = 300;

/// Maximum of the 99th percentile of the time of those, where nothing else slows them down.
const P99_MAX: Duration = Duration::from_millis(100);

/// Deadline of each call, which none needs: on a machine that is very busy a heavy one takes longer than calls have
/// without.
const TIMEOUT: &str = "60S";

/// Numbers in the result of each of the jobs that are read: it has nearly as many bytes as a result may.
const NUMBERS: u32 = 85_000;

/// Makes jobs whose results are rows of numbers, 3 MB together. Returns their ids.
async fn make_tables(client: &mut Client) -> Vec<String> {
    let numbers = (0..NUMBERS).map(|number| Value { kind: Some(Kind::NumberValue(number.into())) });
    let table = Value { kind: Some(Kind::ListValue(ListValue { values: numbers.collect() })) };
    let table = EncodedStruct::from(Struct { fields: [("table".to_owned(), table)].into() });
    let mut ids = Vec::new();
    for id in ["table-1", "table-2", "table-3"] {
        create(client, id).await;
        let result = Some(table.clone());
        let end = CompleteJobRequest { job_id: id.into(), result, ..CompleteJobRequest::default() };
        client.complete_job(end).await.expect("it ends");
        ids.push(id.to_owned());
    }
    ids
}

/// Reads all tables from one server, again and again.
async fn read_tables(address: SocketAddr, job_ids: Vec<String>) -> Infallible {
    let raw = Raw::connect(address).await;
    let batch = call("JobService/BatchGetJobs", &BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() });
    loop {
        let answer = raw.send(batch.method, &[("grpc-timeout", TIMEOUT)], frame(&batch.message)).await;
        let answer = answer.outcome().expect("they are read");
        assert!(answer.len() > 2_500_000, "{} bytes", answer.len());
    }
}

/// Returns the 99th percentile of the times of calls to `server`, by a caller in a thread of its own, while others read
/// from the server at `read_from`, and the pace of the machine then.
async fn p99(server: &Process, read_from: &Process, job_ids: &[String]) -> (Duration, Pace) {
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(read_tables(read_from.address, job_ids.to_vec()));
    }
    let address = server.address;
    let (sender, measured) = oneshot::channel();
    thread::spawn(move || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be started");
        sender.send(runtime.block_on(time_calls(address))).expect("the test waits");
    });
    let measured = async { (measured.await.expect("the caller is answered"), Pace::measure().await) };
    let measured = tokio::select! {
        measured = measured => measured,
        ended = readers.join_next() => panic!("a reader ended: {ended:?}"),
    };
    readers.shutdown().await;
    measured
}

/// Makes calls, one after the other. Returns the 99th percentile of their times.
async fn time_calls(address: SocketAddr) -> Duration {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
    let mut client = Client::new(endpoint.connect().await.expect("it listens"));
    let mut times = Histogram::<u64>::new(3).expect("three digits");
    for _ in 0..CALLS {
        let begun = Instant::now();
        client.get_job(with_long_deadline(read("small"))).await.expect("it is there");
        times.record(begun.elapsed().as_micros().try_into().expect("not that long")).expect("it is resized");
    }
    Duration::from_micros(times.value_at_quantile(0.99))
}

/// The same readers at another server show by how much this machine delays calls anyway.
#[tokio::test(flavor = "multi_thread")]
async fn heavy_readers_delay_no_other_caller_for_long() {
    let [server, other] = [Process::start(&[]), Process::start(&[])];
    let mut job_ids = Vec::new();
    for server in [&server, &other] {
        let mut client = server.client().await;
        create(&mut client, "small").await;
        job_ids = make_tables(&mut client).await;
    }
    let (elsewhere, pace) = p99(&server, &other, &job_ids).await;
    let (beside, _) = p99(&server, &server, &job_ids).await;
    println!("p99 {beside:?} beside readers, {elsewhere:?} with the readers at another server, {pace:?}");
    let bound = pace.scale(P99_MAX) + 2 * elsewhere;
    assert!(beside <= bound, "{beside:?} beside readers is more than {bound:?}");
}
