//! The notes of the regions' logs that were read and verified, kept in the state directory, so that a restart reads only what is new.
//!
//! One file for each region, to which whole bundles are added: a length (4 bytes, little-endian), a SHA-256 (32 bytes) and the bundle.
//! Everything in it can be read again from the region, and the repository judges it anew when it is loaded. So a disk that is full or
//! broken costs time and nothing else, and nothing here is an error.
//!
//! CRASH SAFETY: what is added is written behind the last whole bundle and flushed. A crash leaves a whole bundle, or a part of one
//! that its length or its SHA-256 shows: what stands before it counts, and the next addition overwrites it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use lifeboat_repository::format::aead::sha256;
use lifeboat_repository::log::{BUNDLE_OBJECT_MAX, Bundle, KeepsLogs, NotLoaded};
use lifeboat_vocabulary::RegionName;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use tokio::sync::oneshot;

use crate::base::state::{make_directory, open_own};

/// The folder in a cluster's folder of the state directory.
const FOLDER: &str = "logs";
/// The largest file, in **bytes**: more than the notes of the longest log take.
const FILE_MAX: u64 = 1 << 30;
/// Length and SHA-256.
const HEAD_BYTES: usize = 36;

/// So many **bytes** that the disk did not take are held for each region, to be tried again with what comes next.
const FAILED_MAX: usize = 16 << 20;
/// So much may wait for the disk; what comes then is given back.
const WAITING_MAX: usize = 16;

/// The kept logs of one cluster's regions. What is to be done is done in its order, by one thread that may wait for the disk and ends
/// when there is nothing more to do: nobody else waits.
#[derive(Clone, Debug)]
pub(crate) struct KeptLogs {
    waiting: Arc<Mutex<Waiting>>,
    files: Arc<Mutex<Files>>,
}

/// What is to be done.
#[derive(Debug)]
enum Work {
    Load { region: RegionName, loaded: oneshot::Sender<Result<Vec<Bytes>, NotLoaded>> },
    Add { region: RegionName, bundles: Vec<Bytes> },
    Forget { region: RegionName },
}

/// Work in its order.
#[derive(Debug, Default)]
struct Waiting {
    works: VecDeque<Work>,
    /// Whether a thread is at it.
    is_at_work: bool,
}

/// The files, and where each of them goes on.
#[derive(Debug)]
struct Files {
    directory: PathBuf,
    ends: BTreeMap<RegionName, End>,
    /// What the disk did not take: without it, nothing that comes later would follow what is kept.
    failed: BTreeMap<RegionName, Vec<Bytes>>,
}

/// Where a file goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct End {
    /// Its length up to the last whole bundle, in **bytes**.
    length: u64,
    /// The place of the next note.
    next: u64,
}

impl KeptLogs {
    /// In a cluster's folder of the state directory.
    pub(crate) fn in_directory(cluster: &Path) -> Self {
        let files = Files { directory: cluster.join(FOLDER), ends: BTreeMap::new(), failed: BTreeMap::new() };
        Self { waiting: Arc::default(), files: Arc::new(Mutex::new(files)) }
    }

    /// Has it done after everything before it, unless too much is waiting.
    fn submit(&self, work: Work) -> Result<(), Work> {
        let mut waiting = self.waiting.lock();
        if waiting.works.len() >= WAITING_MAX {
            return Err(work);
        }
        waiting.works.push_back(work);
        if !std::mem::replace(&mut waiting.is_at_work, true) {
            let kept = self.clone();
            drop(tokio::task::spawn_blocking(move || kept.work()));
        }
        Ok(())
    }

    fn work(&self) {
        let mut files = self.files.lock();
        while let Some(work) = self.next_work() {
            match work {
                Work::Load { region, loaded } => drop(loaded.send(files.load_now(&region))),
                Work::Add { region, bundles } => files.add_now(&region, bundles),
                Work::Forget { region } => files.forget_now(&region),
            }
        }
    }

