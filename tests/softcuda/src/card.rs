//! The software card: accounts for memory and contexts in the shared file, runs commands on the host, logs launches.
use crate::log::Log;
use crate::obstacle::{Obstacle, Page};
use crate::pins::Pins;
use crate::tensor;
use crate::twins::{self, Params, Reach};
use crate::uses::Uses;
use std::os::fd::{FromRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::Duration;
use zerogpu_abi::*;
use zerogpu_cards::{Cards, Inside, Refused, Slot, Wish};
use zerogpu_device::api::set_exports;
use zerogpu_device::host;
use zerogpu_device::link::Recipe;
use zerogpu_device::memory::{Change, Layout};
use zerogpu_device::op::{Copy, Launch, Op};
use zerogpu_device::runtime::{self, Guard, Scope, State};
use zerogpu_device::tensor::{Tensor, TensorMap};
use zerogpu_device::{Backend, Config, Run};
use zerogpu_profile::Profile;
use zerogpu_settings::SoftSettings;

/// The version that softcuda is a driver of.
const DRIVER_VERSION: i32 = 13000;
/// What fresh memory holds under SOFTCUDA_POISON: a driver promises no zeros.
const POISON: u8 = 0xA5;

/// The cards of the machine, as this process uses them.
pub struct Card {
    settings: SoftSettings,
    profile: Profile,
    count: u32,
    /// The file of cards; the error is why it can't be used, and is told once.
    cards: Result<Cards, String>,
    slot: OnceLock<Option<Slot>>,
    pins: Pins,
    /// What the work uses that is under way; looked at where violations are logged.
    uses: Uses,
    /// The error of a kernel, which a process never recovers from; 0: none.
    lost: AtomicU32,
    launches: Log,
    /// None, as usual: a call costs nothing more.
    calls: Option<Log>,
    violations: Log,
    /// Calls so far of each function that is to fail.
    counts: Vec<AtomicU64>,
    obstacle: Option<Obstacle>,
}

static CARD_OF_PROCESS: OnceLock<Card> = OnceLock::new();

/// The card; at the first call reads the settings and starts the device.
pub fn start() -> &'static Card {
    let mut fresh = false;
    let card = CARD_OF_PROCESS.get_or_init(|| {
        fresh = true;
        let (settings, mut complaints) = SoftSettings::from_env();
        let (usual, complaint) = Profile::chosen(settings.profile.as_deref(), settings.vram);
        complaints.extend(complaint);
        let (cards, profile, count) = look(&settings, usual);
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
        let calls = settings.call_log.is_some().then(|| open(&settings.call_log, &mut complaints));
        for c in complaints {
            eprintln!("softcuda: {c}");
        }
        let counts = settings.faults.iter().map(|_| AtomicU64::new(0)).collect();
        let (slot, pins, lost) = (OnceLock::new(), Pins::default(), AtomicU32::new(0));
        let (obstacle, uses) = (settings.obstacle.map(Obstacle::new), Uses::default());
        Card { settings, profile, count, cards, slot, pins, uses, lost, launches, calls, violations, counts, obstacle }
    });
    if fresh {
        set_exports(crate::entry::addresses());
    }
    runtime::install_with(|| {
        let config = Config {
            profile: card.profile,
            vram: card.profile.total_bytes,
            driver_version: DRIVER_VERSION,
            devices: card.count,
            shareable: true,
            layout: Layout { arena: None, window: None },
        };
        (config, card as &dyn Backend)
    });
    card
}

/// The cards that are there, else those that the settings ask for; what kind they are, and how many.
fn look(settings: &SoftSettings, usual: Profile) -> (Result<Cards, String>, Profile, u32) {
    if settings.count == Some(0) {
        return (Err("there are none (SOFTCUDA_COUNT is 0)".into()), usual, 0);
    }
    let count = settings.count.unwrap_or(1);
    let wish = Wish {
        count: settings.count,
        vram: settings.vram.map(|_| usual.total_bytes),
        name: settings.profile.as_ref().map(|_| usual.name),
    };
    match Cards::follow(&settings.cards, wish, count, usual.total_bytes, usual.name) {
        Err(e) => (Err(e.to_string()), usual, count),
        Ok(cards) => match Profile::by_card_name(cards.name()) {
            Some(kind) => (Ok(cards), kind.with_vram(cards.vram()), cards.count()),
            None if usual.name == cards.name() => (Ok(cards), usual.with_vram(cards.vram()), cards.count()),
            None => {
                let why =
                    format!("they are of an unknown kind, {}; choose another file with SOFTCUDA_CARDS", cards.name());
                (Err(why), usual, count)
            }
        },
    }
}

/// Codes that tell of a handle or context that is not alive.
const STALE: [CUresult; 4] =
    [CUresult::INVALID_CONTEXT, CUresult::INVALID_HANDLE, CUresult::CONTEXT_IS_DESTROYED, CUresult::DEINITIALIZED];

