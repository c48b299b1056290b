//! What happens around a request: the log, the switches, the clock.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{HeaderMap, Request, Response, StatusCode};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode, S3Result, s3_error};

use crate::checksums;
use crate::clock;
use crate::faults::{Failure, Faults, Page, Verdict};
use crate::request_log::{Answered, Operation, RequestLog, Target};

/// The largest XML document that a client may send: 2 MiB, twice what 1000 of the longest keys need.
const DOCUMENT_MAX: usize = 2 << 20;

/// Everything that a connection needs to answer requests.
pub(crate) struct Front {
    pub(crate) s3: S3Service,
    pub(crate) faults: Faults,
    pub(crate) log: Arc<RequestLog>,
}

/// The connection is to be dropped without an answer.
#[derive(Debug, thiserror::Error)]
#[error("drop the connection without an answer")]
pub(crate) struct Dropped;

impl Front {
    /// Answers one request and writes it into the log.
    pub(crate) async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        let target = Target::of(request.method(), request.uri());
        let _running = self.log.begin(target.operation);
        let query = request.uri().query().unwrap_or("").to_owned();
        let headers = request.headers().clone();
        let bytes_in = request.body().size_hint().exact().unwrap_or(0);
        let delay = self.faults.read(|plan| plan.delay);
        pause(delay.fixed).await;
        let some = self.faults.read(|plan| plan.delay_some.as_ref().map(|some| some.of(&target)));
        pause(some.unwrap_or_default()).await;

        let mut response = self.answer(&target, request).await;
        let bytes_out = response.as_ref().map_or(0, announced_length);
        let mib = u32::try_from((bytes_in + bytes_out) >> 10).unwrap_or(u32::MAX);
        pause(delay.per_mib.saturating_mul(mib) / 1024).await;

        if response.as_ref().is_ok_and(|response| response.status().is_success())
            && self.faults.loses_response(target.operation)
        {
            response = Err(Dropped);
        }
        if let Ok(response) = &mut response
            && let Some(date) = clock::http_date(clock::moment(&self.faults).now)
            && let Ok(date) = HeaderValue::from_str(&date)
        {
            response.headers_mut().insert("date", date);
        }
        let status = response.as_ref().ok().map(|response| response.status().as_u16());
        self.log.end(&target, Answered { query, headers, status, bytes_in, bytes_out });
        response
    }

    async fn answer(&self, target: &Target, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        match self.faults.judge(target) {
            Verdict::Drop => Err(Dropped),
            // Ends when the client closes the connection.
            Verdict::Hold => std::future::pending().await,
            Verdict::Refuse(failure) => {
                // Refusing before the body has arrived would reset the connection under a client that still writes.
                drain(request.into_body()).await;
                refusal(&failure)
            }
            Verdict::ErrorIn200 => {
                drain(request.into_body()).await;
                let mut error = s3_error!(InternalError, "We encountered an internal error. Please try again.");
                error.set_status_code(StatusCode::OK);
                document(error)
            }
            Verdict::Page(page) => {
                drain(request.into_body()).await;
                web_page(&page)
            }
            Verdict::Proceed => match self.prepare(target, request).await {
                Ok(request) => self.s3.call(request).await.map_err(|error| {
                    let cause = s3s::StdError::from(error);
                    tracing::warn!(%cause, "the S3 library could not answer");
                    Dropped
                }),
                Err(error) => document(error),
            },
        }
    }

    /// The checks that do not belong to one operation.
    async fn prepare(&self, target: &Target, request: Request<Incoming>) -> S3Result<Request<Body>> {
        clock::check_skew(request.headers(), clock::moment(&self.faults).now)?;
        if !matches!(target.operation, Operation::DeleteObjects | Operation::PutObjectRetention) {
            return Ok(request.map(Body::from));
        }
        let (head, body) = request.into_parts();
        let document = read_document(body).await?;
        let needs_md5 = self.faults.read(|plan| plan.require_content_md5);
        if needs_md5 && !checksums::has_content_md5(&head.headers) || !checksums::is_protected(&head.headers) {
            return Err(s3_error!(InvalidRequest, "Missing required header for this request: Content-MD5"));
        }
        checksums::check(&without_signature(&head.headers), &document)?;
        Ok(Request::from_parts(head, Body::from(document)))
    }
}

/// The signed digest has not been compared with the body yet, so it must not stand in for one.
fn without_signature(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    headers.remove("x-amz-content-sha256");
    headers
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

async fn read_document(body: Incoming) -> S3Result<Bytes> {
    let announced = body.size_hint().lower();
    if announced > DOCUMENT_MAX as u64 {
        return Err(s3_error!(EntityTooLarge));
    }
    let (mut body, mut bytes) = (Body::from(body), Vec::new());
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| s3_error!(IncompleteBody))?;
        if bytes.len() + chunk.len() > DOCUMENT_MAX {
            return Err(s3_error!(EntityTooLarge));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

async fn drain(body: Incoming) {
    let mut body = Body::from(body);
    while let Some(Ok(_)) = body.next().await {}
}

fn refusal(failure: &Failure) -> Result<Response<Body>, Dropped> {
    let code: Result<S3ErrorCode, Infallible> = failure.code.parse();
    let Ok(code) = code;
    let mut error = S3Error::with_message(code, "The test asked for this failure.");
    error.set_status_code(StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
    let mut response = document(error)?;
    if let Some(seconds) = failure.retry_after_seconds {
        response.headers_mut().insert("retry-after", HeaderValue::from(seconds));
    }
    Ok(response)
}

fn web_page(page: &Page) -> Result<Response<Body>, Dropped> {
    let response = Response::builder()
        .status(page.status)
        .header("content-type", &page.content_type)
        .header("etag", &page.etag)
        .header("content-length", page.body.len())
        .body(Body::from(page.body.clone()));
    response.map_err(|error| {
        tracing::warn!(%error, "a page could not be made");
        Dropped
    })
}

fn document(error: S3Error) -> Result<Response<Body>, Dropped> {
    error.to_http_response().map_err(|error| {
        tracing::warn!(%error, "an error could not be written as a document");
        Dropped
    })
}

fn announced_length(response: &Response<Body>) -> u64 {
    let header = response.headers().get("content-length").and_then(|value| value.to_str().ok());
    header.and_then(|value| value.parse().ok()).or_else(|| response.body().size_hint().exact()).unwrap_or(0)
}
