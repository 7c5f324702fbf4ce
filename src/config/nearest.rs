//! The known name that a mistyped one most resembles.

/// The nearest of the names that a message of serde offers, where it is near enough to be meant: of "unknown field `slotz`,
/// expected one of `slots`, `policy`" it is `slots`.
pub(super) fn did_you_mean(message: &str) -> Option<&str> {
    if !message.contains("unknown field") && !message.contains("unknown variant") {
        return None;
    }
    // Names stand between backquotes: every second part of the split.
    let mut names = message.split('`').skip(1).step_by(2);
    let typed = names.next()?;
    let near = typed.chars().count().div_ceil(3);
    names.map(|name| (distance(typed, name), name)).filter(|(far, _)| *far <= near).min().map(|(_, name)| name)
}

/// Insertions, deletions, substitutions and swaps of neighbours that lead from one word to the other (optimal string
/// alignment).
fn distance(from: &str, to: &str) -> usize {
    let (from, to): (Vec<char>, Vec<char>) = (from.chars().collect(), to.chars().collect());
    let mut rows = vec![(0..=to.len()).collect::<Vec<usize>>()];
    for i in 1..=from.len() {
        let mut row = vec![i];
        for j in 1..=to.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = substitution.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_a_swap_once() {
        assert_eq!(distance("batch", "batch"), 0);
        assert_eq!(distance("bathc", "batch"), 1);
        assert_eq!(distance("slotz", "slots"), 1);
        assert_eq!(distance("", "slots"), 5);
    }

    #[test]
    fn a_far_name_is_not_suggested() {
        assert_eq!(did_you_mean("unknown field `slotz`, expected one of `slots`, `policy`"), Some("slots"));
        assert_eq!(did_you_mean("unknown field `colour`, expected one of `slots`, `policy`"), None);
        assert_eq!(did_you_mean("missing field `slots`"), None);
    }
}
