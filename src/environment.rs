//! The environment in which a program gets the virtual device.

use crate::install::Install;
use anyhow::{bail, Result};
use clap::builder::PossibleValuesParser;
use clap::Args;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use zerogpu_profile::Profile;
use zerogpu_settings::driver_path::{self, SOFT_FILE};
use zerogpu_settings::{Driver, Settings};

/// What the user may choose. Each option sets the variable of docs/environment.md that it names.
#[derive(Debug, Clone, Default, Args)]
pub struct Choices {
    /// The driver below the virtual device: auto (the machine's own), soft (the software driver), none, or the path of a
    /// library. [ZEROGPU_DRIVER]
    #[arg(long, value_name = "auto|soft|none|PATH")]
    driver: Option<Driver>,
    /// Which card the virtual device looks like. [ZEROGPU_PROFILE]
    #[arg(long, value_parser = PossibleValuesParser::new(Profile::names()))]
    profile: Option<String>,
    /// Memory of the virtual device, as in 40GiB. [ZEROGPU_VRAM]
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    vram: Option<String>,
    /// What to trace, in which form, to which file: see docs/trace.md. [ZEROGPU_TRACE]
    #[arg(long, value_name = "SPEC")]
    pub trace: Option<String>,
    /// GPU work outside any marked call: record and replay it, borrow a GPU, or refuse it. [ZEROGPU_OUTSIDE]
    #[arg(long, value_parser = PossibleValuesParser::new(["defer", "borrow", "error"]))]
    outside: Option<String>,
    /// Socket of the node broker that lends GPUs; none: claim GPUs without asking anyone. [ZEROGPU_SOCKET]
    #[arg(long, value_name = "PATH|none")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    pub lib: LibChoice,
}

/// Where the libraries are.
#[derive(Debug, Clone, Default, Args)]
pub struct LibChoice {
    /// Folder of our libraries. [ZEROGPU_LIB]
    #[arg(long = "lib", value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl LibChoice {
    /// The installation in the folder of the option, of `ZEROGPU_LIB`, or of the executable.
    pub fn install(&self) -> Result<Install> {
        let chosen = self.folder.clone().or_else(|| Settings::from_env().0.lib);
        Install::find(chosen.as_deref())
    }
}

/// Looks up a variable of the environment that is built upon.
pub type Outer<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Choices {
    /// The variables to set, each once, for a process whose environment is otherwise `outer`, and which sees the folder
    /// of our libraries at `at`, if not where it is.
    ///
    /// # Errors
    /// A choice that can't work, with the way out.
    pub fn variables(
        &self,
        install: &Install,
        at: Option<&Path>,
        outer: Outer<'_>,
    ) -> Result<Vec<(&'static str, OsString)>> {
        let driver = self.driver.as_ref().map(|driver| driver_value(driver, install, at)).transpose()?;
        let install = &at.map_or_else(|| install.clone(), |at| install.seen_at(at));
        let objects = install.objects();
        objects.iter().chain(&install.hook).try_for_each(|path| loadable(path))?;
        let objects = objects.map(PathBuf::into_os_string);
        let mut variables = vec![
            ("LD_PRELOAD", in_front(&objects, outer("LD_PRELOAD"), b" :")),
            ("LD_LIBRARY_PATH", in_front(&[install.lib.clone().into()], outer("LD_LIBRARY_PATH"), b":;")),
            // Triton 2 builds its launchers with `cc -lcuda`, and the compiler does not look where the loader does
            ("LIBRARY_PATH", in_front(&[install.lib.clone().into()], outer("LIBRARY_PATH"), b":")),
        ];
        if let Some(hook) = &install.hook {
            variables.push(("PYTHONPATH", in_front(&[hook.clone().into()], outer("PYTHONPATH"), b":")));
        }
        variables.push(("ZEROGPU_LIB", install.lib.clone().into()));
        variables.extend(driver.map(|driver| ("ZEROGPU_DRIVER", driver)));
        let texts = [
            ("ZEROGPU_PROFILE", &self.profile),
            ("ZEROGPU_VRAM", &self.vram),
            ("ZEROGPU_TRACE", &self.trace),
            ("ZEROGPU_OUTSIDE", &self.outside),
        ];
        variables.extend(texts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?.into()))));
        if let (Some(Driver::Soft), Some(profile)) = (&self.driver, &self.profile) {
            // the software card is of the kind that the app is shown, as a claimed card must be
            variables.push(("SOFTCUDA_PROFILE", profile.into()));
        }
        if let Some(socket) = &self.socket {
            let none = socket.as_os_str() == "none";
            let value = if none { socket.clone() } else { std::path::absolute(socket)? };
            variables.push(("ZEROGPU_SOCKET", value.into()));
        }
        Ok(variables)
    }
}

