//! Listening, connecting, and who is there.
mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, io, process};

use common::{hello, readable, soon};
use tempfile::TempDir;
use zerogpu_protocol::*;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("zerogpu/broker.sock");
    (folder, path)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// Leaves a socket that nobody listens on, as a killed broker does.
fn abandon(path: &Path) {
    drop(Listener::bind(path, 0o600).unwrap().into_socket().unwrap());
    assert!(path.exists());
    // a child that another test has just forked has it and its lock open until it execs, which ends one after the other
    while Connection::connect(path, soon()).is_ok() || is_locked(path) {
        std::thread::yield_now();
    }
}

/// What [`Listener::bind`] says once no child of another test has the lock that was let go of here.
fn bind_anew(path: &Path) -> io::Result<Listener> {
    let until = soon();
    loop {
        match Listener::bind(path, 0o600) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && until.is_some_and(|end| Instant::now() < end) => {
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

/// Whether somebody has the lock of a socket.
fn is_locked(path: &Path) -> bool {
    let lock = fs::File::open(path.with_extension("sock.lock")).unwrap();
    // SAFETY: takes numbers. What it locks is free again as `lock` ends.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) != 0 }
}

/// This test program again, to run one test in a process of its own.
fn again(test: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env("ZEROGPU_TEST_CHILD", test);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    command
}

/// What the parent passed, in a process that [`again`] made for this test.
fn child(test: &str) -> Option<PathBuf> {
    (env::var_os("ZEROGPU_TEST_CHILD")? == test).then(|| env::var_os("ZEROGPU_TEST_SOCKET").unwrap().into())
}

#[test]
fn a_listener_has_the_permissions_asked_for_and_leaves_no_file() {
    let (_folder, path) = place();
    let listener = Listener::bind(&path, 0o666).unwrap();
    assert_eq!(mode(&path), 0o666);
    let expected = if fs::metadata("/proc/self").unwrap().uid() == 0 { 0o755 } else { 0o700 };
    assert_eq!(mode(path.parent().unwrap()), expected);
    assert!(listener.accept().unwrap().is_none());

    let client = Connection::connect(&path, soon()).unwrap();
    let socket = listener.accept().unwrap().unwrap();
    let peer = peer(socket.as_fd()).unwrap();
    // SAFETY: asks for numbers.
    let us = unsafe { Peer { pid: process::id() as i32, uid: libc::geteuid(), gid: libc::getegid() } };
    assert_eq!(peer, us);
    client.send(&ToBroker::Status, soon()).unwrap();
    assert_eq!(Endpoint::new(socket, 1).recv(&mut Packet::new()).unwrap(), Some(ToBroker::Status));

    drop(listener);
    assert!(!path.exists());
    assert!(
        matches!(Connection::connect(&path, soon()), Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound)
    );
}

#[test]
fn a_dead_socket_is_replaced() {
    let (_folder, path) = place();
    abandon(&path);
    let _listener = bind_anew(&path).unwrap();
    Connection::connect(&path, soon()).unwrap();
}

#[test]
fn a_live_socket_stays() {
    let (_folder, path) = place();
    let listener = Listener::bind(&path, 0o600).unwrap();
    let refused = || {
        let error = Listener::bind(&path, 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("stop it, or choose another"), "{error}");
    };
    refused();
    // Nor if its first owner, and with it the lock, is gone.
    let socket = listener.into_socket().unwrap();
    refused();
    let listener = Listener::from_passed(socket).unwrap();
    Connection::connect(&path, soon()).unwrap();
    while listener.accept().unwrap().is_some() {} // of the two brokers that knocked, too
}

#[test]
fn a_listener_removes_its_own_file_only() {
    let (_folder, path) = place();
    let listener = Listener::bind(&path, 0o600).unwrap();
    fs::rename(&path, path.with_extension("old")).unwrap();
    fs::write(&path, "another's").unwrap();
    drop(listener);
    assert_eq!(fs::read(&path).unwrap(), b"another's");
    let error = bind_anew(&path).unwrap_err();
    assert!(error.to_string().contains("is no socket"), "{error}");
    assert!(path.exists());
}

#[test]
fn links_and_other_sockets_are_no_place() {
    let (folder, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    let target = folder.path().join("target");
    symlink(&target, &path).unwrap();
    Listener::bind(&path, 0o600).unwrap_err();
    assert!(!target.exists());
    fs::remove_file(&path).unwrap();

    let other = UnixListener::bind(&path).unwrap();
    Listener::bind(&path, 0o600).unwrap_err();
    drop(other);
    assert!(path.exists(), "of another type: not ours to remove");
    fs::remove_file(&path).unwrap();

    // A folder that others can write, with a link in it.
    let shared = folder.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o1777)).unwrap();
    symlink(path.parent().unwrap(), shared.join("link")).unwrap();
    let error = Listener::bind(&shared.join("link/broker.sock"), 0o600).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
    symlink(&target, shared.join("broker.sock.lock")).unwrap();
    Listener::bind(&shared.join("broker.sock"), 0o600).unwrap_err();
    assert!(!target.exists());
}

#[test]
fn paths_that_are_too_long() {
    for path in ["", &"/a".repeat(54)] {
        let error = Listener::bind(Path::new(path), 0o600).unwrap_err();
        assert!(error.to_string().contains("1 to 107 bytes"), "{error}");
    }
}

#[test]
fn a_full_backlog_waits_until_the_deadline() {
    let (_folder, path) = place();
    let socket = Listener::bind(&path, 0o600).unwrap().into_socket().unwrap();
    // SAFETY: takes numbers. A second call changes the backlog.
    assert_eq!(unsafe { libc::listen(socket.as_raw_fd(), 0) }, 0);
    let _first = Connection::connect(&path, soon()).unwrap();
    let begin = Instant::now();
    let error = Connection::connect(&path, Some(begin + Duration::from_millis(30))).unwrap_err();
    assert!(matches!(error, Error::TimedOut), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(30));
    assert!(Listener::bind(&path, 0o600).unwrap_err().kind() == io::ErrorKind::AddrInUse, "busy is not dead");
}

#[test]
fn a_dead_client_is_noticed() {
    if let Some(path) = child("a_dead_client_is_noticed") {
        let client = Connection::connect(&path, soon()).unwrap();
        client.hello(&hello(Role::Observer), None, soon()).unwrap();
        client.send(&ToBroker::Status, soon()).unwrap();
        io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let (_folder, path) = place();
    let listener = Listener::bind(&path, 0o600).unwrap();
    let mut child = again("a_dead_client_is_noticed").env("ZEROGPU_TEST_SOCKET", &path).spawn().unwrap();
    readable(&listener);
    let socket = listener.accept().unwrap().unwrap();
    let peer = peer(socket.as_fd()).unwrap();
    assert_eq!(peer.pid, child.id() as i32);
    let process = pidfd(socket.as_fd(), peer.pid).unwrap();
    let mut broker = Endpoint::new(socket, 4);
    let mut buffer = Packet::new();
    readable(&broker);
    broker.recv_hello(&mut buffer).unwrap().unwrap();
    broker.answer(&Answer::Welcome(Welcome { broker: 7, version: 1 })).unwrap();
    readable(&broker);
    assert_eq!(broker.recv(&mut buffer).unwrap(), Some(ToBroker::Status));

    child.kill().unwrap();
    readable(&process);
    readable(&broker);
    assert!(matches!(broker.recv(&mut buffer), Err(Error::Closed)));
    child.wait().unwrap();
}

#[test]
fn a_socket_from_systemd() {
    const NAME: &str = "a_socket_from_systemd";
    if child(NAME).is_some() {
        let listener = Listener::from_activation().unwrap().unwrap();
        assert_eq!(listener.as_fd().as_raw_fd(), 3);
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::fcntl(3, libc::F_GETFD) }, libc::FD_CLOEXEC);
        assert!(Listener::from_activation().unwrap().is_none(), "it has one owner");
        readable(&listener);
        let mut broker = Endpoint::new(listener.accept().unwrap().unwrap(), 1);
        readable(&broker);
        broker.recv_hello(&mut Packet::new()).unwrap().unwrap();
        broker.answer(&Answer::Welcome(Welcome { broker: 77, version: 1 })).unwrap();
        return;
    }
    assert!(Listener::from_activation().unwrap().is_none(), "none was passed to this process");
    let (_folder, path) = place();
    let socket = Listener::bind(&path, 0o600).unwrap().into_socket().unwrap();
    let mut child = activated(NAME, &path, socket.as_raw_fd(), 1);
    let client = Connection::connect(&path, soon()).unwrap();
    assert_eq!(client.hello(&hello(Role::Observer), None, soon()).unwrap().broker, 77);
    assert!(child.wait().unwrap().success());
    assert!(path.exists(), "systemd's socket is not ours to remove");
}

#[test]
fn what_systemd_should_not_pass() {
    const NAME: &str = "what_systemd_should_not_pass";
    if child(NAME).is_some() {
        let error = Listener::from_activation().unwrap_err();
        assert!(error.to_string().contains("ListenSequentialPacket="), "{error}");
        process::exit(42); // not what a run without this test gives
    }
    let (_folder, path) = place();
    fs::create_dir(path.parent().unwrap()).unwrap();
    let stream = UnixListener::bind(&path).unwrap();
    let right = Listener::bind(&path.with_extension("right"), 0o600).unwrap();
    let (connected, _other) = common::pair();
    for (fd, count) in [(stream.as_raw_fd(), 1), (connected.as_raw_fd(), 1), (right.as_fd().as_raw_fd(), 2)] {
        assert_eq!(activated(NAME, &path, fd, count).wait().unwrap().code(), Some(42), "{count}");
    }
}

/// Runs a test in a process that has `fd` as systemd passes it.
fn activated(test: &str, path: &Path, fd: i32, count: u32) -> process::Child {
    let test = again(test);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]).arg(test.get_program()).args(test.get_args());
    command.envs(test.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("LISTEN_FDS", count.to_string()).env("ZEROGPU_TEST_SOCKET", path).stdout(Stdio::null());
    // SAFETY: only system calls between fork and exec. A copy is made first: dup2 onto itself would keep FD_CLOEXEC.
    unsafe {
        command.pre_exec(move || {
            let copy = libc::fcntl(fd, libc::F_DUPFD, 10);
            match libc::dup2(copy, 3) {
                3 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command.spawn().unwrap()
}
