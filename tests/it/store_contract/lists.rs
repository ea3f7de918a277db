//! Lists: their content, their order, and their pages.

use std::{collections::BTreeSet, time::Duration};

use jobtrack::{
    clock::{Clock, SystemClock},
    domain::{Change, Filter, ListQuery, Liveness, NewJob, Order, Owners, Report, State, View},
    store::RedisStore,
};

use super::Bench;
use crate::support::jobs::{at, document, heartbeat, id, job, make, plain, success};

pub async fn lists_run_from_the_newest_or_the_oldest(bench: Bench) {
    for (name, created) in [("b", 2), ("a", 1), ("d", 3), ("c", 3)] {
        bench.add(job(name, created)).await;
    }
    let middle = Filter { created_after: Some(at(2)), created_before: Some(at(3)), ..Filter::default() };
    for limit in [1, 2, 3, 4, 50] {
        assert_eq!(bench.list(&Filter::default(), limit).await, ["d", "c", "b", "a"]);
        assert_eq!(bench.list_in(Order::Oldest, &Filter::default(), limit).await, ["a", "b", "c", "d"]);
        for order in [Order::Newest, Order::Oldest] {
            assert_eq!(bench.list_in(order, &middle, limit).await, ["b"]);
        }
    }
}

/// A page ends with the job with which it reaches its maximum size, and the next one continues after that.
pub async fn a_page_ends_where_its_jobs_are_large(bench: Bench) {
    let metadata = document(&serde_json::json!({ "text": "x".repeat(10_000) }));
    for (name, created) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        bench.add(make(name, created, NewJob { metadata: metadata.clone(), ..plain() })).await;
    }
    for (max_bytes, expected) in [(1, vec![1; 5]), (20_001, vec![2, 2, 1]), (usize::MAX, vec![5])] {
        let (mut lengths, mut names, mut after) = (Vec::new(), Vec::new(), None);
        loop {
            let (filter, order, now, view) = (Filter::default(), Order::Oldest, at(50), View::Full);
            let query = ListQuery { filter, order, limit: 50, max_bytes, after, now, confined: false, view };
            let page = bench.store.list(&query).await.expect("the store answers");
            // The last page may be empty: only then is it known that nothing follows.
            if !page.jobs.is_empty() {
                lengths.push(page.jobs.len());
            }
            names.extend(page.jobs.into_iter().map(|stored| stored.job.id.to_string()));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!((lengths, names), (expected, ["a", "b", "c", "d", "e"].map(str::to_owned).into()));
    }
}

/// Many jobs have the same creation time, so that one read of an index does not get past it.
pub async fn lists_in_both_orders_pass_jobs_of_one_time(bench: Bench) {
    let mut names: Vec<_> = (0..120).map(|n| format!("j{n:03}")).collect();
    for (n, name) in (0..).zip(&names) {
        bench.add(job(name, n / 100)).await;
    }
    let filter = Filter { states: [State::Pending, State::Running].into(), ..Filter::default() };
    for limit in [3, 50] {
        assert_eq!(bench.list_in(Order::Oldest, &filter, limit).await, names);
    }
    names.reverse();
    for limit in [3, 50] {
        assert_eq!(bench.list_in(Order::Newest, &filter, limit).await, names);
    }
}

/// Returns names of jobs in one partition, if the store has partitions, so that a page is read from it in several
/// steps.
fn names_in_one_partition(prefix: &str) -> impl Iterator<Item = String> {
    let partition = |name: &String| (RedisStore::PARTITIONING.of)(&id(name));
    (0..).map(move |n| format!("{prefix}-{n:04}")).filter(move |name| partition(name) == 3)
}

