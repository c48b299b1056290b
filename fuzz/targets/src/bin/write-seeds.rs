//! Writes the seeds into the corpora: `cargo run -p lifeboat-fuzz-targets`, from anywhere in the source tree.

use std::fs::File;
use std::io::Write;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for seed in lifeboat_fuzz_targets::seeds::seeds() {
        let folder = corpora.join(seed.target);
        std::fs::create_dir_all(&folder)?;
        File::create(folder.join(&seed.name))?.write_all(&seed.bytes)?;
    }
    Ok(())
}
