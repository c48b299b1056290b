//! Tests of transfers.

use super::*;
use std::future::pending;

const SECOND: Duration = Duration::from_secs(1);

fn sending(mib: u64) -> Patience {
    Patience::sending(ByteCount::from_mib(mib))
}

#[test]
fn a_large_body_may_take_longer_but_never_for_ever() {
    for (bytes, seconds) in [(0, 60), (32 << 10, 61), (16 << 20, 572), (64 << 20, 2108)] {
        let total = Duration::from_secs(seconds);
        assert_eq!(Patience::sending(ByteCount::from_bytes(bytes)).total(), total, "{bytes}");
        assert_eq!(Patience::receiving(ByteCount::from_bytes(bytes)).total(), total, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_moves_a_little_each_minute_is_waited_for() {
    let request = Transfer::begin();
    let upload = async {
        for _ in 0..8 {
            sleep(59 * SECOND).await;
            request.took(2 << 20);
        }
        request.sent();
        sleep(29 * SECOND).await;
    };
    request.while_it_moves(sending(16), upload).await.unwrap();
    assert_eq!(request.moved(), 16 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_given_up_where_nothing_moves() {
    let given_up = async |request: &Transfer| {
        let begun = Instant::now();
        let error = request.while_it_moves(sending(1), pending::<()>()).await.unwrap_err();
        (begun.elapsed().as_secs(), error.why)
    };
    let request = Transfer::begin();
    request.took(1000);
    assert_eq!(given_up(&request).await, (60, "nothing of the body could be sent for 60 s".to_owned()));
    let request = Transfer::begin();
    request.sent();
    let (seconds, why) = given_up(&request).await;
    assert_eq!((seconds, why.as_str()), (62, "there was no answer for 62 s"), "30 s, and 32 s for what buffers hold");
    let request = Transfer::begin();
    request.came(0);
    assert_eq!(given_up(&request).await, (30, "nothing more of the answer came for 30 s".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_goes_on_after_an_early_answer_changes_nothing() {
    let operation = Transfer::begin();
    let work = async {
        let first = Transfer::begin();
        first.took(1);
        first.came(0);
        first.took(1);
        assert_eq!(first.state.lock().stage, Stage::Coming);
        drop(first.ends());
        let second = Transfer::begin();
        second.took(1);
        second.sent();
        first.took(1);
        assert_eq!((first.moved(), operation.moved()), (2, 3));
        assert_eq!(operation.state.lock().stage, Stage::Sent, "the second request is what it is at");
        first.came(1);
        assert_eq!(first.moved(), 3, "the body of an answer is read after the request has ended");
    };
    operation.carry(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_drips_for_ever_is_given_up_in_the_end() {
    let request = Transfer::begin();
    let drips = async {
        loop {
            sleep(10 * SECOND).await;
            request.took(1);
        }
    };
    let begun = Instant::now();
    let error = request.while_it_moves(sending(1), drips).await.map(|(): ()| ()).unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 92, "{error}");
}

#[tokio::test(start_paused = true)]
async fn time_in_which_we_hold_bytes_ourselves_is_not_counted() {
    let operation = Transfer::begin();
    let held = async {
        let request = Transfer::begin();
        let work = async {
            let first = request.hold();
            let second = request.hold();
            sleep(3600 * SECOND).await;
            drop(first);
            sleep(3600 * SECOND).await;
            drop(second);
            sleep(59 * SECOND).await;
            request.took(1);
            sleep(10 * SECOND).await;
        };
        request.while_it_moves(sending(1), work).await.unwrap();
        assert_eq!(request.active(Instant::now()), 69 * SECOND);
    };
    operation.carry(held).await;
    assert_eq!((operation.active(Instant::now()), operation.moved()), (69 * SECOND, 1), "the operation learns of it");
}

#[tokio::test(start_paused = true)]
async fn who_watches_from_outside_sees_what_holds_an_operation_up() {
    let watch = TransferWatch::begin();
    let work = async {
        let request = Transfer::begin();
        assert_eq!(watch.state(), TransferState::Moves);
        let hold = request.hold();
        assert_eq!(watch.state(), TransferState::Held);
        drop(hold);
        request.took(1);
        request.sent();
        sleep(DRAINS).await;
        assert_eq!(watch.state(), TransferState::Moves, "the buffers of the system may still be full");
        sleep(7 * SECOND).await;
        assert_eq!(watch.state(), TransferState::Awaited);
        request.came(0);
        assert_eq!((watch.state(), request.awaited()), (TransferState::Moves, 7 * SECOND));
    };
    watch.over(work).await;
    assert_eq!((watch.0.moved(), watch.0.awaited()), (1, 7 * SECOND));
}
