//! What is answered to each path. All of it comes from the latest snapshot.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{ALLOW, CONTENT_TYPE, WWW_AUTHENTICATE};
use lifeboat_cli::terminal::strip_ansi_codes;
use lifeboat_vocabulary::{Clock, UtcTime};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::openapi::OpenApi;
use utoipa::{IntoResponses, ToSchema};

use crate::model::snapshot::StatusSnapshot;
use crate::status::page;
use crate::web::metrics;

/// A snapshot that is older shows that the daemon does not move.
const STALE: Duration = Duration::from_secs(30);
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

/// What answers are made of.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) status: watch::Receiver<Arc<StatusSnapshot>>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The description of everything here.
    pub(crate) description: Arc<OpenApi>,
}

impl Known {
    fn latest(&self) -> Arc<StatusSnapshot> {
        Arc::clone(&self.status.borrow())
    }
}

/// Whether the process moves.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    #[schema(inline)]
    status: HealthWord,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum HealthWord {
    Ok,
    Stuck,
}

/// Whether every cluster is protected and new backups can count.
#[derive(Serialize, ToSchema)]
pub(crate) struct Readiness {
    /// Why not; empty if ready.
    reasons: Vec<String>,
    #[schema(inline)]
    status: ReadinessWord,
}

#[derive(Serialize, ToSchema)]
enum ReadinessWord {
    #[serde(rename = "ready")]
    Ready,
    #[serde(rename = "not ready")]
    NotReady,
}

/// A refusal, as RFC 9457 writes it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// What to do.
    detail: &'static str,
    /// The status.
    status: u16,
    /// The status in words.
    title: &'static str,
    /// Always about:blank.
    #[serde(rename = "type")]
    kind: &'static str,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: &'static str) -> Self {
        let title = status.canonical_reason().unwrap_or("error");
        Self { detail, status: status.as_u16(), title, kind: "about:blank" }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, [(CONTENT_TYPE, PROBLEM)], json(&self)).into_response();
        let more = match status {
            StatusCode::METHOD_NOT_ALLOWED => Some((ALLOW, "GET, HEAD")),
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Bearer realm=\"lifeboat\"")),
            _ => None,
        };
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
        }
        response
    }
}

/// What every path but one may answer instead.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "for the description alone")]
enum Refusals {
    /// A token is asked for, and this is not it.
    #[response(status = UNAUTHORIZED, content_type = "application/problem+json")]
    NoToken(Problem),
}

/// The status page, as lifeboatd status prints it.
#[utoipa::path(get, path = "/", responses(
    (status = OK, description = "The page.", content_type = "text/plain", body = String), Refusals,
))]
pub(crate) async fn page(State(known): State<Known>) -> String {
    strip_ansi_codes(&page::page(&known.latest())).into_owned()
}

/// Whether the process is alive and its core moves. Needs no token.
#[utoipa::path(get, path = "/healthz", security(), responses(
    (status = OK, description = "It does.", content_type = "application/json", body = Health),
    (status = SERVICE_UNAVAILABLE, description = "It is stuck: begin it again.", content_type = "application/json", body = Health),
))]
pub(crate) async fn health(State(known): State<Known>) -> Response {
    // What it is stuck in is for those who have a token.
    let (code, status) = match sick(&known.latest(), known.clock.now()) {
        None => (StatusCode::OK, HealthWord::Ok),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, HealthWord::Stuck),
    };
    (code, json(&Health { status })).into_response()
}

/// Whether every cluster is protected and new backups can count.
#[utoipa::path(get, path = "/readyz", responses(
    (status = OK, description = "All are.", content_type = "application/json", body = Readiness),
    (status = SERVICE_UNAVAILABLE, description = "Not all are; the reasons say why.", content_type = "application/json", body = Readiness),
    Refusals,
))]
pub(crate) async fn ready(State(known): State<Known>) -> Response {
    let status = known.latest();
    let mut reasons: Vec<String> = sick(&status, known.clock.now()).into_iter().collect();
    for cluster in &status.clusters {
        reasons.extend(cluster.verdict.not_ready.iter().map(|reason| format!("{}: {reason}", cluster.cluster)));
    }
    if status.clusters.is_empty() {
        reasons.push("no cluster is protected yet".to_owned());
    }
    let (code, status) = if reasons.is_empty() {
        (StatusCode::OK, ReadinessWord::Ready)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, ReadinessWord::NotReady)
    };
    (code, json(&Readiness { reasons, status })).into_response()
}

/// Metrics in the text format of Prometheus.
#[utoipa::path(get, path = "/metrics", responses(
    (status = OK, description = "The metrics.", content_type = "text/plain", body = String), Refusals,
))]
pub(crate) async fn metrics(State(known): State<Known>) -> Result<Response, Problem> {
    let text = metrics::metrics(known.latest())
        .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written"))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// Everything.
#[utoipa::path(get, path = "/api/v1/status", responses(
    (status = OK, description = "The latest snapshot, at most a second or two old.", content_type = "application/json", body = StatusSnapshot),
    Refusals,
))]
pub(crate) async fn status(State(known): State<Known>) -> Response {
    json(&*known.latest())
}

/// This description.
#[utoipa::path(get, path = "/api/v1/openapi.json", responses(
    (status = OK, description = "The description.", content_type = "application/json", body = Object), Refusals,
))]
pub(crate) async fn description(State(known): State<Known>) -> Response {
    json(&*known.description)
}

/// What is plain data always has a text.
fn json(value: &impl Serialize) -> Response {
    ([(CONTENT_TYPE, JSON)], serde_json::to_string(value).unwrap_or_default()).into_response()
}

/// Why the process should be begun again.
fn sick(status: &StatusSnapshot, now: UtcTime) -> Option<String> {
    let age = now.since(status.time);
    if age > STALE {
        return Some(format!("the status is {} s old: the daemon does not move", age.as_secs()));
    }
    status.daemon.core_stuck.clone()
}
