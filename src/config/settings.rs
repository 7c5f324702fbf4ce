use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Everything that can be set. An empty file is a valid configuration.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub daemon: DaemonSettings,
    pub device: DeviceSettings,
    /// `[[source]]` tables, one an inlet. HTTP POST is always on (see `[serve]`).
    pub source: Vec<SourceSettings>,
    pub decode: DecodeSettings,
    pub segment: SegmentSettings,
    pub replay: ReplaySettings,
    pub encoder: EncoderSettings,
    pub learn: LearnSettings,
    pub publish: PublishSettings,
    pub knn: KnnSettings,
    pub evaluate: EvaluateSettings,
    pub checkpoint: CheckpointSettings,
    pub serve: ServeSettings,
    pub log: LogSettings,
}

impl Config {
    /// Path of the API's unix socket.
    pub fn api_socket(&self) -> PathBuf {
        self.serve.socket.clone().unwrap_or_else(|| self.daemon.state_dir.join("lumpd.sock"))
    }
}

/// `[daemon]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DaemonSettings {
    /// Folder of everything that survives a restart. One daemon a folder.
    #[schema(value_type = String)]
    pub state_dir: PathBuf,
    /// Seed of the one random generator.
    pub seed: u64,
    /// Compute threads of decoding and training together; 0 takes every core.
    pub threads: usize,
    /// How long a stop may take to finish the batch and write the last checkpoint.
    pub drain_seconds: f64,
}

impl Default for DaemonSettings {
    fn default() -> Self {
        Self { state_dir: default_state_dir(), seed: 0, threads: 0, drain_seconds: 60.0 }
    }
}

fn default_state_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("STATE_DIRECTORY") {
        return PathBuf::from(dir);
    }
    let home = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    home.unwrap_or_else(|| PathBuf::from("/var/lib")).join("lumpd")
}

/// Where training runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// The best device found at start, said in the log, the status and the metrics.
    Auto,
    Cpu,
    /// Never falls back: refuses to start where there is no such device.
    Cuda,
    /// Never falls back: refuses to start where there is no such device.
    Metal,
}

/// `[device]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceSettings {
    pub kind: DeviceKind,
    /// Which of several devices of that kind.
    pub ordinal: usize,
}

impl Default for DeviceSettings {
    fn default() -> Self {
        Self { kind: DeviceKind::Auto, ordinal: 0 }
    }
}

/// One `[[source]]`. Flat, so that an unknown key or a wrong type is reported with its line, column and caret; which keys
/// belong to which kind is checked where sources are opened (`stream::open`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSettings {
    /// Name in answers, logs and metrics: letters, digits, `-`, `_`, `.`; unique.
    pub name: String,
    pub kind: SourceKind,
    /// The folder of `directory`, the socket of `unix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
    /// The address of `tcp`: loopback only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub listen: Option<SocketAddr>,
    /// `directory`: folders within it, too.
    #[serde(default = "yes")]
    pub recursive: bool,
    /// `directory`: how it is observed.
    #[serde(default)]
    pub watch: WatchKind,
    /// `directory`: between two scans where it is polled.
    #[serde(default = "default_poll_seconds")]
    pub poll_seconds: f64,
    /// `directory`: what becomes of a file once its image is committed and written down.
    #[serde(default)]
    pub after: AfterKind,
    /// `directory` with `after = "move"`: where it goes, on the same file system; `.done` within `path` where not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub done: Option<PathBuf>,
    /// Bytes of undecoded frames that may wait.
    #[serde(default = "default_queue_bytes")]
    pub queue_bytes: usize,
    /// What becomes of a frame when they do.
    #[serde(default)]
    pub when_full: WhenFull,
}

/// What becomes of a file that was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AfterKind {
    /// Nothing.
    #[default]
    Keep,
    /// It is moved to another folder.
    Move,
    /// It is deleted.
    Delete,
}

/// What becomes of a frame for which the queue of its source has no room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// It waits, and its sender with it.
    #[default]
    Block,
    /// It is refused with a hint when to send it again, and counted.
    DropNewest,
}

/// Kinds of inlet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Directory,
    Unix,
    Tcp,
}

fn default_queue_bytes() -> usize {
    16 << 20
}

fn yes() -> bool {
    true
}

fn default_poll_seconds() -> f64 {
    2.0
}

/// How a folder is observed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WatchKind {
    /// The system's notification where the file system has one, else polling.
    #[default]
    Auto,
    Notify,
    Poll,
}

