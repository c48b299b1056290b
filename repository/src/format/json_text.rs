//! Values that stand in JSON as the text that people read: positions, digests, times, names.

/// For `#[serde(with = "as_text")]`: `Display` out, `FromStr` in.
pub(crate) mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// For `#[serde(with = "as_optional_text", default, skip_serializing_if = "Option::is_none")]`.
pub(crate) mod as_optional_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        // Absent is `None` by `default`; no writer writes `null`.
        super::as_text::deserialize(from).map(Some)
    }
}

/// For `#[serde(with = "timeline")]`: the number of a timeline.
pub(crate) mod timeline {
    use lifeboat_vocabulary::TimelineId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(timeline: &TimelineId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u32(timeline.get())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TimelineId, D::Error> {
        TimelineId::new(u32::deserialize(from)?).ok_or_else(|| serde::de::Error::custom("there is no timeline 0"))
    }
}

/// For `#[serde(with = "as_texts", default, skip_serializing_if = "Vec::is_empty")]`: a list of such texts.
pub(crate) mod as_texts {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<T: Display, S: Serializer>(values: &[T], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(values.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, T, D>(from: D) -> Result<Vec<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}

/// For `#[serde(with = "bytes")]`: an amount of data as a number of bytes.
pub(crate) mod bytes {
    use lifeboat_vocabulary::ByteCount;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(count: &ByteCount, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(count.as_bytes())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ByteCount, D::Error> {
        u64::deserialize(from).map(ByteCount::from_bytes)
    }
}
