//! What an administrator may set: a TOML file, and options of the command line that go before it.
use anyhow::{bail, Context, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zerogpu_lease::{Policy, TenantPolicy};
use zerogpu_settings::Driver;

/// The file. Each key may be left out.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Where Spaces connect.
    pub socket: Option<PathBuf>,
    /// Permissions of the socket, as in "0660".
    pub socket_mode: Option<String>,
    /// The driver: auto, soft, or a path.
    pub driver: Option<String>,
    /// Where metrics are served for Prometheus, as in "127.0.0.1:9464".
    pub metrics: Option<std::net::SocketAddr>,
    /// End after this time without programs, as in "60s"; without it, by a signal only.
    pub idle_exit: Option<String>,
    /// Host memory that all Spaces may use together, as in "256GiB"; without it, nine tenths of the machine's.
    pub host_memory: Option<String>,
    /// Where the use of tenants is kept over a restart; without it, in $STATE_DIRECTORY, else beside the socket.
    pub state: Option<PathBuf>,
    /// The longest lease in seconds, as the command line has it: it goes before that of the queue, also when the file is read again.
    #[serde(skip)]
    pub(crate) longest: Option<f64>,
    /// The queue.
    pub queue: Queue,
    /// What stays on a card.
    pub memory: Memory,
    /// Limits of tenants that have no table of their own.
    pub default_tenant: Tenant,
    /// Tenants with limits of their own, by name.
    pub tenant: BTreeMap<String, Tenant>,
}

/// Who goes first, and for how long.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Queue {
    /// A claim that has waited this long goes first.
    pub aging: Option<String>,
    /// The longest lease, in seconds.
    pub max_seconds: Option<f64>,
    /// Time between the deadline of a lease and the end of its process.
    pub grace: Option<String>,
    /// How long a claim waits that does not say.
    pub timeout: Option<String>,
    /// After this time a used second counts half in the order.
    pub half_life: Option<String>,
    /// Whether Spaces that fit together compute on one card at the same time.
    pub share: Option<bool>,
    /// After an unclean end, how long Spaces have to say what they hold before a card is leased.
    pub reconnect: Option<String>,
}

/// What stays on a card between leases.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Memory {
    /// How long bytes stay warm: "0" never, as in "10min"; without it, until the room is needed.
    pub warm: Option<String>,
    /// Whether bytes are brought to an idle card when a region begins.
    pub prefetch: Option<bool>,
    /// Room on a card for the context of each Space that computes.
    pub context: Option<String>,
}

