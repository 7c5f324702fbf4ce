//! Counting, and the page that Prometheus reads.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Label as Pair, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::names::{Kind, Label, Metric};

/// Upper bounds of the histograms' buckets in seconds: from a tenth of a millisecond, a fast query, to a minute, a slow checkpoint.
const BUCKETS_SECONDS: [f64; 16] =
    [1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Different values that one label may take. What comes beyond is counted as [`OTHER`].
const MOST_VALUES: usize = 128;

/// Stands for every value beyond the bound.
const OTHER: &str = "other";

/// How often what was observed is sorted into buckets, whether or not somebody reads.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why there are no metrics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    #[error("the metrics recorder cannot be set up ({0}): set it up once a process")]
    Recorder(#[from] metrics_exporter_prometheus::BuildError),
    #[error("the thread that keeps the metrics small cannot be started: {0}: raise the limit of processes")]
    Thread(#[from] std::io::Error),
}

impl InstallError {
    /// Stable, for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Recorder(_) => "metrics-recorder",
            Self::Thread(_) => "metrics-thread",
        }
    }
}

/// Writes all metrics in the text format of Prometheus. Cheap to clone.
#[derive(Clone)]
pub struct Renderer(PrometheusHandle);

impl Renderer {
    /// The body of `/metrics`.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl std::fmt::Debug for Renderer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Renderer")
    }
}

/// Sets up the recorder of this process, describes every metric, and starts its upkeep.
///
/// # Errors
/// If there is a recorder already.
pub fn install() -> Result<Renderer, InstallError> {
    let handle = builder()?.install_recorder()?;
    describe_all();
    let upkeep = handle.clone();
    std::thread::Builder::new().name("metrics".into()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP);
            upkeep.run_upkeep();
        }
    })?;
    Ok(Renderer(handle))
}

fn builder() -> Result<PrometheusBuilder, InstallError> {
    // Without buckets the exporter makes summaries, which cannot be added up over machines.
    Ok(PrometheusBuilder::new().set_buckets(&BUCKETS_SECONDS)?)
}

fn describe_all() {
    for metric in Metric::ALL {
        let (name, help) = (metric.name(), metric.help());
        match metric.kind() {
            Kind::Counter => metrics::describe_counter!(name, help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::Histogram => metrics::describe_histogram!(name, Unit::Seconds, help),
        }
    }
}

/// Adds `n` to a counter; 0 makes it visible. `labels` are the values of [`Metric::labels`], in order.
///
/// # Panics
/// If `metric` is no counter or `labels` are not as many: a fault of the caller, never of the data.
pub fn count(metric: Metric, labels: &[&str], n: u64) {
    assert_eq!(metric.kind(), Kind::Counter, "{}", metric.name());
    metrics::counter!(metric.name(), pairs(metric, labels)).increment(n);
}

/// Sets a counter to a total that is counted elsewhere; it never goes down.
///
/// # Panics
/// If `metric` is no counter or `labels` are not as many: a fault of the caller, never of the data.
pub fn total(metric: Metric, labels: &[&str], value: u64) {
    assert_eq!(metric.kind(), Kind::Counter, "{}", metric.name());
    metrics::counter!(metric.name(), pairs(metric, labels)).absolute(value);
}

/// Sets a gauge. A value that is undefined (NaN) is left out, rather than shown as something it is not.
///
/// # Panics
/// If `metric` is no gauge or `labels` are not as many: a fault of the caller, never of the data.
pub fn gauge(metric: Metric, labels: &[&str], value: f64) {
    assert_eq!(metric.kind(), Kind::Gauge, "{}", metric.name());
    if !value.is_nan() {
        metrics::gauge!(metric.name(), pairs(metric, labels)).set(value);
    }
}

/// Puts a duration into a histogram.
///
/// # Panics
/// If `metric` is no histogram or `labels` are not as many: a fault of the caller, never of the data.
pub fn observe(metric: Metric, labels: &[&str], duration: Duration) {
    assert_eq!(metric.kind(), Kind::Histogram, "{}", metric.name());
    metrics::histogram!(metric.name(), pairs(metric, labels)).record(duration);
}

fn pairs(metric: Metric, values: &[&str]) -> Vec<Pair> {
    assert_eq!(metric.labels().len(), values.len(), "labels of {}", metric.name());
    metric.labels().iter().zip(values).map(|(label, value)| Pair::new(label.name(), bounded(*label, value))).collect()
}

/// The value itself where it is known or there is room for it, else [`OTHER`]: a fault elsewhere must not fill the memory of this
/// process and of whoever collects from it.
fn bounded(label: Label, value: &str) -> SharedString {
    static SEEN: LazyLock<Mutex<HashMap<&'static str, Vec<SharedString>>>> = LazyLock::new(Mutex::default);
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    let values = seen.entry(label.name()).or_default();
    if let Some(known) = values.iter().find(|known| known.as_ref() == value) {
        return known.clone();
    }
    if values.len() == MOST_VALUES {
        return OTHER.into();
    }
    let new = SharedString::from_shared(value.into());
    values.push(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// A page on which every metric has a value.
    fn page() -> String {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            describe_all();
            for metric in Metric::ALL {
                let labels = vec!["one"; metric.labels().len()];
                match metric.kind() {
                    Kind::Counter => count(*metric, &labels, 3),
                    Kind::Gauge => gauge(*metric, &labels, 0.5),
                    Kind::Histogram => observe(*metric, &labels, Duration::from_millis(3)),
                }
            }
            recorder.handle().render()
        })
    }

    #[test]
    fn every_metric_is_on_the_page_with_its_help_and_type() {
        let page = page();
        for metric in Metric::ALL {
            let name = metric.name();
            let kind = format!("{:?}", metric.kind()).to_lowercase();
            assert!(page.contains(&format!("# HELP {name} {}\n", metric.help())), "{name} has no help:\n{page}");
            assert!(page.contains(&format!("# TYPE {name} {kind}\n")), "{name} is no {kind}:\n{page}");
        }
        assert!(page.contains("lumpd_decode_duration_seconds_bucket{le=\"0.005\"} 1\n"), "{page}");
        assert!(page.contains("lumpd_stream_frames_total{source=\"one\"} 3\n"), "{page}");
    }

    #[test]
    fn an_undefined_gauge_is_absent() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || gauge(Metric::ForgettingRatio, &[], f64::NAN));
        assert!(!recorder.handle().render().contains("forgetting"));
    }

    #[test]
    fn labels_cannot_explode() {
        let recorder = builder().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for i in 0..10_000 {
                count(Metric::HttpRequests, &[&format!("/v1/{i}"), "2xx"], 1);
            }
        });
        let page = recorder.handle().render();
        let series: HashSet<&str> = page.lines().filter(|line| line.starts_with("lumpd_http_requests_total")).collect();
        assert!(series.len() <= MOST_VALUES + 1, "{} series", series.len());
        assert!(series.iter().any(|line| line.contains("route=\"other\"")), "{page}");
    }

    #[test]
    fn promtool_finds_nothing_to_say() {
        let child =
            Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            println!("skipped: promtool is not installed (Debian: prometheus)");
            return;
        };
        child.stdin.take().unwrap().write_all(page().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}
