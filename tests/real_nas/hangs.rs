//! A server that stops answering.

use std::fs::File;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use nasbackup::operation::call;
use serde_json::json;

use crate::served::{ROOT, cifs, mount, nfs};
use crate::support::{MIB, PATIENCE, init, repository_json, run};

/// The NFS server, stopped until this is dropped. No process can be started meanwhile by whoever has files with unwritten data
/// there: the one that starts it again is there before.
struct Stopped(Child);

impl Stopped {
    fn now() -> Stopped {
        if !std::path::Path::new("/proc/fs/nfsd/threads").exists() {
            run("mount", ["-t", "nfsd", "nfsd", "/proc/fs/nfsd"]);
        }
        let again = "read line; exec rpc.nfsd --grace-time 10 --lease-time 10 8";
        let waiting = Command::new("sh").args(["-c", again]).stdin(Stdio::piped()).spawn().unwrap();
        std::fs::write("/proc/fs/nfsd/threads", "0").unwrap();
        Stopped(waiting)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let told = self.0.stdin.take().unwrap().write_all(b"\n");
        let ended = self.0.wait();
        assert!(std::thread::panicking() || (told.is_ok() && ended.unwrap().success()));
    }
}

#[test]
#[ignore = "make nas"]
fn another_repository_is_mounted_while_data_wait_for_one_that_hangs() {
    init();
    let (hung, other) = (nfs("nas", ""), cifs("nas", ROOT));
    let seen = mount(&hung);
    let mut file = File::create(seen.path.join("file")).unwrap();
    let stopped = Stopped::now();
    file.write_all(&vec![1; MIB as usize]).unwrap();
    let (tell, told) = mpsc::channel();
    let request = json!({"repository": repository_json(&other.repository())}).to_string();
    std::thread::spawn(move || tell.send(call("backupStats", &request, &mut |_| Ok(()))));
    let stats = told.recv_timeout(PATIENCE);
    drop(stopped);
    stats.unwrap().unwrap();
    file.sync_all().unwrap();
}
