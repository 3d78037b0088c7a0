//! `p2p completions`, `p2p man` and `p2p exit-codes`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use clap_complete::Shell;

use crate::{EXIT_NOT_FOUND, EXIT_TROUBLE, EXIT_USAGE};

/// The codes of all commands, and what each says of it.
pub const EXIT_CODES: [(u8, &str); 6] = [
    (0, "done, and all is as it should be"),
    (1, "an error: a server that is away, a full disk, a schema that is too old"),
    (EXIT_TROUBLE, "done, and something is not as it should be; the command says what"),
    (EXIT_USAGE, "a setting or an argument is not allowed; nothing was done"),
    (EXIT_NOT_FOUND, "what was asked for is not there: a file, a batch, a market"),
    (130, "ended by a signal: 128 and its number, as shells have it"),
];

/// Prints the completions of a shell.
pub fn completions(shell: Shell, mut command: Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let name = command.get_name().to_owned();
    clap_complete::generate(shell, &mut command, name, &mut script);
    crate::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes a man page for each command.
pub fn man(out: &Path, command: Command) -> anyhow::Result<ExitCode> {
    let failed = || format!("{} can't be written", out.display());
    std::fs::create_dir_all(out).with_context(failed)?;
    // Pages of `help` would repeat every other page.
    let command = command.disable_help_subcommand(true);
    clap_mangen::generate_to(command, out).with_context(failed)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the exit codes.
pub fn exit_codes(json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let code =
            |(code, meaning): &(u8, &str)| serde_json::json!({ "code": code, "meaning": meaning });
        crate::print_json(&EXIT_CODES.iter().map(code).collect::<Vec<_>>())?;
    } else {
        let line = |(code, meaning): &(u8, &str)| format!("{code:>4}  {meaning}\n");
        crate::print(&EXIT_CODES.iter().map(line).collect::<String>())?;
    }
    Ok(ExitCode::SUCCESS)
}
