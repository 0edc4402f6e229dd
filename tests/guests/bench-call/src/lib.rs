//! One call as the benchmark measures it: the message read as JSON, one host call, a page of about the message's size.
//!
//! The work itself is the benchmark's own file, so that the same lines run natively.

#[path = "../../../bench/src/work.rs"]
mod work;

use sandpost_sdk::cache;
use sandpost_sdk::prelude::*;

#[sandpost_sdk::handler]
fn handle(message: Message) -> Result<()> {
    let event = work::read(message.body()).map_err(|error| Error::reject(error.to_string()))?;
    let greeting = cache::get_bytes(&work::key(&event))?;
    let page = work::page(&event, greeting.as_deref());
    if std::hint::black_box(page).is_empty() { Err(Error::reject("the page is empty")) } else { Ok(()) }
}
