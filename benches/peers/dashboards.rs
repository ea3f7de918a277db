//! Many watchers of all jobs.

use crate::{
    contender::{Gathered, Name},
    delivery::{Audiences, COLUMNS, Size},
    report::Report,
    tables::{missing, versions},
    watchers::Subject,
};

const WATCHERS: usize = 100;
const JOBS: u32 = 100;

const NAMES: [Name; 7] =
    [Name::Jobtrack, Name::JobtrackAgain, Name::Etcd, Name::Nats, Name::NatsCore, Name::JobtrackRedis, Name::Redis];

/// Servers that have no watch of many jobs, which is said in the table, too.
const WITHOUT: [Name; 2] = [Name::Floor, Name::GrpcGo];

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let size = if report.quick {
        Size { rounds: 3, paced: 50, unpaced: 100, pace: 100.0 }
    } else {
        Size { rounds: 11, paced: 100, unpaced: 300, pace: 100.0 }
    };
    let mut gathered = Gathered::start(&NAMES).await;
    for name in WITHOUT {
        gathered.missing.push((name, "it has no watch of many jobs".to_owned()));
    }
    let mut audiences = Audiences::gather(gathered, Subject::All, JOBS, WATCHERS, size).await;
    let names: Vec<_> = NAMES.into_iter().chain(WITHOUT).collect();
    let comparison = audiences.compare(&names, size).await;
    let text = format!(
        "## Watches of all jobs, in comparison with peers\n\n{WATCHERS} watchers of all of {JOBS} jobs, which are reported \
         on in turn: `WatchJobs` without a filter, a `Watch` of a prefix in etcd, a consumer or a subscription of \
         `$KV.jobs.>` in NATS, `PSUBSCRIBE` in Redis. Medians of {} rounds in changing order: {} reports at {:.0} a \
         second, then {} reports each after the answer to the last one. jobtrack selects what a watcher may see, for \
         each watcher, and may skip versions that a newer one has replaced, as may a bucket of NATS KV. A \
         watch of etcd, and a subscription of NATS or Redis, have no state to begin with.\n\n{}\n{}{}",
        size.rounds,
        size.paced,
        size.pace,
        size.unpaced,
        versions(),
        comparison.render(&COLUMNS, [Name::Jobtrack, Name::JobtrackAgain]),
        missing(&audiences.missing)
    );
    report.write("peers-dashboards", &text);
}
