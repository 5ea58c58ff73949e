//! Disks that are slow, or stall now and then: what they add is counted, and granted to every call under way

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use terrace::vfs::{Call, Fault, FaultVfs, Op};

use super::scenario::Speed;
use super::watch::Watch;

/// What a slow disk adds to each sync and each new file.
const SLOW: Duration = Duration::from_millis(5);
/// How long one call stalls, and how often that happens.
const STALL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));

/// Makes the calls of `disk` as slow as `speed` says.
pub(crate) fn slow_down(disk: &FaultVfs, speed: Speed, seed: u64, watch: &Arc<Watch>) {
    let adds = |time: Duration| {
        let watch = watch.clone();
        move || watch.disk_adds(time)
    };
    match speed {
        Speed::Plain => {}
        Speed::Slow => {
            let adds = adds(SLOW);
            let slow = move |call: &Call| {
                let is = matches!(call.op, Op::SyncData | Op::SyncDir | Op::Create);
                if is {
                    adds();
                }
                is
            };
            disk.arm_when(slow, Fault::Delay(SLOW), true);
        }
        Speed::Stall => {
            let adds = adds(STALL.0);
            let started = Instant::now();
            let next = AtomicU64::new(1 + seed % 3);
            let stalls = move |call: &Call| {
                // A call of any kind, but one that holds the whole process up is enough at a time.
                let due = STALL.1.as_secs() * next.load(Ordering::Relaxed);
                let is = started.elapsed().as_secs() >= due && call.op != Op::Metadata;
                if is {
                    next.store(
                        started.elapsed().as_secs() / STALL.1.as_secs() + 1,
                        Ordering::Relaxed,
                    );
                    adds();
                }
                is
            };
            disk.arm_when(stalls, Fault::Delay(STALL.0), true);
        }
    }
}