/// Limits of a tenant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Tenant {
    /// Its users, by number.
    pub uids: Vec<u32>,
    /// Its share of the cards when tenants compete; 1.
    pub weight: Option<f64>,
    /// Spaces at once; 50.
    pub spaces: Option<u32>,
    /// Device memory of one Space; no limit.
    pub vram: Option<String>,
    /// GPU seconds within 24 hours; no limit.
    pub gpu_seconds_per_day: Option<f64>,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong, with the line of the file.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} can't be read", path.display()))?;
        let config: Config = toml::from_str(&text).with_context(|| format!("{} is not understood", path.display()))?;
        config.check().with_context(|| format!("{} is not understood", path.display()))?;
        Ok(config)
    }

    /// Whether each value has a meaning.
    fn check(&self) -> Result<()> {
        self.policy()?;
        self.socket_mode()?;
        self.host_memory()?;
        self.reconnect()?;
        self.idle_exit()?;
        self.driver()?;
        let mut seen = BTreeMap::new();
        for (name, tenant) in &self.tenant {
            for uid in &tenant.uids {
                if let Some(other) = seen.insert(uid, name) {
                    bail!("user {uid} belongs to the tenants {other} and {name}; name it in one");
                }
            }
        }
        Ok(())
    }

    /// The rules of the scheduler.
    pub fn policy(&self) -> Result<Policy> {
        let usual = Policy::default();
        let tenants = self.tenant.iter().map(|(name, tenant)| {
            let limits = tenant.limits(&self.default_tenant).with_context(|| format!("tenant {name}"));
            limits.map(|limits| (name.clone(), limits))
        });
        let max_seconds = self.longest.or(self.queue.max_seconds).unwrap_or(usual.max_seconds);
        if !(max_seconds > 0.0 && max_seconds <= zerogpu_protocol::SECONDS) {
            bail!("max-seconds is {max_seconds}; write a number above 0");
        }
        Ok(Policy {
            aging: time(&self.queue.aging, usual.aging)?,
            max_seconds,
            grace: time(&self.queue.grace, usual.grace)?,
            queue_timeout: time(&self.queue.timeout, usual.queue_timeout)?,
            share: self.queue.share.unwrap_or(usual.share),
            warm_for: self.memory.warm.as_ref().map(|text| parsed(text, zerogpu_settings::duration)).transpose()?,
            prefetch: self.memory.prefetch.unwrap_or(usual.prefetch),
            context_bytes: size(&self.memory.context, usual.context_bytes)?,
            half_life: time(&self.queue.half_life, usual.half_life)?,
            tenants: tenants.collect::<Result<_>>()?,
            default_tenant: self.default_tenant.limits(&Tenant::default())?,
        })
    }

    /// The tenant of a user.
    pub fn tenant_of(&self, uid: u32) -> String {
        let named = self.tenant.iter().find(|(_, tenant)| tenant.uids.contains(&uid));
        named.map_or_else(|| format!("uid-{uid}"), |(name, _)| name.clone())
    }

    /// Permissions of the socket.
    pub fn socket_mode(&self) -> Result<u32> {
        match &self.socket_mode {
            None => Ok(0o600),
            Some(text) => match u32::from_str_radix(text.trim_start_matches("0o"), 8) {
                Ok(mode) if mode <= 0o777 => Ok(mode),
                _ => bail!("'{text}' are no permissions; write three octal digits, as in 0660"),
            },
        }
    }

    /// Bytes of host memory for all Spaces.
    pub fn host_memory(&self) -> Result<u64> {
        size(&self.host_memory, machine_memory() / 10 * 9)
    }

    /// The file with the use of tenants, of a broker that listens on `socket`.
    pub fn state(&self, socket: &Path) -> PathBuf {
        // systemd sets it for a service with a StateDirectory=; of several the first is as good as any
        let folder = std::env::var_os("STATE_DIRECTORY").filter(|folder| !folder.is_empty());
        match (&self.state, folder) {
            (Some(path), _) => path.clone(),
            (None, Some(folders)) => std::env::split_paths(&folders).next().unwrap_or_default().join("use.json"),
            (None, None) => {
                let mut name = socket.as_os_str().to_owned();
                name.push(".use");
                name.into()
            }
        }
    }

    /// How long nothing is leased after an unclean end.
    pub fn reconnect(&self) -> Result<Duration> {
        time(&self.queue.reconnect, Duration::from_secs(3))
    }

    /// How long the broker lives without programs.
    pub fn idle_exit(&self) -> Result<Option<Duration>> {
        self.idle_exit.as_ref().map(|text| parsed(text, zerogpu_settings::duration)).transpose()
    }

    /// The driver.
    pub fn driver(&self) -> Result<Driver> {
        self.driver.as_deref().map_or(Ok(Driver::Auto), |text| parsed(text, str::parse))
    }
}

impl Tenant {
    fn limits(&self, others: &Tenant) -> Result<TenantPolicy> {
        let usual = TenantPolicy::default();
        let weight = self.weight.or(others.weight).unwrap_or(usual.weight);
        if !(0.001..=1000.0).contains(&weight) {
            bail!("a weight of {weight} is out of range; write one from 0.001 to 1000");
        }
        Ok(TenantPolicy {
            weight,
            spaces: self.spaces.or(others.spaces).unwrap_or(usual.spaces),
            vram: size(if self.vram.is_some() { &self.vram } else { &others.vram }, usual.vram)?,
            gpu_seconds_per_day: self.gpu_seconds_per_day.or(others.gpu_seconds_per_day),
        })
    }
}

fn parsed<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Result<T> {
    parse(text).map_err(anyhow::Error::msg)
}

fn time(text: &Option<String>, usual: Duration) -> Result<Duration> {
    text.as_ref().map_or(Ok(usual), |text| parsed(text, zerogpu_settings::duration))
}

fn size(text: &Option<String>, usual: u64) -> Result<u64> {
    text.as_ref().map_or(Ok(usual), |text| parsed(text, zerogpu_settings::size))
}

