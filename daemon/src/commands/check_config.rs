//! `lifeboatd check-config`: every value in force, and where it came from.

use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::terminal::{Align, Output, Table};
use lifeboat_cli::{out, outln};
use lifeboat_config::Loaded;
use serde_json::json;

/// Prints the effective configuration. Secrets appear as the references that they are.
#[must_use]
pub fn run(loaded: &Loaded, output: Output) -> Ending {
    if output == Output::Json {
        let values = loaded.explained.iter().map(|value| {
            let origin = value.origin.to_string();
            (value.path.clone(), json!({ "value": value.value, "origin": origin }))
        });
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let values: serde_json::Map<_, _> = values.collect();
        outln!("{}", json!({ "settings": values, "warnings": warnings }));
        return Ending::Done;
    }
    let mut table = Table::new(&[("setting", Align::Left), ("value", Align::Left), ("from", Align::Left)]);
    for value in &loaded.explained {
        table.row(&[&value.path, &value.value, &value.origin.to_string()]);
    }
    out!("{table}");
    outln!("the configuration is good");
    Ending::Done
}