    fn next_work(&self) -> Option<Work> {
        let mut waiting = self.waiting.lock();
        let next = waiting.works.pop_front();
        waiting.is_at_work = next.is_some();
        next
    }
}

impl Files {
    fn path(&self, region: &RegionName) -> PathBuf {
        self.directory.join(format!("{region}.notes"))
    }

    fn load_now(&mut self, region: &RegionName) -> Result<Vec<Bytes>, NotLoaded> {
        let (bundles, end) = read(&self.path(region)).map_err(|error| {
            tracing::warn!(%region, %error, "what was kept of the region's log cannot be read; the log is read again");
            NotLoaded
        })?;
        self.ends.insert(region.clone(), end);
        Ok(bundles)
    }

    fn add_now(&mut self, region: &RegionName, bundles: Vec<Bytes>) {
        let path = self.path(region);
        let end = self.ends.entry(region.clone()).or_default();
        let first = first_place(&bundles);
        if first == Some(0) {
            *end = End::default();
        }
        let mut due = self.failed.remove(region).unwrap_or_default();
        if first == Some(0) || first_place(&due) != Some(end.next) {
            due.clear();
        }
        let behind = due.last().and_then(|bundle| Bundle::places_of(bundle)).map(|(_, last)| last.saturating_add(1));
        // What was kept already, or does not follow it, is not kept twice.
        if first == Some(behind.unwrap_or(end.next)) {
            due.extend(bundles);
        }
        if due.is_empty() {
            return;
        }
        match append(&path, *end, &due) {
            Ok(new) => *end = new,
            Err(error) => {
                if due.iter().map(Bytes::len).fold(0, usize::saturating_add) <= FAILED_MAX {
                    self.failed.insert(region.clone(), due);
                }
                tracing::warn!(%region, %error, "the region's log is not kept on this machine; a restart reads it from the region");
            }
        }
    }

    fn forget_now(&mut self, region: &RegionName) {
        self.ends.insert(region.clone(), End::default());
        self.failed.remove(region);
        match std::fs::remove_file(self.path(region)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // Found to be useless once more.
                tracing::debug!(%region, %error, "what was kept of the region's log stays");
            }
            _ => {}
        }
    }
}

#[async_trait]
impl KeepsLogs for KeptLogs {
    async fn load(&self, region: &RegionName) -> Result<Vec<Bytes>, NotLoaded> {
        let (loaded, receive) = oneshot::channel();
        self.submit(Work::Load { region: region.clone(), loaded }).map_err(|_| NotLoaded)?;
        receive.await.map_err(|_| NotLoaded)?
    }

    fn add(&self, region: &RegionName, bundles: Vec<Bytes>) -> Result<(), Vec<Bytes>> {
        self.submit(Work::Add { region: region.clone(), bundles }).map_err(|work| match work {
            Work::Add { bundles, .. } => bundles,
            Work::Load { .. } | Work::Forget { .. } => Vec::new(),
        })
    }

    fn forget(&self, region: &RegionName) {
        if self.submit(Work::Forget { region: region.clone() }).is_err() {
            // What is read now is kept in its place, once it is read.
            tracing::debug!(%region, "what was kept of the region's log stays for a while");
        }
    }
}

/// The place of the first note of bundles.
fn first_place(bundles: &[Bytes]) -> Option<u64> {
    let (first, _) = bundles.first().and_then(|bundle| Bundle::places_of(bundle))?;
    Some(first)
}

/// The whole bundles of a file, and where it goes on.
fn read(path: &Path) -> io::Result<(Vec<Bytes>, End)> {
    let file = match open_own(path, OFlags::RDONLY) {
        Ok(file) => File::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), End::default())),
        Err(error) => return Err(error),
    };
    let mut file = io::BufReader::new(file.take(FILE_MAX));
    let (mut bundles, mut end) = (Vec::new(), End::default());
    while let Some((bundle, next)) = next_bundle(&mut file, end.next)? {
        end.length = end.length.saturating_add((HEAD_BYTES + bundle.len()) as u64);
        end.next = next;
        bundles.push(bundle);
    }
    Ok((bundles, end))
}

