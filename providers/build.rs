//! Embeds `catalog/*.toml` and the workflows beside them into the crate, so that one binary is enough. Nothing else.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts this way")]
fn main() -> Result<(), Box<dyn Error>> {
    let dir = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("catalog");
    println!("cargo::rerun-if-changed={}", dir.display());
    let mut names: Vec<String> = fs::read_dir(&dir)?
        .map(|entry| entry.map(|e| e.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    let known = |ending: &std::ffi::OsStr| ending == "toml" || ending == "json";
    names.retain(|name| Path::new(name).extension().is_some_and(known));
    names.sort();
    let mut code = String::from("&[");
    for name in &names {
        let path = dir.join(name);
        println!("cargo::rerun-if-changed={}", path.display());
        let (name, path) = (name.trim_end_matches(".toml"), path.display().to_string());
        write!(code, "({name:?}, include_str!({path:?})),")?;
    }
    code.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("catalog.rs"), code)?;
    Ok(())
}
