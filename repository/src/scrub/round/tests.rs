//! How far a scrub has come, over restarts.

use super::*;
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_secs(30 * 86_400);

fn at(hours: i64) -> UtcTime {
    UtcTime::from_unix_micros((1_800_000_000 + hours * 3600) * 1_000_000).unwrap()
}

fn key(number: u64) -> ObjectKey {
    format!("data/{number:04}").parse().unwrap()
}

fn restarted(state: &ScrubState) -> ScrubState {
    let text = serde_json::to_string(state).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_round_is_followed_by_a_rest_and_the_next_one_begins_in_time() {
    let mut state = ScrubState::new(at(0));
    assert!(state.is_due(PERIOD, at(1)));
    for number in 0..10 {
        state.verified(&key(number), ByteCount::from_mib(1), PERIOD, at(2));
        state = restarted(&state);
    }
    assert_eq!(state.after(), Some(&key(9)));
    state.finish();
    assert!(!state.is_due(PERIOD, at(3)), "everything is verified");
    assert!(!state.is_due(PERIOD, at(24 * 24 - 1)));
    assert!(state.is_due(PERIOD, at(24 * 24)), "after four fifths of the period");
    assert_eq!(state.after(), None, "from the beginning");
    assert!(state.oldest(at(24 * 24 + 1)) < PERIOD);
}

#[test]
fn when_the_notes_of_a_log_were_compared_outlives_a_restart_unless_the_clock_was_ahead() {
    let mut state = ScrubState::new(at(0));
    state.was_compared(Some(256), at(1));
    assert_eq!((state.to_compare(), state.compared_ago(at(1))), (256, None), "not all of them");
    state.was_compared(None, at(2));
    state = restarted(&state);
    assert_eq!((state.to_compare(), state.compared_ago(at(3))), (0, Some(Duration::from_secs(3600))));
    state.forget_future(at(1));
    assert_eq!(state.compared_ago(at(1)), None);
}

#[test]
fn what_was_verified_while_the_clock_was_ahead_counts_for_nothing() {
    let year = 24 * 365;
    let mut state = ScrubState::new(at(year));
    state.verified(&key(1), ByteCount::from_mib(1), PERIOD, at(year + 1));
    state.was_listed(ByteCount::from_mib(1), at(year));
    let mut halfway = restarted(&state);
    halfway.forget_future(at(0));
    assert_eq!((halfway.after(), halfway.listed_ago(at(0))), (Some(&key(1)), None), "it goes on where it was");
    assert_eq!(halfway.oldest(at(10)), Duration::from_secs(36_000));
    state.finish();
    let mut resting = restarted(&state);
    assert!(!resting.is_due(PERIOD, at(0)), "so it would be for a year");
    resting.forget_future(at(0));
    assert!(resting.is_due(PERIOD, at(0)));
    assert_eq!((resting.after(), resting.listed_ago(at(0))), (None, None));
    assert_eq!(resting.oldest(at(10)), Duration::from_secs(36_000), "and grows");
    let kept = restarted(&resting);
    resting.forget_future(at(10));
    assert_eq!(resting, kept, "what is not ahead stays");
    // The round before is from the future as well.
    state.is_due(PERIOD, at(2 * year));
    state.forget_future(at(year));
    assert!(state.oldest(at(year + 10)) >= Duration::from_secs(36_000));
    state.forget_future(at(0));
    assert_eq!(state.oldest(at(10)), Duration::from_secs(36_000));
}

#[test]
fn the_rate_is_what_the_period_needs_and_never_above_the_bound() {
    let mut state = ScrubState::new(at(0));
    let rate = |state: &ScrubState, bound| state.rate(PERIOD, bound).as_bytes();
    assert_eq!(rate(&state, None), 64 << 10, "a small repository is done early");
    state.was_listed(ByteCount::from_mib(24 * 86_400), at(0));
    assert_eq!(rate(&state, None), 1 << 20);
    assert_eq!(rate(&state, Some(ByteCount::from_bytes(1000))), 1000);
}

proptest! {
    #[test]
    fn the_age_of_the_oldest_verification_is_never_too_low(steps in proptest::collection::vec((0i64..20, any::<bool>()), 1..300)) {
        let objects = 40;
        let mut state = ScrubState::new(at(0));
        let mut verified = vec![at(0); objects];
        let (mut now, mut next) = (0, 0);
        for (hours, restart) in steps {
            now += hours;
            if restart {
                state = restarted(&state);
            }
            if state.is_due(PERIOD, at(now)) {
                if state.after().is_none() {
                    next = 0;
                }
                state.verified(&key(next as u64), ByteCount::from_mib(1), PERIOD, at(now));
                verified[next] = at(now);
                next += 1;
                if next == objects {
                    state.finish();
                }
            }
            let oldest = verified.iter().map(|time| at(now).since(*time)).max().unwrap();
            prop_assert!(state.oldest(at(now)) >= oldest, "{:?} < {oldest:?}", state.oldest(at(now)));
        }
    }
}

#[test]
fn an_object_that_gives_no_answer_is_passed_over_and_looked_at_again_in_the_next_round() {
    let mut state = ScrubState::new(at(0));
    for tries in 1..=3 {
        assert_eq!(state.passes_over(), None, "after {} tries", tries - 1);
        state.gave_no_answer(&key(1));
        state = restarted(&state);
    }
    assert_eq!(state.passes_over(), Some(&key(1)));
    state.passed_over(&key(1), "no answer", at(1));
    assert_eq!((state.passes_over(), state.after()), (None, Some(&key(1))));
    state.verified(&key(2), ByteCount::from_mib(1), PERIOD, at(2));
    state.finish();
    assert!(state.unread_text().is_some_and(|text| text.contains("data/0001") && text.contains("no answer")));
    // The next round meets it again: it has not been verified since.
    assert!(state.is_due(PERIOD, at(24 * 24)));
    state.passed_over(&key(1), "denied", at(24 * 24));
    state.verified(&key(2), ByteCount::from_mib(1), PERIOD, at(24 * 24));
    state.finish();
    assert_eq!(state.oldest(at(24 * 25)), Duration::from_secs((24 * 25 - 1) * 3600));
    assert!(state.is_due(PERIOD, at(24 * 48)));
    state.verified(&key(1), ByteCount::from_mib(1), PERIOD, at(24 * 48));
    assert_eq!(restarted(&state).unread_text(), None);
    // What was deleted meanwhile is forgotten with the round that does not meet it any more.
    state.passed_over(&key(2), "denied", at(24 * 48 + 1));
    state.finish();
    assert!(state.unread_text().is_some() && state.is_due(PERIOD, at(24 * 72)));
    state.finish();
    assert_eq!(state.unread_text(), None);
}

#[test]
fn a_region_that_gives_no_answer_at_all_is_waited_for() {
    let mut state = ScrubState::new(at(0));
    let mut passed = 0;
    for number in 0..10 {
        (0..5).for_each(|_| state.gave_no_answer(&key(number)));
        if state.passes_over().is_none() {
            break;
        }
        state.passed_over(&key(number), "no answer", at(1));
        passed += 1;
    }
    assert_eq!((passed, state.after()), (3, Some(&key(2))));
    // One that answers is a sign of life; so is the answer that something may not be read.
    state.verified(&key(3), ByteCount::from_mib(1), PERIOD, at(2));
    (0..3).for_each(|_| state.gave_no_answer(&key(4)));
    assert_eq!(state.passes_over(), Some(&key(4)));
}
