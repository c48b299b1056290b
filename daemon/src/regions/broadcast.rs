//! One event into the logs of all regions: the same record, with the same count, in each of them.
//!
//! CRASH SAFETY. Each region has it or not. Repeating with the same origin finds what stands there already and writes the
//! rest; who comes later with another origin sees in the logs what the others have, and takes over its origin.

use lifeboat_cli::access::Repository;
use lifeboat_repository::catalog::RegionAnswer;
use lifeboat_repository::log::records::{Origin, RecordBody};
use lifeboat_repository::log::{Descriptor, Draft, NoteSigner, RegionLog, RegionStore};
use lifeboat_vocabulary::{RegionName, UtcTime, error_chain};

use crate::settings::wiring;

/// The regions of a repository that can be written to, each with its log, and why the others cannot.
pub(crate) struct Broadcast {
    /// Those that were read.
    pub(crate) regions: Vec<(RegionStore, RegionLog)>,
    /// The others, and why not.
    pub(crate) away: Vec<(RegionName, String)>,
}

/// Where an event stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivery {
    /// Regions whose logs have it, in the order of the configuration.
    pub(crate) regions: Vec<RegionName>,
    /// Those that do not, and why not.
    pub(crate) missing: Vec<(RegionName, String)>,
}

impl Broadcast {
    /// The regions as they were read.
    #[must_use]
    pub(crate) fn of(repository: &Repository) -> Self {
        let (mut regions, mut away) = (Vec::new(), Vec::new());
        for view in &repository.views {
            let store = repository.regions.iter().find(|region| region.name == view.name);
            match (usable(repository, &view.answer), store) {
                (Ok(log), Some(store)) => regions.push((store.clone(), RegionLog::clone(log))),
                (Ok(_), None) => away.push((view.name.clone(), "it was not opened".to_owned())),
                (Err(why), _) => away.push((view.name.clone(), why)),
            }
        }
        Self { regions, away }
    }

    pub(crate) fn logs(&self) -> impl Iterator<Item = &RegionLog> {
        self.regions.iter().map(|(_, log)| log)
    }

    /// The record with this body, if some log has one for which `is_it` holds: whoever says the same again repeats it.
    #[must_use]
    pub(crate) fn find(&self, is_it: impl Fn(&RecordBody) -> bool) -> Option<Draft> {
        let records = self.logs().flat_map(RegionLog::entries).map(|entry| &entry.record);
        let known = records.into_iter().find(|record| is_it(&record.body))?;
        Some(Draft { origin: known.origin.clone(), body: known.body.clone() })
    }

    /// A new event of `signer`.
    #[must_use]
    pub(crate) fn draft(&self, signer: &NoteSigner, body: RecordBody, now: UtcTime) -> Draft {
        let last = self.logs().filter_map(|log| log.last_count(signer.name())).max();
        let (writer, wseq) = (signer.name().clone(), Origin::next_count(last, now));
        Draft { origin: Origin { writer, wseq, time: now, tool: wiring::TOOL.to_owned() }, body }
    }

    /// Writes the event into every log that does not have it. A region that fails is reported, and does not stop the others.
    pub(crate) async fn append(&mut self, signer: &NoteSigner, draft: &Draft) -> Delivery {
        let mut delivery = Delivery { regions: Vec::new(), missing: self.away.clone() };
        for (region, log) in &mut self.regions {
            match log.append(&*region.store, signer, draft).await {
                Ok(_) => delivery.regions.push(region.name.clone()),
                Err(error) => delivery.missing.push((region.name.clone(), error_chain(&error))),
            }
        }
        delivery
    }
}

/// Whether a region's answer is about the repository that the catalog is of.
pub(crate) fn usable<'a>(repository: &'a Repository, answer: &'a RegionAnswer) -> Result<&'a RegionLog, String> {
    let expected: Option<&Descriptor> = repository.catalog.descriptor();
    match answer {
        RegionAnswer::Unreadable { why } => Err(why.clone()),
        RegionAnswer::Read { descriptor, .. } if expected != Some(&**descriptor) => {
            Err("it belongs to another repository than the first region".to_owned())
        }
        RegionAnswer::Read { log, .. } => Ok(log),
    }
}
