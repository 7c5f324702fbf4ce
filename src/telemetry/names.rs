//! Every metric once: its name with its unit, its kind, its labels and its help text.
//!
//! Names follow the Prometheus conventions: the prefix `lumpd_`, base units, `_total` on counters, and labels whose values are
//! bounded: enumerations of the program and names in the configuration, never what came over a wire.

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations in seconds, counted by bucket.
    Histogram,
}

/// A dimension of a metric, and what bounds its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    /// Name of a configured source.
    Source,
    /// Stable code of an error, or of another reason not to take a frame.
    Code,
    /// Name of a drift detector.
    Detector,
    /// Name of a self-supervised objective.
    Objective,
    /// Template of an HTTP route, such as `/v1/tasks/{id}`.
    Route,
    /// Class of an HTTP status: `2xx` to `5xx`.
    Status,
    /// Version of the program.
    Version,
    /// Family of the training device: `cpu`, `cuda`, `metal`.
    Backend,
    /// Name that the training device gives itself.
    Name,
}

impl Label {
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Code => "code",
            Self::Detector => "detector",
            Self::Objective => "objective",
            Self::Route => "route",
            Self::Status => "status",
            Self::Version => "version",
            Self::Backend => "backend",
            Self::Name => "name",
        }
    }
}

macro_rules! metrics {
    ($($variant:ident $name:literal $kind:ident [$($label:ident)*] $help:literal;)+) => {
        /// What is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Metric {
            $(#[doc = $help] $variant,)+
        }

        impl Metric {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As Prometheus sees it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => concat!("lumpd_", $name),)+ }
            }

            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)+ }
            }

            /// In the order in which their values are given.
            pub const fn labels(self) -> &'static [Label] {
                match self { $(Self::$variant => &[$(Label::$label),*],)+ }
            }

            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)+ }
            }
        }
    };
}