impl Card {
    /// The process's slot in the file of cards; joined at the first use.
    pub fn slot(&self) -> Res<&Slot> {
        let slot = self.slot.get_or_init(|| {
            let joined = self.cards.clone().and_then(|cards| cards.join().map_err(|e| e.to_string()));
            joined
                .inspect_err(|e| {
                    eprintln!("softcuda: the cards in {} can't be used: {e}", self.settings.cards.display());
                })
                .ok()
        });
        slot.as_ref().ok_or(CUresult::SYSTEM_NOT_READY)
    }

    /// Waits while another process keeps this one locked for a checkpoint, then counts a call in. None: the process has no
    /// slot yet, or is a forked child.
    pub fn enter(&self) -> Option<Inside> {
        self.slot.get()?.as_ref()?.enter()
    }

    /// A call begins: the error that the settings inject into it.
    pub fn fault(&self, name: &str) -> CUresult {
        if let Some(calls) = &self.calls {
            calls.line(name);
        }
        let mut code = CUresult::SUCCESS;
        for (fault, count) in self.settings.faults.iter().zip(&self.counts).filter(|(fault, _)| fault.function == name)
        {
            // each counts every call, whichever of them fails it
            let n = count.fetch_add(1, Ordering::Relaxed) + 1;
            if code.ok() && fault.nth.is_none_or(|nth| nth == n) {
                code = CUresult(fault.code);
            }
        }
        code
    }

    /// What is in the way of a call, as long as it lasts.
    pub fn obstacle(&self, name: &str) -> Option<Page> {
        self.obstacle.as_ref().filter(|_| name == "cuMemAddressReserve")?.appear()
    }

    /// Forks in a call as NVIDIA's driver does to run a program (nvidia-modprobe), with the handlers of `pthread_atfork`, and
    /// waits for the child.
    pub fn fork(&self, name: &str) {
        if !self.settings.forks.iter().any(|function| function == name) {
            return;
        }
        // SAFETY: the child ends at once; the parent waits for its own child and wants no status.
        unsafe {
            match libc::fork() {
                0 => libc::_exit(0),
                child => libc::waitpid(child, std::ptr::null_mut(), 0),
            };
        }
    }

    /// Fails once a kernel has met an error that CUDA never recovers from.
    fn usable(&self) -> Res {
        match self.lost.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(CUresult(code)),
        }
    }

    /// What a card checks of host memory that a copy names: one registration holds all of it, or none any of it.
    fn check_pins(&self, state: &State, c: &Copy) -> Res {
        for side in [&c.dst, &c.src] {
            let len = c.span(side).unwrap_or(0);
            let m = &state.memory;
            // what begins inside of a region was checked to end there
            if len > 0 && m.find(side.at).is_none() && m.overlaps(side.at, len) {
                self.tell(&format!("a copy of {len} bytes at {:#x} is registered in part", side.at));
                return Err(CUresult::INVALID_VALUE);
            }
            self.look_at_pins(side.at, len, "a copy");
        }
        Ok(())
    }

    /// Notes a page that is not the one that was registered.
    fn look_at_pins(&self, at: u64, len: u64, who: &str) {
        if !self.settings.strict_pins {
            return;
        }
        if let Some(page) = self.pins.lost(at, len) {
            self.tell(&format!("{who} found the page at {page:#x} punched or replaced while it was registered"));
        }
    }

    /// Runs the twin of a kernel. An address that the kernel can't reach ends the process's use of the cards.
    fn twin(&self, state: &State, stream: usize, kernel: &str, params: Vec<u8>) -> Res<Option<host::Work>> {
        let Some(twin) = twins::find(kernel) else { return Ok(None) };
        let ctx = state.streams.get(&stream).map(|s| s.ctx).ok_or(CUresult::INVALID_HANDLE)?;
        let reach = Reach { memory: &state.memory, device: state.device_of(ctx)? };
        twin(&Params(params), &reach).map(Some).inspect_err(|e| {
            self.tell(&format!("{kernel} met CUDA error {}", e.0));
            if matches!(*e, CUresult::ILLEGAL_ADDRESS | CUresult::MISALIGNED_ADDRESS) {
                self.lost.store(e.0, Ordering::Release);
            }
        })
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
        Refused::Full { .. } | Refused::TooMany => CUresult::OUT_OF_MEMORY,
        _ => CUresult::UNKNOWN,
    }
}

/// The same in every process that has the file, and no other file's while it lives.
fn identity(file: RawFd) -> Res<u64> {
    // libc's fstat asks for glibc 2.33
    // SAFETY: the descriptor is the caller's, open during this call, and is not closed here.
    let file = std::mem::ManuallyDrop::new(unsafe { std::fs::File::from_raw_fd(file) });
    let inode = file.metadata().map_or(0, |data| data.ino());
    if inode != 0 {
        Ok(inode)
    } else {
        Err(CUresult::OPERATING_SYSTEM)
    }
}

