//! The tasks of the shipper: whoever of them ends before it is told to is noticed at once, because WAL would stand still
//! behind it without a word.

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Tasks that belong together. Dropped, they are ended.
pub(crate) struct Children {
    tasks: JoinSet<()>,
    failed: watch::Sender<Option<&'static str>>,
}

/// Lives as long as a task, and tells when that ends too early: by itself or in a panic.
struct Watched {
    name: &'static str,
    stop: CancellationToken,
    failed: watch::Sender<Option<&'static str>>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            tracing::error!(task = self.name, "a part of WAL shipping ended by itself");
            self.failed.send_if_modified(|failed| failed.replace(self.name).is_none());
        }
    }
}

impl Children {
    pub(crate) fn new() -> Self {
        Self { tasks: JoinSet::new(), failed: watch::Sender::new(None) }
    }

    /// Begins a task that must not end before `stop`.
    pub(crate) fn spawn(
        &mut self,
        name: &'static str,
        stop: &CancellationToken,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let watched = Watched { name, stop: stop.clone(), failed: self.failed.clone() };
        self.tasks.spawn(async move {
            let _watched = watched;
            work.await;
        });
    }

    /// Tells which task has ended too early.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<&'static str>> {
        self.failed.subscribe()
    }

    /// Waits until all have ended.
    pub(crate) async fn join(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of WAL shipping failed");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_before_it_is_told_to_is_noticed_and_no_other() {
        let stop = CancellationToken::new();
        let mut children = Children::new();
        let until = stop.clone();
        children.spawn("the good one", &stop, async move { until.cancelled().await });
        let mut failed = children.failed();
        assert_eq!(*failed.borrow(), None);
        children.spawn("the one that panics", &stop, async { panic!("as planned") });
        let name = *failed.wait_for(Option::is_some).await.unwrap();
        assert_eq!(name, Some("the one that panics"));
        children.spawn("the one that returns", &stop, async {});
        stop.cancel();
        children.join().await;

        let mut orderly = Children::new();
        let (stop, until) = (stop.clone(), stop.clone());
        orderly.spawn("the good one", &stop, async move { until.cancelled().await });
        orderly.join().await;
        assert_eq!(*orderly.failed().borrow(), None);
    }
}
