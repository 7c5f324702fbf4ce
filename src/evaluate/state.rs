//! The monitor's state as bytes: a safetensors file whose tensors are the references' embeddings (`task.N.plain`, `task.N.first` and
//! `task.N.second`, f32) and whose metadata holds the rest as JSON.

use std::collections::{BTreeMap, HashMap};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use crate::segment::TaskId;

use super::forgetting::Book;
use super::{EvaluateError, Faces, Features, ForgettingMonitor};

/// Where the metadata holds the JSON; a new meaning gets a new number.
const KEY: &str = "lumpd.forgetting.3";
const ANY_KEY: &str = "lumpd.forgetting.";

/// What the faces are called in the tensors' names.
const PLAIN: &str = "plain";
const FIRST: &str = "first";
const SECOND: &str = "second";

impl ForgettingMonitor {
    /// The whole state.
    ///
    /// # Errors
    /// [`EvaluateError::State`] if it cannot be written as JSON or safetensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, EvaluateError> {
        let book = serde_json::to_string(&self.book).map_err(damaged)?;
        let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .references
            .iter()
            .flat_map(|(task, Faces { plain, first, second })| {
                [(PLAIN, plain), (FIRST, first), (SECOND, second)].map(|(face, features)| (name(*task, face), features))
            })
            .map(|(name, features)| {
                let values = features.values().iter().flat_map(|value| value.to_le_bytes()).collect();
                (name, vec![features.len(), features.width()], values)
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
    /// [`EvaluateError::State`] if the bytes are damaged, [`EvaluateError::OtherVersion`]; nothing is half restored.
    pub fn from_bytes(bytes: &[u8], history: usize) -> Result<Self, EvaluateError> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(damaged)?;
        let entries = metadata.metadata().clone().unwrap_or_default();
        let json = entries.get(KEY).ok_or_else(|| match entries.keys().any(|key| key.starts_with(ANY_KEY)) {
            true => EvaluateError::OtherVersion,
            false => damaged("it is of something else"),
        })?;
        let book: Book = serde_json::from_str(json).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(damaged)?;
        let mut references = BTreeMap::new();
        for (task, record) in &book.tasks {
            if let Some(reference) = &record.reference {
                let face = |face| features(&tensors, &name(*task, face));
                let faces = Faces { plain: face(PLAIN)?, first: face(FIRST)?, second: face(SECOND)? };
                if !faces.are_of(reference.probes.len()) {
                    return Err(damaged("a reference has another number of embeddings than of probes"));
                }
                references.insert(*task, faces);
            }
        }
        let mut monitor = Self::new(history);
        (monitor.book, monitor.references) = (book, references);
        Ok(monitor)
    }
}

fn name(task: TaskId, face: &str) -> String {
    format!("task.{}.{face}", task.0)
}

fn features(tensors: &SafeTensors<'_>, name: &str) -> Result<Features, EvaluateError> {
    let tensor = tensors.tensor(name).map_err(damaged)?;
    let (Dtype::F32, [_, width]) = (tensor.dtype(), tensor.shape()) else {
        return Err(damaged("a reference is not a table of f32"));
    };
    let values = tensor.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    Features::new(*width, values)
}

fn damaged(what: impl ToString) -> EvaluateError {
    EvaluateError::State { what: what.to_string() }
}
