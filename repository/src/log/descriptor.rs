//! `lifeboat.json`: what a repository is. Written once, signed by its root key, the same bytes in every region.

use bytes::Bytes;
use lifeboat_stores::{SealedBody, Store, StoreError};
use lifeboat_vocabulary::{Sha256Digest, UtcTime};
use serde::{Deserialize, Serialize};

use crate::format::aead::sha256;
use crate::format::frame::FRAME_BYTES;
use crate::format::ids::RepositoryId;
use crate::format::json_text::as_text;
use crate::format::layout;
use crate::keys::signing::VerifyKey;
use crate::log::create_once::{Created, create_once, small_object};
use crate::log::note::{self, NoteError, NoteSigner};

/// The format that this program writes, and the newest that it reads.
pub(crate) const FORMAT_MAJOR: u32 = 1;
/// Features that a reader must know, and this one does. None has been needed so far.
const FEATURES_KNOWN: [&str; 0] = [];
const FEATURES_MAX: usize = 64;
/// Sizes of packs that a repository may have, in **bytes**: what every store takes in one piece.
const PACK_BYTES: std::ops::RangeInclusive<u32> = 1 << 20..=64 << 20;

/// What a repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// The format; readers refuse a newer one.
    pub format: u32,
    /// The repository.
    #[serde(with = "as_text")]
    pub repo: RepositoryId,
    /// PostgreSQL's system identifier of the cluster.
    #[serde(with = "as_text")]
    pub sysid: u64,
    /// When the repository was made, by the clock of the machine that made it.
    #[serde(with = "as_text")]
    pub created: UtcTime,
    /// Size of the frames that files are cut into, in **bytes**.
    pub frame_bytes: u32,
    /// Size that packs do not exceed, in **bytes**.
    pub pack_bytes: u32,
    /// The key that has signed this descriptor and signs the log.
    #[serde(with = "as_text")]
    pub root: VerifyKey,
    /// Features without which the repository cannot be read.
    #[serde(default)]
    pub must: Vec<String>,
    /// Features that a reader may ignore.
    #[serde(default)]
    pub may: Vec<String>,
}

#[derive(Deserialize)]
struct Claims {
    format: u32,
    #[serde(with = "as_text")]
    root: VerifyKey,
}

