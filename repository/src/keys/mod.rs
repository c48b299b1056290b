//! Keys: key pairs of those who restore, keys that sign, and the slots in which the key of an epoch is wrapped.

pub(crate) mod command;
pub(crate) mod hpke;
pub(crate) mod identity;
pub(crate) mod key_file;
pub(crate) mod key_text;
pub(crate) mod passphrase;
pub(crate) mod recipient;
pub(crate) mod signing;
pub(crate) mod slots;

pub use self::command::{COMMAND_TIMEOUT, KeyCommand, KeyCommandError};
pub use self::identity::{Identity, IdentityFileError, parse_file as parse_identity_file};
pub use self::key_file::{KeyFileError, read_private_file, write_private_file};
pub use self::key_text::{KeyKind, KeyTextError};
pub use self::passphrase::PassphraseError;
pub use self::recipient::{HpkeSealError, Recipient, RecipientId, RecipientIdError};
pub use self::signing::{SigningKey, SigningKeyError, VerifyKey};
pub use self::slots::{EpochPlace, KeyRecipients, Openers, SlotsError, open_slots, seal_slots};
