//! The monitor's state as bytes: a safetensors file whose tensors are the references' embeddings (`task.N`, f32) and whose
//! metadata holds the rest as JSON.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::config::Seed;
use crate::segment::TaskId;

use super::forgetting::Book;
use super::{EvaluateError, Features, ForgettingMonitor};

/// Where the metadata holds the JSON; a new meaning gets a new number.
const KEY: &str = "lumpd.forgetting.1";

impl ForgettingMonitor {
    /// The whole state.
    ///
    /// # Errors
    /// [`EvaluateError::State`] if it cannot be written as JSON or safetensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EvaluateError> {
        let book = serde_json::to_string(&self.book).map_err(damaged)?;
        let name = |task: &TaskId| format!("task.{}", task.0);
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .references
            .iter()
            .map(|(task, features)| {
                let values = features.values().iter().flat_map(|value| value.to_le_bytes()).collect();
                (name(task), vec![features.len(), features.width()], values)
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(name, shape, bytes)| Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
            .map_err(damaged)?;
        safetensors::serialize(views, Some(HashMap::from([(KEY.to_owned(), book)]))).map_err(damaged)
    }

    /// The monitor whose [`ForgettingMonitor::to_bytes`] these are, with the settings of now.
    ///
    /// # Errors
    /// [`EvaluateError::State`] if the bytes are damaged; nothing is half restored.
    pub fn from_bytes(bytes: &[u8], history: usize, seed: Seed) -> Result<Self, EvaluateError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let json = metadata.metadata().as_ref().and_then(|entries| entries.get(KEY));
        let json = json.ok_or_else(|| damaged("it is of another version, or of something else"))?;
        let book: Book = serde_json::from_str(json).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut references = BTreeMap::new();
        for (task, record) in &book.tasks {
            if let Some(reference) = &record.reference {
                let features = features(&tensors, *task)?;
                if features.len() != reference.probes.len() {
                    return Err(damaged("a reference has another number of embeddings than of probes"));
                }
                references.insert(*task, features);
            }
        }
        let mut monitor = Self::new(history, seed);
        (monitor.book, monitor.references) = (book, references);
        Ok(monitor)
    }
}

fn features(tensors: &SafeTensors<'_>, task: TaskId) -> Result<Features, EvaluateError> {
    let tensor = tensors.tensor(&format!("task.{}", task.0)).map_err(damaged)?;
    let (Dtype::F32, [_, width]) = (tensor.dtype(), tensor.shape()) else {
        return Err(damaged("a reference is not a table of f32"));
    };
    let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Features::new(*width, values)
}

fn damaged(what: impl ToString) -> EvaluateError {
    EvaluateError::State { what: what.to_string() }
}
