//! What nearly every plugin uses: `use sandpost_sdk::prelude::*;`
//!
//! The derives of serde are here, but their code names the crate `serde`: a plugin that derives has it as a dependency.

pub use crate::{Context, Error, FromMessage, HostError, Json, Message, Result, Verdict, log};
pub use serde::{Deserialize, Serialize};
pub use serde_json::{self, json};
