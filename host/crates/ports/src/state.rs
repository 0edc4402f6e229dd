//! What the host must remember: the ledger, dead letters, effects, publishers' requests, deployments.
//!
//! Each is a small trait of its own; a driver of this port implements all of them over one store, and hosts that share
//! the store share the state. What a method answers `Ok` for is durable.

mod dead_letters;
mod deployments;
mod effects;
mod ledger;
mod requests;

pub use dead_letters::{DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetterStatus, DeadLetters};
pub use deployments::{Deployment, Deployments};
pub use effects::{Claim, EffectKey, EffectState, Effects, Owner};
pub use ledger::{Keep, Ledger, LedgerEntry, Step};
pub use requests::{RecordedRequest, RequestClaim, Requests};

use crate::health::Health;

/// All of it, over one store.
pub trait State: Ledger + DeadLetters + Effects + Requests + Deployments + Health {}

impl<T: Ledger + DeadLetters + Effects + Requests + Deployments + Health> State for T {}
