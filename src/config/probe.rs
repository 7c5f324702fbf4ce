//! What only the machine can say of a plan: whose the folders are, how much space is left, whether a port is free.
//!
//! Apart from [`check`](super::check()), since a configuration can be looked at on another machine than the one it is for.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::plan::{Bytes, Plan};
use super::problem::Problem;
use super::settings::{SourceKind, SourceSettings};

/// All that keeps `plan` from running on this machine, as the user that asks.
pub fn probe(plan: &Plan) -> Vec<Problem> {
    let mut problems = Vec::new();
    problems.extend(state_dir(plan));
    problems.extend(free_space(plan));
    for (index, source) in plan.config.source.iter().enumerate() {
        problems.extend(source_problem(index, source));
    }
    problems.extend(port("serve.listen", plan.config.serve.listen));
    problems.extend(plan.config.serve.socket.as_deref().and_then(|path| socket("serve.socket", path)));
    problems
}

/// The folder itself, or the nearest one above it that exists.
fn nearest_existing(path: &Path) -> PathBuf {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    match existing {
        // A relative path ends in the empty one.
        None => PathBuf::from("."),
        Some(ancestor) if ancestor.as_os_str().is_empty() => PathBuf::from("."),
        Some(ancestor) => ancestor.to_path_buf(),
    }
}

fn state_dir(plan: &Plan) -> Option<Problem> {
    const KEY: &str = "daemon.state_dir";
    let dir = &plan.config.daemon.state_dir;
    let nearest = nearest_existing(dir);
    let exists = nearest == *dir;
    let metadata = match std::fs::metadata(&nearest) {
        Ok(metadata) => metadata,
        Err(error) => return Some(Problem::error("state-dir-unreadable", KEY, dir.display(), unreadable(&error))),
    };
    if !metadata.is_dir() {
        let message = format!("{} is not a folder: remove it, or set another daemon.state_dir", nearest.display());
        return Some(Problem::error("state-dir-no-folder", KEY, dir.display(), message));
    }
    let us = rustix::process::geteuid().as_raw();
    if exists && metadata.uid() != us {
        return Some(Problem::error("state-dir-not-ours", KEY, dir.display(), not_ours(dir, metadata.uid(), us)));
    }
    if rustix::fs::access(&nearest, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let what = if exists { "written to" } else { "made" };
        let message = format!(
            "cannot be {what}: {} may not write into {} (of {}): chmod or chown it, or set daemon.state_dir",
            user(us),
            nearest.display(),
            user(metadata.uid()),
        );
        return Some(Problem::error("state-dir-not-writable", KEY, dir.display(), message));
    }
    None
}

fn not_ours(dir: &Path, owner: u32, us: u32) -> String {
    format!(
        "this state folder belongs to {}, and lumpd runs as {}: run it as the owner (`sudo -u '#{owner}' lumpd ...`), set \
         daemon.state_dir, or, to make it this user's, `chown -R {us} {}`",
        user(owner),
        user(us),
        dir.display(),
    )
}

/// `name (uid 7)`, where the machine's list of users has the name.
fn user(uid: u32) -> String {
    let list = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    match user_name(&list, uid) {
        Some(name) => format!("user {name} (uid {uid})"),
        None => format!("uid {uid}"),
    }
}

fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

fn free_space(plan: &Plan) -> Option<Problem> {
    let dir = &plan.config.daemon.state_dir;
    let space = rustix::fs::statvfs(nearest_existing(dir)).ok()?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let present = folder_bytes(dir);
    let needed = plan.budget.disk_bytes().saturating_sub(present);
    (free < needed).then(|| {
        let message = format!(
            "needs {} more and has {} free: free some, lower replay.slots, or set another daemon.state_dir",
            Bytes(needed),
            Bytes(free),
        );
        Problem::error("disk-full", "daemon.state_dir", dir.display(), message)
    })
}

/// Space that the files of a folder already take, those of its folders included.
fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let each = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

fn source_problem(index: usize, source: &SourceSettings) -> Option<Problem> {
    match source.kind {
        SourceKind::Directory => folder(&format!("source.{index}.path"), source.path.as_deref()?),
        SourceKind::Unix => socket(&format!("source.{index}.path"), source.path.as_deref()?),
        SourceKind::Tcp => port(&format!("source.{index}.listen"), source.listen?),
    }
}

fn folder(key: &str, path: &Path) -> Option<Problem> {
    let error = std::fs::read_dir(path).err()?;
    Some(Problem::error("source-unreadable", key, path.display(), unreadable(&error)))
}

