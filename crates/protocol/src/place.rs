//! Where sockets lie, and whether the way there can be trusted.
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::{env, io};

/// Where the broker of the node listens: one that runs as root.
pub const SYSTEM_SOCKET: &str = "/run/zerogpu/broker.sock";

/// Where a broker of this user listens if nobody says otherwise: [`SYSTEM_SOCKET`] for root, else
/// `$XDG_RUNTIME_DIR/zerogpu/broker.sock`, else `/tmp/zerogpu-UID/broker.sock`. An error if somebody else can write to
/// that last folder. Makes nothing.
///
/// # Errors
/// `PermissionDenied` if the folder in `/tmp` is there and not this user's alone, else what the system says.
pub fn default_socket() -> io::Result<PathBuf> {
    place(me(), env::var_os("XDG_RUNTIME_DIR").as_deref(), Path::new("/tmp"))
}

/// The folder of [`default_socket`], made if it is missing. Nobody but root and this user can change what it leads to.
///
/// # Errors
/// `PermissionDenied` if another user can change what it leads to, and as for [`default_socket`].
pub fn runtime_folder() -> io::Result<PathBuf> {
    let socket = default_socket()?;
    make_folder(&socket)?;
    trust(&socket)?;
    Ok(socket.parent().unwrap_or(Path::new("/")).to_owned())
}

fn place(uid: u32, runtime: Option<&OsStr>, temporary: &Path) -> io::Result<PathBuf> {
    if uid == 0 {
        return Ok(SYSTEM_SOCKET.into());
    }
    if let Some(runtime) = runtime.map(Path::new).filter(|path| path.is_absolute()) {
        return Ok(runtime.join("zerogpu/broker.sock"));
    }
    let folder = temporary.join(format!("zerogpu-{uid}"));
    match fs::symlink_metadata(&folder) {
        Ok(metadata) => private(&folder, &metadata, uid)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(folder.join("broker.sock"))
}

fn private(folder: &Path, metadata: &Metadata, uid: u32) -> io::Result<()> {
    if metadata.is_dir() && metadata.uid() == uid && metadata.mode() & 0o077 == 0 {
        return Ok(());
    }
    let folder = folder.display();
    Err(distrust(format!(
        "{folder} is no folder of this user alone: remove it, or name another socket by ZEROGPU_SOCKET"
    )))
}

/// Makes the folder of `socket` if it is missing: for everyone to enter if we are root, else for this user alone.
pub(crate) fn make_folder(socket: &Path) -> io::Result<()> {
    let Some(folder) = socket.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return Ok(()) };
    let mode = if me() == 0 { 0o755 } else { 0o700 };
    match DirBuilder::new().mode(mode).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Whether nobody but root and this user can change what `path` leads to: in a folder that others can write, each step
/// must be no symbolic link, belong to root or this user, and be protected by the folder's sticky bit. The last step
/// need not exist.
pub(crate) fn trust(path: &Path) -> io::Result<()> {
    walk(&std::path::absolute(path)?, 0)
}

fn walk(path: &Path, links: u32) -> io::Result<()> {
    let mut folder = PathBuf::from("/");
    for step in path.components() {
        match step {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
            Component::ParentDir => {
                // Links on the way here were replaced by what they lead to.
                folder.pop();
                continue;
            }
            Component::Normal(_) => {}
        }
        let next = folder.join(step);
        let above = fs::symlink_metadata(&folder)?;
        let shown = next.display();
        if !trusted(above.uid()) {
            return Err(distrust(format!("{shown}: another user owns the folder: choose another place")));
        }
        let metadata = match fs::symlink_metadata(&next) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if above.mode() & 0o022 != 0 {
            if above.mode() & 0o1002 == 0o0002 {
                return Err(distrust(format!("{shown}: anyone can rename it there: choose another place")));
            }
            if metadata.as_ref().is_some_and(|found| found.is_symlink() || !trusted(found.uid())) {
                return Err(distrust(format!(
                    "{shown} is another user's, or a link where others can write: choose another place"
                )));
            }
        }
        match metadata {
            Some(metadata) if metadata.is_symlink() => {
                if links == 16 {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                walk(&folder.join(fs::read_link(&next)?), links + 1)?;
                folder = fs::canonicalize(&next)?;
            }
            _ => folder = next,
        }
    }
    Ok(())
}

fn trusted(uid: u32) -> bool {
    uid == 0 || uid == me()
}

/// The effective user of this process.
pub(crate) fn me() -> u32 {
    // SAFETY: asks for a number.
    unsafe { libc::geteuid() }
}

fn distrust(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{symlink, PermissionsExt};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn default_places() {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path();
        assert_eq!(place(0, Some(OsStr::new("/run/user/7")), tmp).unwrap(), Path::new(SYSTEM_SOCKET));
        let runtime = place(7, Some(OsStr::new("/run/user/7")), tmp).unwrap();
        assert_eq!(runtime, Path::new("/run/user/7/zerogpu/broker.sock"));
        let uid = me();
        if uid == 0 {
            return; // root's place is the system's
        }
        let expected = tmp.join(format!("zerogpu-{uid}/broker.sock"));
        assert_eq!(place(uid, Some(OsStr::new("relative")), tmp).unwrap(), expected);
    }

    #[test]
    fn a_folder_in_tmp_must_be_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let ours = folder.path().join("zerogpu-7");
        let is_private = |path: &Path, uid| private(path, &fs::symlink_metadata(path).unwrap(), uid);
        fs::create_dir(&ours).unwrap();
        chmod(&ours, 0o700);
        is_private(&ours, me()).unwrap();
        assert!(place(me() + 8, None, folder.path()).is_ok(), "a missing folder is no error");
        let error = is_private(&ours, me() + 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("ZEROGPU_SOCKET"), "{error}");
        chmod(&ours, 0o750);
        assert!(is_private(&ours, me()).is_err());
        let link = folder.path().join("link");
        symlink(&ours, &link).unwrap();
        chmod(&ours, 0o700);
        assert!(is_private(&link, me()).is_err());
        assert_eq!(place(7, None, folder.path()).is_ok(), me() == 7);
    }

    #[test]
    fn links_are_followed_only_where_nobody_else_writes() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        let shared = base.join("shared");
        let real = base.join("real");
        fs::create_dir(&shared).unwrap();
        fs::create_dir(&real).unwrap();
        chmod(&real, 0o700);
        symlink("real", base.join("fine")).unwrap();
        symlink(&real, shared.join("link")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        symlink("shared/link", base.join("through")).unwrap();

        trust(&base.join("real/s")).unwrap();
        trust(&base.join("fine/s")).unwrap();
        trust(&base.join("real/../fine/s")).unwrap();
        chmod(&shared, 0o1777);
        trust(&shared.join("s")).unwrap();
        for path in ["shared/link/s", "through/s", "loop/s"] {
            trust(&base.join(path)).unwrap_err();
        }
        chmod(&shared, 0o775);
        trust(&shared.join("s")).unwrap();
        trust(&shared.join("link/s")).unwrap_err();
        chmod(&shared, 0o777);
        trust(&shared.join("s")).unwrap_err();
    }
}
