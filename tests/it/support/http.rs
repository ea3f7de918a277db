//! Metrics and probes, read as Prometheus and Kubernetes read them.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Maximum wait for an answer or an expected event.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Returns the status and the body of a page.
pub async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let asked = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer is text");
        answer
    };
    let answer = timeout(WAIT_TIMEOUT, asked).await.expect("it answers");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP: {answer:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// The metrics of a server at one moment.
#[derive(Debug)]
pub struct Scrape {
    pub text: String,
    /// The values by name and labels, as in the text.
    series: BTreeMap<String, f64>,
}

impl Scrape {
    /// Reads the metrics.
    pub async fn of(address: SocketAddr) -> Self {
        let (status, text) = get(address, "/metrics").await;
        assert_eq!(status, 200, "{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let series = samples.map(|line| {
            let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
            (series.to_owned(), value.parse().expect("a value is a number"))
        });
        let series = series.collect();
        Self { text, series }
    }

    /// Reads the metrics until they fulfil a condition.
    pub async fn until(address: SocketAddr, what: &str, holds: impl Fn(&Self) -> bool) -> Self {
        let looked = async {
            loop {
                let scrape = Self::of(address).await;
                if holds(&scrape) {
                    return scrape;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(WAIT_TIMEOUT, looked).await.unwrap_or_else(|_| panic!("{what} does not come"))
    }

    /// Returns whether a series exists.
    pub fn has(&self, series: &str) -> bool {
        self.series.contains_key(series)
    }

    /// Returns the value of a series.
    #[track_caller]
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} in {}", self.text))
    }

    /// Returns the value of a series that is a count.
    #[track_caller]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is a whole number")]
    pub fn count(&self, series: &str) -> u64 {
        let value = self.value(series);
        assert!(value.fract().abs() < f64::EPSILON && value >= 0.0, "{series} is {value}");
        value as u64
    }

    /// Returns the count in the metric of a method. `code` is for metrics with a code.
    #[track_caller]
    pub fn of_call(&self, metric: &str, kind: &str, method: &str, code: &str) -> u64 {
        let (service, method) = method.split_once('/').unwrap_or((method, method));
        let code = if code.is_empty() { String::new() } else { format!("grpc_code=\"{code}\",") };
        let labels = format!("{code}grpc_method=\"{method}\",grpc_service=\"{service}\",grpc_type=\"{kind}\"");
        self.count(&format!("{metric}{{{labels}}}"))
    }

    /// Returns the declared names and kinds.
    pub fn declared(&self) -> BTreeMap<&str, &str> {
        self.text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect()
    }
}