metrics! {
    BuildInfo "build_info" Gauge [Version] "Always 1; the version of the program.";
    DeviceInfo "device_info" Gauge [Backend Name] "Always 1; the device that trains.";
    StartTime "start_timestamp_seconds" Gauge [] "When the daemon started, in seconds since 1970.";

    StreamFrames "stream_frames_total" Counter [Source] "Frames received.";
    StreamBytes "stream_bytes_total" Counter [Source] "Encoded bytes received.";
    StreamAccepted "stream_frames_accepted_total" Counter [Source] "Frames accepted for processing.";
    StreamDuplicates "stream_frames_duplicate_total" Counter [Source] "Frames not processed again, since they had been before.";
    StreamRefused "stream_frames_refused_total" Counter [Source Code] "Frames not accepted, by reason.";
    StreamQueueBytes "stream_queue_bytes" Gauge [Source] "Encoded bytes that wait to be decoded.";
    StreamDropped "stream_frames_dropped_total" Counter [Source] "Frames turned away, since the queue was full.";

    DecodeDuration "decode_duration_seconds" Histogram [] "Time to decode and resize one image.";
    DecodeErrors "decode_errors_total" Counter [Code] "Images that could not be decoded, by reason.";

    SegmentStatistic "segment_statistic_ratio" Gauge [Detector] "Drift statistic over its threshold; a boundary is found at 1.";
    SegmentDrifts "segment_drifts_total" Counter [Detector] "Task boundaries found.";
    SegmentDuplicates "segment_duplicates_total" Counter [Detector] "Frames not counted by the detector, near-duplicates of the one before.";
    Tasks "tasks" Gauge [] "Tasks in the register.";
    TaskCurrent "task_current" Gauge [] "Number of the open task.";

    LearnSteps "learn_steps_total" Counter [] "Gradient steps, those before a restart included.";
    LearnIdleSteps "learn_idle_steps_total" Counter [] "Gradient steps of rehearsal while the stream was idle.";
    LearnSkipped "learn_frames_skipped_total" Counter [] "Frames not trained on, since the stream was faster.";
    LearnStepDuration "learn_step_duration_seconds" Histogram [] "Time of one gradient step.";
    LearnLoss "learn_loss" Gauge [Objective] "Loss of the last gradient step.";
    LearnRollbacks "learn_rollbacks_total" Counter [] "Times that training went back to a checkpoint.";
    LearnFrozen "learn_frozen" Gauge [] "Whether training was given up: 1, else 0.";
    LearnHalved "learn_halved" Gauge [] "Whether batches are halved, since the device ran out of memory: 1, else 0.";
    LearnOutOfBounds "learn_out_of_bounds_total" Counter [] "Gradient steps dropped, since their loss or gradient was far out of what was usual.";
    LearnPaused "learn_paused" Gauge [] "Whether training rests because somebody asked for it: 1, else 0.";
    LearnNonfinite "learn_nonfinite_total" Counter [] "Gradient steps dropped, since their loss or gradient was not finite.";

    ReplaySlots "replay_slots" Gauge [] "Images that the replay buffer can keep.";
    ReplaySlotsUsed "replay_slots_used" Gauge [] "Images that it keeps.";
    ReplayOffers "replay_offers_total" Counter [] "Images offered to the replay buffer.";
    ReplayEvictions "replay_evictions_total" Counter [] "Images that made way for another.";
    ReplayDamaged "replay_slots_damaged_total" Counter [] "Slots dropped, since their checksum was wrong.";
    ReplayScrubbed "replay_images_checked_total" Counter [] "Stored images whose checksum was looked at in the background.";
    ReplayBytes "replay_bytes" Gauge [] "Size of the replay file.";
    ReplayCommitDuration "replay_commit_duration_seconds" Histogram [] "Time to bring one commit to the disk.";

    PublishVersions "publish_versions_total" Counter [] "Versions of the encoder published.";
    PublishDuration "publish_duration_seconds" Histogram [] "Time to embed the bank anew and swap versions.";
    PublishTimestamp "publish_timestamp_seconds" Gauge [] "When the version in use was published, in seconds since 1970.";
    BankEmbeddings "bank_embeddings" Gauge [] "Embeddings that a query searches.";

    RepresentationStd "representation_std" Gauge [] "Mean standard deviation of normalised features; near 0 they have collapsed.";
    ForgettingRatio "forgetting_ratio" Gauge [] "Mean share that the past tasks' probes have lost of the neighbours that another view confirms; absent where undefined.";
    KnnAccuracy "knn_accuracy_ratio" Gauge [] "Accuracy of the weighted vote on labelled probes; absent where undefined.";

    HttpRequests "http_requests_total" Counter [Route Status] "HTTP requests answered.";
    HttpDuration "http_request_duration_seconds" Histogram [Route] "Time to answer an HTTP request.";
    QueryDuration "query_duration_seconds" Histogram [] "Time of one nearest-neighbour query, embedding included.";

    CheckpointTimestamp "checkpoint_timestamp_seconds" Gauge [] "When the last checkpoint was written, in seconds since 1970.";
    CheckpointDuration "checkpoint_duration_seconds" Histogram [] "Time to write one checkpoint.";
    CheckpointErrors "checkpoint_errors_total" Counter [] "Checkpoints that could not be written.";

    ConfigReloadSuccess "config_reload_success" Gauge [] "Whether the last reload of the configuration was taken: 1, else 0.";
    ConfigReloadTimestamp "config_reload_timestamp_seconds" Gauge [] "When the configuration was last reloaded, in seconds since 1970.";

    DatabaseWritable "state_database_writable" Gauge [] "Whether the state folder's database takes writes: 1, else 0.";
    DatabaseFailures "state_database_failures_total" Counter [] "Times that the database was closed, since the disk refused.";
    DatabaseRecoveries "state_database_recoveries_total" Counter [] "Times that it was opened again and written to.";

    ResidentMemory "resident_memory_bytes" Gauge [] "Resident memory of the daemon.";
    DeviceMemoryUsed "device_memory_used_bytes" Gauge [] "Memory of the GPU that is taken, by this and other programs; absent on a CPU.";
    DeviceMemoryTotal "device_memory_bytes" Gauge [] "Memory of the GPU; absent on a CPU.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_have_their_unit_and_suffix() {
        let mut names = HashSet::new();
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(names.insert(name), "{name} is there twice");
            let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !name.contains("__");
            assert!(plain, "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind() == Kind::Counter, "{name}");
            if metric.kind() == Kind::Histogram {
                assert!(name.ends_with("_duration_seconds"), "{name}: the buckets are of seconds");
            }
            for unit in ["_ms", "_milliseconds", "_kb", "_mb", "_percent", "_minutes"] {
                assert!(!name.contains(unit), "{name}: not a base unit");
            }
        }
    }

    #[test]
    fn every_help_is_a_sentence() {
        for metric in Metric::ALL {
            let help = metric.help();
            assert!(help.starts_with(|c: char| c.is_uppercase()) && help.ends_with('.'), "{}: {help}", metric.name());
        }
    }

    #[test]
    fn no_label_is_named_like_one_that_prometheus_keeps() {
        for label in Metric::ALL.iter().flat_map(|metric| metric.labels()) {
            assert!(!["le", "quantile", "job", "instance"].contains(&label.name()), "{label:?}");
        }
    }
}
