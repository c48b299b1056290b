//! How the health of a region follows what its requests do.

use super::*;

fn at(seconds: u64) -> UtcTime {
    UtcTime::from_unix_micros(1_800_000_000_000_000).unwrap().plus(Duration::from_secs(seconds))
}

fn moment(seconds: u64) -> Moment {
    moment_by(seconds, 0)
}

/// By a clock that is so many **seconds** ahead.
fn moment_by(seconds: u64, ahead: u64) -> Moment {
    static BEGINNING: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let beginning = *BEGINNING.get_or_init(Instant::now);
    Moment { time: at(seconds + ahead), instant: beginning + Duration::from_secs(seconds) }
}

/// A region and a clock that moves five seconds per look.
struct Patient {
    health: RegionHealth,
    now: u64,
    ahead: u64,
    requests: u64,
    errors: u64,
}

impl Patient {
    fn new() -> Self {
        Self { health: RegionHealth::new(at(0)), now: 0, ahead: 0, requests: 0, errors: 0 }
    }

    /// Looks every 5 s for `seconds`, ten requests each, of which `failed` fail. Says what changed, and when.
    fn spend(&mut self, seconds: u64, breaker: BreakerState, millis: u64, failed: u64) -> Vec<(u64, Health)> {
        let mut changes = Vec::new();
        for _ in 0..seconds / 5 {
            self.now += 5;
            if breaker == BreakerState::Closed {
                self.requests += 10;
                self.errors += failed;
            }
            let latency = Some(Duration::from_millis(millis));
            let look = Look { breaker, latency, requests: self.requests, errors: self.errors };
            if let Some(change) = self.health.look(look, moment_by(self.now, self.ahead)) {
                assert_eq!(change.to, self.health.state());
                changes.push((self.now, change.to));
            }
        }
        changes
    }
}

use BreakerState::{Closed, HalfOpen, Open};

#[test]
fn an_open_breaker_is_away_after_ten_seconds_and_back_after_thirty() {
    let mut patient = Patient::new();
    assert_eq!(patient.spend(60, Closed, 20, 0), []);
    assert_eq!(patient.spend(10, Open, 20, 0), [], "not yet: it may be a blip");
    assert_eq!(patient.spend(300, Open, 20, 0), [(75, Health::Away)]);
    assert_eq!(patient.health.since(), at(75));
    assert_eq!(patient.spend(5, HalfOpen, 20, 0), [], "a probe on its way is no answer yet");
    assert_eq!(patient.spend(60, Closed, 20, 0), [(410, Health::Healthy)]);
}

#[test]
fn a_clock_that_is_set_changes_nothing() {
    for ahead in [[0, 0, 0], [86_400, 0, 0], [0, 86_400, 0], [0, 0, 86_400], [20_000, 86_400, 0]] {
        let mut patient = Patient::new();
        patient.spend(60, Closed, 20, 0);
        patient.ahead = ahead[0];
        assert_eq!(patient.spend(10, Open, 20, 0), [], "{ahead:?}");
        patient.ahead = ahead[1];
        assert_eq!(patient.spend(50, Open, 20, 0), [(75, Health::Away)], "{ahead:?}");
        assert_eq!(patient.health.since(), at(75 + ahead[1]), "as it is told");
        assert_eq!(patient.spend(10, Closed, 20, 0), [], "{ahead:?}");
        patient.ahead = ahead[2];
        assert_eq!(patient.spend(60, Closed, 20, 0), [(155, Health::Healthy)], "{ahead:?}");
    }
}

#[test]
fn numbers_of_a_file_that_cannot_be_are_left_out() {
    for (usual, share, expected) in [
        ("-1.0", "0.5", (None, 0.5)),
        ("1e300", "-7.0", (None, 0.0)),
        ("0.25", "1e300", (Some(Duration::from_millis(250)), 1.0)),
        ("null", "0.0", (None, 0.0)),
    ] {
        let text = serde_json::to_string(&RegionHealth::new(at(0))).unwrap();
        let text = text.replace("\"error_share\":0.0", &format!("\"error_share\":{share}"));
        let text = text.replace("\"usual_latency\":null", &format!("\"usual_latency\":{usual}"));
        let health: RegionHealth = serde_json::from_str(&text).unwrap();
        assert_ne!(health.usual_latency(), Some(Duration::MAX), "nothing panics: {text}");
        let health = health.recalled();
        assert_eq!((health.usual_latency(), health.error_share()), expected, "{text}");
    }
}

#[test]
fn a_region_that_flaps_stays_away_and_is_reported_once() {
    let mut patient = Patient::new();
    patient.spend(60, Closed, 20, 0);
    let mut told = Vec::new();
    for _ in 0..20 {
        told.extend(patient.spend(30, Open, 20, 0));
        told.extend(patient.spend(20, Closed, 20, 0));
    }
    assert_eq!(told.iter().map(|(_, health)| *health).collect::<Vec<_>>(), [Health::Away]);
}

