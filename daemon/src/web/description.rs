//! What the description of the API says beside the paths and the types, which describe themselves.

use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{RefOr, Schema};

use crate::web::answers::Problem;

/// The head of it.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Lifeboat",
        description = "How it stands with every cluster. New fields may come at any time.",
        version = "1",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(Problem)),
    security(("token" = []), ())
)]
pub(crate) struct Head;

/// Adds what holds for all of it.
pub(crate) fn complete(mut description: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let components = description.components.get_or_insert_default();
    components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    // What is not known is `null`: every field is always there.
    for schema in components.schemas.values_mut() {
        if let RefOr::T(Schema::Object(object)) = schema {
            object.required = object.properties.keys().cloned().collect();
        }
    }
    description
}
