//! What the published encoder says about an image. Every answer names the version it comes from, as embeddings of different
//! versions cannot be compared.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::StoredImage;

/// A stored image and how near it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Neighbour {
    #[serde(flatten)]
    pub image: StoredImage,
    /// Cosine similarity, -1 to 1.
    pub score: f64,
}

/// The nearest stored images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Neighbours {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// Best first; fewer than asked for where the bank or the filter has no more.
    pub neighbours: Vec<Neighbour>,
    /// Ask for the next page with `offset` this number; null on the last. Pages fit together only while the encoder is the same.
    pub next: Option<u64>,
}

/// The answers to several questions, in their order, all by one version of the encoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourBatch {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// One list for each question, best first.
    pub results: Vec<Vec<Neighbour>>,
}

/// Several images as one encoder sees them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingBatch {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// One for each image, in the order asked for, each of length 1 (L2).
    pub vectors: Vec<Vec<f32>>,
}

/// An image as the encoder sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Embedding {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// Of length 1 (L2).
    pub vector: Vec<f32>,
}

/// What the labelled neighbours of an image say it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Classification {
    /// Hash of the encoder's weights.
    pub encoder: String,
    /// The published version's number.
    pub encoder_version: u64,
    /// The likeliest; null where nothing carries a label.
    pub label: Option<String>,
    /// Of every label that got a vote, likeliest first; they add up to 1. A share of votes, not a calibrated probability.
    pub probabilities: Vec<LabelProbability>,
    /// Voters asked for.
    pub k: usize,
    /// Weight of a voter: exp(similarity / temperature).
    pub temperature: f64,
    /// The voters, best first.
    pub neighbours: Vec<Neighbour>,
}

/// A label and its share of the vote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LabelProbability {
    pub label: String,
    pub probability: f64,
}
