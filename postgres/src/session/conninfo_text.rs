//! Connection strings of both forms, and what the environment adds to them.

use std::collections::HashMap;

use crate::session::conninfo::{ConnInfoError, KEYWORDS, Place, TEXT_MAX, Values, read_keywords};
use crate::session::conninfo_uri::read_uri;
use crate::session::surroundings::Surroundings;

impl Values {
    /// Reads `text`, and takes what it leaves open from the environment.
    pub(crate) fn read(text: &str, surroundings: &Surroundings) -> Result<Self, ConnInfoError> {
        if text.len() > TEXT_MAX {
            return Err(ConnInfoError::TooLong { bytes: text.len() });
        }
        if let Some(index) = text.chars().position(|c| c == '\0') {
            return Err(ConnInfoError::ZeroByte { position: index + 1 });
        }
        let mut values = Self(HashMap::new());
        if text.starts_with("postgresql://") || text.starts_with("postgres://") {
            read_uri(text, &mut values)?;
        } else {
            read_keywords(text, &mut values)?;
        }
        for keyword in KEYWORDS {
            let Some(variable) = keyword.variable else { continue };
            if let (false, Some(value)) = (values.0.contains_key(keyword.name), surroundings.variable(variable)) {
                values.put(keyword, value.to_owned(), Place::Environment(variable))?;
            }
        }
        Ok(values)
    }
}