fn driver_value(driver: &Driver, install: &Install, at: Option<&Path>) -> Result<OsString> {
    let path = match (driver, at) {
        (Driver::Auto, _) => return Ok("auto".into()),
        (Driver::None, _) => return Ok("none".into()),
        (Driver::Soft, None) => install.software_driver()?,
        (Driver::Soft, Some(at)) => install.software_driver().map(|_| at.join(SOFT_FILE))?,
        // Whether it is there can't be seen from here.
        (Driver::Path(path), Some(_)) => path.clone(),
        (Driver::Path(path), None) => {
            driver_path::find(driver, Some(&install.lib), Some(&install.objects()[0])).map_err(anyhow::Error::msg)?;
            path.clone()
        }
    };
    Ok(path.into())
}

/// `first`, then what a list already holds, without what would stand there twice. Empty items are dropped: in
/// LD_LIBRARY_PATH they mean the current folder.
fn in_front(first: &[OsString], list: Option<OsString>, separators: &[u8]) -> OsString {
    let list = list.unwrap_or_default();
    let old = list.as_bytes().split(|byte| separators.contains(byte)).map(OsStr::from_bytes);
    let old = old.filter(|item| !item.is_empty() && !first.iter().any(|path| path == item));
    let all: Vec<&OsStr> = first.iter().map(OsString::as_os_str).chain(old).collect();
    all.join(OsStr::new(":"))
}

fn memory(text: &str) -> Result<String, String> {
    match zerogpu_settings::size(text)? {
        0 => Err("a card needs memory; write a size above 0, as in 40GiB".to_string()),
        _ => Ok(text.to_string()),
    }
}