/// `[decode]`: what an image may cost. Anything beyond is refused by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DecodeSettings {
    /// Encoded size of one image.
    pub max_bytes: usize,
    /// Width and height of one image.
    pub max_side_pixels: u32,
    /// Width times height of one image.
    pub max_pixels: u64,
    /// Refuses JPEGs that are cut short or otherwise damaged.
    pub strict: bool,
    /// How an image becomes the encoder's square.
    pub fit: Fit,
}

impl Default for DecodeSettings {
    fn default() -> Self {
        Self { max_bytes: 32 << 20, max_side_pixels: 8192, max_pixels: 40_000_000, strict: true, fit: Fit::Crop }
    }
}

/// How an image becomes a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// The centred square of the shorter side.
    Crop,
    /// The whole image, its aspect ratio given up.
    Stretch,
}

/// `[segment]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SegmentSettings {
    pub detector: DetectorKind,
    /// The promise: about one false boundary in this many (distinct) frames.
    pub mean_frames_between_false_alarms: u64,
    /// The promise in hours in which frames come, instead: the frames are those of so many hours, at the rate at which the
    /// stream's distinct frames come. Until 512 of them have come the promise in frames counts.
    pub mean_hours_between_false_alarms: Option<f64>,
    /// One segmentation for every source, or one each.
    pub scope: SegmentScope,
    /// Tasks kept; beyond it the two nearest are merged.
    pub max_tasks: usize,
}

impl Default for SegmentSettings {
    fn default() -> Self {
        Self {
            detector: DetectorKind::DyadicT2,
            mean_frames_between_false_alarms: 50_000,
            mean_hours_between_false_alarms: None,
            scope: SegmentScope::Shared,
            max_tasks: 64,
        }
    }
}

/// Drift detectors by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DetectorKind {
    /// Two-sample mean test over windows of 16 to 256 frames.
    DyadicT2,
    /// Kernel two-sample test of 64 frames against a fixed reference.
    Mmd,
    /// Two exponential averages of random features; keeps no frames.
    Newma,
    /// Adaptive windows on the first eight coordinates.
    Adwin,
    /// Cumulative sums of the distance from the reference.
    PageHinkley,
}

/// Which streams share their tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentScope {
    /// One stream of tasks for all sources.
    Shared,
    /// Every source has tasks of its own.
    PerSource,
}

/// `[replay]`: the bounded memory. Its size is fixed when the file is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReplaySettings {
    /// Images kept.
    pub slots: usize,
    pub policy: PolicyKind,
    pub durability: Durability,
    /// Most frames of one commit; also the number of spare slots.
    pub commit_frames: usize,
    /// Frames whose bytes are remembered: one of them that comes again, through any source, is answered as a duplicate.
    /// After a restart these are the stored ones.
    pub duplicate_window: usize,
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self {
            slots: 4096,
            policy: PolicyKind::Reservoir,
            durability: Durability::Sync,
            commit_frames: 64,
            duplicate_window: 4096,
        }
    }
}

/// Which image leaves when the buffer is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyKind {
    /// A uniform sample of everything seen (Vitter 1985, algorithm R).
    Reservoir,
    /// The newest frames.
    Fifo,
    /// The least redundant ones by their features (Purushwalkam et al. 2022, minimum redundancy).
    MinRed,
}

/// When a frame is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the commit that holds it has reached the disk.
    Sync,
    /// Once written, before it has reached the disk: a power cut may lose it.
    None,
}

/// `[encoder]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EncoderSettings {
    /// A preset's name (`models/NAME.toml`, built in) or the path of such a card.
    pub preset: String,
    /// Weights to start from: a safetensors file with torchvision's names. A checkpoint of the state folder goes before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub weights: Option<PathBuf>,
    /// Layers that stay as they are: parameters and running statistics of batch norm.
    pub freeze: Vec<EncoderLayer>,
}

/// Parts of the encoder, in the order of the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EncoderLayer {
    /// The first convolution and its batch norm (`conv1`, `bn1`).
    Stem,
    Layer1,
    Layer2,
    Layer3,
    Layer4,
}

impl EncoderLayer {
    /// All, from the images to the features.
    pub const ALL: [Self; 5] = [Self::Stem, Self::Layer1, Self::Layer2, Self::Layer3, Self::Layer4];

    /// As it is set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stem => "stem",
            Self::Layer1 => "layer1",
            Self::Layer2 => "layer2",
            Self::Layer3 => "layer3",
            Self::Layer4 => "layer4",
        }
    }
}

