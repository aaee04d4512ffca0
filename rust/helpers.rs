//! The host's own tools that the library runs. They are looked for in the system's folders alone, whatever this process's
//! environment says, and get an environment of their own.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// Where hosts have them. `mount` gets its helpers from there, too.
const FOLDERS: [&str; 4] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];

/// A command that runs the tool `name`; none when the host has no such tool.
pub(crate) fn command(name: &str) -> io::Result<Command> {
    let folders = folders();
    let program = folders.iter().map(|folder| folder.join(name));
    let found = program.filter(|path| fs::metadata(path).is_ok_and(|found| found.is_file())).collect::<Vec<_>>();
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no '{name}' in {}", shown(&folders)));
    let mut command = Command::new(found.first().ok_or_else(missing)?);
    command.env_clear().env("PATH", FOLDERS.join(":")).env("LC_ALL", "C").current_dir("/");
    Ok(command)
}

fn shown(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
}

#[cfg(not(feature = "test-hooks"))]
fn folders() -> Vec<PathBuf> {
    FOLDERS.map(PathBuf::from).to_vec()
}

/// A test may put other tools in their place: `NASBACKUP_TOOLS` names the only folder that is looked into.
#[cfg(feature = "test-hooks")]
fn folders() -> Vec<PathBuf> {
    std::env::var_os("NASBACKUP_TOOLS").map_or_else(|| FOLDERS.map(PathBuf::from).to_vec(), |path| vec![path.into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_the_system_s_own_and_know_nothing_of_this_process() {
        let command = command("env").unwrap();
        assert!(command.get_program().to_str().unwrap().starts_with("/usr/bin/"));
        let output = { command }.output().unwrap();
        let environment = String::from_utf8(output.stdout).unwrap();
        assert_eq!(environment.lines().collect::<Vec<_>>(), ["LC_ALL=C", "PATH=/usr/bin:/usr/sbin:/bin:/sbin"]);
        let error = super::command("no-such-tool").unwrap_err();
        assert!(error.to_string().contains("no 'no-such-tool' in /usr/bin, "), "{error}");
    }
}
