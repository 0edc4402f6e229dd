//! The Rust side of `wit/`, generated: types, host traits, and typed calls of what plugins export.
//!
//! For the runtime: [`HandlerPluginIndices`] and [`TemplatePluginIndices`] are looked up once an artifact
//! (`new(&instance_pre)`, an error where the component does not export it) and loaded once an instance. A component
//! that exports both has both.
//!
//! Not here: what the host does when it is called (the file of each interface).

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from the contract, which is documented in wit/"
)]
mod handler_world {
    wasmtime::component::bindgen!({
        world: "handler-plugin",
        path: "../../../wit",
        imports: { default: async | trappable },
        exports: { default: async },
        with: {
            "sandpost:plugin/sql.connection": crate::sql::Connection,
            "sandpost:plugin/sql.transaction": crate::sql::Transaction,
            "sandpost:plugin/documents.collection": crate::documents::Collection,
            "sandpost:plugin/documents.cursor": crate::documents::Cursor,
        },
    });
}

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    reason = "generated from the contract, which is documented in wit/"
)]
mod template_world {
    wasmtime::component::bindgen!({
        world: "template-plugin",
        path: "../../../wit",
        exports: { default: async },
        with: { "sandpost:plugin": super::handler_world::sandpost::plugin },
    });
}

pub use handler_world::sandpost::plugin::{
    cache, config, documents, email, health, log, pubsub, sql, template, templates, types,
};
pub use handler_world::{HandlerPlugin, HandlerPluginIndices, HandlerPluginPre};
/// The types of the exported `template`, which are those of a plugin's answer.
pub use template_world::exports::sandpost::plugin::template as exported_template;
pub use template_world::{TemplatePlugin, TemplatePluginIndices, TemplatePluginPre};

pub use template::{Content, RenderError, Request, TemplateInfo};
pub use types::{Error, Failure, Message, RetryAdvice};

impl From<Request> for exported_template::Request {
    fn from(request: Request) -> Self {
        Self { name: request.name, locale: request.locale, data: request.data }
    }
}

impl From<exported_template::Content> for Content {
    fn from(content: exported_template::Content) -> Self {
        Self { subject: content.subject, html: content.html, text: content.text }
    }
}

impl From<exported_template::RenderError> for RenderError {
    fn from(error: exported_template::RenderError) -> Self {
        match error {
            exported_template::RenderError::UnknownTemplate(name) => Self::UnknownTemplate(name),
            exported_template::RenderError::InvalidData(what) => Self::InvalidData(what),
            exported_template::RenderError::Failed(what) => Self::Failed(what),
        }
    }
}
