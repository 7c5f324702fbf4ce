//! From answers to figures.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use lumpd::knn::{Bank, NewRow, vote};
use lumpd::stream::{FrameId, SourceId};
use serde_json::Value;

use crate::daemon::Daemon;

/// Labelled encoded images.
pub struct Labelled {
    pub images: Vec<Vec<u8>>,
    pub labels: Vec<usize>,
}

/// Accuracy of the weighted vote (k 200, temperature 0.1) of the bank on the test images, both embedded by the daemon's
/// published encoder.
pub fn knn_accuracy(daemon: &Daemon, bank: &Labelled, test: &Labelled) -> Result<f64, String> {
    let (rows, width) = daemon.embed(&bank.images)?;
    let added: Vec<NewRow<'_>> = rows
        .chunks_exact(width)
        .zip(1..)
        .map(|(embedding, id)| NewRow { frame: FrameId(id), source: SourceId(0), wall_time_ns: 0, embedding })
        .collect();
    let neighbours = Bank::new(Arc::from("scored"), width).with_changes(&[], &added).map_err(|e| e.to_string())?;
    let (queries, _) = daemon.embed(&test.images)?;
    let mut right = 0;
    for (query, label) in queries.chunks_exact(width).zip(&test.labels) {
        let nearest = neighbours.nearest(query, 200, |_| true).map_err(|e| e.to_string())?;
        let votes = vote(nearest.iter().map(|n| (n.similarity, bank.labels[n.frame.0 as usize - 1])), 0.1);
        right += usize::from(votes.first().is_some_and(|(winner, _)| winner == label));
    }
    Ok(right as f64 / test.labels.len() as f64)
}

/// What a run gave.
pub struct Run {
    pub name: &'static str,
    /// Frame numbers (from 1) of the first frame after each true change.
    pub truth: Vec<u64>,
    pub frames: u64,
    pub stream_time: Duration,
}

impl Run {
    /// The figures of the run, for people.
    pub fn report(
        &self,
        daemon: &Daemon,
        untrained: &Daemon,
        bank: &Labelled,
        test: &Labelled,
    ) -> Result<String, String> {
        let status = daemon.status()?;
        let found = boundaries(&daemon.request("GET", "/v1/tasks?limit=1000", &[])?);
        let learn = &status["learn"];
        let (trained, random) = (knn_accuracy(daemon, bank, test)?, knn_accuracy(untrained, bank, test)?);
        let mut text = String::new();
        let seconds = self.stream_time.as_secs_f64();
        let steps = learn["steps"].as_f64().unwrap_or(f64::NAN);
        let uptime = status["uptime_seconds"].as_f64().unwrap_or(f64::NAN);
        let lines = [
            ("frames in", format!("{} in {seconds:.1} s: {:.1} a second", self.frames, self.frames as f64 / seconds)),
            (
                "training",
                format!("{steps} steps in {uptime:.0} s: {:.2} a second; loss {}", steps / uptime, learn["loss"]),
            ),
            ("skipped for training", learn["skipped_for_training"].to_string()),
            ("changes (truth)", format!("{:?}", self.truth)),
            ("boundaries found", format!("{found:?}")),
            ("within 512 frames", matched(&self.truth, &found)),
            ("KNN, published encoder", format!("{trained:.3} on {} held-out images", test.labels.len())),
            ("KNN, random encoder", format!("{random:.3}")),
            ("peak memory", daemon.peak_mib().map_or("unknown".into(), |mib| format!("{mib} MiB"))),
        ];
        let _ = writeln!(text, "{}", self.name);
        for (what, value) in lines {
            let _ = writeln!(text, "  {what:<24}{value}");
        }
        Ok(text)
    }
}

/// First frames of every task span but the stream's first, in order.
fn boundaries(tasks: &Value) -> Vec<u64> {
    let spans =
        tasks["tasks"].as_array().into_iter().flatten().flat_map(|t| t["spans"].as_array().into_iter().flatten());
    let mut starts: Vec<u64> = spans.filter_map(|span| span["first_frame"].as_u64()).collect();
    starts.sort_unstable();
    starts.drain(..starts.len().min(1));
    starts
}

/// Changes that have a boundary within 512 frames around them, and boundaries that have no change.
fn matched(truth: &[u64], found: &[u64]) -> String {
    let near = |a: u64, b: u64| a.abs_diff(b) <= 512;
    let hits = truth.iter().filter(|&&change| found.iter().any(|&f| near(f, change))).count();
    let false_alarms = found.iter().filter(|&&f| !truth.iter().any(|&change| near(f, change))).count();
    let mut errors: Vec<u64> =
        truth.iter().filter_map(|&t| found.iter().map(|f| f.abs_diff(t)).filter(|&e| e <= 512).min()).collect();
    errors.sort_unstable();
    let median = errors.get(errors.len() / 2).map_or("-".into(), |e| e.to_string());
    format!("{hits} of {} changes, {false_alarms} false, median position error {median}", truth.len())
}
