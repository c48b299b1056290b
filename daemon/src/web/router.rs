//! Which path leads to which answer, and what every request has to pass before it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::body::Body;
use hyper::header::{CACHE_CONTROL, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use lifeboat_vocabulary::Clock;
use tokio::sync::watch;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::model::snapshot::StatusSnapshot;
use crate::web::access::Access;
use crate::web::answers::{self, Known, Problem};
use crate::web::description;

/// The longest body of a request, in **bytes**; nothing here needs one.
const BODY_BYTES_MAX: u64 = 4096;

/// Everything that is served.
pub(crate) fn router(access: Access, status: watch::Receiver<Arc<StatusSnapshot>>, clock: Arc<dyn Clock>) -> Router {
    // For everybody, who has no token too: it tells nothing but one word.
    let (public, mut described) =
        OpenApiRouter::with_openapi(description::Head::openapi()).routes(routes!(answers::health)).split_for_parts();
    let (private, more) = OpenApiRouter::new()
        .routes(routes!(answers::page))
        .routes(routes!(answers::ready))
        .routes(routes!(answers::metrics))
        .routes(routes!(answers::status))
        .routes(routes!(answers::description))
        .split_for_parts();
    described.merge(more);
    let private = readable(private).fallback(async || {
        let detail = "there are /, /healthz, /readyz, /metrics, /api/v1/status and /api/v1/openapi.json";
        Problem::new(StatusCode::NOT_FOUND, detail)
    });
    let description = Arc::new(description::complete(described));
    let known = Known { status, clock, description };
    // Around a service, not around its routes: who may not ask does not learn what there is to ask for, not even by the header
    // Allow, which a router adds outside of the layers of its routes.
    let private = Router::new()
        .fallback_service(private.with_state(known.clone()))
        .layer(from_fn_with_state(Arc::new(access), allowed));
    readable(public).fallback_service(private).layer(map_response(headed)).with_state(known)
}

/// Everything can be read, and nothing can be written. The layer comes first, so that it stands around the answers alone: what is
/// refused for its method is not asked for its size.
fn readable(router: Router<Known>) -> Router<Known> {
    let only_read = "everything here can only be read: GET or HEAD";
    router
        .route_layer(from_fn(small))
        .method_not_allowed_fallback(async move || Problem::new(StatusCode::METHOD_NOT_ALLOWED, only_read))
}

async fn allowed(State(access): State<Arc<Access>>, request: Request, next: Next) -> Response {
    if access.allows(request.headers()) {
        return next.run(request).await;
    }
    Problem::new(StatusCode::UNAUTHORIZED, "send the header Authorization: Bearer TOKEN").into_response()
}

async fn small(request: Request, next: Next) -> Response {
    if request.body().size_hint().lower() > BODY_BYTES_MAX {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "nothing here takes a body").into_response();
    }
    next.run(request).await
}

async fn headed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests;