impl Default for EncoderSettings {
    fn default() -> Self {
        Self { preset: "resnet18-w16".into(), weights: None, freeze: Vec::new() }
    }
}

/// `[learn]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LearnSettings {
    pub objective: ObjectiveKind,
    pub strategy: StrategyKind,
    /// Stream images of one gradient step.
    pub batch: usize,
    /// Replayed images of one gradient step.
    pub replay_batch: usize,
    /// Gradient steps for each batch of the stream.
    pub steps_per_batch: usize,
    /// Most gradient steps a second while the stream is idle; 0 stops rehearsing.
    pub idle_steps_per_second: f64,
    /// Seconds without a frame after which the stream counts as idle.
    pub idle_after_seconds: f64,
    pub learning_rate: f64,
    /// Times the learning rate: that of layers that came from `encoder.weights`.
    pub given_rate_factor: f64,
    pub momentum: f64,
    pub weight_decay: f64,
    /// Both parameters of the Beta distribution of LUMP's mixing weight.
    pub mix_alpha: f64,
    /// Training as a function of the committed stream: the stream waits for training, no image is skipped, no batch is
    /// partial, nothing is rehearsed while idle, and each batch ends with a checkpoint, so that on a CPU a restart goes on to
    /// the same bits whenever the process was killed. Slow; needs `evaluate.holdout_ratio = 0`.
    pub step_locked: bool,
    /// `si`: weight c of the penalty on moving what earlier tasks rely on.
    pub si_weight: f64,
    /// `der`: weight of the squared distance between the features of a replayed image and those remembered of it.
    pub der_weight: f64,
    /// `cassle`: weight of the distillation from the encoder of the last boundary.
    pub distil_weight: f64,
    /// `ema` and `lump+`: weight of the alignment with the moving average of the network.
    pub align_weight: f64,
    /// `ema` and `lump+`: share of the past in that moving average, each step.
    pub ema_decay: f64,
    /// Outputs of the head of the supervised objective; of no use to the others.
    pub classes: usize,
    /// In which numbers the encoder multiplies, in training and in what is published of it.
    pub precision: Precision,
}

impl Default for LearnSettings {
    fn default() -> Self {
        Self {
            objective: ObjectiveKind::SimClr,
            strategy: StrategyKind::Lump,
            batch: 64,
            replay_batch: 64,
            steps_per_batch: 4,
            idle_steps_per_second: 5.0,
            idle_after_seconds: 1.0,
            learning_rate: 0.05,
            given_rate_factor: 1.0,
            momentum: 0.9,
            weight_decay: 5e-4,
            mix_alpha: 0.4,
            step_locked: false,
            si_weight: 1.0,
            der_weight: 0.1,
            distil_weight: 1.0,
            align_weight: 1.0,
            ema_decay: 0.999,
            classes: 10,
            precision: Precision::Auto,
        }
    }
}

/// Numbers that an encoder multiplies in. Weights, batch norm, gradients and all sums are f32 either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// f32 on the CPU, the fastest that a GPU has.
    #[default]
    Auto,
    F32,
    /// f32 whose products tensor cores take with mantissas of 10 bits. GPUs only.
    Tf32,
    /// Factors rounded to bf16: faster, and less accurate. Refused where the device has no such multiplier.
    Bf16,
}

impl Precision {
    /// As it is set.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Tf32 => "tf32",
            Self::Bf16 => "bf16",
        }
    }
}

/// Objectives by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ObjectiveKind {
    SimSiam,
    Barlow,
    SimClr,
    /// Cross-entropy with labels: for experiments; a stream has none.
    Supervised,
}

/// Continual-learning strategies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StrategyKind {
    /// The objective on the stream's batch alone.
    Finetune,
    /// Lifelong unsupervised mixup with the replay buffer (Madaan et al., 2022).
    Lump,
    /// LUMP with more replayed images beside the mixed ones, aligned with a moving average of the network.
    #[serde(rename = "lump+")]
    LumpPlus,
    /// Synaptic intelligence: a penalty on moving important parameters (Zenke et al., 2017).
    Si,
    /// Dark experience replay: remembered features of replayed images (Buzzega et al., 2020).
    Der,
    /// Distillation from the encoder of the last boundary (Fini et al., 2022).
    Cassle,
    /// Replay, aligned with a moving average of the network (CLA-E).
    Ema,
    /// A column a task (Rusu et al., 2016): for experiments, since every task has an encoder of its own.
    Pnn,
    /// All tasks at once, the upper bound: for experiments.
    Multitask,
    /// Averaged gradient episodic memory (Chaudhry et al., 2019): for experiments with labels.
    AGem,
    /// Gradient-based sample selection (Aljundi et al., 2019): for experiments with labels.
    Gss,
}

