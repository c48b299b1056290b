//! The server's clock: the machine's, as far off as the test wants it.

use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use lifeboat_vocabulary::{Clock, SystemClock, UtcTime};
use s3s::dto::{Timestamp, TimestampFormat};
use s3s::{S3Result, s3_error};

use crate::faults::Faults;
use crate::objects::Moment;

/// A signature may be this much older or newer than the server's clock: 15 minutes, as S3 documents it.
const SKEW_MAX: Duration = Duration::from_secs(15 * 60);

/// The times that a request is judged by.
pub(crate) fn moment(faults: &Faults) -> Moment {
    let (offset_seconds, ahead) = faults.read(|plan| (plan.clock_offset_seconds, plan.retention_clock_ahead));
    let offset = Duration::from_secs(offset_seconds.unsigned_abs());
    let real = SystemClock.now();
    let now = if offset_seconds < 0 { minus(real, offset) } else { real.plus(offset) };
    Moment { now, lock_now: now.plus(ahead) }
}

fn minus(time: UtcTime, duration: Duration) -> UtcTime {
    let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
    UtcTime::from_unix_micros(time.as_unix_micros().saturating_sub(micros)).unwrap_or(time)
}

/// The same point in time as S3's documents write it.
pub(crate) fn timestamp(time: UtcTime) -> Timestamp {
    let since_epoch = Duration::from_micros(u64::try_from(time.as_unix_micros()).unwrap_or(0));
    SystemTime::UNIX_EPOCH.checked_add(since_epoch).map(Timestamp::from).unwrap_or_default()
}

/// A point in time out of a document or header.
pub(crate) fn time(timestamp: &Timestamp) -> S3Result<UtcTime> {
    text(timestamp, TimestampFormat::DateTime)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| s3_error!(InvalidRequest, "The date is out of range."))
}

/// The value of a `Date` header (RFC 9110, section 5.6.7).
pub(crate) fn http_date(time: UtcTime) -> Option<String> {
    text(&timestamp(time), TimestampFormat::HttpDate)
}

fn text(timestamp: &Timestamp, format: TimestampFormat) -> Option<String> {
    let mut bytes = Vec::new();
    timestamp.format(format, &mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

/// Refuses requests that were signed by a clock too far from ours. Requests without a date are left to the signature
/// check, which refuses them with a better message.
pub(crate) fn check_skew(headers: &HeaderMap, now: UtcTime) -> S3Result<()> {
    let signed = headers.get("x-amz-date").and_then(|value| value.to_str().ok()).and_then(compact_time);
    match signed {
        Some(signed) if signed.since(now).max(now.since(signed)) > SKEW_MAX => Err(s3_error!(
            RequestTimeTooSkewed,
            "The difference between the request time and the current time is too large."
        )),
        _ => Ok(()),
    }
}

/// `20261120T024107Z`, the form of `x-amz-date`.
fn compact_time(text: &str) -> Option<UtcTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    if (date.len(), time.len()) != (8, 6) || !date.bytes().chain(time.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, month_day) = date.split_at(4);
    let (month, day) = month_day.split_at(2);
    let (hour, minute_second) = time.split_at(2);
    let (minute, second) = minute_second.split_at(2);
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_may_be_a_quarter_of_an_hour_off_and_not_a_second_more() {
        let now: UtcTime = "2026-11-20T12:00:00Z".parse().unwrap();
        let table = [
            ("20261120T121501Z", false),
            ("20261120T114459Z", false),
            ("20251120T120000Z", false),
            ("20261120T121500Z", true),
            ("20261120T114500Z", true),
        ];
        for (date, passes) in table {
            let mut headers = HeaderMap::new();
            headers.insert("x-amz-date", date.parse().unwrap());
            assert_eq!(check_skew(&headers, now).is_ok(), passes, "{date}");
        }
    }

    #[test]
    fn dates_are_written_as_http_and_s3_want_them() {
        let time: UtcTime = "2026-11-20T02:41:07.5Z".parse().unwrap();
        assert_eq!(http_date(time).as_deref(), Some("Fri, 20 Nov 2026 02:41:07 GMT"));
        assert_eq!(super::time(&timestamp(time)).unwrap(), time);
    }

    #[test]
    fn the_clock_can_run_ahead_and_behind() {
        let faults = Faults::default();
        for offset in [-7200, 7200] {
            faults.change(|plan| plan.clock_offset_seconds = offset);
            let difference = moment(&faults).now.as_unix_seconds() - SystemClock.now().as_unix_seconds();
            assert!((difference - offset).abs() <= 1, "{difference}");
        }
    }
}