/// Bytes of memory that this machine has.
fn machine_memory() -> u64 {
    // SAFETY: asks for two numbers.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    pages.max(0) as u64 * size.max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text)?;
        config.check().map(|()| config)
    }

    #[test]
    fn an_empty_file_is_the_default() {
        let config = read("").unwrap();
        assert_eq!(config.policy().unwrap(), Policy::default());
        assert_eq!(config.socket_mode().unwrap(), 0o600);
        assert_eq!(config.tenant_of(7), "uid-7");
        assert_eq!(config.state(Path::new("/run/y")), Path::new("/run/y.use"));
        assert!(config.host_memory().unwrap() > 1 << 20);
    }

    #[test]
    fn each_key_has_its_effect() {
        let config = read(
            r#"
            socket = "/run/x"
            socket-mode = "0660"
            driver = "soft"
            metrics = "127.0.0.1:9464"
            host-memory = "10GiB"
            idle-exit = "1min"
            state = "/var/lib/x"
            [queue]
            aging = "1min"
            max-seconds = 90.5
            grace = "5s"
            timeout = "2min"
            half-life = "10min"
            share = true
            reconnect = "1s"
            [memory]
            warm = "0"
            prefetch = false
            context = "512MiB"
            [default-tenant]
            spaces = 3
            [tenant.alice]
            uids = [1000, 1001]
            weight = 2.0
            vram = "40GiB"
            gpu-seconds-per-day = 3600
            "#,
        )
        .unwrap();
        let policy = config.policy().unwrap();
        assert_eq!((policy.aging, policy.max_seconds, policy.share), (Duration::from_secs(60), 90.5, true));
        assert_eq!((policy.warm_for, policy.context_bytes), (Some(Duration::ZERO), 512 << 20));
        assert!(!policy.prefetch);
        assert_eq!(config.state(Path::new("/run/y")), Path::new("/var/lib/x"));
        assert_eq!(policy.default_tenant.spaces, 3);
        let alice = policy.tenant("alice");
        assert_eq!((alice.weight, alice.spaces, alice.vram), (2.0, 3, 40 << 30));
        assert_eq!(alice.gpu_seconds_per_day, Some(3600.0));
        assert_eq!((config.tenant_of(1001).as_str(), config.tenant_of(5).as_str()), ("alice", "uid-5"));
        assert_eq!((config.socket_mode().unwrap(), config.host_memory().unwrap()), (0o660, 10 << 30));
        assert_eq!(config.reconnect().unwrap(), Duration::from_secs(1));
        assert_eq!(config.idle_exit().unwrap(), Some(Duration::from_secs(60)));
        let longest = Some(2400.0);
        assert_eq!(Config { longest, ..config }.policy().unwrap().max_seconds, 2400.0);
    }

    /// The example that is shipped, with everything that is commented out.
    #[test]
    fn the_example_shows_each_key_and_its_default() {
        let example = include_str!("../../packaging/zerogpu.toml");
        assert_eq!(read(example).unwrap().policy().unwrap(), Policy::default(), "as it is, it sets nothing");
        let shown: String = example
            .lines()
            .map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line).to_owned() + "\n")
            .collect();
        let config = read(&shown).unwrap();
        let mut policy = config.policy().unwrap();
        assert_eq!(policy.tenants.keys().collect::<Vec<_>>(), ["research"]);
        policy.tenants.clear();
        let usual = TenantPolicy::default();
        // these have no default to show
        (policy.warm_for, policy.default_tenant.vram, policy.default_tenant.gpu_seconds_per_day) =
            (None, usual.vram, None);
        assert_eq!(policy, Policy::default());
        assert_eq!((config.socket_mode().unwrap(), config.reconnect().unwrap()), (0o600, Duration::from_secs(3)));
        let fields =
            include_str!("config.rs").lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(": "));
        for (field, _) in fields.filter(|(field, _)| !field.contains('(')) {
            let key = field.replace('_', "-");
            let is_it = |line: &str| {
                line == format!("[{key}]")
                    || line.starts_with(&format!("{key} ="))
                    || line.starts_with(&format!("[{key}."))
            };
            assert!(shown.lines().any(is_it), "{key} is not in the example");
        }
    }

    #[test]
    fn what_has_no_meaning_is_said() {
        for (text, said) in [
            ("sokcet = 'x'", "sokcet"),
            ("socket-mode = 'rw'", "octal"),
            ("host-memory = 'much'", "size"),
            ("idle-exit = 'never'", "duration"),
            ("[queue]\naging = 'soon'", "duration"),
            ("[queue]\nmax-seconds = 0", "above 0"),
            ("[tenant.a]\nweight = 0", "weight"),
            ("[tenant.a]\nuids = [1]\n[tenant.b]\nuids = [1]", "user 1"),
            ("driver = 'hard'", "driver"),
        ] {
            let error = format!("{:#}", read(text).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
