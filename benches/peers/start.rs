//! Time from the start of a process to its first answer.

use std::time::Instant;

use crate::{
    contender::{Contender, Name, Store},
    load::unary::Calls,
    report::Report,
    stats::shuffled,
    tables::{Column, Comparison, missing, versions},
    workload::{Jobs, Operation},
};

/// The measured servers. Redis itself is started otherwise than they are.
const NAMES: [Name; 8] = [
    Name::Jobtrack,
    Name::Floor,
    Name::FloorAgain,
    Name::GrpcGo,
    Name::Etcd,
    Name::Nats,
    Name::JobtrackRedis,
    Name::FloorRedis,
];

const COLUMNS: [Column<f64>; 1] = [Column { head: "ms", value: |&time| time, with_ratio: true }];

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let rounds = if report.quick { 3 } else { 5 };
    let mut comparison = Comparison::new(&NAMES);
    let mut absent = Vec::new();
    // The first start of each is not measured: its program may have to be unpacked or built.
    let mut names = Vec::new();
    for name in NAMES {
        match first_answer(name).await {
            Ok(_) => names.push(name),
            Err(reason) => absent.push((name, reason)),
        }
    }
    for _ in 0..rounds {
        for at in shuffled(names.len()) {
            let time = first_answer(names[at]).await.expect("it has started before");
            comparison.add(names[at], time);
        }
    }
    absent.push((Name::Redis, "it is started before the servers that use it".to_owned()));
    let text = format!(
        "## Start, in comparison with peers\n\nTime from the start of a process to its first answer, the creation of a \
         job: medians of {rounds} starts in changing order, with a Redis that runs already. The client connects as soon as \
         the server listens, which it tries each millisecond; NATS also has to create its bucket.\n\n{}\n{}{}",
        versions(),
        comparison.render(&COLUMNS, [Name::Floor, Name::FloorAgain]),
        missing(&absent)
    );
    report.write("peers-start", &text);
}

/// Starts a server and creates a job. Returns the milliseconds until its answer.
async fn first_answer(name: Name) -> Result<f64, String> {
    let store = Store::of(name).await;
    let jobs = Jobs::new(2);
    let started = Instant::now();
    let contender = Contender::launch(name, store).await?;
    contender.client.call(0, Operation::Create, &jobs, 0).await;
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}
