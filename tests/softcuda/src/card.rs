//! The software card: accounts for memory and contexts in the shared file, runs commands on the host, logs launches.
use crate::log::Log;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;
use zerogpu_abi::*;
use zerogpu_cards::{Cards, Refused, Slot};
use zerogpu_device::api::set_exports;
use zerogpu_device::host;
use zerogpu_device::memory::{Change, Layout};
use zerogpu_device::op::{Launch, Op};
use zerogpu_device::runtime::{self, Guard, Scope, State};
use zerogpu_device::{Backend, Config, Run};
use zerogpu_profile::Profile;
use zerogpu_settings::SoftSettings;

/// The version that softcuda is a driver of.
const DRIVER_VERSION: i32 = 13000;
/// This process uses the first card; choosing among several is the broker's.
const CARD: u32 = 0;

/// The one card that this process uses.
pub struct Card {
    settings: SoftSettings,
    profile: Profile,
    slot: OnceLock<Option<Slot>>,
    launches: Log,
    violations: Log,
    /// Calls so far of each function that is to fail.
    counts: Vec<AtomicU64>,
}

static CARD_OF_PROCESS: OnceLock<Card> = OnceLock::new();

/// The card; at the first call reads the settings and starts the device.
pub fn start() -> &'static Card {
    let mut fresh = false;
    let card = CARD_OF_PROCESS.get_or_init(|| {
        fresh = true;
        let (settings, mut complaints) = SoftSettings::from_env();
        let (profile, complaint) = Profile::chosen(settings.profile.as_deref(), settings.vram);
        complaints.extend(complaint);
        let open = |path: &Option<std::path::PathBuf>, complaints: &mut Vec<String>| {
            Log::open(path.as_deref()).unwrap_or_else(|e| {
                complaints.push(format!(
                    "{}: {e}; nothing is logged there",
                    path.as_deref().unwrap_or("".as_ref()).display()
                ));
                Log::open(None).unwrap_or_else(|_| unreachable!("no file is opened"))
            })
        };
        let launches = open(&settings.launch_log, &mut complaints);
        let violations = open(&settings.strict_log, &mut complaints);
        for c in complaints {
            eprintln!("softcuda: {c}");
        }
        let counts = settings.faults.iter().map(|_| AtomicU64::new(0)).collect();
        Card { settings, profile, slot: OnceLock::new(), launches, violations, counts }
    });
    if fresh {
        set_exports(crate::entry::addresses());
    }
    runtime::install_with(|| {
        let config = Config {
            profile: card.profile,
            vram: card.profile.total_bytes,
            driver_version: DRIVER_VERSION,
            visible: card.settings.count > 0,
            layout: Layout { arena: None, window: None },
        };
        (config, card as &dyn Backend)
    });
    card
}

/// Codes that tell of a handle or context that is not alive.
const STALE: [CUresult; 4] =
    [CUresult::INVALID_CONTEXT, CUresult::INVALID_HANDLE, CUresult::CONTEXT_IS_DESTROYED, CUresult::DEINITIALIZED];

impl Card {
    /// The process's slot in the file of cards; joined at the first use.
    fn slot(&self) -> Res<&Slot> {
        let slot = self.slot.get_or_init(|| {
            let s = &self.settings;
            let cards = Cards::open(&s.cards, s.count.max(1), self.profile.total_bytes, self.profile.name);
            match cards.and_then(|c| c.join()) {
                Ok(slot) => Some(slot),
                Err(e) => {
                    eprintln!("softcuda: the cards in {} can't be used: {e}", s.cards.display());
                    None
                }
            }
        });
        slot.as_ref().ok_or(CUresult::SYSTEM_NOT_READY)
    }

    /// The error that the settings inject into this call.
    pub fn fault(&self, name: &str) -> CUresult {
        let mut code = CUresult::SUCCESS;
        for (fault, count) in self.settings.faults.iter().zip(&self.counts) {
            if fault.function == name {
                // each counts each call, also one that another makes fail
                let n = count.fetch_add(1, Ordering::Relaxed) + 1;
                if code.ok() && fault.nth.is_none_or(|nth| nth == n) {
                    code = CUresult(fault.code);
                }
            }
        }
        code
    }

    /// Notes an answer that tells of a stale handle.
    pub fn judge(&self, name: &str, result: CUresult) {
        if STALE.contains(&result) && self.violations.on() {
            self.violations.line(&format!("{name} was answered {}", result.0));
        }
    }
}

/// What a full or lost card means to the caller.
fn refused(r: Refused) -> CUresult {
    match r {
        Refused::Full { .. } => CUresult::OUT_OF_MEMORY,
        _ => CUresult::UNKNOWN,
    }
}

impl Backend for Card {
    fn run(&self, state: Guard, stream: usize, op: &Op) -> Run {
        Run::Done(host::run(state, stream, op, start()))
    }

    fn wait(&self, scope: Scope, wait: bool) -> Res {
        host::wait(scope, wait)
    }

    fn change(&self, change: Change) -> Res {
        match change {
            Change::Take { len, .. } | Change::Create { len, host: false, .. } => {
                self.slot()?.take(CARD, len).map_err(refused)
            }
            Change::Give { len, .. } | Change::Destroy { len, host: false, .. } => {
                self.slot()?.give(CARD, len).map_err(refused)
            }
            _ => Ok(()),
        }
    }

    fn context(&self, made: bool) -> Res {
        self.slot()?.contexts(CARD, if made { 1 } else { -1 }).map_err(refused)?;
        if made && self.settings.context_time > Duration::ZERO {
            std::thread::sleep(self.settings.context_time);
        }
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        self.slot().ok().and_then(|s| s.free(CARD).ok())
    }

    fn tell(&self, message: &str) {
        self.violations.line(message);
    }
}

impl host::Card for Card {
    fn cost(&self, op: &Op) -> u64 {
        let bytes = match op {
            Op::Launch(_) => return self.settings.launch_time.as_nanos() as u64,
            Op::Copy(c) => c.bytes(),
            _ => return 0,
        };
        let rate = self.settings.copy_rate.unwrap_or(0);
        if rate == 0 {
            0
        } else {
            (bytes as u128 * 1_000_000_000 / rate as u128) as u64
        }
    }

    fn launch(&self, state: &mut State, stream: usize, l: &Launch) -> Res {
        if !self.launches.on() {
            return Ok(());
        }
        let params = state.pack_params(l.func, &l.params)?;
        let name = state.any_function(l.func)?.kernel.name.clone();
        let stream_id = state.streams.get(&stream).map(|s| s.id);
        let hex: String = params.iter().map(|b| format!("{b:02x}")).collect();
        let line = serde_json::json!({
            "pid": std::process::id(), "kernel": &*name, "grid": l.grid, "block": l.block, "shared": l.shared,
            "stream": stream_id, "cooperative": l.cooperative, "params": hex,
        });
        self.launches.line(&line.to_string());
        Ok(())
    }
}