#[test]
fn failures_count_from_a_quarter_for_a_minute_until_there_are_hardly_any() {
    let mut patient = Patient::new();
    patient.spend(60, Closed, 20, 0);
    assert_eq!(patient.spend(600, Closed, 20, 2), [], "a fifth is below the bar");
    assert_eq!(patient.spend(600, Closed, 20, 1), []);
    assert_eq!(patient.spend(15, Closed, 20, 8), [], "a quarter of a minute is too short");
    assert_eq!(patient.spend(600, Closed, 20, 1), []);
    let changes = patient.spend(120, Closed, 20, 8);
    assert!(matches!(changes.as_slice(), [(_, Health::Failing)]), "{changes:?}");
    assert_eq!(patient.spend(600, Closed, 20, 1), [], "a tenth is not yet well");
    let changes = patient.spend(600, Closed, 20, 0);
    assert!(matches!(changes.as_slice(), [(_, Health::Healthy)]), "{changes:?}");
}

#[test]
fn a_single_failure_of_an_idle_region_changes_no_state() {
    let mut health = RegionHealth::new(at(0));
    for minute in 0..60 {
        let look = Look { breaker: Closed, latency: None, requests: minute, errors: u64::from(minute >= 5) };
        assert_eq!(health.look(look, moment(minute * 60)), None);
    }
    assert!(health.error_share() < 0.05);
}

#[test]
fn slow_means_slower_than_usual_and_slower_than_a_second() {
    for (why, usual, then, expected) in [
        ("twice the usual", 1500, 3000, None),
        ("five times the usual, and quick all the same", 100, 500, None),
        ("a hundred times the usual", 30, 3000, Some(Health::Slow)),
        ("far away, and far slower", 800, 4000, Some(Health::Slow)),
    ] {
        let mut patient = Patient::new();
        assert_eq!(patient.spend(3600, Closed, usual, 0), [], "{why}");
        let changes = patient.spend(300, Closed, then, 0);
        assert_eq!(changes.first().map(|(_, health)| *health), expected, "{why}");
        let Some(Health::Slow) = expected else { continue };
        assert_eq!(patient.spend(3600, Closed, usual * 3 + 1000, 0), [], "{why}: not well yet");
        assert_eq!(patient.spend(290, Closed, usual, 0), [], "{why}: five minutes first");
        assert_eq!(patient.spend(60, Closed, usual, 0).len(), 1, "{why}");
        assert_eq!(patient.health.state(), Health::Healthy);
    }
}

#[test]
fn a_region_that_is_away_long_is_not_measured_by_what_failed_before() {
    let mut patient = Patient::new();
    patient.spend(300, Closed, 20, 10);
    assert_eq!(patient.health.state(), Health::Failing);
    patient.spend(60, Open, 20, 0);
    assert_eq!(patient.health.state(), Health::Away);
    assert_eq!(patient.spend(35, Closed, 20, 0).last().map(|(_, health)| *health), Some(Health::Healthy));
}

#[test]
fn health_and_its_start_time_survive_a_restart() {
    let mut patient = Patient::new();
    patient.spend(600, Closed, 20, 0);
    patient.spend(60, Open, 20, 0);
    let text = serde_json::to_string(&patient.health).unwrap();
    let mut health: RegionHealth = serde_json::from_str(&text).unwrap();
    assert_eq!((health.state(), health.since()), (Health::Away, patient.health.since()));
    assert!(health.usual_latency().is_some());
    // The counters of the new process begin at zero: that must not look like anything.
    let look = Look { breaker: Closed, latency: None, requests: 3, errors: 0 };
    assert_eq!(health.look(look, moment(700)), None);
    assert_eq!(health.look(look, moment(735)).map(|change| change.to), Some(Health::Healthy));
}

#[test]
fn a_quiet_region_in_which_nothing_works_any_more_is_noticed_soon() {
    let mut patient = Patient::new();
    patient.spend(600, Closed, 20, 0);
    // One request every five seconds, and all of them fail.
    let mut told = None;
    for look in 1..=40_u64 {
        let errors = patient.errors + look;
        let (latency, requests) = (Some(Duration::from_millis(20)), patient.requests + look);
        let look_at = Look { breaker: Closed, latency, requests, errors };
        if let Some(change) = patient.health.look(look_at, moment(600 + 5 * look)) {
            told.get_or_insert((5 * look, change.to));
        }
    }
    assert_eq!(told, Some((75, Health::Failing)), "three failures, and a minute of patience");
    assert!(!patient.health.state().is_of_use(patient.health.error_share()), "{}", patient.health.error_share());
    assert!(Health::Failing.is_of_use(0.3) && Health::Slow.is_of_use(1.0) && !Health::Away.is_of_use(0.0));
}

#[test]
fn a_single_failure_is_doubtful_and_changes_no_state() {
    let mut patient = Patient::new();
    patient.spend(600, Closed, 20, 0);
    assert!(!patient.health.is_doubtful());
    let one_more = |failed: u64, patient: &Patient| {
        let (requests, errors) = (patient.requests + 1, patient.errors + failed);
        Look { breaker: Closed, latency: Some(Duration::from_millis(20)), requests, errors }
    };
    let look = one_more(1, &patient);
    assert_eq!(patient.health.look(look, moment(605)), None);
    assert!(patient.health.is_doubtful());
    (patient.requests, patient.errors, patient.now) = (look.requests, look.errors, 605);
    assert_eq!(patient.spend(300, Closed, 20, 0), []);
    assert!(!patient.health.is_doubtful());
}
