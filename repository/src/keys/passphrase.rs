//! An identity under a passphrase: Argon2id (RFC 9106), then ChaCha20-Poly1305 (RFC 8439).
//!
//! All parameters travel with the key, so that the text alone and the passphrase are enough, on any machine.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use lifeboat_vocabulary::{ByteCount, Secret};
use zeroize::Zeroizing;

use crate::format::aead::{Aead, NONCE_BYTES, ObjectAead, TAG_BYTES};
use crate::format::ids::{RandomError, random_bytes};

/// Length of a locked identity in **bytes**: version, cost, salt, sealed key and tag.
pub(crate) const LOCKED_BYTES: usize = HEAD_BYTES + 32 + TAG_BYTES;
const HEAD_BYTES: usize = 1 + 3 * 4 + SALT_BYTES;
const SALT_BYTES: usize = 16;
const VERSION: u8 = 1;
const LABEL: &[u8] = b"lifeboat.v1/identity\0";
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// Every locking draws a salt, so every key that comes out of a passphrase seals exactly one message.
const NONCE: [u8; NONCE_BYTES] = [0; NONCE_BYTES];

/// What it costs to try one passphrase (RFC 9106 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockCost {
    /// Memory in **KiB**, at least 8 for each lane and at most 2 GiB.
    memory_kib: u32,
    /// Passes over the memory, 1 to 16.
    passes: u32,
    /// Lanes, 1 to 16.
    lanes: u32,
}

impl LockCost {
    /// 256 MiB, 3 passes, 4 lanes: about half a second.
    pub const DEFAULT: Self = Self { memory_kib: 256 * 1024, passes: 3, lanes: 4 };
    const MEMORY_KIB_MAX: u32 = 2 * 1024 * 1024;
    const PASSES_MAX: u32 = 16;
    const LANES_MAX: u32 = 16;

    /// A cost within the bounds of the fields.
    ///
    /// # Errors
    /// [`PassphraseError::Cost`] outside of them: such a text is meant to exhaust the reader's machine.
    pub fn new(memory_kib: u32, passes: u32, lanes: u32) -> Result<Self, PassphraseError> {
        let fits = (1..=Self::LANES_MAX).contains(&lanes)
            && (1..=Self::PASSES_MAX).contains(&passes)
            && (8 * lanes..=Self::MEMORY_KIB_MAX).contains(&memory_kib);
        if fits {
            Ok(Self { memory_kib, passes, lanes })
        } else {
            Err(PassphraseError::Cost { memory_kib, passes, lanes })
        }
    }

    fn memory(self) -> ByteCount {
        ByteCount::from_bytes(u64::from(self.memory_kib) * 1024)
    }
}

/// Why a passphrase did not lock or unlock an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassphraseError {
    /// It is empty, or far too long.
    #[error("a passphrase has 1 to {PASSPHRASE_BYTES_MAX} bytes, this has {bytes}")]
    Length {
        /// Its length.
        bytes: usize,
    },
    /// It is not the one.
    #[error("the passphrase does not fit this key")]
    Wrong,
    /// The key was locked by a newer version.
    #[error("the key is locked in a way that this version does not know ({version})")]
    Version {
        /// What it says.
        version: u8,
    },
    /// More work than anybody should be asked for.
    #[error("unlocking would take {memory_kib} KiB, {passes} passes and {lanes} lanes; that is out of bounds")]
    Cost {
        /// Memory asked for.
        memory_kib: u32,
        /// Passes asked for.
        passes: u32,
        /// Lanes asked for.
        lanes: u32,
    },
    /// This machine has not enough memory.
    #[error("there is no memory for {wanted}, which the passphrase needs")]
    Memory {
        /// What is needed.
        wanted: ByteCount,
    },
    /// There is no salt.
    #[error("lock a key")]
    Random(#[from] RandomError),
}

