//! The topics: each a body of checks that runs in a process of its own.
mod arrays;
mod capture;
mod cards;
mod contexts;
mod deferred;
mod device;
mod errors;
mod events;
mod export_tables;
mod fault_program;
mod faults;
mod graphs;
mod handle_places;
mod handle_structures;
mod handles;
mod host_memory;
mod jit;
mod kept;
mod leases;
mod links;
mod logs;
mod memory;
mod memory_model;
mod modules;
mod oom;
mod parks;
mod pending;
mod pointers;
mod pools;
mod proc_address;
mod process;
mod regions;
mod streams;
mod tensor_maps;
mod twins;
mod variables;
mod vmm;

use crate::check::Check;
use crate::driver::Driver;
use crate::rows;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

pub use faults::print_cards;
pub use oom::hold;
pub use process::register_late_calls;

/// Where a topic may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On every driver.
    Any,
    /// Only where kernels run: not on the shim without a driver.
    Kernels,
    /// Only on drivers that own their cards: not on the virtual device, which has one and shares none of its memory.
    Cards,
    /// Only where claims have a driver below: the shim over softcuda.
    Claims,
    /// Only on ours: a real driver may dereference what the topic passes.
    Ours,
}

/// A body of checks.
pub struct Topic {
    /// Its name on the command line and in test names.
    pub name: &'static str,
    /// Where it may run.
    pub scope: Scope,
    /// Runs it.
    pub run: fn(&'static Driver, &mut Check),
}

const fn any(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Any, run }
}

const fn ours(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Ours, run }
}

const fn kernels(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Kernels, run }
}

const fn cards(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Cards, run }
}

const fn claims(name: &'static str, run: fn(&'static Driver, &mut Check)) -> Topic {
    Topic { name, scope: Scope::Claims, run }
}

/// All topics.
pub const TOPICS: &[Topic] = &[
    any("rows_cubin", rows::cubin),
    any("rows_ptx", rows::ptx),
    any("device_attributes", device::attributes),
    any("device_identity", device::identity),
    any("context_primary", contexts::primary),
    any("context_stack", contexts::stack),
    any("context_created", contexts::created),
    any("stream_properties", streams::properties),
    any("stream_order", streams::order),
    any("stream_blocked", streams::blocked),
    any("stream_awaited", streams::awaited),
    any("events", events::events),
    any("memory_allocation", memory::allocation),
    any("memory_memset", memory::memset),
    any("memory_copy", memory::copy),
    any("memory_threads", memory::threads),
    any("memory_model", memory_model::random),
    any("array_lifetime", arrays::lifetime),
    any("pool_default", pools::default),
    any("pool_allocation", pools::allocation),
    any("pool_reset", pools::reset),
    any("vmm_hints", vmm::hints),
    any("vmm_expandable_segment", vmm::expandable_segment),
    any("vmm_aliases", vmm::aliases),
    any("vmm_refusals", vmm::refusals),
    cards("vmm_under_work", vmm::under_work),
    cards("cards_several", cards::several),
    cards("cards_shared", cards::shared),
    cards("cards_shared_refusals", cards::shared_refusals),
    cards("cards_twins", twins::twins),
    cards("cards_twins_astray", twins::astray),
    any("host_allocated", host_memory::allocated),
    any("host_registered", host_memory::registered),
    cards("host_registered_punched", host_memory::punched),
    cards("host_registered_in_part", host_memory::registered_in_part),
    any("host_managed", host_memory::managed),
    any("pointers_device", pointers::device),
    any("pointers_others", pointers::others),
    any("out_of_memory", oom::recovery),
    claims("out_of_memory_of_others", oom::others),
    claims("out_of_memory_in_vain", oom::in_vain),
    claims("out_of_memory_of_freed", oom::of_freed),
    any("capture_sequence", capture::sequence),
    any("capture_fork_and_join", capture::fork_and_join),
    any("capture_forbidden", capture::forbidden),
    ours("capture_across_contexts", capture::across_contexts),
    any("graph_replay", graphs::replay),
    any("graph_built", graphs::built),
    any("graph_kernel_node", graphs::kernel_node),
    any("module_loading", modules::loading),
    any("module_globals", modules::globals),
    any("module_libraries", modules::libraries),
    any("variable_stream_values", variables::stream_values),
    any("variable_linked", variables::linked),
    any("module_unloading", modules::unloading),
    any("module_attributes", modules::attributes),
    claims("module_attributes_set_again", modules::attributes_set_again),
    claims("module_attributes_of_kernels", modules::attributes_of_kernels),
    claims("module_jit_options", jit::options),
    any("logs", logs::logs),
    any("link_linked", links::linked),
    any("link_to_be_linked", links::to_be_linked),
    any("link_refusals", links::refusals),
    any("tensor_map_tiles", tensor_maps::tiles),
    any("tensor_map_columns", tensor_maps::columns),
    any("tensor_map_parks", tensor_maps::parks),
    any("pending_modules", pending::modules),
    any("pending_graphs", pending::graphs),
    any("pending_host_nodes", pending::host_nodes),
    any("pending_graph_events", pending::graph_events),
    any("pending_values", pending::values),
    any("pending_arrays", pending::arrays),
    ours("pending_itself", pending::itself),
    any("table_sizes", export_tables::sizes),
    any("table_slots", export_tables::slots),
    ours("table_unknown_slot", export_tables::unknown_slot),
    any("table_integrity", export_tables::integrity),
    any("table_local_storage", export_tables::local_storage),
    any("proc_address_table", proc_address::table),
    any("proc_address_others", proc_address::others),
    ours("exports", proc_address::exports),
    any("error_texts", errors::texts),
    ours("handles_wild", handles::wild),
    ours("handles_null", handles::null),
    ours("handles_stale", handles::stale),
    ours("handle_places", handle_places::each),
    ours("handle_places_in_structures", handle_structures::all),
    any("region_stress", regions::stress),
    any("region_order", regions::order),
    kernels("region_order_of_kernels", deferred::order),
    claims("record_too_small", deferred::too_small),
    claims("record_unmapped_code", deferred::unmapped_code),
    ours("region_unloading", regions::unloading),
    claims("region_claim", regions::claim),
    claims("fault_program", faults::program),
    claims("fault_each_call", faults::each_call),
    claims("park_lost", parks::lost),
    claims("park_beside_a_host_function", parks::beside_a_host_function),
    claims("park_beside_a_long_kernel", parks::beside_a_long_kernel),
    claims("park_watched_child", parks::watched_child),
    claims("copy_rate", regions::copy_rate),
    claims("park_addresses", parks::addresses),
    claims("park_left", parks::left),
    claims("park_polled", parks::polled),
    claims("kept_settings", kept::settings),
    claims("kept_pins", kept::pins),
    claims("lease_revoked_late", leases::revoked_late),
    claims("lease_revoked_as_it_ends", leases::revoked_as_it_ends),
    claims("lease_released_by_another_connection", leases::released_by_another_connection),
    claims("lease_revoked_under_work", leases::revoked_under_work),
    claims("lease_of_another_card", leases::of_another_card),
    any("process_fork", process::fork),
    claims("process_fork_while_starting", process::fork_while_starting),
    claims("process_fork_in_a_claim", process::fork_in_a_claim),
    ours("process_limits", process::limits),
    any("process_exit", process::exit),
];

