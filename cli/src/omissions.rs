//! What a backup lacks, in the words of both programs.

use lifeboat_repository::log::records::{BackupRecord, Omissions, OmittedPart};
use lifeboat_vocabulary::counted;

use crate::outln;
use crate::terminal::{Tone, toned};

/// How many missing parts of a backup are named in one line.
const MISSING_NAMED: usize = 3;

/// What is missing in an incomplete backup, in one line.
#[must_use]
pub fn incomplete_text(record: &BackupRecord) -> String {
    let Omissions { data, .. } = record.omissions;
    let named: Vec<String> =
        record.omissions.named_of(OmittedPart::Data).take(MISSING_NAMED).map(ToString::to_string).collect();
    let more = data.saturating_sub(named.len() as u64);
    let more = if more > 0 { format!("; and {}", counted(more, "more part", "more parts")) } else { String::new() };
    format!("data is missing in backup {}: {}{more}", record.backup, named.join("; "))
}

/// Prints what is not in a backup, the worst first, and what that means for it.
pub fn print_omissions(omissions: &Omissions) {
    for omission in &omissions.named {
        let (word, tone) = match omission.what {
            OmittedPart::Data => ("missing data:", Tone::Bad),
            OmittedPart::Configuration => ("configuration not kept:", Tone::Warning),
            OmittedPart::Other => ("not part of the backup:", Tone::Quiet),
        };
        outln!("{} {omission}", toned(word, tone));
    }
    let more =
        (omissions.data + omissions.configuration + omissions.other).saturating_sub(omissions.named.len() as u64);
    if more > 0 {
        outln!(
            "{} {} not named here",
            toned("attention:", Tone::Warning),
            counted(more, "more omission is", "more omissions are")
        );
    }
    if omissions.data > 0 {
        outln!("{} data is missing: this backup does not count as a good one", toned("attention:", Tone::Bad));
    }
}