fn derive(passphrase: &Secret<String>, salt: &[u8; SALT_BYTES], cost: LockCost) -> Result<ObjectAead, PassphraseError> {
    let passphrase = passphrase.expose().as_bytes();
    let bytes = passphrase.len();
    if !(1..=PASSPHRASE_BYTES_MAX).contains(&bytes) {
        return Err(PassphraseError::Length { bytes });
    }
    let LockCost { memory_kib, passes, lanes } = cost;
    let out_of_bounds = |_| PassphraseError::Cost { memory_kib, passes, lanes };
    let params = Params::new(memory_kib, passes, lanes, Some(32)).map_err(out_of_bounds)?;
    let blocks = params.block_count();
    let mut memory: Vec<Block> = Vec::new();
    memory.try_reserve_exact(blocks).map_err(|_| PassphraseError::Memory { wanted: cost.memory() })?;
    memory.resize(blocks, Block::new());
    let mut key = Zeroizing::new([0; 32]);
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into_with_memory(passphrase, salt, key.as_mut_slice(), &mut memory).map_err(out_of_bounds)?;
    ObjectAead::new(key.as_slice()).map_err(|_| PassphraseError::Wrong)
}

/// Puts a private key under a passphrase.
pub(crate) fn lock(
    private: &[u8; 32],
    passphrase: &Secret<String>,
    cost: LockCost,
) -> Result<[u8; LOCKED_BYTES], PassphraseError> {
    lock_with(private, passphrase, cost, random_bytes()?)
}

fn lock_with(
    private: &[u8; 32],
    passphrase: &Secret<String>,
    cost: LockCost,
    salt: [u8; SALT_BYTES],
) -> Result<[u8; LOCKED_BYTES], PassphraseError> {
    let mut head = vec![VERSION];
    for number in [cost.memory_kib, cost.passes, cost.lanes] {
        head.extend_from_slice(&number.to_le_bytes());
    }
    head.extend_from_slice(&salt);
    let mut sealed = Zeroizing::new(*private);
    let aad = [LABEL, &head].concat();
    let aead = derive(passphrase, &salt, cost)?;
    let tag = aead.seal(NONCE, &aad, sealed.as_mut_slice()).map_err(|_| PassphraseError::Wrong)?;
    let mut locked = [0; LOCKED_BYTES];
    for (to, from) in locked.iter_mut().zip(head.iter().chain(sealed.iter()).chain(&tag)) {
        *to = *from;
    }
    Ok(locked)
}

struct Locked<'a> {
    cost: LockCost,
    salt: &'a [u8; SALT_BYTES],
    head: &'a [u8],
    sealed: &'a [u8; 32],
    tag: &'a [u8; TAG_BYTES],
}

fn parse(bytes: &[u8; LOCKED_BYTES]) -> Result<Locked<'_>, PassphraseError> {
    let (head, rest) = bytes.split_at(HEAD_BYTES);
    let parts = || {
        let (version, numbers) = head.split_first()?;
        let (memory_kib, numbers) = numbers.split_first_chunk::<4>()?;
        let (passes, numbers) = numbers.split_first_chunk::<4>()?;
        let (lanes, salt) = numbers.split_first_chunk::<4>()?;
        let (sealed, tag) = rest.split_first_chunk::<32>()?;
        let cost = [*memory_kib, *passes, *lanes].map(u32::from_le_bytes);
        Some((*version, cost, salt.try_into().ok()?, sealed, tag.try_into().ok()?))
    };
    let (version, [memory_kib, passes, lanes], salt, sealed, tag) = parts().ok_or(PassphraseError::Wrong)?;
    if version != VERSION {
        return Err(PassphraseError::Version { version });
    }
    Ok(Locked { cost: LockCost::new(memory_kib, passes, lanes)?, salt, head, sealed, tag })
}

