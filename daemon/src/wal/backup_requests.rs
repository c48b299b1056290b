//! What continuous WAL asks of whoever makes backups: a first one, and one behind every gap.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The request of one cluster for a base backup. It is no queue: one backup fulfils all that was requested before it began.
#[derive(Debug, Default)]
pub(crate) struct BackupRequests {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    pending: Option<Pending>,
    last_number: u64,
}

#[derive(Debug)]
struct Pending {
    /// The first reason; it stays until it is fulfilled.
    why: String,
    /// The last one, which may have come while a backup was under way.
    latest: String,
    /// The number of the last one.
    number: u64,
}

/// What was requested before a backup began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackupRequest {
    pub(crate) why: String,
    number: u64,
}

impl BackupRequests {
    /// Requests a base backup. The same reason twice is one request.
    pub(crate) fn request(&self, why: String) {
        let mut state = self.state.lock();
        let number = state.last_number + 1;
        let is_new = match &mut state.pending {
            Some(pending) if pending.why == why || pending.latest == why => false,
            Some(pending) => {
                (pending.latest, pending.number) = (why, number);
                true
            }
            None => {
                state.pending = Some(Pending { latest: why.clone(), why, number });
                true
            }
        };
        if is_new {
            state.last_number = number;
        }
        drop(state);
        self.changed.notify_one();
    }

    /// What is requested now; to be asked before a backup begins, because what is requested later may lie behind its beginning.
    #[must_use]
    pub(crate) fn pending(&self) -> Option<BackupRequest> {
        let state = self.state.lock();
        state.pending.as_ref().map(|Pending { why, number, .. }| BackupRequest { why: why.clone(), number: *number })
    }

    /// Why a base backup is wanted, if it is.
    #[must_use]
    pub(crate) fn reason(&self) -> Option<String> {
        self.pending().map(|request| request.why)
    }

    /// Waits until there is a request.
    pub(crate) async fn wait(&self) -> String {
        loop {
            if let Some(why) = self.reason() {
                return why;
            }
            self.changed.notified().await;
        }
    }

    /// What was requested when a good backup began is fulfilled. What was requested meanwhile stays.
    pub(crate) fn fulfilled(&self, done: &BackupRequest) {
        let mut state = self.state.lock();
        match &mut state.pending {
            Some(pending) if pending.number > done.number => pending.why.clone_from(&pending.latest),
            Some(_) => state.pending = None,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_stays_until_it_is_fulfilled_and_no_longer() {
        let requests = BackupRequests::default();
        requests.request("a gap at 1".to_owned());
        requests.request("a gap at 2".to_owned());
        assert_eq!(requests.wait().await, "a gap at 1", "the first reason");
        requests.fulfilled(&requests.pending().unwrap());
        assert_eq!(requests.reason(), None, "one backup carries out all that came before it");
    }

    #[test]
    fn what_is_requested_while_a_backup_runs_is_not_fulfilled_by_it() {
        for (why, meanwhile, expected) in
            [("another gap", "a gap at 2", Some("a gap at 2")), ("the same gap, told again", "a gap at 1", None)]
        {
            let requests = BackupRequests::default();
            requests.request("a gap at 1".to_owned());
            let before = requests.pending().unwrap();
            requests.request(meanwhile.to_owned());
            assert_eq!(requests.reason().as_deref(), Some("a gap at 1"), "{why}");
            requests.fulfilled(&before);
            assert_eq!(requests.reason().as_deref(), expected, "{why}");
            if let Some(pending) = requests.pending() {
                requests.fulfilled(&pending);
                assert_eq!(requests.reason(), None, "{why}");
            }
        }
    }
}
