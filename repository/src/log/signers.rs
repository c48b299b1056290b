//! Which keys may sign in a repository: the root key, and those that it has named in the log.

use std::fmt;

use lifeboat_vocabulary::UtcTime;

use crate::format::key_name::KeyName;
use crate::keys::signing::VerifyKey;
use crate::log::note::NoteSigner;
use crate::log::records::record::{Origin, RecordBody};
use crate::log::roles::{Right, Role};
use crate::log::statement::{Delegation, Revocation, Statement};

/// The most keys of one repository, and the most delegations of one key.
const SIGNERS_MAX: usize = 1000;

/// The keys of a repository, as far as they are known. A log that is read adds what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers {
    root: Box<VerifyKey>,
    keys: Vec<Signer>,
}

/// A key that the root key has named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The key.
    pub key: VerifyKey,
    /// What it may sign, in the order of the log; they add up.
    pub delegations: Vec<Delegation>,
    /// Whether it may sign nothing any more.
    pub revoked: Option<Revocation>,
}

/// Why a key may not sign a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAllowed {
    /// Only the root key may.
    #[error("only the root key may sign it")]
    RootOnly,
    /// It was revoked before.
    #[error("its key was revoked: {reason}")]
    Revoked {
        /// Why it was.
        reason: String,
    },
    /// The record has the name of another writer.
    #[error("its key belongs to {owner}, and it says that {writer} wrote it")]
    OtherName {
        /// Whose key it is.
        owner: KeyName,
        /// What the record says.
        writer: KeyName,
    },
    /// No role of the key allows it.
    #[error("its key may not sign it: it needs the role {}", one_of(.needed))]
    Role {
        /// One of these would do.
        needed: Vec<Role>,
    },
    /// A role of the key would allow it at another time.
    #[error("its key may sign it only from {from}{}", until_text(.until.as_ref()))]
    Time {
        /// From when on.
        from: UtcTime,
        /// Until when.
        until: Option<UtcTime>,
    },
    /// The root key has not named the key in this log.
    #[error("its key is not one that the root key has named in this log")]
    Unknown,
}

/// Whether a key may still sign. What a revoked key has signed stays readable; where something depends on the writer not having lied,
/// it counts for nothing, because whoever stole the key may have written it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyStanding {
    /// It was not revoked.
    InForce,
    /// It was.
    Revoked,
}

fn one_of(roles: &[Role]) -> String {
    roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
}

fn until_text(until: Option<&UtcTime>) -> String {
    until.map_or_else(String::new, |until| format!(" until {until}"))
}

impl Signers {
    /// The root key alone: all that is known before a log is read.
    #[must_use]
    pub fn root_only(root: VerifyKey) -> Self {
        Self { root: Box::new(root), keys: Vec::new() }
    }

    /// The root key.
    #[must_use]
    pub fn root(&self) -> VerifyKey {
        *self.root
    }

    /// The keys that the root key has named, in the order of the log.
    #[must_use]
    pub fn delegated(&self) -> &[Signer] {
        &self.keys
    }

    /// Every key that may ever have signed anything, the root key first.
    #[must_use]
    pub(crate) fn all(&self) -> Vec<VerifyKey> {
        std::iter::once(*self.root).chain(self.keys.iter().map(|signer| signer.key)).collect()
    }

    /// The keys that had a role at any time, also those that were revoked: what is stored under them was written by them
    /// when they had it. The root key has every role.
    #[must_use]
    pub fn that_had(&self, role: Role) -> Vec<VerifyKey> {
        let had = self.keys.iter().filter(|signer| signer.has_had(role)).map(|signer| signer.key);
        std::iter::once(*self.root).chain(had).collect()
    }

    /// The keys that have a role now and were not revoked. The root key has every role.
    #[must_use]
    pub fn that_have(&self, role: Role, now: UtcTime) -> Vec<VerifyKey> {
        let have = self.keys.iter().filter(|signer| signer.revoked.is_none() && signer.has(role, now));
        std::iter::once(*self.root).chain(have.map(|signer| signer.key)).collect()
    }

    /// The keys that were not revoked, the root key first.
    #[must_use]
    pub(crate) fn not_revoked(&self) -> Vec<VerifyKey> {
        let kept = self.keys.iter().filter(|signer| signer.revoked.is_none()).map(|signer| signer.key);
        std::iter::once(*self.root).chain(kept).collect()
    }

    /// The names of those who have had a role and were not revoked.
    #[must_use]
    pub fn names_of(&self, role: Role) -> Vec<KeyName> {
        let mut names: Vec<KeyName> = Vec::new();
        for signer in self.keys.iter().filter(|signer| signer.revoked.is_none()) {
            for delegation in signer.delegations.iter().filter(|delegation| delegation.roles.contains(&role)) {
                if !names.contains(&delegation.name) {
                    names.push(delegation.name.clone());
                }
            }
        }
        names
    }

    /// Whether the key is one of them, in force or not.
    #[must_use]
    pub fn knows(&self, key: &VerifyKey) -> bool {
        *key == *self.root || self.signer(key).is_some()
    }

    /// What is known of a key that the root key has named.
    #[must_use]
    pub fn signer(&self, key: &VerifyKey) -> Option<&Signer> {
        self.keys.iter().find(|signer| signer.key == *key)
    }

