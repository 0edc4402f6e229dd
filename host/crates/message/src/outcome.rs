//! What one attempt came to: the plugin's verdict, or the fault that kept it from giving one.
//!
//! Not here: what follows from it (`dispatch::retry`, `dispatch::settle`).

use std::fmt;

/// What a handler decided about a message. The host obeys it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: never deliver it again.
    Ack,
    /// Try again.
    Retry {
        /// For the ledger and the dead letter, in the plugin's words.
        reason: String,
        /// Not before this much time; by the subscription's back-off where left out.
        after_ms: Option<u64>,
    },
    /// Never try again: dead-letter it at once.
    Reject {
        /// For the dead letter, in the plugin's words.
        reason: String,
    },
}

/// Why an attempt ended without a verdict. Counts as a retry with that reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The guest trapped: a panic, an out-of-bounds access, a stack overflow.
    Trap,
    /// The guest called `exit`.
    Exit,
    /// The wall clock of the whole attempt, host calls included, ran out.
    Deadline,
    /// The guest's own computing time ran out.
    Cpu,
    /// The guest asked for more memory than it may have.
    Memory,
    /// The guest called the host more often than it may.
    HostCalls,
    /// The guest handed more bytes to the host, or took more from it, than it may.
    HostBytes,
    /// The guest's answer breaks the contract: invalid text, a reason over its limit.
    Contract,
    /// No instance could be had: the host is at its ceiling.
    NoInstance,
    /// The host stopped before the attempt ended. Not the plugin's fault, and not counted as an attempt.
    Stopped,
    /// A fault of the host.
    Host,
}

impl FaultKind {
    /// Every kind, for documentation and for metrics that begin at zero.
    pub const ALL: [Self; 11] = [
        Self::Trap,
        Self::Exit,
        Self::Deadline,
        Self::Cpu,
        Self::Memory,
        Self::HostCalls,
        Self::HostBytes,
        Self::Contract,
        Self::NoInstance,
        Self::Stopped,
        Self::Host,
    ];

    /// The word in the ledger, in dead letters and in metrics. Never renamed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::Deadline => "deadline",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::HostCalls => "host-calls",
            Self::HostBytes => "host-bytes",
            Self::Contract => "contract",
            Self::NoInstance => "no-instance",
            Self::Stopped => "stopped",
            Self::Host => "host",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A fault with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Fault {
    /// Which of the named reasons.
    pub kind: FaultKind,
    /// One sentence for the operator: the limit that was reached, or the guest's own words.
    pub detail: String,
}

impl Fault {
    /// A fault of this kind.
    pub fn new(kind: FaultKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The plugin answered.
    Verdict(Verdict),
    /// It did not.
    Fault(Fault),
    /// An effect's outcome is unknown, and the subscription says that it is not to be done again
    /// (`unknown_effects = "hold"`). Whatever the plugin answered does not count: an operator decides.
    Held {
        /// Which effect, in words; for the dead letter.
        reason: String,
    },
    /// The plugin asked for a retry, and one of its effects met a provider that takes nothing at all for now. Not counted
    /// as an attempt: no plugin and no message can do anything about it.
    Postponed {
        /// Why the provider takes nothing, in words.
        reason: String,
        /// When it may be worth another look.
        after_ms: u64,
    },
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(verdict)
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
