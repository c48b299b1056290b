//! Slots: an epoch key, sealed to everybody who may open it. Stored as small JSON beside the backups.
//!
//! The host that makes backups knows only public keys and commands that wrap: it can close every slot and open none.

use data_encoding::BASE64;
use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::format::ids::{EpochId, RepositoryId};
use crate::format::json_text::as_text;
use crate::format::seal::EpochKey;
use crate::keys::command::{BLOB_BYTES_MAX, KeyCommand, KeyCommandError, is_command_name};
use crate::keys::hpke::{self, Binding};
use crate::keys::identity::Identity;
use crate::keys::recipient::{HpkeSealError, Recipient, RecipientId};

/// The largest set of slots that is written or read, in **bytes**.
pub(crate) const SLOTS_BYTES_MAX: usize = 1 << 20;
/// The largest number of slots in a set.
pub(crate) const SLOTS_MAX: usize = 64;
const VERSION: u32 = 1;
const INFO: &[u8] = b"lifeboat.v1/epoch-key";

/// Which epoch a set of slots belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochPlace {
    /// The repository.
    pub repository: RepositoryId,
    /// The epoch in it.
    pub epoch: EpochId,
}

impl EpochPlace {
    /// What a sealed epoch key is bound to: repository (16), epoch (16), recipient's short name (4).
    fn bound_to(self, recipient: RecipientId) -> Vec<u8> {
        [self.repository.as_bytes().as_slice(), self.epoch.as_bytes(), recipient.as_bytes()].concat()
    }
}

/// Who may open a set of slots.
#[derive(Clone, Copy, Debug)]
pub struct KeyRecipients<'a> {
    /// Owners of identities; one that stands there twice gets one slot.
    pub recipients: &'a [Recipient],
    /// Programs that wrap.
    pub commands: &'a [KeyCommand],
}

/// What there is to open a slot with.
#[derive(Clone, Copy, Debug)]
pub struct Openers<'a> {
    /// Identities.
    pub identities: &'a [Identity],
    /// Programs that unwrap. They are asked only if no identity fits.
    pub commands: &'a [KeyCommand],
}

