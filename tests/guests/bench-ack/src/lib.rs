//! The trivial handler: what is left is the host's own work.

use sandpost_sdk::prelude::*;

#[sandpost_sdk::handler]
fn handle(_message: Message) -> Result<()> {
    Ok(())
}
