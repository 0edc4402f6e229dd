//! How far back a thread stands in the system's queue for a processor.
//!
//! A low priority alone says how much a thread gets where others want all of it. It does not say how soon it makes room for
//! one that wakes up: Linux lets whoever runs go on for the rest of a slice of a millisecond or so first, whatever its
//! priority, and what a message waits is many such wakings one after the other. A thread that steps back therefore takes
//! the shortest slices as well. Since Linux 6.12 they can be asked for (`sched_setattr(2)`, whose `sched_runtime` older ones
//! ignore for ordinary threads).

/// The least that Linux takes.
#[cfg(target_os = "linux")]
const SLICE_NS: u64 = 100_000;

/// Puts this thread back, from 0 to 19. Where the system does not let it, it is as quick as the others.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate that is here has this system call")]
pub(crate) fn step_back(nice: i32) {
    let attributes = libc::sched_attr {
        // 0, which it never is, would mean the first version, which is this one.
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        sched_policy: libc::SCHED_OTHER.unsigned_abs(),
        sched_flags: 0,
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: The kernel reads `size` bytes at the address, which are there, and keeps nothing of them. 0 is this thread.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0;
    if refused {
        // A sandbox around this process may know only the older call.
        rustix::process::setpriority_process(None, nice).unwrap_or_default();
    }
}

/// Linux alone does this for one thread.
#[cfg(not(target_os = "linux"))]
pub(crate) fn step_back(_nice: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_back_alone() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let behind = std::thread::spawn(move || {
            step_back(19);
            nice()
        });
        assert_eq!(behind.join().unwrap(), 19);
        assert_eq!(nice(), before);
    }
}