/// Jobs change their states and others are created while a list is read from one set for each state.
pub async fn lists_in_both_orders_hold_each_job_that_stays_once(bench: Bench) {
    const JOBS: usize = 160;
    const PAGE: usize = 7;
    for (round, order) in [Order::Newest, Order::Oldest].into_iter().enumerate() {
        let first = i64::try_from(round * 1000).expect("a small number");
        let mut jobs = Vec::new();
        for (n, name) in names_in_one_partition(&round.to_string()).enumerate().take(JOBS) {
            let made = bench.add(job(&name, first + i64::try_from(n).expect("a small number"))).await;
            jobs.push(if n % 3 == 0 { bench.change(&made, &heartbeat(), first + 500).await } else { made });
        }
        let states = [State::Pending, State::Running].into();
        let filter = Filter { states, created_after: Some(at(first)), ..Filter::default() };
        let (mut seen, mut last) = (Vec::new(), None);
        for (n, new) in names_in_one_partition(&format!("{round}-new")).enumerate() {
            let page = bench.page_in(order, &filter, PAGE, last.as_ref(), 5000).await;
            seen.extend(page.jobs.iter().map(|stored| stored.job.id.to_string()));
            if page.next.is_none() {
                break;
            }
            last = Some(page);
            // Each job is in exactly one of the two sets at any time, whether it was listed or not.
            for changed in [n * PAGE, n * PAGE + JOBS / 2].map(|at| at % JOBS) {
                if jobs[changed].state == State::Pending {
                    jobs[changed] = bench.change(&jobs[changed], &heartbeat(), first + 500).await;
                }
            }
            // After all other jobs, or among them.
            let created = first + if n % 2 == 0 { 400 } else { 50 };
            bench.add(job(&new, created)).await;
        }
        let stayed: Vec<_> = seen.iter().filter(|name| !name.contains("new")).cloned().collect();
        let mut expected: Vec<_> = jobs.iter().map(|job| job.id.to_string()).collect();
        if order == Order::Newest {
            expected.reverse();
        }
        assert_eq!(stayed, expected, "{order:?}");
        assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), seen.len(), "one is listed twice: {seen:?}");
    }
}

/// Adds jobs with and without a lease, of two workers. The last was changed 40 seconds before `now`.
async fn add_with_workers(bench: &Bench, now: i64) {
    let report = |worker: &str| Change::Report(Report { worker: worker.into(), ..Report::default() });
    let leased = |seconds| NewJob { lease_timeout: Duration::from_secs(seconds), ..plain() };
    for (name, lease, worker) in
        [("a.live", 3600, "w1"), ("a.lost", 1, "w2"), ("b.live", 3600, "w2"), ("b.none", 0, "w1")]
    {
        let made = bench.add(make(name, now - 100, leased(lease))).await;
        let running = bench.change(&made, &report(worker), now - 50).await;
        if name == "a.lost" {
            bench.change(&running, &Change::LoseWorker, now - 40).await;
        }
    }
    bench.add(make("b.new", now - 40, leased(1))).await;
}

pub async fn lists_filter_by_the_present_condition(bench: Bench) {
    let now = SystemClock.now().as_micros() / 1_000_000;
    add_with_workers(&bench, now).await;
    let liveness = |of: &[Liveness]| Filter { liveness: of.iter().copied().collect(), ..Filter::default() };
    let worker = |name: &str| Filter { worker: name.into(), ..Filter::default() };
    let prefix = |prefix: &str| Filter { id_prefix: prefix.into(), ..Filter::default() };
    let updated = |seconds| Filter { updated_after: Some(at(seconds)), ..Filter::default() };
    let rows: [(Filter, &[&str]); 12] = [
        (liveness(&[Liveness::Lost]), &["a.lost"]),
        (liveness(&[Liveness::Live]), &["a.live", "b.live"]),
        (liveness(&[Liveness::Live, Liveness::Lost]), &["a.live", "a.lost", "b.live"]),
        (worker("w1"), &["a.live", "b.none"]),
        (worker("w"), &[]),
        (prefix("a."), &["a.live", "a.lost"]),
        (prefix("b.n"), &["b.new", "b.none"]),
        (prefix("."), &[]),
        (updated(now - 50), &["a.live", "a.lost", "b.live", "b.new", "b.none"]),
        (updated(now - 49), &["b.new"]),
        (Filter { worker: "w2".into(), ..liveness(&[Liveness::Live]) }, &["b.live"]),
        (Filter { states: [State::Pending].into(), ..prefix("b.") }, &["b.new"]),
    ];
    for (filter, expected) in rows {
        let (mut names, mut last) = (BTreeSet::new(), None);
        loop {
            let page = bench.page_in(Order::Newest, &filter, 1, last.as_ref(), now).await;
            assert_eq!(page.total, None, "no index tells the number of {filter:?}");
            names.extend(page.jobs.iter().map(|stored| stored.job.id.to_string()));
            if page.next.is_none() {
                break;
            }
            last = Some(page);
        }
        assert_eq!(names, expected.iter().map(ToString::to_string).collect(), "{filter:?}");
    }
}

