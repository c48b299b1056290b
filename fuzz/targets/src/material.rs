//! What several targets share: keys that everybody knows, headers that belong to them, and stores that never wait.

use std::future::Future;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use futures_util::FutureExt;
use lifeboat_repository::format::KeyName;
use lifeboat_repository::format::header::{ObjectHeader, Trailer, WalPlace};
use lifeboat_repository::format::ids::{EpochId, ObjectId, ObjectKind, RepositoryId, Salt};
use lifeboat_repository::format::seal::EpochKey;
use lifeboat_repository::format::unseal::ExpectedObject;
use lifeboat_repository::keys::{SigningKey, VerifyKey};
use lifeboat_repository::log::{Delegation, NoteSigner, Role, Signers, Statement};
use lifeboat_stores::{ObjectKey, PutMode, SealedBody, Store};
use lifeboat_vocabulary::{RegionName, UtcTime};

/// The repository of all fuzzed objects.
pub(crate) const REPOSITORY: RepositoryId = RepositoryId::from_bytes([1; 16]);
/// The epoch of all fuzzed objects.
pub(crate) const EPOCH: EpochId = EpochId::from_bytes([2; 16]);

/// The key of all fuzzed objects.
pub(crate) fn epoch_key() -> EpochKey {
    EpochKey::from_bytes([3; 32])
}

/// Any object of the kind.
pub(crate) fn expected(kind: ObjectKind) -> ExpectedObject {
    ExpectedObject { kind, repository: REPOSITORY, epoch: EPOCH, object: None, place: None }
}

/// The header of an unsigned object.
pub(crate) fn header(kind: ObjectKind) -> ObjectHeader {
    let (object, salt) = (ObjectId::from_bytes([4; 16]), Salt::from_bytes([5; 24]));
    let (trailer, place) = (Trailer::Absent, WalPlace::Nowhere);
    ObjectHeader { kind, trailer, repository: REPOSITORY, epoch: EPOCH, object, salt, place }
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Party {
    /// The root key of the repository.
    Root,
    /// A key that may back up, by the name `writer`.
    Writer,
    /// A key that may delete, by the name `pruner`.
    Pruner,
    /// A key that the root key has never named.
    Stranger,
}

impl Party {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Root, Self::Writer, Self::Pruner, Self::Stranger];

    /// The one that an input asks for.
    pub(crate) fn chosen(number: u8) -> Self {
        Self::ALL[usize::from(number) % Self::ALL.len()]
    }

    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Writer => "writer",
            Self::Pruner => "pruner",
            Self::Stranger => "stranger",
        }
    }

    /// The name on its signature lines.
    pub(crate) fn key_name(self) -> KeyName {
        self.name().parse().expect("it is a name")
    }

    /// Made of the seeds 10..2f, 30..4f, 50..6f and 70..8f.
    fn private(self) -> SigningKey {
        let text = match self {
            Self::Root => "lifeboat-sign-1zqg3yyc5z5tpwxqergd3c8g7ruszzg3rysjjvfeg9y4zktpd9chsha0esd",
            Self::Writer => "lifeboat-sign-1xqcnyve5x5mrwwpe8ganc0f78aqyzsjrg3z5v36gf99yknzdfe8spu9cn4",
            Self::Pruner => "lifeboat-sign-12pg4y56524t9wkzetfd4ch27tasxzcnrv3jkvemgd94xkmrddehsdhkkys",
            Self::Stranger => "lifeboat-sign-1wpchyum5w4m8w7re0fahclt707qgrq5rsjzcdpug3x9ghryd368sjnyjr0",
        };
        SigningKey::parse_file(text).expect("it is a key")
    }

    fn number(self) -> usize {
        Self::ALL.iter().position(|party| *party == self).unwrap_or_default()
    }

    /// The public half of its key.
    pub(crate) fn verify_key(self) -> VerifyKey {
        self.signer().verify_key()
    }

    /// What it signs with.
    pub(crate) fn signer(self) -> Arc<NoteSigner> {
        Arc::clone(&SIGNERS[self.number()])
    }

    /// What the root key says about it: one role, and without an end.
    pub(crate) fn delegation(self, role: Role) -> Statement {
        let from = time("2026-11-20T00:00:00Z");
        let (key, name, roles) = (self.verify_key(), self.key_name(), vec![role]);
        Statement::Delegation(Delegation { repo: REPOSITORY, key, name, roles, from, until: None })
    }
}

/// What the log of the fuzzed region says of keys.
pub(crate) fn signers() -> Signers {
    let mut signers = Signers::root_only(Party::Root.verify_key());
    signers.adopt(&Party::Writer.delegation(Role::Writer));
    signers.adopt(&Party::Pruner.delegation(Role::Pruner));
    signers
}

/// To make a key of its text takes longer than most targets do.
static SIGNERS: LazyLock<[Arc<NoteSigner>; 4]> = LazyLock::new(|| {
    let root = Party::Root.private().verify_key();
    Party::ALL.map(|party| Arc::new(NoteSigner::under(party.key_name(), party.private(), root)))
});

/// A key that nobody has signed anything with.
pub(crate) fn unused_key() -> VerifyKey {
    static KEY: LazyLock<VerifyKey> =
        LazyLock::new(|| VerifyKey::from_bytes(&[9; 32]).expect("it is a point of the curve"));
    *KEY
}

/// A time that stands in this source.
pub(crate) fn time(text: &str) -> UtcTime {
    text.parse().expect("it is a time")
}

/// The region of all fuzzed logs.
pub(crate) fn region() -> RegionName {
    "eu-1".parse().expect("it is a name")
}

/// The result of something that only asks a store in memory.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("a store in memory never waits")
}

/// Puts an object into a store in memory, in place of whatever is there.
pub(crate) fn put(store: &dyn Store, key: &ObjectKey, bytes: Vec<u8>) {
    let bytes = Bytes::from(bytes);
    let mode = match at_once(store.head(key)) {
        Ok(found) => PutMode::IfUnchanged(found.version),
        Err(_) => PutMode::CreateOnly,
    };
    let body = SealedBody { sha256: lifeboat_repository::format::aead::sha256(&bytes), bytes };
    at_once(store.put(key, body, mode)).expect("a store in memory takes what fits its bounds");
}

/// Takes an input apart: numbers from its front, the rest is text or content.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next bytes; zeros where the input is too short.
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (front, rest) = self.0.split_at(self.0.len().min(N));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes.iter_mut().zip(front).for_each(|(to, from)| *to = *from);
        bytes
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let [byte] = self.bytes();
        byte
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(crate) fn number(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// The next `length` bytes, or what is left.
    pub(crate) fn take(&mut self, length: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(self.0.len().min(length));
        self.0 = rest;
        front
    }
}
