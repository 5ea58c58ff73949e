//! Medians, ratios, and a histogram of latencies.

use serde::{Deserialize, Serialize};

/// The middle value, or the mean of the two in the middle; none of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    if sorted.len() % 2 == 1 {
        return Some(*upper);
    }
    let lower = sorted.get((sorted.len() / 2).checked_sub(1)?)?;
    Some((lower + upper) / 2.0)
}

/// The median of some values and their extremes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

/// The ratios `over / under` of each round in which both were measured, summed up. A round shares the
/// state of the machine, so its ratio says more than a ratio of medians.
pub fn ratios(over: &[Option<f64>], under: &[Option<f64>]) -> Option<Spread> {
    let both = over.iter().zip(under);
    let ratios: Vec<f64> = both
        .filter_map(|(over, under)| Some((*over)? / (*under)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    Some(Spread {
        median: median(&ratios)?,
        min: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        max: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    })
}

/// Steps to a power of two, so that a value is known to 3 %.
const STEPS: usize = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Below twice `STEPS` each value has its own bucket; above, each power of two has `STEPS`.
const BUCKETS: usize = STEPS * (64 - STEP_BITS as usize + 1);

/// Counts of nanoseconds in buckets that grow with the value, as HdrHistogram has them.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

/// What is reported of a histogram, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    /// The longest that was seen; where only samples are timed, the longest group of operations.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            counts: vec![0; BUCKETS],
            total: 0,
            max: 0,
        }
    }
}

impl Histogram {
    #[inline]
    pub fn add(&mut self, ns: u64) {
        if let Some(count) = self.counts.get_mut(bucket(ns)) {
            *count += 1;
        }
        self.total += 1;
        self.max = self.max.max(ns);
    }

    /// Raises the maximum without a count.
    #[inline]
    pub fn note_max(&mut self, ns: u64) {
        self.max = self.max.max(ns);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (ours, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *ours += theirs;
        }
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// The largest value of the bucket in which the `q`-th part of all values ends.
    pub fn quantile(&self, q: f64) -> u64 {
        let rank = ((self.total as f64 * q).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return bucket_end(at).min(self.max);
            }
        }
        self.max
    }

    pub fn latency(&self) -> Latency {
        Latency {
            p50: self.quantile(0.5),
            p99: self.quantile(0.99),
            p999: self.quantile(0.999),
            max: self.max,
        }
    }
}

#[inline]
fn bucket(ns: u64) -> usize {
    let shift = (63 - (ns | 1).leading_zeros()).saturating_sub(STEP_BITS);
    shift as usize * STEPS + (ns >> shift) as usize
}

/// The largest value that falls into a bucket.
fn bucket_end(at: usize) -> u64 {
    let shift = (at / STEPS).saturating_sub(1);
    let first = (at - shift * STEPS) as u64;
    (first << shift) + ((1u64 << shift) - 1)
}

#[cfg(test)]
#[path = "stats_tests.rs"]
mod tests;