fn unreadable(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such folder: make it, or correct the path".into(),
        ErrorKind::PermissionDenied => {
            let us = rustix::process::geteuid().as_raw();
            format!("{} may not read this folder: chmod it, or add the user to its group", user(us))
        }
        ErrorKind::NotADirectory => "this is a file, not a folder: name the folder that holds it".into(),
        _ => format!("{error}: correct the path or repair the folder"),
    }
}

fn socket(key: &str, path: &Path) -> Option<Problem> {
    let parent = nearest_existing(path.parent().unwrap_or(Path::new(".")));
    if rustix::fs::access(&parent, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        let us = user(rustix::process::geteuid().as_raw());
        let message = format!("{us} may not write into {}: choose another path, or chmod it", parent.display());
        return Some(Problem::error("socket-not-writable", key, path.display(), message));
    }
    // An address of a unix socket has 108 bytes on Linux and 104 on macOS, with its closing zero.
    if path.as_os_str().len() > 103 {
        let message = "the path of a unix socket has at most 103 bytes: choose a shorter one";
        return Some(Problem::error("socket-path-long", key, path.display(), message));
    }
    std::os::unix::net::UnixStream::connect(path).is_ok().then(|| {
        let message = "another process listens here: stop it (is it another lumpd?), or choose another path";
        Problem::error("socket-in-use", key, path.display(), message)
    })
}

fn port(key: &str, address: SocketAddr) -> Option<Problem> {
    let error = TcpListener::bind(address).err()?;
    let (code, message) = match error.kind() {
        ErrorKind::AddrInUse => (
            "port-in-use",
            "another process listens here: stop it (is it another lumpd?), or choose another port (0 takes a free one)"
                .into(),
        ),
        ErrorKind::PermissionDenied => {
            ("port-not-allowed", "a port below 1024 needs privileges: choose a higher one".into())
        }
        _ => ("port-unusable", format!("{error}: choose an address of this machine")),
    };
    Some(Problem::error(code, key, address, message))
}

#[cfg(test)]
mod tests {
    use super::super::{Config, EncoderShape, check};
    use super::*;

    fn plan(config: Config) -> Plan {
        check(config, EncoderShape { side: 32, features: 128, parameters: 1000 }).unwrap()
    }

    fn config(state_dir: &Path) -> Config {
        let mut config = Config::default();
        config.daemon.state_dir = state_dir.to_path_buf();
        config.serve.listen.set_port(0);
        config
    }

    fn codes(config: Config) -> Vec<&'static str> {
        probe(&plan(config)).iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn a_folder_still_to_be_made_is_no_problem() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(codes(config(&dir.path().join("a/b"))), [""; 0]);
    }

    #[test]
    fn a_file_in_place_of_the_state_folder_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(codes(config(file.path())), ["state-dir-no-folder"]);
    }

    #[test]
    fn a_buffer_beyond_the_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        config.replay.slots = 1 << 28;
        assert_eq!(codes(config), ["disk-full"]);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = config(dir.path());
        config.serve.listen = taken.local_addr().unwrap();
        assert_eq!(codes(config), ["port-in-use"]);
    }

    #[test]
    fn an_absent_source_folder_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path());
        let text = "[[source]]\nname = \"a\"\nkind = \"directory\"\npath = \"/nowhere/at/all\"";
        config.source = toml::from_str::<Config>(text).unwrap().source;
        assert_eq!(codes(config), ["source-unreadable"]);
    }

    #[test]
    fn a_socket_in_use_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut config = config(dir.path());
        config.serve.socket = Some(path);
        assert_eq!(codes(config), ["socket-in-use"]);
    }

    #[test]
    fn a_folder_of_another_user_is_told_with_both_users_and_the_remedy() {
        let text = not_ours(Path::new("/var/lib/lumpd"), 0, 4_000_000);
        assert!(text.contains("belongs to user root (uid 0)"), "{text}");
        assert!(text.contains("chown -R 4000000 /var/lib/lumpd"), "{text}");
        assert!(text.contains("daemon.state_dir"), "{text}");
    }

    #[test]
    fn a_user_is_found_by_number() {
        let list = "root:x:0:0:root:/root:/bin/sh\nbad line\nlumpd:x:117:121::/var/lib/lumpd:/bin/false\n";
        assert_eq!(user_name(list, 117), Some("lumpd"));
        assert_eq!(user_name(list, 121), None);
    }
}
