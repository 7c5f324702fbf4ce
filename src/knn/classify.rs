//! The weighted vote of the nearest labelled frames.
//!
//! Each voter counts exp(similarity / temperature) for its label (Wu, Xiong, Yu and Lin, "Unsupervised feature learning via
//! non-parametric instance discrimination", CVPR 2018, with temperature 0.07; 0.1 in the continual-learning protocol).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::stream::FrameId;

use super::{Bank, KnnError, Neighbour};

/// What the labelled neighbours of a query say.
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// The label with the greatest probability; of equals the first in alphabetical order.
    pub label: Arc<str>,
    /// Share of the votes of every label among the voters, the greatest first; the sum is 1. A share of votes, not a
    /// calibrated probability of being right.
    pub probabilities: Vec<LabelProbability>,
    /// The voters, the nearest first.
    pub neighbours: Vec<LabelledNeighbour>,
}

/// A label's share of the votes.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelProbability {
    pub label: Arc<str>,
    pub probability: f64,
}

/// A voter.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledNeighbour {
    pub neighbour: Neighbour,
    pub label: Arc<str>,
}

/// Classifies `query` (width) by the `k` nearest of the frames for which `label_of` knows a label. None where there is none:
/// then nothing is known, which is not the same as any label.
///
/// # Errors
/// As [`Bank::nearest`]; [`KnnError::Temperature`] if `temperature` is not above 0.
pub fn classify(
    bank: &Bank,
    query: &[f32],
    k: usize,
    temperature: f64,
    label_of: impl Fn(FrameId) -> Option<Arc<str>> + Sync,
) -> Result<Option<Classification>, KnnError> {
    if !(temperature > 0.0 && temperature.is_finite()) {
        return Err(KnnError::Temperature(temperature));
    }
    let nearest = bank.nearest(query, k, |entry| label_of(entry.frame).is_some())?;
    let neighbours: Vec<LabelledNeighbour> = nearest
        .into_iter()
        .filter_map(|neighbour| Some(LabelledNeighbour { neighbour, label: label_of(neighbour.frame)? }))
        .collect();
    let shares = vote(neighbours.iter().map(|voter| (voter.neighbour.similarity, voter.label.clone())), temperature);
    let probabilities: Vec<_> =
        shares.into_iter().map(|(label, probability)| LabelProbability { label, probability }).collect();
    let Some(first) = probabilities.first() else { return Ok(None) };
    Ok(Some(Classification { label: first.label.clone(), probabilities, neighbours }))
}

/// Share of every label in the votes exp(similarity / temperature), the greatest first, equals in the order of the labels;
/// empty without voters. The weights are taken relative to the nearest voter's, so that no temperature overflows.
pub fn vote<L: Ord>(voters: impl IntoIterator<Item = (f32, L)>, temperature: f64) -> Vec<(L, f64)> {
    let voters: Vec<(f32, L)> = voters.into_iter().collect();
    let nearest = voters.iter().map(|voter| f64::from(voter.0)).fold(f64::NEG_INFINITY, f64::max);
    let (mut shares, mut total) = (BTreeMap::new(), 0.0);
    for (similarity, label) in voters {
        let weight = ((f64::from(similarity) - nearest) / temperature).exp();
        *shares.entry(label).or_insert(0.0) += weight;
        total += weight;
    }
    let mut shares: Vec<(L, f64)> = shares.into_iter().map(|(label, weight)| (label, weight / total)).collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1));
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::knn::NewRow;
    use crate::stream::SourceId;

    /// Frame i at i times ten degrees.
    fn fan(n: u64) -> Bank {
        let vectors: Vec<[f32; 2]> =
            (0..n).map(|i| (i as f32 * 10.0).to_radians()).map(|angle| [angle.cos(), angle.sin()]).collect();
        let rows: Vec<_> = (0..n)
            .map(|i| NewRow {
                frame: FrameId(i),
                source: SourceId(0),
                wall_time_ns: 0,
                embedding: &vectors[i as usize],
            })
            .collect();
        Bank::new("a".into(), 2).with_changes(&[], &rows).unwrap()
    }

    #[test]
    fn the_vote_weighs_by_similarity_and_skips_the_unlabelled() {
        // The query lies on frame 0, which has no label; frame 1 says "near", frames 8 and 9 say "far".
        let label_of = |frame: FrameId| match frame.0 {
            1 => Some("near".into()),
            8 | 9 => Some("far".into()),
            _ => None,
        };
        let answer = classify(&fan(10), &[1.0, 0.0], 3, 0.1, label_of).unwrap().unwrap();
        let weight = |degrees: f64| (degrees.to_radians().cos() / 0.1).exp();
        let expected = weight(10.0) / (weight(10.0) + weight(80.0) + weight(90.0));
        assert_eq!(&*answer.label, "near", "one near voter beats two far ones");
        assert!((answer.probabilities[0].probability - expected).abs() < 1e-6);
        assert!((answer.probabilities.iter().map(|p| p.probability).sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(answer.neighbours.iter().map(|voter| voter.neighbour.frame.0).collect::<Vec<_>>(), [1, 8, 9]);
        let hot = classify(&fan(10), &[1.0, 0.0], 3, 1e9, label_of).unwrap().unwrap();
        assert_eq!(&*hot.label, "far", "without weights the majority wins");
    }

    #[test]
    fn without_a_labelled_neighbour_there_is_no_answer() {
        assert_eq!(classify(&fan(10), &[1.0, 0.0], 3, 0.1, |_| None).unwrap(), None);
        assert_eq!(classify(&fan(0), &[1.0, 0.0], 3, 0.1, |_| Some("x".into())).unwrap(), None);
    }

    #[test]
    fn no_temperature_overflows_and_a_senseless_one_is_refused() {
        assert_eq!(vote([(1.0, "a"), (-1.0, "b")], 1e-9), [("a", 1.0), ("b", 0.0)]);
        for temperature in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = classify(&fan(2), &[1.0, 0.0], 1, temperature, |_| None).unwrap_err();
            assert_eq!(error.code(), "invalid-temperature");
        }
    }

    #[test]
    fn equal_votes_go_to_the_first_label() {
        assert_eq!(vote([(0.5, "b"), (0.5, "a")], 0.1), [("a", 0.5), ("b", 0.5)]);
    }
}
