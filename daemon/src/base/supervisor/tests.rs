use super::*;
use std::sync::atomic::{AtomicU32, Ordering};

const CEILING: Duration = Duration::from_secs(30);

/// Lets time pass, a second at a time, so that every timer gets its turn.
async fn pass(seconds: u64) {
    for _ in 0..seconds {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn counted(count: &Arc<AtomicU32>) -> u32 {
    count.load(Ordering::SeqCst)
}

fn alarms(supervisor: &Supervisor) -> Vec<String> {
    supervisor
        .judge()
        .wrong
        .values()
        .flat_map(|wrong| wrong.iter().map(|(name, _)| name.to_string()).collect::<Vec<_>>())
        .collect()
}

/// A task that ends at once, each time in the same way, and counts.
fn failing(supervisor: &Supervisor, how: fn() -> anyhow::Result<()>) -> Arc<AtomicU32> {
    let count = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&count);
    supervisor.spawn(None, TaskSettings::new("failing", CEILING), move |_| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            how()
        }
    });
    count
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ends_is_begun_again_with_longer_pauses_whatever_ended_it() {
    for (how, end) in [
        ("an error", (|| anyhow::bail!("no")) as fn() -> anyhow::Result<()>),
        ("a panic", || panic!("on purpose")),
        ("nothing at all", || Ok(())),
    ] {
        let supervisor = Supervisor::new(Watchdog::Nobody);
        let count = failing(&supervisor, end);
        // Begun at 0, 1, 3, 7, 15, 31, 63 s, then each minute.
        for (after, expected) in [(0, 1), (2, 2), (2, 3), (1, 3), (3, 4), (24, 6), (32, 7), (57, 7), (4, 8), (60, 9)] {
            pass(after).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert_eq!(counted(&count), expected, "{how}, {after} s later");
        }
        assert_eq!(alarms(&supervisor), ["task-restarting/failing"], "{how}");
        assert_eq!(supervisor.stop_all(Duration::from_secs(10)).await, [""; 0]);
        let before = counted(&count);
        pass(100).await;
        assert_eq!(counted(&count), before, "{how}: stopped is stopped");
    }
}

#[tokio::test(start_paused = true)]
async fn after_ten_healthy_minutes_earlier_failures_do_not_count() {
    let supervisor = Supervisor::new(Watchdog::Nobody);
    let count = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&count);
    supervisor.spawn(None, TaskSettings::new("task", CEILING), move |context| {
        let counter = Arc::clone(&counter);
        async move {
            if counter.fetch_add(1, Ordering::SeqCst) < 4 {
                anyhow::bail!("no");
            }
            context.progress.waiting("nothing");
            tokio::time::sleep(Duration::from_secs(700)).await;
            anyhow::bail!("no")
        }
    });
    pass(20).await;
    assert_eq!(alarms(&supervisor), ["task-restarting/task"]);
    pass(620).await;
    assert_eq!(alarms(&supervisor), [""; 0], "it has run for ten minutes");
    pass(80).await;
    assert_eq!(counted(&count), 6, "the pause is a short one again");
}