impl StrategyKind {
    /// Every strategy, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::Finetune,
        Self::Lump,
        Self::LumpPlus,
        Self::Si,
        Self::Der,
        Self::Cassle,
        Self::Ema,
        Self::Pnn,
        Self::Multitask,
        Self::AGem,
        Self::Gss,
    ];

    /// Why the daemon has no use for it; none where it has.
    pub fn refused_on_a_stream(self) -> Option<&'static str> {
        match self {
            Self::Pnn => Some("every task has an encoder of its own, and an image of a stream names none"),
            Self::Multitask => Some("it needs every task at once, and a stream gives one after the other"),
            Self::AGem | Self::Gss => Some("it needs labels, and a stream has none"),
            _ => None,
        }
    }
}

/// `[publish]`: when readers get a new version of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PublishSettings {
    pub interval_seconds: f64,
    /// Also whenever a task is closed.
    pub at_task_boundary: bool,
}

impl Default for PublishSettings {
    fn default() -> Self {
        Self { interval_seconds: 30.0, at_task_boundary: true }
    }
}

/// `[knn]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KnnSettings {
    /// Neighbours of an answer, and voters of a classification, where the query names no other number.
    pub k: usize,
    /// Weight of a neighbour: exp(similarity / temperature).
    pub temperature: f64,
}

impl Default for KnnSettings {
    fn default() -> Self {
        Self { k: 10, temperature: 0.1 }
    }
}

/// `[evaluate]`: the held-out probes behind the forgetting metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EvaluateSettings {
    /// Probes of one task.
    pub probes_per_task: usize,
    /// Probes of all tasks together.
    pub max_probes: usize,
    /// Share of the stream that may be held out as probes.
    pub holdout_ratio: f64,
    /// Measurements kept for each task.
    pub history: usize,
}

impl Default for EvaluateSettings {
    fn default() -> Self {
        Self { probes_per_task: 128, max_probes: 2048, holdout_ratio: 0.1, history: 256 }
    }
}

/// `[checkpoint]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    pub interval_seconds: f64,
    /// Generations kept.
    pub keep: usize,
    /// Bytes of all generations together; the newest stays whatever its size.
    pub max_bytes: u64,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { interval_seconds: 60.0, keep: 3, max_bytes: 8 << 30 }
    }
}

/// `[serve]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeSettings {
    /// Address of the HTTP API; port 0 takes a free one. Beyond loopback only with a token.
    #[schema(value_type = String)]
    pub listen: SocketAddr,
    /// Unix socket of the same API; `lumpd.sock` in the state folder where not set.
    #[schema(value_type = Option<String>)]
    pub socket: Option<PathBuf>,
    /// Connections served at once, on each of the two listeners.
    pub max_connections: usize,
    /// Time a client has to send a whole request.
    pub request_seconds: f64,
    /// Most requests a second, over both listeners; 0 sets no limit.
    pub requests_per_second: f64,
    /// Further names, each a host or `host:port`, under which the API may be called. Others than those and the machine's own are
    /// refused: a page elsewhere could otherwise ask through a browser (DNS rebinding).
    pub hosts: Vec<String>,
    /// File of the token that may ask. Where any token is set, every request over TCP needs one.
    #[schema(value_type = Option<String>)]
    pub read_token_file: Option<PathBuf>,
    /// File of the token that may send images.
    #[schema(value_type = Option<String>)]
    pub ingest_token_file: Option<PathBuf>,
    /// File of the token that may everything.
    #[schema(value_type = Option<String>)]
    pub admin_token_file: Option<PathBuf>,
}

impl ServeSettings {
    /// Whether any token is set.
    pub fn has_token(&self) -> bool {
        [&self.read_token_file, &self.ingest_token_file, &self.admin_token_file].iter().any(|file| file.is_some())
    }
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7717)),
            socket: None,
            max_connections: 256,
            request_seconds: 30.0,
            requests_per_second: 2000.0,
            hosts: Vec::new(),
            read_token_file: None,
            ingest_token_file: None,
            admin_token_file: None,
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,lumpd::stream=debug`.
    pub filter: String,
    pub format: LogFormat,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: "info".into(), format: LogFormat::Text }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
