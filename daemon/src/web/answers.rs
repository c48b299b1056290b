//! What is answered to each path. Pure: the snapshot and a request come in, status, type and body go out.

use std::time::Duration;

use hyper::{Method, StatusCode};
use lifeboat_cli::terminal::without_colours;
use lifeboat_vocabulary::UtcTime;
use serde_json::json;

use crate::model::snapshot::StatusSnapshot;
use crate::status::page;
use crate::web::metrics;

/// A snapshot that is older shows that the daemon does not move.
const STALE: Duration = Duration::from_secs(30);
/// The description of everything here.
const OPENAPI: &str = include_str!("openapi.json");
const PROBLEM: &str = "application/problem+json";
const JSON: &str = "application/json";

/// What is answered.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// Where somebody asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Page,
    Health,
    Ready,
    Metrics,
    Status,
    OpenApi,
}

impl Path {
    pub(crate) fn parse(path: &str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/metrics" => Self::Metrics,
            "/api/v1/status" => Self::Status,
            "/api/v1/openapi.json" => Self::OpenApi,
            _ => return None,
        })
    }

    /// Whether everybody may ask, who has no token too: it tells nothing but one word.
    pub(crate) fn is_public(self) -> bool {
        self == Self::Health
    }
}

/// Answers one request that may be answered.
pub(crate) fn answer(path: Path, status: &StatusSnapshot, now: UtcTime) -> Answer {
    match path {
        Path::Page => text(StatusCode::OK, "text/plain; charset=utf-8", without_colours(&page::page(status))),
        Path::Health => health(status, now),
        Path::Ready => ready(status, now),
        Path::Metrics => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics::metrics(status)),
        Path::Status => text(StatusCode::OK, JSON, serde_json::to_string(status).unwrap_or_default()),
        Path::OpenApi => text(StatusCode::OK, JSON, OPENAPI.to_owned()),
    }
}

/// A refusal, as RFC 9457 writes it.
pub(crate) fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({ "type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail });
    text(status, PROBLEM, body.to_string())
}

/// Which refusal a request gets before anybody looks at what it asks for.
pub(crate) fn refusal(method: &Method, path: &str) -> Option<Answer> {
    if Path::parse(path).is_none() {
        let detail = "there are /, /healthz, /readyz, /metrics, /api/v1/status and /api/v1/openapi.json";
        return Some(problem(StatusCode::NOT_FOUND, detail));
    }
    let reads = matches!(*method, Method::GET | Method::HEAD);
    (!reads).then(|| problem(StatusCode::METHOD_NOT_ALLOWED, "everything here can only be read: GET or HEAD"))
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    Answer { status, content_type, body }
}

/// Why the process should be begun again.
fn sick(status: &StatusSnapshot, now: UtcTime) -> Option<String> {
    let age = now.since(status.time);
    if age > STALE {
        return Some(format!("the status is {} s old: the daemon does not move", age.as_secs()));
    }
    status.daemon.core_stuck.clone()
}

fn health(status: &StatusSnapshot, now: UtcTime) -> Answer {
    match sick(status, now) {
        None => text(StatusCode::OK, JSON, json!({ "status": "ok" }).to_string()),
        // What it is stuck in is for those who have a token.
        Some(_) => text(StatusCode::SERVICE_UNAVAILABLE, JSON, json!({ "status": "stuck" }).to_string()),
    }
}

fn ready(status: &StatusSnapshot, now: UtcTime) -> Answer {
    let mut reasons: Vec<String> = sick(status, now).into_iter().collect();
    for cluster in &status.clusters {
        reasons.extend(cluster.verdict.not_ready.iter().map(|reason| format!("{}: {reason}", cluster.cluster)));
    }
    if status.clusters.is_empty() {
        reasons.push("no cluster is protected yet".to_owned());
    }
    let (code, word) =
        if reasons.is_empty() { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    text(code, JSON, json!({ "status": word, "reasons": reasons }).to_string())
}

#[cfg(test)]
mod tests;