/// Whether the loader can be told of a file at this path.
///
/// # Errors
/// It can't, with the way out.
pub fn loadable(path: &Path) -> Result<()> {
    // it takes each of them for a separator, and knows no way to quote them
    if path.as_os_str().as_bytes().iter().any(|byte| matches!(byte, b' ' | b':' | b';')) {
        bail!(
            "{} has a space, colon or semicolon in it, which the loader can't take; install zerogpu elsewhere",
            path.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install() -> Install {
        Install { lib: "/opt/zg".into(), hook: Some("/opt/zg/python".into()) }
    }

    fn value(variables: &[(&'static str, OsString)], name: &str) -> Option<String> {
        variables.iter().find(|(found, _)| *found == name).map(|(_, value)| value.to_str().unwrap().to_string())
    }

    const OURS: &str = "/opt/zg/libcuda.so.1:/opt/zg/libcuda.so:/opt/zg/libnvidia-ml.so.1";

    #[test]
    fn three_objects_and_two_folders_come_first() {
        let variables = Choices::default().variables(&install(), None, &|_| None).unwrap();
        assert_eq!(value(&variables, "LD_PRELOAD").unwrap(), OURS);
        assert_eq!(value(&variables, "LD_LIBRARY_PATH").unwrap(), "/opt/zg");
        assert_eq!(value(&variables, "PYTHONPATH").unwrap(), "/opt/zg/python");
        assert_eq!(value(&variables, "ZEROGPU_LIB").unwrap(), "/opt/zg");
        assert_eq!(value(&variables, "LIBRARY_PATH").unwrap(), "/opt/zg");
        assert_eq!(variables.len(), 5, "nothing that was not asked for");
    }

    #[test]
    fn what_was_there_stays_behind_and_nothing_comes_twice() {
        let outer = |name: &str| match name {
            "LD_PRELOAD" => Some(OsString::from("/a/x.so /opt/zg/libcuda.so.1:/b/y.so")),
            "LD_LIBRARY_PATH" => Some(OsString::from(":/c::/opt/zg")),
            "PYTHONPATH" => Some(OsString::from("/d")),
            _ => None,
        };
        let once = Choices::default().variables(&install(), None, &outer).unwrap();
        assert_eq!(value(&once, "LD_PRELOAD").unwrap(), format!("{OURS}:/a/x.so:/b/y.so"));
        assert_eq!(value(&once, "LD_LIBRARY_PATH").unwrap(), "/opt/zg:/c");
        assert_eq!(value(&once, "PYTHONPATH").unwrap(), "/opt/zg/python:/d");
        let again = |name: &str| value(&once, name).map(OsString::from);
        assert_eq!(Choices::default().variables(&install(), None, &again).unwrap(), once);
    }

    #[test]
    fn choices_become_variables() {
        let choices = Choices {
            driver: Some(Driver::None),
            profile: Some("h100-80gb".into()),
            vram: Some("40GiB".into()),
            trace: Some("json".into()),
            outside: Some("borrow".into()),
            socket: Some("/run/x".into()),
            lib: LibChoice::default(),
        };
        let variables = choices.variables(&install(), None, &|_| None).unwrap();
        let expected = [
            ("ZEROGPU_DRIVER", "none"),
            ("ZEROGPU_PROFILE", "h100-80gb"),
            ("ZEROGPU_VRAM", "40GiB"),
            ("ZEROGPU_TRACE", "json"),
            ("ZEROGPU_OUTSIDE", "borrow"),
            ("ZEROGPU_SOCKET", "/run/x"),
        ];
        for (name, text) in expected {
            assert_eq!(value(&variables, name).unwrap(), text);
        }
    }

    #[test]
    fn no_broker_is_a_choice_too() {
        let choices = Choices { socket: Some("none".into()), ..Choices::default() };
        let variables = choices.variables(&install(), None, &|_| None).unwrap();
        assert_eq!(value(&variables, "ZEROGPU_SOCKET").unwrap(), "none");
    }

    #[test]
    fn what_the_loader_can_not_take_is_refused() {
        for folder in ["/opt/my programs", "/opt/a:b", "/opt/a;b"] {
            let install = Install { lib: folder.into(), hook: None };
            let error = Choices::default().variables(&install, None, &|_| None).unwrap_err().to_string();
            assert!(error.contains(folder) && error.contains("install zerogpu elsewhere"), "{error}");
        }
    }

    #[test]
    fn a_driver_that_is_not_there_is_refused() {
        let choices = Choices { driver: Some(Driver::Path("/no/such.so".into())), ..Choices::default() };
        let error = choices.variables(&install(), None, &|_| None).unwrap_err().to_string();
        assert!(error.contains("/no/such.so") && error.contains("set ZEROGPU_DRIVER"), "{error}");
        let choices = Choices { driver: Some(Driver::Soft), ..Choices::default() };
        assert!(choices.variables(&install(), None, &|_| None).unwrap_err().to_string().contains("libsoftcuda.so"));
    }

    #[test]
    fn a_container_sees_the_folder_elsewhere() {
        let lib = tempfile::tempdir().unwrap();
        let install = Install { lib: lib.path().into(), hook: Some("/src/shim/python".into()) };
        let at = Some(Path::new("/in/side"));
        let choices = Choices { driver: Some(Driver::Soft), ..Choices::default() };
        assert!(choices.variables(&install, at, &|_| None).is_err(), "the software driver must be in the folder");
        std::fs::write(lib.path().join(SOFT_FILE), "").unwrap();
        let variables = choices.variables(&install, at, &|_| None).unwrap();
        assert_eq!(value(&variables, "LD_PRELOAD").unwrap(), OURS.replace("/opt/zg", "/in/side"));
        assert_eq!(value(&variables, "ZEROGPU_DRIVER").unwrap(), "/in/side/libsoftcuda.so");
        assert_eq!(value(&variables, "PYTHONPATH").unwrap(), "/in/side/python");
    }
}