/// Runs `work` in a thread and waits for it.
fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(work).join().expect("a thread of the topic panicked")
}

/// Runs `work` in `count` threads at once, each with its number.
fn in_threads<T: Send + 'static>(count: usize, work: impl Fn(usize) -> T + Send + Copy + 'static) -> Vec<T> {
    let threads: Vec<_> = (0..count).map(|number| std::thread::spawn(move || work(number))).collect();
    threads.into_iter().map(|thread| thread.join().expect("a thread of the topic panicked")).collect()
}

/// What a host function appends to a list.
struct Note {
    list: &'static Mutex<Vec<u32>>,
    number: u32,
}

/// Holds a host function back until it is opened. A driver that runs host functions in the caller's thread never gets
/// there: the host function gives up after a while, and [`Gate::passed`] tells.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    open: bool,
    passed: bool,
}

impl Gate {
    const PATIENCE: Duration = Duration::from_secs(10);

    /// A gate for the life of the process: a host function may come late.
    fn leaked() -> &'static Self {
        Box::leak(Box::default())
    }

    /// For a host function's argument.
    fn data(&'static self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn open(&self) {
        self.state.lock().expect("not poisoned").open = true;
        self.changed.notify_all();
    }

    /// Waits until it is open.
    fn pass(&self) {
        let state = self.state.lock().expect("not poisoned");
        let (mut state, _) =
            self.changed.wait_timeout_while(state, Self::PATIENCE, |state| !state.open).expect("not poisoned");
        state.passed = state.open;
    }

    fn passed(&self) -> bool {
        self.state.lock().expect("not poisoned").passed
    }
}

/// A host function that takes its time, so that who does not wait for it is seen.
#[derive(Default)]
struct Late(AtomicBool);

impl Late {
    /// For the life of the process: the host function may come when the topic has ended.
    fn leaked() -> &'static Self {
        Box::leak(Box::default())
    }

    /// The host function.
    unsafe extern "C" fn come(data: *mut c_void) {
        std::thread::sleep(Duration::from_millis(100));
        // SAFETY: `data` is a Late that the test leaked.
        unsafe { &*data.cast::<Self>() }.0.store(true, Ordering::SeqCst);
    }

    /// For a host function's argument.
    fn data(&'static self) -> *mut c_void {
        std::ptr::from_ref(self).cast_mut().cast()
    }

    fn is_there(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// The exit code of a child; None if it was killed.
fn wait_for(child: libc::pid_t) -> Option<i32> {
    let mut status = 0;
    // SAFETY: waits for our own child; the status is ours to write.
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    (waited == child && libc::WIFEXITED(status)).then(|| libc::WEXITSTATUS(status))
}
