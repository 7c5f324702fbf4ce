//! A history of bounded length that stays dense where it is young.

/// Drops one item of the inside until `limit` are left (two at least: the first and the last stay). The item goes whose
/// absence leaves the smallest gap for its age, so that the distance between items grows with their age. `time` must not
/// decrease along the items.
pub(super) fn thin<T>(items: &mut Vec<T>, limit: usize, time: impl Fn(&T) -> u64) {
    while items.len() > limit.max(2) {
        let newest = items.last().map_or(0, &time);
        let gap_for_age = |at: &usize| {
            let gap = time(&items[at + 1]).saturating_sub(time(&items[at - 1]));
            gap as f64 / (newest.saturating_sub(time(&items[*at])) + 1) as f64
        };
        let smallest = (1..items.len() - 1).min_by(|a, b| gap_for_age(a).total_cmp(&gap_for_age(b)));
        let Some(at) = smallest else { return };
        items.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_kept_sparsely_from_the_first_to_the_last() {
        let mut items = Vec::new();
        for time in 0..5000u64 {
            items.push(time);
            thin(&mut items, 40, |time| *time);
        }
        assert_eq!((items.len(), items[0], items[39]), (40, 0, 4999));
        let gaps: Vec<u64> = items.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[..20].iter().sum::<u64>() > 4 * gaps[20..].iter().sum::<u64>(), "{items:?}");
        assert!(gaps.iter().all(|&gap| gap < 2000), "no hole: {items:?}");
    }

    #[test]
    fn equal_times_and_tiny_limits_do_no_harm() {
        let mut items = vec![3u64; 10];
        thin(&mut items, 0, |time| *time);
        assert_eq!(items, [3, 3]);
    }
}
