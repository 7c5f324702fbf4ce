//! What became of the frames sent.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use serde::{Serialize, Serializer};

use crate::stream::client::Answer;
use crate::stream::wire::Reply;

/// Counts by outcome; of every reason the first example. Displays as the summary, and serialises as the same for programs.
#[derive(Debug, Default, Serialize)]
pub(super) struct Tally {
    sent: u64,
    accepted: u64,
    duplicate: u64,
    refused: BTreeMap<String, Reason>,
    /// Names of frames in flight.
    #[serde(rename = "unanswered", serialize_with = "as_count")]
    waiting: HashMap<u64, String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    frames: u64,
    example: String,
}

fn as_count<S: Serializer>(waiting: &HashMap<u64, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(waiting.len() as u64)
}

impl Tally {
    pub(super) fn sent(&mut self, sequence: u64, name: String) {
        self.sent += 1;
        self.waiting.insert(sequence, name);
    }

    pub(super) fn answered(&mut self, replies: Vec<Answer>) {
        for (sequence, reply) in replies {
            let name = self.waiting.remove(&sequence).unwrap_or_default();
            match reply {
                Reply::Accepted { .. } => self.accepted += 1,
                Reply::Duplicate { .. } => self.duplicate += 1,
                Reply::Refused(notice) => self.refuse(notice.code, || format!("{name}: {}", notice.detail), 1),
            }
        }
    }

    /// A file that could not be read, and so not be sent.
    pub(super) fn unreadable(&mut self, name: &str, error: &std::io::Error) {
        self.refuse("unreadable-file".into(), || format!("{name}: {error}"), 1);
    }

    /// Pictures of standard input that were broken, and so not sent.
    pub(super) fn damaged_input(&mut self, pictures: u64) {
        if pictures > 0 {
            let example = || "on standard input; is the camera's format MJPEG?".into();
            self.refuse("damaged-picture".into(), example, pictures);
        }
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.values().map(|reason| reason.frames).sum()
    }

    fn refuse(&mut self, code: String, example: impl FnOnce() -> String, frames: u64) {
        self.refused.entry(code).or_insert_with(|| Reason { frames: 0, example: example() }).frames += frames;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sent       {:>8}", self.sent)?;
        writeln!(f, "accepted   {:>8}", self.accepted)?;
        writeln!(f, "duplicate  {:>8}", self.duplicate)?;
        writeln!(f, "refused    {:>8}", self.refused())?;
        for (code, Reason { frames, example }) in &self.refused {
            writeln!(f, "  {code:<16} {frames:>6}  such as {example}")?;
        }
        match self.waiting.len() {
            0 => Ok(()),
            unanswered => writeln!(f, "unanswered {unanswered:>8}  send these again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::FrameId;
    use crate::stream::wire::Notice;

    #[test]
    fn every_frame_is_counted_under_its_outcome() {
        let mut tally = Tally::default();
        for sequence in 0..5 {
            tally.sent(sequence, format!("{sequence}.jpg"));
        }
        let notice = |detail: &str| Notice { code: "truncated-jpeg".into(), detail: detail.into(), retry_after: None };
        tally.answered(vec![
            (0, Reply::Accepted { id: FrameId(7), task: None }),
            (2, Reply::Refused(notice("ends after 10 bytes"))),
            (1, Reply::Duplicate { id: FrameId(7) }),
            (3, Reply::Refused(notice("ends after 20 bytes"))),
        ]);
        assert_eq!(tally.refused(), 2);
        let text = tally.to_string();
        let expected = "sent              5\naccepted          1\nduplicate         1\nrefused           2\n  \
                        truncated-jpeg        2  such as 2.jpg: ends after 10 bytes\nunanswered        1  send these again\n";
        assert_eq!(text, expected);
        let expected = serde_json::json!({
            "sent": 5, "accepted": 1, "duplicate": 1, "unanswered": 1,
            "refused": { "truncated-jpeg": { "frames": 2, "example": "2.jpg: ends after 10 bytes" } },
        });
        assert_eq!(serde_json::to_value(&tally).unwrap(), expected);
    }
}
