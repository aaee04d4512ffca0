//! Runs of clusters of one piece that are to be treated alike.

/// Returns where each run of clusters for which `are_so` holds begins and ends.
pub(super) fn runs<T>(clusters: &[T], are_so: impl Fn(&T) -> bool) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for i in (0..clusters.len()).filter(|i| are_so(&clusters[*i])) {
        match runs.last_mut() {
            Some((_, end)) if *end == i => *end = i + 1,
            _ => runs.push((i, i + 1)),
        }
    }
    runs
}
