//! What the tests of this crate share.

use std::path::Path;

use lifeboat_config::{Config, Environment, Faults, Loaded};

/// Two public keys that are nobody's.
pub const RECIPIENTS: [&str; 2] = [
    "lifeboat-pk-1qvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqvpsxqcrqdqqgq9e0u",
    "lifeboat-pk-1q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q5zs2pg9q4qqdsr6qn",
];

/// Loads a text as if it were a file.
pub fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, Faults> {
    Config::from_text(Path::new("lifeboat.toml"), text, &Environment::from_pairs(variables.iter().copied()))
}
