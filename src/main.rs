use clap::Parser;
use espalier::cmd::Cli;
use tracing_subscriber::EnvFilter;

fn main() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| espalier::terminal::Log)
        .without_time()
        .init();
    std::process::exit(espalier::cmd::main(Cli::try_parse()));
}
