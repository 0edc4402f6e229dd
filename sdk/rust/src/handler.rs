//! What a function must look like to be a handler, and how its arguments are made of the message.
//!
//! Not here: the export itself (`entry`), the verdicts (`error`).

use crate::error::Result;
use crate::message::Message;
use serde::de::DeserializeOwned;
use std::ops::{Deref, DerefMut};

/// A handler's argument: made of the message before the handler runs. Its error is the verdict.
///
/// Implement it for your own types:
///
/// ```
/// use sandpost_sdk::prelude::*;
///
/// struct Tenant(String);
///
/// impl FromMessage for Tenant {
///     fn from_message(message: &Message) -> Result<Self> {
///         let tenant = message.attribute("tenant").or_reject("the attribute `tenant` is missing")?;
///         Ok(Self(tenant.to_owned()))
///     }
/// }
///
/// #[sandpost_sdk::handler]
/// fn handle(tenant: Tenant, body: Json<serde_json::Value>) -> Result<()> {
///     log::info!("{} of {}", body["kind"], tenant.0);
///     Ok(())
/// }
/// # fn main() {
/// # use sandpost_sdk::testing;
/// # let host = testing::Host::new();
/// # let order = testing::delivery("orders", json!({"kind": "new"}));
/// # assert!(host.deliver(handle, &order.clone().message()).is_err());
/// # host.deliver(handle, &order.attribute("tenant", "t1").message()).unwrap();
/// # }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an argument that a handler can take",
    label = "neither `Message`, `Json<…>` nor a type with `FromMessage`",
    note = "write `event: Json<{Self}>` to read the message's body as JSON"
)]
pub trait FromMessage: Sized {
    /// Makes it, or says why the message is rejected or retried.
    fn from_message(message: &Message) -> Result<Self>;
}

impl FromMessage for Message {
    fn from_message(message: &Message) -> Result<Self> {
        Ok(message.clone())
    }
}

/// The body, read as JSON by serde. A body that does not fit is rejected before the handler runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromMessage for Json<T> {
    fn from_message(message: &Message) -> Result<Self> {
        message.json().map(Self)
    }
}

impl<T> Deref for Json<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Json<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A function that handles messages: one to three arguments that are [`FromMessage`], and `Result<()>`.
#[diagnostic::on_unimplemented(
    message = "this function is not a handler",
    label = "expected `fn(…) -> sandpost_sdk::Result<()>` with one to three arguments, each a `Message`, a `Json<…>` or a type with `FromMessage`"
)]
pub trait Handler<Arguments> {
    /// Makes the arguments and runs it.
    fn call(&self, message: &Message) -> Result<()>;
}

macro_rules! handlers {
    ($($argument:ident)+) => {
        impl<Function, $($argument),+> Handler<($($argument,)+)> for Function
        where
            Function: Fn($($argument),+) -> Result<()>,
            $($argument: FromMessage,)+
        {
            fn call(&self, message: &Message) -> Result<()> {
                self($($argument::from_message(message)?),+)
            }
        }
    };
}

handlers!(A);
handlers!(A B);
handlers!(A B C);
