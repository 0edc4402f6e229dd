//! `/metrics` and `/openapi.json`, and what the description says of every route alike.

use crate::App;
use crate::auth::{self, Access, Role};
use crate::reject::Problem;
use axum::extract::State;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Info, OpenApi, Paths, Ref, RefOr, ResponseBuilder};
use utoipa::{PartialSchema as _, ToSchema as _};

const BEARER: &str = "bearer";

/// Every metric, for Prometheus
#[utoipa::path(
    get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Prometheus's text format", body = String, content_type = "text/plain")),
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (app.render_metrics)()).into_response()
}

/// This description
#[utoipa::path(get, path = "/openapi.json", tag = "health", responses((status = 200, description = "OpenAPI 3.1")))]
pub(crate) async fn openapi_json(State(app): State<App>) -> Response {
    ([(CONTENT_TYPE, "application/json")], app.openapi.clone()).into_response()
}

/// The description before any route is in it.
pub(crate) fn base() -> OpenApi {
    let mut info = Info::new("Sandpost", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Publish notifications, see what became of them, look at caught mail and dead letters. Every refusal is an \
         RFC 9457 problem document with a stable `code`."
            .to_owned(),
    );
    OpenApi::new(info, Paths::new())
}

/// Adds what holds for every route: who may, how it refuses.
pub(crate) fn describe(mut api: OpenApi) -> OpenApi {
    let components = api.components.get_or_insert_default();
    components.schemas.insert(Problem::name().into_owned(), Problem::schema());
    components
        .security_schemes
        .insert(BEARER.to_owned(), RefOr::T(SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))));
    for (path, item) in &mut api.paths.paths {
        let operations =
            [(Method::GET, &mut item.get), (Method::POST, &mut item.post), (Method::DELETE, &mut item.delete)];
        for (method, operation) in operations {
            let Some(operation) = operation else { continue };
            let refused = ResponseBuilder::new()
                .description("Refused")
                .content(
                    "application/problem+json",
                    ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build(),
                )
                .build();
            operation.responses.responses.insert("default".to_owned(), RefOr::T(refused));
            let Ok(access) = auth::rule(&method, path) else { continue };
            if access == Access::Open {
                continue;
            }
            let roles: Vec<String> =
                Role::ALL.iter().filter(|role| role.may(access)).map(|role| format!("`{role}`")).collect();
            operation.security = Some(vec![SecurityRequirement::new::<_, _, &str>(BEARER, [])]);
            let description = operation.description.get_or_insert_default();
            if !description.is_empty() {
                description.push_str("\n\n");
            }
            description.push_str("Roles: ");
            description.push_str(&roles.join(", "));
        }
    }
    api
}
