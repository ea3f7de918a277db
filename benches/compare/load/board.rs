//! The reports of one reporter, and the events of all subscribers.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use jobtrack::proto::v1::UpdateProgressRequest;
use tokio::time::{sleep, sleep_until, timeout};

use super::unary::histogram;
use crate::stats::real;

/// Maximum time until all subscribers have the last event.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// The number and the rate of the reports.
#[derive(Clone, Copy)]
pub struct Reports {
    pub count: usize,
    /// Reports per second; `None`: each report follows the last response.
    pub rate: Option<f64>,
}

/// The events that subscribers received.
pub struct Delivery {
    /// Number of events of all subscribers.
    pub events: u64,
    pub elapsed: Duration,
    /// Time from before a report was sent until a subscriber has its event, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Delivery {
    /// Returns the events per second.
    pub fn rate(&self) -> f64 {
        real(self.events) / self.elapsed.as_secs_f64()
    }

    /// Returns the time within which this share of the events arrived, in milliseconds.
    pub fn latency(&self, share: f64) -> f64 {
        real(self.latencies.value_at_quantile(share)) / 1e6
    }
}

/// Measurements of all subscribers.
pub struct Board {
    origin: Instant,
    /// Time at which each report was sent, by its `completed`, in nanoseconds since `origin`.
    sent: Vec<AtomicU64>,
    latencies: Mutex<Histogram<u64>>,
    events: AtomicU64,
    /// The last report, and the number of subscribers that have it.
    last: AtomicUsize,
    done: AtomicUsize,
    subscribers: usize,
}

impl Board {
    /// Returns the board of some subscribers, for reports until `completed` reaches `room`.
    pub fn new(subscribers: usize, room: usize) -> Self {
        Self {
            origin: Instant::now(),
            sent: (0..room).map(|_| AtomicU64::new(0)).collect(),
            latencies: Mutex::new(histogram()),
            events: AtomicU64::new(0),
            last: AtomicUsize::new(usize::MAX),
            done: AtomicUsize::new(0),
            subscribers,
        }
    }

    /// Makes reports until all subscribers have the last one. `report` receives the number of the report, from 0, and
    /// whether it is the last, and announces it before it sends it.
    pub async fn measure(&self, reports: Reports, report: impl AsyncFn(usize, bool)) -> Delivery {
        self.reset();
        let started = Instant::now();
        for turn in 0..reports.count {
            if let Some(rate) = reports.rate {
                let pause = Duration::from_secs_f64(real(turn as u64) / rate);
                sleep_until((started + pause).into()).await;
            }
            report(turn, turn + 1 == reports.count).await;
        }
        let all_done = async {
            while self.done.load(Relaxed) < self.subscribers {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DELIVERY_TIMEOUT, all_done).await.expect("every subscriber gets the newest event");
        Delivery {
            events: self.events.load(Relaxed),
            elapsed: started.elapsed(),
            latencies: self.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Records that a report is about to be sent.
    pub fn announce(&self, request: &UpdateProgressRequest, is_last: bool) {
        let completed = request.progress.as_ref().and_then(|progress| progress.completed).unwrap_or(0);
        let number = usize::try_from(completed).expect("it rises from 1");
        if is_last {
            self.last.store(number, Relaxed);
        }
        self.sent[number].store(self.now(), Relaxed);
    }

    /// Records that a subscriber has the report with this `completed`.
    pub fn note(&self, number: i64) {
        let number = usize::try_from(number).expect("it rises from 1");
        let latency = self.now().saturating_sub(self.sent[number].load(Relaxed));
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(latency);
        self.events.fetch_add(1, Relaxed);
        if number == self.last.load(Relaxed) {
            self.done.fetch_add(1, Relaxed);
        }
    }

    /// Resets the measurements.
    fn reset(&self) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).reset();
        self.events.store(0, Relaxed);
        self.last.store(usize::MAX, Relaxed);
        self.done.store(0, Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
