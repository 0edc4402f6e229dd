//! How far back a thread stands in the system's queue for a processor.
//!
//! A low priority alone says how much a thread gets where others want all of it. It does not say how soon it makes room for
//! one that wakes up: Linux may let whoever runs go on for a part of its slice first, whatever its priority, and what a
//! message waits for is many such wakings one after the other. A thread that steps back therefore takes the shortest slices
//! as well. Since Linux 6.12 they can be asked for (`sched_setattr(2)`, whose `sched_runtime` older ones ignore for ordinary
//! threads). What it was worth is in `docs/reliability.md`, with hostile guests.
//!
//! A thread that such a thread starts stands where it does. Host calls of a guest on one of them therefore start no thread
//! themselves.

/// The least that Linux takes.
#[cfg(target_os = "linux")]
const SLICE_NS: u64 = 100_000;

/// The furthest back that there is.
#[cfg(target_os = "linux")]
const NICE_MAX: i32 = 19;

/// Puts this thread so much further back than the one that started it; 19 in all is the end. Where the system does not let
/// it, it is as quick as the others.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no crate that is here has this system call")]
pub(crate) fn step_back(by: i32) {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0).saturating_add(by).min(NICE_MAX);
    let attributes = libc::sched_attr {
        // A size of 0 would mean the first version of the structure, which this is.
        size: u32::try_from(size_of::<libc::sched_attr>()).unwrap_or_default(),
        // Kept: an operator may have chosen another for the whole program.
        sched_policy: 0,
        sched_flags: libc::SCHED_FLAG_KEEP_POLICY.unsigned_abs().into(),
        sched_nice: nice,
        sched_priority: 0,
        sched_runtime: SLICE_NS,
        sched_deadline: 0,
        sched_period: 0,
    };
    // SAFETY: The kernel reads `size` bytes at the address, which are there, and keeps nothing of them. 0 is this thread.
    let refused = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) } != 0;
    if refused {
        // An old kernel, or a sandbox around this process, may know only the other call.
        rustix::process::setpriority_process(None, nice).unwrap_or_default();
    }
}

/// Linux alone does this for one thread.
#[cfg(not(target_os = "linux"))]
pub(crate) fn step_back(_by: i32) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_steps_back_alone() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let behind = std::thread::spawn(move || {
            step_back(19);
            (nice(), slice_ns())
        });
        let (nice_behind, slice_ns) = behind.join().unwrap();
        assert_eq!(nice_behind, NICE_MAX);
        // Kernels before 6.12 have none for an ordinary thread.
        assert!([0, SLICE_NS].contains(&slice_ns), "{slice_ns}");
        assert_eq!(nice(), before);
    }

    #[expect(unsafe_code, reason = "no crate that is here has this system call")]
    fn slice_ns() -> u64 {
        let mut attributes = std::mem::MaybeUninit::<libc::sched_attr>::zeroed();
        let size = size_of::<libc::sched_attr>();
        // SAFETY: The kernel writes at most `size` bytes at the address, which are there, and zeroes are a value of each field.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_sched_getattr, 0, attributes.as_mut_ptr(), size, 0), 0);
            attributes.assume_init().sched_runtime
        }
    }
}