/// Gets the private key back.
pub(crate) fn unlock(
    locked: &[u8; LOCKED_BYTES],
    passphrase: &Secret<String>,
) -> Result<Zeroizing<[u8; 32]>, PassphraseError> {
    let Locked { cost, salt, head, sealed, tag } = parse(locked)?;
    let mut private = Zeroizing::new(*sealed);
    let aead = derive(passphrase, salt, cost)?;
    let aad = [LABEL, head].concat();
    aead.open(NONCE, &aad, private.as_mut_slice(), tag).map_err(|_| PassphraseError::Wrong)?;
    Ok(private)
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    const CHEAP: LockCost = LockCost { memory_kib: 64, passes: 1, lanes: 2 };

    fn secret(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[test]
    fn every_changed_byte_and_every_other_passphrase_is_refused() {
        let locked = lock(&[5; 32], &secret("correct horse"), CHEAP).unwrap();
        for wrong in ["correct horse ", "Correct horse", "correct hors"] {
            assert_eq!(unlock(&locked, &secret(wrong)).unwrap_err(), PassphraseError::Wrong, "{wrong}");
        }
        assert_eq!(unlock(&locked, &secret("")).unwrap_err(), PassphraseError::Length { bytes: 0 });
        let long = "x".repeat(PASSPHRASE_BYTES_MAX + 1);
        assert_eq!(unlock(&locked, &secret(&long)).unwrap_err(), PassphraseError::Length { bytes: 1025 });
        for place in (0..LOCKED_BYTES).filter(|place| ![2, 3, 4].contains(place)) {
            let mut changed = locked;
            changed[place] ^= 1;
            assert!(unlock(&changed, &secret("correct horse")).is_err(), "byte {place}");
        }
        assert_eq!(*unlock(&locked, &secret("correct horse")).unwrap(), [5; 32]);
    }

    #[test]
    fn costs_that_would_hurt_are_refused_before_any_work() {
        for (memory_kib, passes, lanes) in [
            (2 * 1024 * 1024 + 1, 3, 4),
            (u32::MAX, 3, 4),
            (65536, 17, 4),
            (65536, 0, 4),
            (65536, 3, 17),
            (31, 3, 4),
            (64, 1, 0),
        ] {
            let expected = PassphraseError::Cost { memory_kib, passes, lanes };
            assert_eq!(LockCost::new(memory_kib, passes, lanes), Err(expected.clone()));
            let mut locked = lock(&[5; 32], &secret("p"), CHEAP).unwrap();
            for (place, number) in [(1, memory_kib), (5, passes), (9, lanes)] {
                locked[place..place + 4].copy_from_slice(&number.to_le_bytes());
            }
            assert_eq!(unlock(&locked, &secret("p")).unwrap_err(), expected);
        }
        let mut newer = lock(&[5; 32], &secret("p"), CHEAP).unwrap();
        newer[0] = 2;
        assert_eq!(unlock(&newer, &secret("p")).unwrap_err(), PassphraseError::Version { version: 2 });
    }

    /// Computed with argon2-cffi 25.1 and pyca/cryptography: private key 40..5f, salt 00..0f, "correct horse battery staple".
    #[test]
    fn the_known_answer_is_reproduced() {
        let private = std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap());
        let salt = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let cost = LockCost::new(1024, 2, 4).unwrap();
        let locked = lock_with(&private, &secret("correct horse battery staple"), cost, salt).unwrap();
        assert_eq!(HEXLOWER.encode(&locked), KNOWN_LOCKED);
        assert_eq!(*unlock(&locked, &secret("correct horse battery staple")).unwrap(), private);
    }

    const KNOWN_LOCKED: &str = "01000400000200000004000000000102030405060708090a0b0c0d0e0fada441f1878745ebcc15aae2ce9e70a3517ccad61f46ce0c4756093b90dd2cc19c37928cb840f4ed7710410e2c61ada6";

    #[test]
    fn the_default_cost_locks_and_unlocks() {
        let locked = lock(&[6; 32], &secret("p"), LockCost::DEFAULT).unwrap();
        assert_eq!(locked[1..13], [0, 0, 4, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(*unlock(&locked, &secret("p")).unwrap(), [6; 32]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), LOCKED_BYTES)) {
            let bytes: [u8; LOCKED_BYTES] = bytes.try_into().unwrap();
            if let Ok(parsed) = parse(&bytes) {
                prop_assert!(parsed.cost.memory() <= ByteCount::from_mib(2048));
            }
        }
    }
}
