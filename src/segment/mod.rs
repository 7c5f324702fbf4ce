//! Which task a frame belongs to.

use serde::{Deserialize, Serialize};

/// Number of a task, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TaskId(pub u32);
