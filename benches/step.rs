//! `espalier bench step` under cargo: cargo bench --bench step -- --config small --threads 2

use clap::Parser;

fn main() {
    // Cargo adds a flag of its own.
    let args = std::env::args().skip(1).filter(|a| a != "--bench");
    let cli = ["espalier", "bench", "step"].map(String::from).into_iter().chain(args);
    if let Err(e) = espalier::cmd::Cli::parse_from(cli).run() {
        eprintln!("espalier: {e}");
        std::process::exit(e.exit_code());
    }
}
