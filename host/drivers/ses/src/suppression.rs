//! The account's suppression list, mirrored: SES would take a mail to these addresses, not deliver it, and count it.
//!
//! The mirror is read whole, from time to time, and bounded. Until it was read, and for what is over the bound, SES's own
//! list still holds: then such a mail is sent and not delivered.

use crate::error::{Trouble, sort};
use aws_sdk_sesv2::Client;
use sandpost_ports::PortError;
use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// Entries of one page; the most that SES gives.
const PAGE: i32 = 1_000;
/// Between two pages: SES lets these calls be made once a second.
const PAGE_PAUSE: Duration = Duration::from_secs(1);

/// The addresses that get no mail, in lower case.
#[derive(Default)]
pub(crate) struct Mirror(RwLock<Arc<HashSet<Box<str>>>>);

/// How reading it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// All of it: so many.
    Whole(usize),
    /// Up to the bound; there are more.
    Bounded,
    /// This host's credentials may not.
    NotAllowed,
}

impl Mirror {
    /// Whether this address gets no mail.
    pub(crate) fn has(&self, address: &str) -> bool {
        let list = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        !list.is_empty() && list.contains(address.to_lowercase().as_str())
    }

    /// Reads the list anew. What was there stays until all of it is read.
    pub(crate) async fn read(&self, client: &Client, max: usize) -> Result<Read, PortError> {
        let mut list = HashSet::new();
        let mut token: Option<String> = None;
        let mut bounded = false;
        loop {
            let page = client.list_suppressed_destinations().page_size(PAGE).set_next_token(token.take()).send().await;
            let page = match page {
                Ok(page) => page,
                Err(error) => match sort(error, true) {
                    Trouble::Denied(_) => return Ok(Read::NotAllowed),
                    trouble => return Err(trouble.into_port()),
                },
            };
            for entry in page.suppressed_destination_summaries() {
                if list.len() >= max {
                    bounded = true;
                    break;
                }
                list.insert(entry.email_address().to_lowercase().into_boxed_str());
            }
            token = page.next_token().filter(|token| !token.is_empty()).map(str::to_owned);
            if token.is_none() || bounded {
                break;
            }
            tokio::time::sleep(PAGE_PAUSE).await;
        }
        let count = list.len();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
        Ok(if bounded { Read::Bounded } else { Read::Whole(count) })
    }
}
