//! The sources of a daemon: opened before it starts, each with a lane of its own in the queue, run as tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::live::{Opened, name_of};
use super::start::{Parts, StartError};
use crate::config::{HTTP_SOURCE, SourceSettings};
use crate::stream::{self, Inlet, IntakeHandle, QueueLimits};

/// Every source, opened and with its lane in the queue.
pub(super) struct Inlets {
    pub(super) opened: Vec<Opened>,
    pub(super) lanes: BTreeMap<String, Inlet>,
    pub(super) names: BTreeMap<stream::SourceId, String>,
    waiting: Vec<(Box<dyn stream::Source>, Inlet, Opened)>,
}

impl Inlets {
    /// Opens every source of the settings, and the lane of HTTP.
    ///
    /// # Errors
    /// A source that cannot be opened.
    pub(super) fn open(parts: &Parts, intake: &IntakeHandle) -> Result<Self, StartError> {
        let (ledger, config) = (&parts.ledger, &parts.config);
        let mut inlets =
            Self { opened: Vec::new(), lanes: BTreeMap::new(), names: BTreeMap::new(), waiting: Vec::new() };
        for settings in &config.source {
            let source = stream::open(settings, config.decode.max_bytes, ledger)?;
            let limits = QueueLimits { bytes: settings.queue_bytes };
            let inlet = intake.register(ledger.source_id(&settings.name)?, &settings.name, limits);
            let opened = Opened {
                name: settings.name.clone(),
                kind: name_of(settings.kind),
                address: source.address().map_or_else(|| address_of(settings), |address| address.to_string()),
                failure: Arc::default(),
            };
            inlets.lanes.insert(settings.name.clone(), inlet.clone());
            inlets.opened.push(opened.clone());
            inlets.waiting.push((source, inlet, opened));
        }
        let http = intake.register(ledger.source_id(HTTP_SOURCE)?, HTTP_SOURCE, QueueLimits::default());
        inlets.lanes.insert(HTTP_SOURCE.into(), http);
        let address = format!("POST /v1/images on {}", config.serve.listen);
        inlets.opened.push(Opened { name: HTTP_SOURCE.into(), kind: "http".into(), address, failure: Arc::default() });
        inlets.names = ledger.sources()?;
        Ok(inlets)
    }

    /// Runs every source as a task until it is stopped or fails.
    pub(super) fn run(self, stop: &CancellationToken, runtime: &Handle) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (source, inlet, opened) in self.waiting {
            let run = source.run(inlet, stop.clone());
            let supervised = async move {
                if let Err(error) = run.await {
                    tracing::error!(source = opened.name, code = error.code(), "the source has ended: {error}");
                    *opened.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                }
            };
            tasks.spawn_on(supervised, runtime);
        }
        tasks
    }
}

fn address_of(settings: &SourceSettings) -> String {
    let path = settings.path.as_ref().map(|path| path.display().to_string());
    path.or(settings.listen.map(|address| address.to_string())).unwrap_or_default()
}