#[tokio::test(start_paused = true)]
async fn a_wedged_task_is_cancelled_and_begun_again_and_starves_no_other() {
    let supervisor = Supervisor::new(Watchdog::Outside);
    let (wedged, moves) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (begun, moved) = (Arc::clone(&wedged), Arc::clone(&moves));
    supervisor.spawn(None, TaskSettings::new("wedged", CEILING), move |context| {
        begun.fetch_add(1, Ordering::SeqCst);
        async move {
            context.progress.working("an answer that never comes");
            std::future::pending().await
        }
    });
    supervisor.spawn(None, TaskSettings::new("other", CEILING).core(), move |context| {
        let moved = Arc::clone(&moved);
        async move {
            loop {
                context.progress.working("a step");
                tokio::time::sleep(Duration::from_secs(1)).await;
                moved.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    pass(29).await;
    assert_eq!((alarms(&supervisor).len(), counted(&wedged)), (0, 1));
    pass(20).await;
    assert_eq!((alarms(&supervisor), counted(&wedged)), (vec!["task-wedged/wedged".to_owned()], 2));
    assert!(counted(&moves) > 40, "the other went on");
    assert_eq!(supervisor.judge().stuck, None, "it was not of the core");
    assert_eq!(
        supervisor.stop_all(Duration::from_secs(12)).await,
        ["wedged", "other"],
        "neither listens; both are cut off"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wedged_task_of_the_core_is_left_to_the_service_manager_if_there_is_one() {
    for (watchdog, again) in [(Watchdog::Outside, 1), (Watchdog::Nobody, 2)] {
        let supervisor = Supervisor::new(watchdog);
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        supervisor.spawn(None, TaskSettings::new("schedule", CEILING).core(), move |context| {
            counter.fetch_add(1, Ordering::SeqCst);
            async move {
                context.progress.working("what is due");
                std::future::pending().await
            }
        });
        pass(29).await;
        assert_eq!(supervisor.judge().stuck, None);
        pass(3).await;
        let stuck = supervisor.judge().stuck;
        pass(20).await;
        assert_eq!(counted(&count), again, "{watchdog:?}");
        if watchdog == Watchdog::Outside {
            let text = stuck.unwrap();
            assert!(text.contains("schedule") && text.contains("what is due"), "{text}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_goes_in_order_and_gives_time_to_finish() {
    let supervisor = Supervisor::new(Watchdog::Nobody);
    let events = Arc::new(Mutex::new(Vec::new()));
    let begun = Instant::now();
    for (settings, takes) in [
        (TaskSettings::new("wal", CEILING).last(), 3),
        (TaskSettings::new("quick backup", CEILING), 20),
        (TaskSettings::new("long backup", CEILING), 3600),
    ] {
        let events = Arc::clone(&events);
        supervisor.spawn(None, settings, move |context| {
            let events = Arc::clone(&events);
            async move {
                context.progress.waiting("the end");
                context.stop.cancelled().await;
                let how = tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs(takes)) => "finished",
                    () = context.hurry.cancelled() => "handed back",
                };
                events.lock().push((settings.name, how, begun.elapsed().as_secs()));
                Ok(())
            }
        });
    }
    tokio::task::yield_now().await;
    assert_eq!(supervisor.stop_all(Duration::from_secs(60)).await, [""; 0]);
    assert_eq!(
        *events.lock(),
        [("quick backup", "finished", 20), ("long backup", "handed back", 30), ("wal", "finished", 33)]
    );
    assert_eq!(supervisor.tasks().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_tasks_of_one_cluster_end_without_the_others() {
    let supervisor = Supervisor::new(Watchdog::Nobody);
    let (a, b): (ClusterName, ClusterName) = ("a".parse().unwrap(), "b".parse().unwrap());
    for (cluster, name) in [(Some(&a), "wal"), (Some(&a), "schedule"), (Some(&b), "wal"), (None, "web")] {
        supervisor.spawn(cluster, TaskSettings::new(name, CEILING), |context| async move {
            context.progress.waiting("the end");
            context.stop.cancelled().await;
            Ok(())
        });
    }
    let left = || supervisor.tasks().iter().map(|task| format!("{:?} {}", task.cluster, task.name)).collect::<Vec<_>>();
    supervisor.stop_cluster(&a, Duration::from_secs(6)).await;
    assert_eq!(left(), [format!("{:?} wal", Some(b)), "None web".to_owned()]);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_stop_leaves_its_tasks_to_the_next_stop() {
    let supervisor = Supervisor::new(Watchdog::Nobody);
    let (cluster, finished) = ("a".parse().unwrap(), Arc::new(AtomicU32::new(0)));
    let counter = Arc::clone(&finished);
    supervisor.spawn(Some(&cluster), TaskSettings::new("wal", CEILING).last(), move |context| {
        let counter = Arc::clone(&counter);
        async move {
            context.progress.waiting("the end");
            context.stop.cancelled().await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            counter.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    pass(1).await;
    let reload = supervisor.stop_cluster(&cluster, Duration::from_secs(60));
    assert!(tokio::time::timeout(Duration::from_secs(1), reload).await.is_err(), "it takes longer than that");
    assert_eq!(counted(&finished), 0);
    assert_eq!(supervisor.stop_all(Duration::from_secs(60)).await, [""; 0]);
    assert_eq!(counted(&finished), 1, "what it had in hand was finished");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_nobody_keeps_any_more_is_noticed() {
    let supervisor = Supervisor::new(Watchdog::Nobody);
    for name in ["schedule", "wal"] {
        supervisor.spawn(None, TaskSettings::new(name, CEILING), |context| async move {
            context.progress.waiting("the end");
            context.stop.cancelled().await;
            Ok(())
        });
    }
    pass(1).await;
    assert_eq!(supervisor.abandoned(), None);
    supervisor.tasks.lock()[1].keeper.abort();
    pass(1).await;
    assert_eq!(supervisor.abandoned(), Some("wal"));
    supervisor.stop_all(Duration::from_secs(6)).await;
    assert_eq!(supervisor.abandoned(), None);
}
