//! The time as PostgreSQL's WAL and replication protocol write it.

use lifeboat_vocabulary::UtcTime;

/// 2000-01-01 00:00 UTC in microseconds after 1970-01-01. Source: PostgreSQL `src/include/datatype/timestamp.h`,
/// `POSTGRES_EPOCH_JDATE`.
const EPOCH: i64 = 946_684_800_000_000;

/// The time of a `TimestampTz`; `None` beyond the year 9999, as for `infinity`.
pub(crate) fn from_server(micros: i64) -> Option<UtcTime> {
    micros.checked_add(EPOCH).and_then(UtcTime::from_unix_micros)
}

/// As a `TimestampTz`.
pub(crate) fn to_server(time: UtcTime) -> i64 {
    time.as_unix_micros().saturating_sub(EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_epoch_is_the_year_2000() {
        let epoch: UtcTime = "2000-01-01T00:00:00Z".parse().unwrap();
        assert_eq!((to_server(epoch), from_server(0)), (0, Some(epoch)));
        assert_eq!(from_server(-1).map(to_server), Some(-1));
        assert_eq!((from_server(i64::MAX), from_server(i64::MIN)), (None, None));
    }
}
