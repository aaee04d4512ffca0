//! The arguments.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::host::SETTINGS;

/// Lists, verifies and restores the restore points of KVM guests that lie on a NAS
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub(crate) struct Arguments {
    /// The repository: a folder, TYPE:ADDRESS as for mount(8), or NAME of a `repository.NAME` in the settings
    #[arg(long, short, global = true, value_name = "REPOSITORY")]
    pub(crate) repo: Option<String>,
    /// Mount options of the repository
    #[arg(long, global = true, value_name = "OPTIONS")]
    pub(crate) repo_options: Option<String>,
    /// The host's settings
    #[arg(long, global = true, value_name = "FILE", default_value = SETTINGS)]
    pub(crate) settings: PathBuf,
    /// Print JSON, one value, and no progress
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print the library's log lines of level info; twice: debug
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Draw the chains of restore points
    List(List),
    /// Compare restore points with what was recorded of them
    Verify(Verify),
    /// Print what a shell needs to complete the arguments
    Completions(Completions),
    /// Print the manual page, for man(1)
    Manual,
}

#[derive(Debug, Args)]
pub(crate) struct List {
    /// The machine; without it all of them
    pub(crate) vm: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The restore point, MACHINE/TIMESTAMP
    pub(crate) point: String,
    /// Read all data, and compare them with their fingerprints
    #[arg(long)]
    pub(crate) data: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}