pub async fn lists_contain_the_jobs_that_the_filter_selects(bench: Bench) {
    for n in 0..40_i64 {
        let new = NewJob {
            kind: format!("k{}", n % 4),
            owner: if n % 2 == 0 { "even".into() } else { String::new() },
            labels: [("third".to_owned(), (n % 3).to_string())].into(),
            ..plain()
        };
        let made = bench.add(make(&format!("j{n:02}"), n, new)).await;
        if n % 5 == 0 {
            let running = bench.change(&made, &heartbeat(), 50).await;
            if n % 10 == 0 {
                bench.change(&running, &success(), 51).await;
            }
        }
    }
    let expect = |select: &dyn Fn(i64) -> bool| -> Vec<String> {
        (0..40).rev().filter(|n| select(*n)).map(|n| format!("j{n:02}")).collect()
    };
    let states = |states: &[State]| Filter { states: states.iter().copied().collect(), ..Filter::default() };
    let kind = Filter { kind: "k1".into(), ..Filter::default() };
    let owner = Filter { owners: Owners::one("even"), ..Filter::default() };
    let label = Filter { labels: [("third".into(), "2".into())].into(), ..Filter::default() };
    let time = Filter { created_after: Some(at(10)), created_before: Some(at(20)), ..Filter::default() };
    let active = states(&[State::Pending, State::Running]);
    for limit in [1, 7, 100] {
        assert_eq!(bench.list(&states(&[State::Succeeded]), limit).await, expect(&|n| n % 10 == 0));
        assert_eq!(bench.list(&active, limit).await, expect(&|n| n % 10 != 0));
        assert_eq!(bench.list(&kind, limit).await, expect(&|n| n % 4 == 1));
        assert_eq!(bench.list(&owner, limit).await, expect(&|n| n % 2 == 0));
        assert_eq!(bench.list(&label, limit).await, expect(&|n| n % 3 == 2));
        assert_eq!(bench.list(&time, limit).await, expect(&|n| (10..20).contains(&n)));
        let all = Filter { kind: "k0".into(), labels: label.labels.clone(), ..time.clone() };
        assert_eq!(bench.list(&all, limit).await, expect(&|n| (10..20).contains(&n) && n % 4 == 0 && n % 3 == 2));
    }
    let unknown = Filter { owners: Owners::one("nobody"), ..Filter::default() };
    assert!(bench.list(&unknown, 10).await.is_empty());
    let never = Filter { created_after: Some(at(20)), created_before: Some(at(10)), ..Filter::default() };
    assert!(bench.list(&never, 10).await.is_empty());

    let total = async |filter: &Filter| bench.page(filter, 1, None, 1000).await.total;
    for (filter, exact) in [(&Filter::default(), 40), (&active, 36), (&kind, 10), (&owner, 20)] {
        let told = total(filter).await;
        assert!(told.is_none_or(|told| told == exact), "{told:?} is not {exact}");
    }
}

pub async fn a_page_goes_on_where_the_last_one_ended(bench: Bench) {
    for n in 0..6 {
        bench.add(job(&format!("j{n}"), n)).await;
    }
    let first = bench.page(&Filter::default(), 2, None, 10).await;
    bench.add(job("new", 9)).await;
    let gone = bench.get("j4").await.expect("it is there");
    bench.change(&gone, &Change::Delete { force: true }, 10).await;
    let second = bench.page(&Filter::default(), 2, Some(&first), 10).await;
    let names: Vec<_> = second.jobs.iter().map(|stored| stored.job.id.to_string()).collect();
    assert_eq!(names, ["j3", "j2"]);
}

pub async fn lists_omit_removed_jobs(bench: Bench) {
    let kept = bench.add(job("kept", 1)).await;
    let gone = bench.add(job("gone", 2)).await;
    let gone = bench.change(&gone, &Change::Delete { force: true }, 3).await;
    let over = bench.add(make("over", 3, NewJob { retention: Some(Duration::from_secs(5)), ..plain() })).await;
    bench.change(&over, &success(), 4).await;
    assert_eq!(bench.page(&Filter::default(), 9, None, 8).await.jobs.len(), 2);
    assert_eq!(bench.list(&Filter::default(), 9).await, [kept.id.as_str()]);
    assert_eq!(bench.get("gone").await, Some(gone), "its tombstone is there");
}