/// Why an epoch key could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlotsError {
    /// No key could ever open it.
    #[error("an epoch key needs at least one recipient or command: nobody could open the backup")]
    NoRecipients,
    /// More than anybody needs.
    #[error("{found} slots are more than {SLOTS_MAX}")]
    TooMany {
        /// How many there are.
        found: usize,
    },
    /// More than anybody needs.
    #[error("a set of slots of {bytes} bytes is larger than {SLOTS_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A recipient's slot could not be closed.
    #[error("seal the epoch key")]
    Seal(#[from] HpkeSealError),
    /// A program failed, to wrap or to unwrap.
    #[error("pass the epoch key through a command")]
    Command(#[from] KeyCommandError),
    /// It is not JSON, or fields are missing or malformed.
    #[error("read the slots of an epoch key")]
    Json(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("the slots have version {version}; this program knows {VERSION}")]
    Version {
        /// What they say.
        version: u32,
    },
    /// They belong to another epoch.
    #[error("the slots belong to epoch {epoch} of repository {repository}")]
    OtherPlace {
        /// The repository that they name.
        repository: RepositoryId,
        /// The epoch that they name.
        epoch: EpochId,
    },
    /// A slot for one of our identities, which that identity does not open.
    #[error("the slot of recipient {recipient} is damaged, or was made for somebody else")]
    Damaged {
        /// Whose it should be.
        recipient: RecipientId,
    },
    /// We are none of those who may open it.
    #[error("none of what was given ({given}) opens the epoch key; it was sealed to {sealed_to}")]
    NoMatchingSlot {
        /// Short names of our identities, and names of our commands.
        given: String,
        /// Short names of recipients, and names of commands.
        sealed_to: String,
    },
}

#[derive(Serialize, Deserialize)]
struct SlotSet {
    v: u32,
    #[serde(with = "as_text")]
    repo: RepositoryId,
    #[serde(with = "as_text")]
    epoch: EpochId,
    #[serde(with = "as_text")]
    created: UtcTime,
    slots: Vec<Slot>,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type")]
enum Slot {
    #[serde(rename = "hpke-x25519")]
    Hpke {
        #[serde(with = "as_text")]
        rid: RecipientId,
        #[serde(with = "base64")]
        enc: Vec<u8>,
        #[serde(with = "base64")]
        ct: Vec<u8>,
    },
    #[serde(rename = "command")]
    Command {
        name: String,
        #[serde(with = "base64")]
        blob: Vec<u8>,
    },
    #[serde(other)]
    Unknown,
}

/// Wraps `key` for all `recipients` and returns the JSON that is stored.
///
/// # Errors
/// [`SlotsError`]; if the key cannot be wrapped for one of them, there is no set at all.
pub async fn seal_slots(
    key: &EpochKey,
    place: EpochPlace,
    created: UtcTime,
    recipients: KeyRecipients<'_>,
) -> Result<Vec<u8>, SlotsError> {
    let KeyRecipients { recipients, commands } = recipients;
    let mut recipients = recipients.to_vec();
    recipients.sort_unstable();
    recipients.dedup();
    match recipients.len() + commands.len() {
        0 => return Err(SlotsError::NoRecipients),
        found if found > SLOTS_MAX => return Err(SlotsError::TooMany { found }),
        _ => {}
    }
    let mut slots = Vec::new();
    for recipient in &recipients {
        let rid = recipient.id();
        let binding = Binding { info: INFO, aad: &place.bound_to(rid) };
        let sealed = recipient.seal(binding, key.expose())?;
        slots.push(Slot::Hpke { rid, enc: sealed.encapsulated.to_vec(), ct: sealed.ciphertext });
    }
    for command in commands {
        slots.push(Slot::Command { name: command.name().to_owned(), blob: command.wrap(key.expose()).await? });
    }
    let EpochPlace { repository: repo, epoch } = place;
    let json = serde_json::to_vec(&SlotSet { v: VERSION, repo, epoch, created, slots })?;
    if json.len() > SLOTS_BYTES_MAX { Err(SlotsError::TooLarge { bytes: json.len() }) } else { Ok(json) }
}

fn parse(json: &[u8]) -> Result<SlotSet, SlotsError> {
    if json.len() > SLOTS_BYTES_MAX {
        return Err(SlotsError::TooLarge { bytes: json.len() });
    }
    let set: SlotSet = serde_json::from_slice(json)?;
    if set.v != VERSION {
        return Err(SlotsError::Version { version: set.v });
    }
    if set.slots.len() > SLOTS_MAX {
        return Err(SlotsError::TooMany { found: set.slots.len() });
    }
    Ok(set)
}

/// Opens the epoch key with whatever fits. `json` was compared with the SHA-256 in the backup's record; slots of types
/// that this version does not know are skipped.
///
/// # Errors
/// [`SlotsError::NoMatchingSlot`] lists to whom the key was sealed; else as the variants say.
pub async fn open_slots(json: &[u8], place: EpochPlace, openers: Openers<'_>) -> Result<EpochKey, SlotsError> {
    let set = parse(json)?;
    if (set.repo, set.epoch) != (place.repository, place.epoch) {
        return Err(SlotsError::OtherPlace { repository: set.repo, epoch: set.epoch });
    }
    let mut damaged = None;
    for slot in &set.slots {
        let Slot::Hpke { rid, enc, ct } = slot else { continue };
        for identity in openers.identities.iter().filter(|identity| identity.recipient().id() == *rid) {
            match open_hpke(identity, place, enc, ct) {
                Some(key) => return Ok(key),
                None => damaged = Some(SlotsError::Damaged { recipient: *rid }),
            }
        }
    }
    for slot in &set.slots {
        let Slot::Command { name, blob } = slot else { continue };
        let fits = |command: &&KeyCommand| command.name() == name && blob.len() <= BLOB_BYTES_MAX;
        if let Some(command) = openers.commands.iter().find(fits) {
            return Ok(EpochKey::from_bytes(*command.unwrap(blob).await?.expose()));
        }
    }
    Err(damaged.unwrap_or_else(|| no_match(&set, openers)))
}

fn open_hpke(identity: &Identity, place: EpochPlace, enc: &[u8], ct: &[u8]) -> Option<EpochKey> {
    let binding = Binding { info: INFO, aad: &place.bound_to(identity.recipient().id()) };
    let opened = hpke::open(identity.private(), binding, enc.try_into().ok()?, ct)?;
    let key: Zeroizing<[u8; 32]> = Zeroizing::new(opened.as_slice().try_into().ok()?);
    Some(EpochKey::from_bytes(*key))
}

fn no_match(set: &SlotSet, openers: Openers<'_>) -> SlotsError {
    let command = |name: &str| format!("command `{name}`");
    let identities = openers.identities.iter().map(|identity| format!("identity {}", identity.recipient().id()));
    let given = identities.chain(openers.commands.iter().map(|c| command(c.name()))).collect::<Vec<_>>();
    let sealed_to = set.slots.iter().map(|slot| match slot {
        Slot::Hpke { rid, .. } => format!("recipient {rid}"),
        // Another program has written it: what is no name is not repeated.
        Slot::Command { name, .. } if is_command_name(name) => command(name),
        Slot::Command { .. } => "a command without a name".to_owned(),
        Slot::Unknown => "a holder of a kind that this program does not know".to_owned(),
    });
    let list = |mut names: Vec<String>| {
        if names.is_empty() {
            names.push("nothing".to_owned());
        }
        names.join(", ")
    };
    SlotsError::NoMatchingSlot { given: list(given), sealed_to: list(sealed_to.collect()) }
}

mod base64 {
    use super::BASE64;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?.as_bytes()).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