/// Fills a fresh file with what no program would take for its own bytes or for zeros.
fn poison(file: RawFd, len: u64) {
    let piece = vec![POISON; 1 << 20];
    for at in (0..len).step_by(piece.len()) {
        // SAFETY: our own descriptor and buffer. What can't be written stays zero.
        unsafe { libc::pwrite(file, piece.as_ptr().cast(), piece.len(), at as libc::off_t) };
    }
}

impl Backend for Card {
    fn run(&self, mut state: Guard, stream: usize, op: &Op) -> Run {
        let checked = self.usable().and_then(|()| match op {
            Op::Copy(c) => self.check_pins(&state, c),
            _ => Ok(()),
        });
        if let Err(e) = checked {
            return Run::Done(Err(e));
        }
        let used = if self.violations.on() { self.uses.begin(&mut state, op) } else { None };
        let ran = host::run(state, stream, op, start());
        if let Some(used) = used {
            // of a stream that has ended meanwhile nothing is known
            let end = || runtime::lock().ok()?.streams.get(&stream).map(|s| (s.busy_until, s.host_ticket));
            self.uses.submitted(used, end().filter(|_| ran.is_ok()));
        }
        Run::Done(ran)
    }

    fn takes(&self, what: &str, at: u64, len: u64) {
        if self.violations.on() && self.uses.any(at, len) {
            self.tell(&format!("{what} of {len} bytes at {at:#x} while work that uses them is under way"));
        }
    }

    fn wait(&self, scope: Scope, wait: bool) -> Res {
        host::wait(scope, wait)?;
        self.usable()
    }

    fn drain(&self, scope: Scope) -> Res {
        host::wait(scope, true)
    }

    fn change(&self, change: Change) -> Res {
        match change {
            Change::Take { len, device, .. } | Change::Create { len, host: false, device, .. } => {
                self.slot()?.take(device as u32, len).map_err(refused)
            }
            Change::Give { len, device, .. } | Change::Destroy { len, host: false, device, .. } => {
                self.slot()?.give(device as u32, len).map_err(refused)
            }
            Change::Share { file, len, device, imported } => {
                self.slot()?.hold(device as u32, len, identity(file)?).map_err(refused)?;
                if !imported && self.settings.poison {
                    poison(file, len);
                }
                Ok(())
            }
            Change::Unshare { file, .. } => self.slot()?.let_go(identity(file)?).map_err(refused),
            Change::Pin { at, len, flags } => {
                // what was allocated here has no file that anyone else has
                if self.settings.strict_pins && flags != 0 {
                    self.pins.add(at, len);
                }
                Ok(())
            }
            Change::Unpin { at, len } => {
                self.look_at_pins(at, len, "cuMemHostUnregister");
                self.pins.remove(at);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn context(&self, device: CUdevice, made: bool) -> Res {
        self.slot()?.contexts(device as u32, if made { 1 } else { -1 }).map_err(refused)?;
        if made && self.settings.context_time > Duration::ZERO {
            std::thread::sleep(self.settings.context_time);
        }
        Ok(())
    }

    fn free_bytes(&self, device: CUdevice) -> Option<u64> {
        self.slot().ok().and_then(|s| s.free(device as u32).ok())
    }

    fn link(&self, recipe: &Recipe) -> Res<Vec<u8>> {
        recipe.link_alone("softcuda has neither compiler nor linker")
    }

    fn encode_tensor(&self, tensor: &Tensor) -> Res<TensorMap> {
        tensor::encode(tensor, self.profile.cc)
    }

    fn readdress_tensor(&self, map: &mut TensorMap, address: u64) -> Res {
        tensor::readdress(map, address)
    }

    fn complain(&self, message: &str) {
        eprintln!("softcuda: {message}");
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

    fn launch(&self, state: &mut State, stream: usize, l: &Launch) -> Res<Option<host::Work>> {
        let (name, module) = state.any_function(l.func).map(|f| (f.kernel.name.clone(), f.module))?;
        if !self.launches.on() && twins::find(&name).is_none() {
            return Ok(None);
        }
        let params = state.pack_params(l.func, &l.params)?;
        let stream_id = state.streams.get(&stream).map(|s| s.id);
        let hex: String = params.iter().map(|b| format!("{b:02x}")).collect();
        let mut line = serde_json::json!({
            "pid": std::process::id(), "kernel": &*name, "grid": l.grid, "block": l.block, "shared": l.shared,
            "stream": stream_id, "cooperative": l.cooperative, "params": hex,
        });
        // what the compiler was told of its module
        if let Some(m) = state.modules.modules.get(&module.0).filter(|m| !m.settings.is_empty()) {
            line["jit"] = serde_json::json!(&m.settings[..]);
        }
        self.launches.line(&line.to_string());
        self.twin(state, stream, &name, params)
    }
}