    /// Whether a key may still sign.
    #[must_use]
    pub fn standing(&self, key: &VerifyKey) -> KeyStanding {
        match self.signer(key).and_then(|signer| signer.revoked.as_ref()) {
            Some(_) => KeyStanding::Revoked,
            None => KeyStanding::InForce,
        }
    }

    /// Takes a statement into account. A repetition changes nothing; a key that was revoked stays revoked.
    pub fn adopt(&mut self, statement: &Statement) {
        let key = statement.key();
        if key == *self.root {
            return;
        }
        let place = match self.keys.iter().position(|signer| signer.key == key) {
            Some(place) => place,
            None if self.keys.len() >= SIGNERS_MAX => return,
            None => {
                self.keys.push(Signer { key, delegations: Vec::new(), revoked: None });
                self.keys.len() - 1
            }
        };
        let Some(signer) = self.keys.get_mut(place) else { return };
        match statement {
            Statement::Delegation(delegation) => {
                if signer.delegations.len() < SIGNERS_MAX && !signer.delegations.contains(delegation) {
                    signer.delegations.push(delegation.clone());
                }
            }
            Statement::Revocation(revocation) => {
                signer.revoked.get_or_insert_with(|| revocation.clone());
            }
        }
    }

    /// Takes over what another log says: a key that was revoked in any of them is revoked.
    pub fn merge(&mut self, other: &Self) {
        if other.root != self.root {
            return;
        }
        for signer in &other.keys {
            let delegations = signer.delegations.iter().cloned().map(Statement::Delegation);
            let revoked = signer.revoked.iter().cloned().map(Statement::Revocation);
            delegations.chain(revoked).for_each(|statement| self.adopt(&statement));
        }
    }

    /// Whether `key` may sign a record that needs `right`, as `writer`, at `time`.
    pub(crate) fn judge(
        &self,
        key: &VerifyKey,
        right: Right,
        writer: &KeyName,
        time: UtcTime,
    ) -> Result<(), NotAllowed> {
        if let Some(Revocation { reason, .. }) = self.signer(key).and_then(|signer| signer.revoked.as_ref()) {
            return Err(NotAllowed::Revoked { reason: reason.clone() });
        }
        self.judge_roles(key, right, writer, time)
    }

    /// Whether whoever signs may act in a role now.
    ///
    /// # Errors
    /// [`NotAllowed`] says why not.
    pub fn allows(&self, signer: &NoteSigner, role: Role, now: UtcTime) -> Result<(), NotAllowed> {
        self.judge(&signer.verify_key(), role.right(), signer.name(), now)
    }

    /// Whether `key` was allowed to sign a record at the record's time, revoked since or not.
    pub(crate) fn judge_past(&self, key: &VerifyKey, body: &RecordBody, origin: &Origin) -> Result<(), NotAllowed> {
        self.judge_roles(key, body.right(), &origin.writer, origin.time)
    }

    /// Whether `key` may speak for `writer` in a role: for signed objects that are replaced all the time, such as heads.
    pub(crate) fn speaks_for(&self, key: &VerifyKey, writer: &KeyName, role: Role) -> bool {
        let fits = |delegation: &Delegation| delegation.name == *writer && delegation.roles.contains(&role);
        let signer = self.signer(key).filter(|signer| signer.revoked.is_none());
        *key == *self.root || signer.is_some_and(|signer| signer.delegations.iter().any(fits))
    }

    fn judge_roles(&self, key: &VerifyKey, right: Right, writer: &KeyName, time: UtcTime) -> Result<(), NotAllowed> {
        if *key == *self.root {
            return Ok(());
        }
        let signer = self.signer(key).ok_or(NotAllowed::Unknown)?;
        if !signer.delegations.iter().any(|delegation| delegation.name == *writer) {
            return Err(match signer.delegations.first() {
                Some(first) => NotAllowed::OtherName { owner: first.name.clone(), writer: writer.clone() },
                None => NotAllowed::Unknown,
            });
        }
        let named = || signer.delegations.iter().filter(|delegation| delegation.name == *writer);
        let roles = match right {
            Right::Root => return Err(NotAllowed::RootOnly),
            Right::AnySigner => return Ok(()),
            Right::Roles(roles) => roles,
        };
        let fits = |delegation: &&Delegation| delegation.roles.iter().any(|role| roles.contains(role));
        let Some(last) = signer.delegations.iter().rev().filter(|delegation| delegation.name == *writer).find(fits)
        else {
            return Err(NotAllowed::Role { needed: roles.to_vec() });
        };
        if named().filter(fits).any(|delegation| delegation.covers(time)) {
            return Ok(());
        }
        Err(NotAllowed::Time { from: last.from, until: last.until })
    }
}

impl Signer {
    fn has_had(&self, role: Role) -> bool {
        self.delegations.iter().any(|delegation| delegation.roles.contains(&role))
    }

    fn has(&self, role: Role, now: UtcTime) -> bool {
        self.delegations.iter().any(|delegation| delegation.roles.contains(&role) && delegation.covers(now))
    }
}

impl Delegation {
    /// Whether it is in force at `time`.
    #[must_use]
    pub fn covers(&self, time: UtcTime) -> bool {
        self.from <= time && self.until.is_none_or(|until| time < until)
    }
}

impl fmt::Display for Delegation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<String> = self.roles.iter().map(ToString::to_string).collect();
        write!(f, "{} as {} from {}{}", self.name, roles.join(", "), self.from, until_text(self.until.as_ref()))
    }
}
