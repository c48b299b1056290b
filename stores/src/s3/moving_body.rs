//! Bodies that tell how they move. A body that is sent goes in small pieces, so that what the connection takes of it shows whether
//! the line moves at all; of an answer, each piece that comes does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use aws_smithy_types::body::{Error, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::transfer::{Hold, Transfer};

/// What is handed to the connection at once. It buffers sixteen pieces, and so the system has nearly all that counts as sent.
const PIECE: usize = 16 << 10;

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Outgoing {
    rest: Bytes,
    transfer: Arc<Transfer>,
    next: Next,
}

/// Whether the next piece may go.
#[derive(Debug)]
enum Next {
    /// It is to be asked.
    Unknown,
    /// When something urgent had time to come through.
    Waits(Pin<Box<Sleep>>, #[expect(dead_code, reason = "it is held, not used")] Hold),
    /// It may.
    Goes,
}

impl Outgoing {
    /// `bytes`, as the body of the request that `transfer` follows.
    pub(crate) fn body(bytes: Bytes, transfer: Arc<Transfer>) -> SdkBody {
        SdkBody::from_body_1_x(Self { rest: bytes, transfer, next: Next::Unknown })
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        if self.transfer.is_ended() {
            // A server that refuses early and keeps the connection would be sent all of it, on a line that others wait for. The error
            // closes the connection, and the buffer is free.
            (self.rest, self.next) = (Bytes::new(), Next::Unknown);
            return Poll::Ready(Some(Err("the request has ended before all of its body was sent".into())));
        }
        let length = self.rest.len().min(PIECE);
        loop {
            self.next = match &mut self.next {
                Next::Goes => break,
                Next::Unknown => match self.transfer.wait(length) {
                    None => Next::Goes,
                    Some(wait) => Next::Waits(Box::pin(sleep(wait)), self.transfer.hold()),
                },
                Next::Waits(sleep, _) => match sleep.as_mut().poll(context) {
                    Poll::Ready(()) => Next::Goes,
                    Poll::Pending => return Poll::Pending,
                },
            };
        }
        self.next = Next::Unknown;
        // A copy: what a dead connection still holds of the body must not keep all of it in memory.
        let piece = Bytes::copy_from_slice(&self.rest.split_to(length));
        self.transfer.took(length);
        if self.rest.is_empty() {
            self.transfer.sent();
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

/// No answer that is read into memory as a whole has more: a page of a listing, or an error.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// What an answer carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// An object, which is read piece by piece, and no further than was asked for.
    Object,
    /// Something that the SDK reads into memory, however much it is.
    Document,
}

/// The body of an answer. Whatever answers in place of a store may send for as long as it is listened to.
pub(crate) struct Incoming {
    inner: Pin<Box<SdkBody>>,
    transfer: Arc<Transfer>,
    /// Bytes that may still come.
    left: u64,
}

impl Incoming {
    /// `inner`, as the body of the answer to the request that `transfer` follows.
    pub(crate) fn body(inner: SdkBody, transfer: Arc<Transfer>, carries: Carries) -> SdkBody {
        let left = match carries {
            Carries::Object => u64::MAX,
            Carries::Document => DOCUMENT_BYTES_MAX,
        };
        SdkBody::from_body_1_x(Self { inner: Box::pin(inner), transfer, left })
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let polled = self.inner.as_mut().poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            let length = data.len();
            self.transfer.came(length);
            match self.left.checked_sub(length as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Some(Err("the answer is larger than any answer of a store".into()))),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        Body::is_end_stream(&*self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&*self.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::Instant;

    use crate::lane::{Moving as _, Pace, Precedence};

    async fn pieces(mut body: SdkBody) -> Vec<usize> {
        let mut pieces = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            pieces.push(frame.unwrap().into_data().unwrap().len());
        }
        pieces
    }

    #[tokio::test]
    async fn a_body_goes_in_small_pieces_that_are_counted_as_they_are_taken() {
        let transfer = Transfer::begin();
        let bytes = Bytes::from(vec![7; 2 * PIECE + 5]);
        let mut body = Outgoing::body(bytes, Arc::clone(&transfer));
        assert_eq!(body.content_length(), Some(2 * PIECE as u64 + 5));
        let first = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        assert_eq!((first.into_data().unwrap().len(), transfer.moved()), (PIECE, PIECE as u64));
        assert_eq!(pieces(body).await, [PIECE, 5]);
        assert_eq!(transfer.moved(), 2 * PIECE as u64 + 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bulk_body_waits_a_little_with_each_piece_while_something_urgent_is_held_up() {
        let precedence = Arc::<Precedence>::default();
        let operation = Transfer::begin();
        let pace = Pace::new(Arc::clone(&precedence));
        operation.yield_to(&pace);
        let transfer = operation.carry(async { Transfer::begin() }).await;
        let body = || Outgoing::body(Bytes::from(vec![7; 8 * PIECE]), Arc::clone(&transfer));
        let begun = Instant::now();
        pieces(body()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        pace.bulk_moved(16 * PIECE as u64, Duration::from_secs(1));
        let urgent = precedence.set_out(Transfer::begin());
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        pieces(body()).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(1500) && took < Duration::from_millis(1600), "{took:?}");
        assert_eq!(operation.active(Instant::now()), Duration::from_secs(1), "and nobody counts that as slow");
        drop(urgent);
        let begun = Instant::now();
        pieces(body()).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test]
    async fn what_the_connection_holds_of_a_body_does_not_keep_all_of_it() {
        let bytes = Bytes::from(vec![7; 4 * PIECE]);
        let mut body = Outgoing::body(bytes.clone(), Transfer::begin());
        let first = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        drop(body);
        assert!(bytes.is_unique(), "the piece is a copy");
        assert_eq!(first.into_data().unwrap(), vec![7; PIECE]);
    }

    #[tokio::test]
    async fn a_body_ends_with_its_request() {
        let transfer = Transfer::begin();
        let mut body = Outgoing::body(Bytes::from(vec![7; 4 * PIECE]), Arc::clone(&transfer));
        poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
        drop(transfer.ends());
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().is_err());
        assert_eq!(transfer.moved(), PIECE as u64);
        let mut sent = Outgoing::body(Bytes::new(), transfer);
        assert!(poll_fn(|context| Pin::new(&mut sent).poll_frame(context)).await.is_none());
    }

    #[tokio::test]
    async fn of_an_answer_all_that_comes_is_counted() {
        let transfer = Transfer::begin();
        let body = Incoming::body(SdkBody::from("an answer"), Arc::clone(&transfer), Carries::Document);
        assert_eq!(pieces(body).await, [9]);
        assert_eq!(transfer.moved(), 9);
    }

    /// Sends for ever.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[7; 1 << 16])))))
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_off_unless_it_is_an_object() {
        let body = |carries| Incoming::body(SdkBody::from_body_1_x(Endless), Transfer::begin(), carries);
        let (mut document, mut object) = (body(Carries::Document), body(Carries::Object));
        for _ in 0..DOCUMENT_BYTES_MAX >> 16 {
            poll_fn(|context| Pin::new(&mut document).poll_frame(context)).await.unwrap().unwrap();
            poll_fn(|context| Pin::new(&mut object).poll_frame(context)).await.unwrap().unwrap();
        }
        assert!(poll_fn(|context| Pin::new(&mut document).poll_frame(context)).await.unwrap().is_err());
        assert!(poll_fn(|context| Pin::new(&mut object).poll_frame(context)).await.unwrap().is_ok());
    }
}
