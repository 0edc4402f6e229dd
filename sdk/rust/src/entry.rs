//! What the exported functions do, in ordinary functions: the macros expand to a call of these.
//!
//! Invariant: nothing but a panic leaves without a verdict.

use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::message::Message;
use crate::{logger, template};

#[cfg(target_arch = "wasm32")]
pub use crate::sys::guest::{handler as handler_world, template as template_world};

/// Runs a handler on one delivery.
pub fn handle<A>(handler: &impl Handler<A>, message: &Message) -> Result<(), Error> {
    logger::init();
    handler.call(message)
}

/// Makes the list of templates.
pub fn templates(list: fn() -> template::Templates) -> template::Templates {
    logger::init();
    list()
}

#[cfg(target_arch = "wasm32")]
mod guest {
    use super::handler_world::sandpost::plugin::types as wit;
    use super::template_world::exports::sandpost::plugin::template as wit_template;
    use crate::error::{Result, Verdict};
    use crate::message::{Message, Parts};
    use crate::template::{Content, RenderError, Request, Templates};
    use crate::time::Timestamp;

    /// The message, as the SDK has it.
    pub fn message(message: wit::Message) -> Message {
        Message::new(Parts {
            id: message.id,
            topic: message.topic,
            body: message.body,
            content_type: message.content_type,
            attributes: message.attributes,
            ordering_key: message.ordering_key,
            published_at: Timestamp::from_millis(message.published_at),
            attempt: message.attempt,
            max_attempts: message.max_attempts,
            deadline: Timestamp::from_millis(message.deadline),
        })
    }

    /// The verdict, as the host takes it.
    pub fn verdict(result: Result<()>) -> Result<(), wit::Failure> {
        result.map_err(|error| match error.verdict() {
            Verdict::Reject => wit::Failure::Reject(error.reason().to_owned()),
            Verdict::Retry { after } => wit::Failure::Retry(wit::RetryAdvice {
                reason: error.reason().to_owned(),
                after: after.map(crate::time::millis),
            }),
        })
    }

    /// The list, as the host takes it.
    pub fn infos(templates: &Templates) -> Vec<wit_template::TemplateInfo> {
        let info = |info: crate::template::TemplateInfo| wit_template::TemplateInfo {
            name: info.name,
            description: info.description,
            locales: info.locales,
            sample: info.sample,
        };
        templates.infos().into_iter().map(info).collect()
    }

    /// Renders, both ways translated.
    pub fn render(
        templates: &Templates,
        request: wit_template::Request,
    ) -> Result<wit_template::Content, wit_template::RenderError> {
        let request = Request { name: request.name, locale: request.locale, data: request.data };
        match templates.render(&request) {
            Ok(Content { subject, html, text }) => Ok(wit_template::Content { subject, html, text }),
            Err(RenderError::UnknownTemplate(name)) => Err(wit_template::RenderError::UnknownTemplate(name)),
            Err(RenderError::InvalidData(reason)) => Err(wit_template::RenderError::InvalidData(reason)),
            Err(RenderError::Failed(reason)) => Err(wit_template::RenderError::Failed(reason)),
        }
    }
}

#[cfg(target_arch = "wasm32")]
pub use guest::{infos, message, render, verdict};

/// What `#[handler]` and `#[templates]` add after the function. Not for use by hand.
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (handler $function:ident) => {
        const _: () = {
            use $crate::__private as sandpost;

            struct Plugin;

            impl sandpost::handler_world::exports::sandpost::plugin::handler::Guest for Plugin {
                fn handle(
                    message: sandpost::handler_world::sandpost::plugin::types::Message,
                ) -> ::core::result::Result<(), sandpost::handler_world::sandpost::plugin::types::Failure> {
                    sandpost::verdict(sandpost::handle(&$function, &sandpost::message(message)))
                }
            }

    sandpost::handler_world::export_handler!(Plugin with_types_in sandpost::handler_world);
        };
    };
    (templates $function:ident) => {
        const _: () = {
            use sandpost::template_world::exports::sandpost::plugin::template;
            use $crate::__private as sandpost;

            struct Plugin;

            impl template::Guest for Plugin {
                fn templates() -> ::std::vec::Vec<template::TemplateInfo> {
                    sandpost::infos(&sandpost::templates($function))
                }

                fn render(
                    request: template::Request,
                ) -> ::core::result::Result<template::Content, template::RenderError> {
                    sandpost::render(&sandpost::templates($function), request)
                }
            }

    sandpost::template_world::export_template!(Plugin with_types_in sandpost::template_world);
        };
    };
}

/// What `#[handler]` and `#[templates]` add after the function. Not for use by hand.
///
/// Outside a plugin there is nothing to export; this checks the signature all the same, and keeps the function from
/// being called unused.
#[cfg(not(target_arch = "wasm32"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (handler $function:ident) => {
        const _: fn(&$crate::Message) -> $crate::Result<()> = |message| $crate::__private::handle(&$function, message);
    };
    (templates $function:ident) => {
        const _: fn() -> $crate::template::Templates = || $crate::__private::templates($function);
    };
}
