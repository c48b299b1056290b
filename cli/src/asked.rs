//! Asks all regions at once, tells whoever waits for which, and does not wait for one that hardly gets on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lifeboat_stores::RegionSettings;
use lifeboat_vocabulary::counted;
use tokio::time::Instant;

/// How often somebody who waits is told for what.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A region gets on if it gives so many records in a second, on average over its patience: far less than any that can be used.
const RECORDS_PER_SECOND: u64 = 1;

/// A region that is asked.
pub(crate) struct Asked<'a> {
    pub(crate) settings: &'a RegionSettings,
    /// Counts the records that were read of it.
    pub(crate) looked_at: Arc<AtomicU64>,
}

impl<'a> Asked<'a> {
    pub(crate) fn all(settings: &'a [RegionSettings]) -> Vec<Self> {
        settings.iter().map(|settings| Self { settings, looked_at: Arc::default() }).collect()
    }
}

/// How far a region is.
struct State<'a, T> {
    asked: &'a Asked<'a>,
    answer: Option<anyhow::Result<T>>,
    /// When its patience began.
    since: Instant,
    /// How many records had been read by then.
    looked_at: u64,
}

impl<T> State<'_, T> {
    /// Gives it up if it has hardly got on for as long as its patience.
    fn look(&mut self) {
        let (lasts, looked_at) = (self.since.elapsed(), self.asked.looked_at.load(Ordering::Relaxed));
        if lasts < self.asked.settings.patience {
            return;
        }
        let records = looked_at.saturating_sub(self.looked_at);
        if records < lasts.as_secs().saturating_mul(RECORDS_PER_SECOND) {
            let (records, seconds) = (counted(records, "record", "records"), lasts.as_secs());
            let why =
                format!("it gave {records} in {seconds} s, and others have answered; a longer `patience` waits for it");
            self.answer = Some(Err(anyhow!(why)));
        }
        (self.since, self.looked_at) = (Instant::now(), looked_at);
    }
}

/// What the regions answer, in their order. All at once: what one that hangs takes of time is not added to what the others take. Once
/// one has answered, others are waited for as long as they get on: one that answers each request just in time, for a hundred
/// thousand of them, holds up nobody. As long as none has answered, a slow one is better than none. Whoever waits is told for which.
pub(crate) async fn asked_at_once<T>(
    asked: &[Asked<'_>],
    answers: impl Iterator<Item = impl Future<Output = anyhow::Result<T>>>,
    tell: &(dyn Fn(&str) + Send + Sync),
) -> Vec<anyhow::Result<T>> {
    let mut answers: FuturesUnordered<_> =
        answers.enumerate().map(|(number, answer)| async move { (number, answer.await) }).collect();
    let begun = Instant::now();
    let state = |asked| State { asked, answer: None, since: begun, looked_at: 0 };
    let mut states: Vec<State<'_, T>> = asked.iter().map(state).collect();
    let mut next = begun + TELL_EVERY;
    while states.iter().any(|state| state.answer.is_none()) {
        tokio::select! {
            Some((number, answer)) = answers.next() => {
                // One that was given up may answer yet.
                if let Some(state) = states.get_mut(number).filter(|state| state.answer.is_none()) {
                    state.answer = Some(answer);
                }
            }
            () = tokio::time::sleep_until(next) => {
                next += TELL_EVERY;
                if states.iter().any(|state| matches!(state.answer, Some(Ok(_)))) {
                    states.iter_mut().filter(|state| state.answer.is_none()).for_each(State::look);
                }
                let waiting = states.iter().filter(|state| state.answer.is_none());
                let mut names: Vec<&str> = waiting.map(|state| state.asked.settings.name.as_str()).collect();
                names.sort_unstable();
                if !names.is_empty() {
                    let (names, lasts) = (names.join(", "), begun.elapsed().as_secs());
                    tell(&format!(
                        "waiting for {names} for {lasts} s; a shorter `patience` of a region gives it up sooner"
                    ));
                }
            }
        }
    }
    let answer = |state: State<'_, T>| state.answer.unwrap_or_else(|| Err(anyhow!("it was not asked")));
    states.into_iter().map(answer).collect()
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    fn at(name: &str) -> RegionSettings {
        RegionSettings::at(name.parse().unwrap(), "file:///nowhere".parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_is_told_for_which_region() {
        let settings = [at("eu"), at("us"), at("ap")];
        let told = Mutex::new(Vec::new());
        let answers = [1, 25, 12].into_iter().map(async |seconds| {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            anyhow::Ok(seconds)
        });
        let asked = Asked::all(&settings);
        let answers = asked_at_once(&asked, answers, &|text| told.lock().push(text.to_owned())).await;
        let answers: Vec<u64> = answers.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers, [1, 25, 12], "in the order of the regions");
        let expected = ["waiting for ap, us for 10 s; ", "waiting for us for 20 s; "];
        let told = told.into_inner();
        assert!(told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:?}");
        assert_eq!(told.len(), expected.len());
    }

    /// Reads so many records, each of which takes so long.
    async fn read(looked_at: Arc<AtomicU64>, records: u64, each: Duration) -> anyhow::Result<u64> {
        for _ in 0..records {
            tokio::time::sleep(each).await;
            looked_at.fetch_add(1, Ordering::Relaxed);
        }
        Ok(records)
    }

    #[tokio::test(start_paused = true)]
    async fn a_region_that_hardly_gets_on_is_given_up_once_another_has_answered() {
        let settings = [at("eu"), at("us"), at("ap")];
        let asked = Asked::all(&settings);
        let paces = [(10, 100), (100_000, 59_000), (10_000, 100)];
        let answers = asked
            .iter()
            .zip(paces)
            .map(|(asked, (records, each))| read(Arc::clone(&asked.looked_at), records, Duration::from_millis(each)));
        let begun = Instant::now();
        let answers = asked_at_once(&asked, answers, &|_| ()).await;
        let answers: Vec<_> = answers.into_iter().map(|answer| answer.map_err(|error| error.to_string())).collect();
        assert_eq!((&answers[0], &answers[2]), (&Ok(10), &Ok(10_000)), "one that gets on is waited for");
        assert!(answers[1].as_ref().is_err_and(|why| why.starts_with("it gave 5 records in 300 s")), "{answers:?}");
        assert!(begun.elapsed() < Duration::from_secs(1020), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_region_is_waited_for_however_slow_it_is() {
        let settings = [at("eu")];
        let asked = Asked::all(&settings);
        let answers = asked.iter().map(|asked| read(Arc::clone(&asked.looked_at), 100, Duration::from_secs(59)));
        let answers = asked_at_once(&asked, answers, &|_| ()).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), [100]);
    }
}
