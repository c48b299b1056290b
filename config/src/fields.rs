//! The keys of a settings type, asked of the type itself, so that no list of them can fall behind.

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// The names of the fields of a struct that derives `Deserialize`; empty for every other type.
pub(crate) fn fields_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    let mut seen: &'static [&'static str] = &[];
    match T::deserialize(Listener(&mut seen)) {
        // The listener never gives a value, so there is none to be had.
        Ok(_) => &[],
        Err(_) => seen,
    }
}

/// A deserializer that only hears which fields a type asks for.
struct Listener<'l>(&'l mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        _visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("only listening"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(Error::custom("only listening"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_that_is_no_struct_has_no_fields_and_a_region_has_its_own() {
        assert!(fields_of::<String>().is_empty());
        let fields = fields_of::<lifeboat_stores::RegionSettings>();
        assert_eq!(fields[..2], ["name", "url"]);
        assert!(fields.contains(&"max_concurrency"));
    }
}
