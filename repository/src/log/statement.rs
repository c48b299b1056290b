//! What the root key says about other keys: a signed note of its own, which a `signer` record carries into a log.
//!
//! The statement is signed by the root key, the record around it by any key of the log or by the key that the statement names. So the root key
//! never needs a network: a person signs on a machine that is offline, and any host passes it on.

use std::collections::BTreeSet;

use lifeboat_vocabulary::UtcTime;
use serde::{Deserialize, Serialize};

use crate::format::ids::RepositoryId;
use crate::format::json_text::{as_optional_text, as_text, as_texts};
use crate::format::key_name::KeyName;
use crate::keys::signing::VerifyKey;
use crate::log::note::{self, NoteError, NoteSigner};
use crate::log::records::care::{REASON_BYTES_MAX, is_plain_text};
use crate::log::records::trust::STATEMENT_BYTES_MAX;
use crate::log::roles::Role;

/// The version of statements that this program writes, and the only one that it reads.
const VERSION: u32 = 1;

/// What the root key says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// A key may sign.
    Delegation(Delegation),
    /// A key may sign nothing from here on, for ever: no later statement gives it anything back.
    Revocation(Revocation),
}

/// A key, and what it may sign. Several for one key add up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delegation {
    /// The repository.
    #[serde(with = "as_text")]
    pub repo: RepositoryId,
    /// The key.
    #[serde(with = "as_text")]
    pub key: VerifyKey,
    /// The name that records under the key must have as their writer.
    #[serde(with = "as_text")]
    pub name: KeyName,
    /// What it may sign; at least one.
    #[serde(with = "as_texts")]
    pub roles: Vec<Role>,
    /// Records of an earlier time are not its own.
    #[serde(with = "as_text")]
    pub from: UtcTime,
    /// Records of this time and later do not count; absent if only a revocation ends it.
    #[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UtcTime>,
}

/// A key that may sign no more. What stands before this in a log stays valid; what comes behind it does not count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The repository.
    #[serde(with = "as_text")]
    pub repo: RepositoryId,
    /// The key.
    #[serde(with = "as_text")]
    pub key: VerifyKey,
    /// When it was decided. Only information: what counts is the place in the log.
    #[serde(with = "as_text")]
    pub time: UtcTime,
    /// Why, at most [`REASON_BYTES_MAX`] bytes.
    pub reason: String,
}

/// Why a text is no statement.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatementError {
    /// The root key has not signed it.
    #[error("check the root key's signature below a statement")]
    Note(#[from] NoteError),
    /// It is not JSON, or fields are missing or malformed.
    #[error("read the fields of a statement")]
    Json(#[from] serde_json::Error),
    /// Written by a newer version.
    #[error("the statement has version {version}; this program knows {VERSION}: use a newer one")]
    Version {
        /// What it says.
        version: u32,
    },
    /// A kind that this program does not know.
    #[error("the statement is of kind `{kind}`, which this program does not know: use a newer one")]
    Kind {
        /// What it says.
        kind: String,
    },
    /// It is about another repository.
    #[error("the statement is about repository {found}, not about {expected}")]
    OtherRepository {
        /// The repository of the log.
        expected: RepositoryId,
        /// What it names.
        found: RepositoryId,
    },
    /// It says what no statement says.
    #[error("the statement contradicts itself: {what}")]
    Contradiction {
        /// What.
        what: &'static str,
    },
    /// The key that signs it is not the root key.
    #[error("a statement is signed with the root key {root}, not with {found}")]
    NotRoot {
        /// The root key.
        root: Box<VerifyKey>,
        /// The other.
        found: Box<VerifyKey>,
    },
}

#[derive(Serialize)]
struct Written<'a, T> {
    v: u32,
    kind: &'a str,
    #[serde(flatten)]
    content: &'a T,
}

#[derive(Deserialize)]
struct Start {
    v: u32,
    kind: String,
}

impl Statement {
    /// The key that it is about.
    #[must_use]
    pub fn key(&self) -> VerifyKey {
        match self {
            Self::Delegation(delegation) => delegation.key,
            Self::Revocation(revocation) => revocation.key,
        }
    }

    fn repository(&self) -> RepositoryId {
        match self {
            Self::Delegation(delegation) => delegation.repo,
            Self::Revocation(revocation) => revocation.repo,
        }
    }

    /// The statement as a note that `root` signs. The same statement and key give the same text.
    ///
    /// # Errors
    /// [`StatementError`] if no reader would accept it.
    pub fn sign(&self, root: &NoteSigner) -> Result<String, StatementError> {
        self.check()?;
        let json = match self {
            Self::Delegation(content) => serde_json::to_string(&Written { v: VERSION, kind: "delegation", content })?,
            Self::Revocation(content) => serde_json::to_string(&Written { v: VERSION, kind: "revocation", content })?,
        };
        let note = note::sign(&format!("{json}\n"), &[root])?;
        if note.len() > STATEMENT_BYTES_MAX {
            return Err(StatementError::Contradiction { what: "it is too long" });
        }
        String::from_utf8(note).map_err(|_| StatementError::Note(NoteError::Text))
    }

    /// Reads a note that `root` has signed about `repository`. The signature is checked before any field is read.
    ///
    /// # Errors
    /// [`StatementError`], by meaning. Nothing of the statement may be used then.
    pub fn verify(note: &str, root: &VerifyKey, repository: RepositoryId) -> Result<Self, StatementError> {
        if note.len() > STATEMENT_BYTES_MAX {
            return Err(StatementError::Contradiction { what: "it is too long" });
        }
        let text = note::verify(note.as_bytes(), &[*root])?.text;
        let start: Start = serde_json::from_str(text)?;
        if start.v != VERSION {
            return Err(StatementError::Version { version: start.v });
        }
        let statement = match start.kind.as_str() {
            "delegation" => Self::Delegation(serde_json::from_str(text)?),
            "revocation" => Self::Revocation(serde_json::from_str(text)?),
            kind => return Err(StatementError::Kind { kind: kind.chars().take(40).collect() }),
        };
        if statement.repository() != repository {
            return Err(StatementError::OtherRepository { expected: repository, found: statement.repository() });
        }
        statement.check()?;
        if statement.key() == *root {
            return Err(StatementError::Contradiction { what: "it is about the root key itself" });
        }
        Ok(statement)
    }

    fn check(&self) -> Result<(), StatementError> {
        let contradiction = |what| Err(StatementError::Contradiction { what });
        match self {
            Self::Delegation(Delegation { roles, from, until, .. }) => {
                if roles.is_empty() || roles.iter().collect::<BTreeSet<_>>().len() != roles.len() {
                    return contradiction("it gives no role, or one twice");
                }
                if until.is_some_and(|until| until <= *from) {
                    return contradiction("it ends before it begins");
                }
            }
            Self::Revocation(Revocation { reason, .. }) => {
                if !is_plain_text(reason, REASON_BYTES_MAX) {
                    return contradiction("its reason is empty, too long, or not one line of text");
                }
            }
        }
        Ok(())
    }
}
