//! What a signing key may say: the roles that the root key hands out, and the records that each of them may write.
//!
//! The key on the database host is a writer's: who takes the host over can add to the history, and cannot end any of it.

use std::fmt;
use std::str::FromStr;

/// What a key may sign beside what everybody may: audits, and statements of the root key that it passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Backs up: backups, WAL and its keys, gaps, incarnations, heads.
    Writer,
    /// Keeps the repository: decides what is forgotten, deletes, records damage, heals.
    Pruner,
    /// Drills: records damage that a restore has met.
    Drill,
    /// Acts by hand: holds and their releases.
    Operator,
}

/// A word that is no role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no role; the roles are writer, pruner, drill, operator")]
pub struct UnknownRole {
    text: String,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Writer, Self::Pruner, Self::Drill, Self::Operator];
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Writer => "writer",
            Self::Pruner => "pruner",
            Self::Drill => "drill",
            Self::Operator => "operator",
        })
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Self::ALL.into_iter().find(|role| role.to_string() == text);
        role.ok_or_else(|| UnknownRole { text: text.chars().take(40).collect() })
    }
}

impl Role {
    /// What needs this role and no other.
    pub(crate) fn right(self) -> Right {
        Right::Roles(match self {
            Self::Writer => &[Self::Writer],
            Self::Pruner => &[Self::Pruner],
            Self::Drill => &[Self::Drill],
            Self::Operator => &[Self::Operator],
        })
    }
}

/// Who may write a record, beside the root key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// Nobody else.
    Root,
    /// A key with one of these roles.
    Roles(&'static [Role]),
    /// Any key that the root key has ever named and not revoked: the record destroys nothing.
    AnySigner,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_back_from_their_words() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse::<Role>().unwrap(), role);
        }
        let error = "root".parse::<Role>().unwrap_err();
        assert_eq!(error.to_string(), "`root` is no role; the roles are writer, pruner, drill, operator");
    }
}
