//! Tasks that were begun with settings, and have to begin again when those become others.

use std::sync::Arc;

use lifeboat_config::Config;
use tokio::sync::watch;

use crate::base::supervisor::TaskContext;

/// Runs a task with the settings in force. When what `part` takes of them becomes something else, the task is told to stop
/// and, once it has ended, begun again with the new ones.
///
/// # Errors
/// Those of the task.
pub(crate) async fn renewed<P, W>(
    context: TaskContext,
    mut config: watch::Receiver<Arc<Config>>,
    part: impl Fn(&Config) -> P,
    begin: impl Fn(TaskContext, Arc<Config>) -> W,
) -> anyhow::Result<()>
where
    P: PartialEq,
    W: Future<Output = anyhow::Result<()>>,
{
    while !context.stop.is_cancelled() {
        let now = Arc::clone(&config.borrow_and_update());
        let known = part(&now);
        let inner = TaskContext { stop: context.stop.child_token(), ..context.clone() };
        let stop = inner.stop.clone();
        let mut work = std::pin::pin!(begin(inner, now));
        tokio::select! {
            ended = &mut work => return ended,
            () = differs(&mut config, |now| part(now) != known) => {}
        }
        stop.cancel();
        work.await?;
    }
    Ok(())
}

async fn differs(config: &mut watch::Receiver<Arc<Config>>, is_other: impl Fn(&Config) -> bool) {
    if config.wait_for(|now| is_other(now)).await.is_err() {
        // Nobody can change it any more.
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::path::Path;
    use tokio_util::sync::CancellationToken;

    fn config(bandwidth: &str, period: &str) -> Arc<Config> {
        let text = format!(
            "[[cluster]]\nname = \"main\"\nconnection = \"host=/run\"\n[[region]]\nname = \"a\"\nurl = \"file:///a\"\n\
             [durability]\nbackup_quorum = 1\n[keys]\nsigning_key = \"file:/k\"\nrecipients = \
             [\"lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u\"]\n\
             [heal]\nmax_bandwidth = \"{bandwidth}\"\n[scrub]\nperiod = \"{period}\"\n"
        );
        let loaded = Config::from_text(Path::new("l.toml"), &text, &lifeboat_config::Environment::default());
        Arc::new(loaded.unwrap_or_else(|faults| panic!("{faults}")).config)
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_begins_again_with_new_settings_and_only_with_those_that_are_its_own() {
        let sender = watch::Sender::new(config("1MiB", "30d"));
        let (stop, begun) = (CancellationToken::new(), Arc::new(Mutex::new(Vec::new())));
        let (context, receiver, seen) = (TaskContext::alone(&stop), sender.subscribe(), Arc::clone(&begun));
        let task = tokio::spawn(renewed(
            context,
            receiver,
            |config| config.heal,
            move |context, config| {
                seen.lock().push(config.heal.max_bandwidth.to_string());
                async move {
                    context.stop.cancelled().await;
                    Ok(())
                }
            },
        ));
        for next in [config("1MiB", "20d"), config("2MiB", "20d"), config("3MiB", "10d")] {
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            sender.send_replace(next);
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        assert_eq!(*begun.lock(), ["1.0 MiB", "2.0 MiB", "3.0 MiB"]);
    }
}
