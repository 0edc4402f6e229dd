//! The WIT interface `templates`.

use super::handler::sandpost::plugin::{template as wit_types, templates as wit};
use crate::template::{Content, Request};
use crate::templates::RenderFailure;

pub(crate) fn render(asked: Request) -> Result<Content, RenderFailure> {
    match wit::render(&request(asked)) {
        Ok(content) => Ok(Content { subject: content.subject, html: content.html, text: content.text }),
        Err(wit_types::RenderError::UnknownTemplate(name)) => Err(RenderFailure::UnknownTemplate(name)),
        Err(wit_types::RenderError::InvalidData(reason)) => Err(RenderFailure::InvalidData(reason)),
        Err(wit_types::RenderError::Failed(reason)) => Err(RenderFailure::Failed(reason)),
    }
}

pub(super) fn request(request: Request) -> wit_types::Request {
    wit_types::Request { name: request.name, locale: request.locale, data: request.data }
}
