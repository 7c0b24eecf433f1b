//! The commit that is built, for `--version`, `run` rows and checkpoints: that of the clone this lies in, or what
//! ESPALIER_GIT says (for packages, which are built without git), or "unknown". A debug build says "debug": its
//! sources change more often than its commits, and every commit would build everything again.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ESPALIER_GIT");
    let told = std::env::var("ESPALIER_GIT").ok().filter(|told| !told.trim().is_empty());
    let debug = std::env::var("PROFILE").is_ok_and(|profile| profile == "debug").then(|| "debug".to_string());
    let hash = told.or(debug).or_else(head).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=ESPALIER_GIT={}", hash.trim());
}

fn head() -> Option<String> {
    let root = std::env::var("CARGO_MANIFEST_DIR").ok()?;
    let git = |args: &[&str]| {
        let out = Command::new("git").current_dir(&root).args(args).output().ok()?;
        let text = String::from_utf8(out.stdout).ok().filter(|_| out.status.success())?;
        Some(text.trim().to_string())
    };
    // Sources unpacked inside the clone of another project are none of its commits.
    let top = Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?;
    if top != Path::new(&root).canonicalize().ok()? {
        return None;
    }
    // A commit or checkout appends to the log of HEAD; without a log, HEAD and its branch say what moved.
    for name in ["logs/HEAD", "HEAD", &git(&["rev-parse", "--symbolic-full-name", "HEAD"])?] {
        let path = Path::new(&root).join(git(&["rev-parse", "--git-path", name])?);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