/// Why a descriptor cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptorError {
    /// There is none: no repository lies here.
    #[error("there is no repository here (no {key})", key = layout::descriptor())]
    Missing,
    /// The store did not answer.
    #[error("reach the repository's descriptor")]
    Store(#[source] StoreError),
    /// It is not a signed note, or not signed by the key that it names.
    #[error("check the signature of the repository's descriptor")]
    Note(#[from] NoteError),
    /// It is not JSON, or fields are missing or malformed.
    #[error("read the fields of the repository's descriptor")]
    Json(#[from] serde_json::Error),
    /// It is signed by another key.
    #[error("the repository belongs to {found}, not to the expected {expected}")]
    OtherRoot {
        /// The key that was expected.
        expected: Box<VerifyKey>,
        /// The key that it names.
        found: Box<VerifyKey>,
    },
    /// Written by a newer version.
    #[error("the repository has format {found}; this program reads up to {FORMAT_MAJOR}: use a newer one")]
    Format {
        /// Its format.
        found: u32,
    },
    /// Needs something that this version does not have.
    #[error("the repository needs the feature `{feature}`, which this program does not have: use a newer one")]
    UnknownFeature {
        /// What it needs.
        feature: String,
    },
    /// Fields that no repository has.
    #[error("the repository's descriptor contradicts itself: {what}")]
    Contradiction {
        /// Which.
        what: &'static str,
    },
    /// Another repository lies there.
    #[error("there is a repository here already, and it is another one")]
    Exists,
}

impl Descriptor {
    /// A new repository's descriptor, with the default sizes of frames (128 KiB) and packs (16 MiB).
    #[must_use]
    pub fn new(repo: RepositoryId, sysid: u64, created: UtcTime, root: VerifyKey) -> Self {
        let (must, may) = (Vec::new(), Vec::new());
        Self {
            format: FORMAT_MAJOR,
            repo,
            sysid,
            created,
            frame_bytes: 128 << 10,
            pack_bytes: 16 << 20,
            root,
            must,
            may,
        }
    }

    /// The descriptor as a signed note. The same descriptor and signer give the same bytes.
    ///
    /// # Errors
    /// [`DescriptorError`] if no reader would accept it, or `signer` does not hold the root key.
    pub fn to_note(&self, signer: &NoteSigner) -> Result<Bytes, DescriptorError> {
        self.check()?;
        if signer.verify_key() != self.root {
            return Err(DescriptorError::OtherRoot {
                expected: Box::new(self.root),
                found: Box::new(signer.verify_key()),
            });
        }
        let text = format!("{}\n", serde_json::to_string(self)?);
        Ok(note::sign(&text, &[signer])?.into())
    }

    /// Reads a note. `pinned` is the root key that the caller knows from elsewhere; without it, the key that the
    /// descriptor names is taken on trust, and shown to a person.
    ///
    /// # Errors
    /// [`DescriptorError`], by meaning; the signature is checked before anything but the root key is read.
    pub fn from_note(bytes: &[u8], pinned: Option<&VerifyKey>) -> Result<Self, DescriptorError> {
        let claims: Claims = serde_json::from_str(note::split(bytes)?.0)?;
        if let Some(expected) = pinned.filter(|pinned| **pinned != claims.root) {
            return Err(DescriptorError::OtherRoot { expected: Box::new(*expected), found: Box::new(claims.root) });
        }
        let text = note::verify(bytes, &[claims.root])?.text;
        if claims.format > FORMAT_MAJOR {
            return Err(DescriptorError::Format { found: claims.format });
        }
        let descriptor: Self = serde_json::from_str(text)?;
        descriptor.check()?;
        Ok(descriptor)
    }

    fn check(&self) -> Result<(), DescriptorError> {
        let contradiction = |what| Err(DescriptorError::Contradiction { what });
        if self.format != FORMAT_MAJOR {
            return contradiction("there is no such format");
        }
        if self.must.len() > FEATURES_MAX || self.may.len() > FEATURES_MAX {
            return contradiction("it has too many features");
        }
        if let Some(feature) = self.must.iter().find(|feature| !FEATURES_KNOWN.contains(&feature.as_str())) {
            return Err(DescriptorError::UnknownFeature { feature: feature.chars().take(80).collect() });
        }
        if !FRAME_BYTES.contains(&self.frame_bytes) || !self.frame_bytes.is_power_of_two() {
            return contradiction("its frames have a size that does not exist");
        }
        if !PACK_BYTES.contains(&self.pack_bytes) {
            return contradiction("its packs have a size that does not exist");
        }
        Ok(())
    }

    /// Puts the descriptor into a region, once. A repetition finds its own bytes and is content. Returns their SHA-256.
    ///
    /// # Errors
    /// [`DescriptorError::Exists`] if another repository lies there; [`DescriptorError::Store`] if the store fails.
    pub async fn create(&self, store: &dyn Store, signer: &NoteSigner) -> Result<Sha256Digest, DescriptorError> {
        let bytes = self.to_note(signer)?;
        let body = SealedBody { sha256: sha256(&bytes), bytes };
        match create_once(store, &layout::descriptor(), &body).await.map_err(DescriptorError::Store)? {
            Created::Ours => Ok(body.sha256),
            Created::Others => Err(DescriptorError::Exists),
        }
    }

    /// Reads a region's descriptor, and the SHA-256 of its bytes. For `pinned` see [`Self::from_note`].
    ///
    /// # Errors
    /// [`DescriptorError::Missing`] if there is none; else as [`Self::from_note`], or the store's failure.
    pub async fn read(store: &dyn Store, pinned: Option<&VerifyKey>) -> Result<(Self, Sha256Digest), DescriptorError> {
        let bytes = store.get(&layout::descriptor(), small_object()).await.map_err(|error| match error {
            StoreError::NotFound { .. } => DescriptorError::Missing,
            error => DescriptorError::Store(error),
        })?;
        Ok((Self::from_note(&bytes, pinned)?, sha256(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples;
    use lifeboat_stores::MemoryStore;
    use proptest::prelude::*;

    fn signed(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut json = serde_json::to_value(samples::descriptor()).unwrap();
        change(&mut json);
        note::sign(&format!("{json}\n"), &[&samples::signer()]).unwrap()
    }

    #[test]
    fn descriptors_that_do_not_fit_are_refused_by_meaning() {
        let other = samples::signer_named("other", 1);
        let refused = |bytes: &[u8], pin: Option<&VerifyKey>| {
            lifeboat_vocabulary::error_chain(&Descriptor::from_note(bytes, pin).unwrap_err())
        };
        let good = signed(|_| ());
        let text = String::from_utf8(good.clone()).unwrap();
        for (why, bytes, expected) in [
            ("newer", signed(|json| json["format"] = 2.into()), "the repository has format 2; this program reads up"),
            ("no format", signed(|json| json["format"] = 0.into()), "the repository's descriptor contradicts itself"),
            ("a feature", signed(|json| json["must"] = vec!["x"].into()), "the repository needs the feature `x`"),
            ("frames", signed(|json| json["frame_bytes"] = 1.into()), "the repository's descriptor contradicts itself"),
            ("packs", signed(|json| json["pack_bytes"] = 1.into()), "the repository's descriptor contradicts itself"),
            ("root", signed(|json| json["root"] = "x".into()), "read the fields of the repository's descriptor: this"),
            ("repo", signed(|json| json["repo"] = "x".into()), "read the fields of the repository's descriptor: `x`"),
            (
                "another root",
                signed(|json| json["root"] = other.verify_key().to_string().into()),
                "check the signature of the repository's descriptor: the note is not signed by any known key",
            ),
            (
                "changed",
                text.replace("16777216", "33554432").into_bytes(),
                "check the signature of the repository's descriptor: signature line 1 of the note does not fit",
            ),
        ] {
            let error = refused(&bytes, None);
            assert!(error.starts_with(expected), "{why}: {error}");
        }
        assert!(refused(&good, Some(&other.verify_key())).starts_with("the repository belongs to lifeboat-verify-1"));
        assert_eq!(Descriptor::from_note(&good, Some(&samples::signer().verify_key())).unwrap(), samples::descriptor());
        let known = signed(|json| json["may"] = vec!["x"].into());
        assert_eq!(Descriptor::from_note(&known, None).unwrap().may, ["x"]);
    }

    #[test]
    fn only_the_root_key_signs_a_descriptor() {
        let other = samples::signer_named("other", 1);
        let error = samples::descriptor().to_note(&other).unwrap_err();
        assert!(matches!(error, DescriptorError::OtherRoot { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_descriptor_is_created_once_and_never_replaced() {
        let store = MemoryStore::new();
        let (ours, signer) = (samples::descriptor(), samples::signer());
        assert!(matches!(Descriptor::read(&store, None).await, Err(DescriptorError::Missing)));
        let digest = ours.create(&store, &signer).await.unwrap();
        assert_eq!(ours.create(&store, &signer).await.unwrap(), digest, "a repetition");
        let theirs = Descriptor { repo: RepositoryId::from_bytes([1; 16]), ..ours.clone() };
        assert!(matches!(theirs.create(&store, &signer).await, Err(DescriptorError::Exists)));
        assert_eq!(Descriptor::read(&store, Some(&signer.verify_key())).await.unwrap(), (ours, digest));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused_without_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            text in "\\{\"format\":[0-9]{1,12},\"root\":\"\\PC{0,20}\"\\}\n\n(\u{2014} a \\PC{0,20}\n)?",
        ) {
            prop_assert!(Descriptor::from_note(&bytes, None).is_err());
            prop_assert!(Descriptor::from_note(text.as_bytes(), None).is_err());
        }
    }
}