/// The next bundle, which begins at place `first`, and the place behind it; `None` if none that is whole follows.
fn next_bundle(file: &mut impl Read, first: u64) -> io::Result<Option<(Bytes, u64)>> {
    let mut head = [0; HEAD_BYTES];
    if !filled(file, &mut head)? {
        return Ok(None);
    }
    let Some((length, digest)) = head.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*length) as usize;
    if length > BUNDLE_OBJECT_MAX {
        return Ok(None);
    }
    let mut bundle = vec![0; length];
    if !filled(file, &mut bundle)? || sha256(&bundle).as_bytes() != digest {
        return Ok(None);
    }
    let places = Bundle::places_of(&bundle).filter(|(found, _)| *found == first);
    Ok(places.map(|(_, last)| (Bytes::from(bundle), last.saturating_add(1))))
}

/// Whether there was enough to fill the buffer.
fn filled(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match file.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes bundles behind the last whole one. If it fails, what stands before them counts as before.
fn append(path: &Path, mut end: End, bundles: &[Bytes]) -> io::Result<End> {
    if let Some(directory) = path.parent() {
        make_directory(directory)?;
    }
    let mut file = File::from(open_own(path, OFlags::RDWR | OFlags::CREATE)?);
    let whole = end.length;
    // What a crash has left there.
    file.set_len(whole)?;
    file.seek(SeekFrom::Start(whole))?;
    let mut written = || -> io::Result<()> {
        for bundle in bundles {
            let length = u32::try_from(bundle.len()).map_err(io::Error::other)?;
            let places = Bundle::places_of(bundle).ok_or_else(|| io::Error::other("no bundle"))?;
            let bytes = (HEAD_BYTES as u64).saturating_add(u64::from(length));
            if end.length.saturating_add(bytes) > FILE_MAX {
                return Err(io::Error::other("the file would be larger than 1 GiB"));
            }
            file.write_all(&length.to_le_bytes())?;
            file.write_all(sha256(bundle).as_bytes())?;
            file.write_all(bundle)?;
            (end.length, end.next) = (end.length.saturating_add(bytes), places.1.saturating_add(1));
        }
        file.sync_data()
    };
    match written() {
        Ok(()) => Ok(end),
        Err(error) => {
            // The room on a full disk is given back.
            if let Err(error) = file.set_len(whole) {
                tracing::debug!(file = %path.display(), %error, "an unfinished addition stays until the next one");
            }
            Err(error)
        }
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "the tests damage and move files")]
mod tests {
    use super::*;

    fn region() -> RegionName {
        "eu".parse().unwrap()
    }

    fn bundle(first: u64, notes: usize) -> Bytes {
        Bundle::encode(first, vec![&b"a note"[..]; notes]).unwrap().into()
    }

    /// Adds, and waits until it was done.
    async fn added(kept: &KeptLogs, region: &RegionName, bundles: Vec<Bytes>) {
        kept.add(region, bundles).unwrap();
        drop(kept.load(region).await);
    }

    async fn loaded(directory: &Path) -> Vec<Bytes> {
        KeptLogs::in_directory(directory).load(&region()).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_kept_is_loaded_after_a_restart_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        assert!(loaded(directory.path()).await.is_empty());
        let kept = KeptLogs::in_directory(directory.path());
        added(&kept, &region(), vec![bundle(0, 3), bundle(3, 2)]).await;
        added(&kept, &region(), vec![bundle(5, 1)]).await;
        let again = KeptLogs::in_directory(directory.path());
        assert_eq!(again.load(&region()).await.unwrap(), [bundle(0, 3), bundle(3, 2), bundle(5, 1)]);
        added(&again, &region(), vec![bundle(6, 1)]).await;
        assert_eq!(loaded(directory.path()).await.len(), 4);
        added(&again, &"other".parse().unwrap(), vec![bundle(0, 1)]).await;
        added(&again, &region(), vec![bundle(0, 1)]).await;
        assert_eq!(loaded(directory.path()).await, [bundle(0, 1)], "it began anew");
        again.forget(&region());
        drop(again.load(&region()).await);
        assert!(loaded(directory.path()).await.is_empty());
        let other = KeptLogs::in_directory(directory.path()).load(&"other".parse().unwrap()).await;
        assert_eq!(other.unwrap(), [bundle(0, 1)]);
    }

    #[tokio::test]
    async fn what_does_not_follow_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptLogs::in_directory(directory.path());
        added(&kept, &region(), vec![bundle(4, 3)]).await;
        assert!(loaded(directory.path()).await.is_empty());
        added(&kept, &region(), vec![bundle(0, 3)]).await;
        for first in [1, 2, 4] {
            added(&kept, &region(), vec![bundle(first, 3)]).await;
        }
        added(&kept, &region(), Vec::new()).await;
        assert_eq!(loaded(directory.path()).await, [bundle(0, 3)]);
    }

    #[tokio::test]
    async fn a_crash_or_damage_anywhere_leaves_whole_bundles_only() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptLogs::in_directory(directory.path());
        added(&kept, &region(), vec![bundle(0, 3), bundle(3, 2)]).await;
        let path = kept.files.lock().path(&region());
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let kept = KeptLogs::in_directory(directory.path());
            let found = kept.load(&region()).await.unwrap();
            assert!(found.len() < 2 && found.iter().all(|found| *found == bundle(0, 3)), "cut at {length}");
            let next = if found.is_empty() { bundle(0, 3) } else { bundle(3, 4) };
            added(&kept, &region(), vec![next.clone()]).await;
            assert_eq!(loaded(directory.path()).await.last(), Some(&next), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            assert!(loaded(directory.path()).await.len() < 2, "byte {at}");
        }
    }

    #[tokio::test]
    async fn a_directory_that_takes_no_writes_stops_nobody() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(FOLDER), "a file where the folder would be").unwrap();
        let kept = KeptLogs::in_directory(directory.path());
        assert_eq!(kept.load(&region()).await, Err(NotLoaded), "it is not said that nothing was kept");
        added(&kept, &region(), vec![bundle(0, 3)]).await;
        kept.forget(&region());
        assert_eq!(kept.load(&region()).await, Err(NotLoaded));
    }

    #[tokio::test]
    async fn what_the_disk_did_not_take_is_kept_with_what_comes_next() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptLogs::in_directory(directory.path());
        added(&kept, &region(), vec![bundle(0, 3)]).await;
        let (path, aside) = (directory.path().join(FOLDER), directory.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        std::fs::write(&path, "a file where the folder would be").unwrap();
        for first in [3, 5, 9] {
            kept.add(&region(), vec![bundle(first, 2)]).unwrap();
        }
        while kept.waiting.lock().is_at_work {
            tokio::task::yield_now().await;
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        added(&kept, &region(), vec![bundle(7, 1)]).await;
        assert_eq!(loaded(directory.path()).await, [bundle(0, 3), bundle(3, 2), bundle(5, 2), bundle(7, 1)]);
    }

    #[tokio::test]
    async fn nobody_waits_for_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let kept = KeptLogs::in_directory(directory.path());
        let next = |number: usize| vec![bundle(number as u64, 1)];
        {
            // As long as the disk takes.
            let _files = kept.files.lock();
            for number in 0..WAITING_MAX {
                kept.add(&region(), next(number)).unwrap();
            }
            assert_eq!(kept.add(&region(), next(WAITING_MAX)), Err(next(WAITING_MAX)), "it is given back");
            kept.forget(&region());
        }
        while kept.waiting.lock().is_at_work {
            tokio::task::yield_now().await;
        }
        added(&kept, &region(), next(WAITING_MAX)).await;
        assert_eq!(loaded(directory.path()).await.len(), WAITING_MAX + 1, "nothing was lost");
    }
}
