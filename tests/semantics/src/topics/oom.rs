//! Out of memory: what it answers, and that a program goes on.
use super::fault_program::Shadow;
use super::faults::{again, part};
use super::regions::{Kernel, Regions};
use crate::check::Check;
use crate::driver::{must, Driver};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::ptr::null_mut;
use zerogpu_abi::*;

const GIB: usize = 1 << 30;
const MIB: usize = 1 << 20;
const OUT_OF_MEMORY: u32 = 2;
/// What a holder leaves free.
const LEFT: usize = 100 * MIB;

/// Fills the card, hits its end by each way of allocating, and goes on.
pub fn recovery(d: &Driver, t: &mut Check) {
    d.start();
    let (free, total) = d.memory_info();
    let marked = d.alloc(4096);
    d.write(marked, &[7; 4096]);
    let mut blocks = Vec::new();
    let mut next = 55;
    let last = loop {
        let result = d.cuMemAlloc_v2(&mut next, GIB);
        if !result.ok() || blocks.len() > total / GIB {
            break result;
        }
        blocks.push(std::mem::replace(&mut next, 55));
    };
    t.code("an allocation too many", last, OUT_OF_MEMORY);
    t.same("no address", next, 0);
    let expected = free / GIB;
    t.that(format_args!("{} of {expected} GiB", blocks.len()), expected.abs_diff(blocks.len()) <= 1);
    t.that("less than 1 GiB is left", d.memory_info().0 < GIB);
    let (mut handle, mut pitch, mut memory, mut later) = (55, 0, 55, 55);
    t.code("cuMemCreate", d.cuMemCreate(&mut handle, GIB, &on_device(), 0), OUT_OF_MEMORY);
    t.code("cuMemAllocPitch", d.cuMemAllocPitch_v2(&mut memory, &mut pitch, GIB, 2, 4), OUT_OF_MEMORY);
    t.code("cuMemAllocAsync", d.cuMemAllocAsync(&mut later, GIB, CUstream::NULL), OUT_OF_MEMORY);
    t.same("their outputs", (handle, memory), (55, 0));
    t.code("no error sticks", d.cuCtxSynchronize(), 0);
    t.that("bytes are whole", d.read(marked, 4096) == [7; 4096]);

    let freed = blocks.pop().expect("some were allocated");
    d.free(freed);
    let mut again = 0;
    t.code("what was freed can be allocated", d.cuMemAlloc_v2(&mut again, GIB), 0);
    must("cuMemsetD8", d.cuMemsetD8_v2(again, 9, 1 << 20));
    t.that("and used", d.read(again, 1 << 20).iter().all(|byte| *byte == 9));
    blocks.push(again);
    blocks.into_iter().for_each(|block| d.free(block));
    d.free(marked);
    t.same("all is free again", d.memory_info().0, free);
    // in one piece: freed neighbours are one block again
    let most = free - free / 8;
    let mut whole = 0;
    t.code("one block of most of it", d.cuMemAlloc_v2(&mut whole, most), 0);
    d.free(whole);
}

fn on_device() -> CUmemAllocationProp {
    CUmemAllocationProp {
        kind: 1,
        requestedHandleTypes: 0,
        location: CUmemLocation::device(0),
        win32HandleMetaData: null_mut(),
        compressionType: 0,
        gpuDirectRDMACapable: 0,
        usage: 0,
        reserved: [0; 4],
    }
}

/// Another process that holds memory of the card until it is told to let go.
struct Holder {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    /// Takes all of the card that it gets but [`LEFT`], by the driver below ours.
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this program has a path"));
        command.arg("--hold").stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("ZEROGPU_TEST_DRIVER", std::env::var_os("ZEROGPU_DRIVER").expect("the driver below"));
        let mut child = command.spawn().expect("a child starts");
        let (orders, answers) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let mut holder = Self { child, orders, answers: BufReader::new(answers) };
        holder.hears("holding");
        holder
    }

    fn hears(&mut self, what: &str) {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the child speaks");
        assert_eq!(line.trim(), what);
    }

    /// Has it free the memory; the process goes on.
    fn let_go(&mut self) {
        self.orders.write_all(b"let go\n").expect("the child listens");
        self.hears("gone");
    }

    fn end(mut self) -> bool {
        drop(self.orders);
        self.child.wait().expect("our own child").success()
    }
}

/// The holder's side, on the driver that the caller names.
pub fn hold(d: &Driver) {
    d.start();
    // not by what the card says is free, which leaves out what a context takes
    let room = d.alloc(LEFT);
    let mut memory = Vec::new();
    for size in [GIB, 2 * MIB] {
        let mut block = 0;
        while d.cuMemAlloc_v2(&mut block, size).ok() {
            memory.push(block);
        }
    }
    d.free(room);
    println!("holding");
    let mut order = String::new();
    std::io::stdin().read_line(&mut order).expect("the parent speaks");
    memory.into_iter().for_each(|block| d.free(block));
    println!("gone");
    std::io::stdin().read_line(&mut order).expect("the parent ends");
}

/// Other processes hold the card: there is room for two pieces of three, and for none.
pub fn others(d: &Driver, t: &mut Check) {
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let pieces: Vec<Shadow> = (1..=3).map(|seed| Shadow::filled(d, "a piece", 256 * MIB, MIB, seed)).collect();
    let call = |t: &mut Check, what: &str, want: u32| {
        let region = r.begin();
        t.code(format_args!("a launch, {what}"), kernel.launch(d, CUstream::NULL), want);
        t.that(format_args!("the region ends, {what}"), r.end(region));
        t.same(format_args!("{what}: parked"), r.level().as_deref(), Some("parked"));
        for piece in &pieces {
            t.same(format_args!("bytes, {what}"), piece.holds(d), Ok(true));
        }
    };
    let used = |t: &mut Check, what: &str, want: bool| {
        let seen = super::faults::seen_by_others();
        t.that(format_args!("{what}: {seen:?} on the card"), seen.is_some_and(|(bytes, _)| (bytes > 0) == want));
    };
    // one process can't take what a context of its own would need: so the third piece is one too many, and the first
    for holders in [1, 2] {
        let what = format!("{holders} others");
        let mut holders: Vec<Holder> = (0..holders).map(|_| Holder::start()).collect();
        let before = super::faults::seen_by_others();
        call(t, &what, OUT_OF_MEMORY);
        t.same(format_args!("{what}: only the other's is on the card"), super::faults::seen_by_others(), before);
        let told = r.state();
        t.that(format_args!("and it is said: {told}"), told.contains("other programs hold the rest"));
        call(t, "again", OUT_OF_MEMORY);
        holders.iter_mut().for_each(Holder::let_go);
        call(t, "once it was freed", 0);
        t.that("the other processes end well", holders.into_iter().all(Holder::end));
        used(t, "at the end", false);
    }
}

/// A program that was shown a larger card than there is asks for more than there is: what it got in part is let go at once.
pub fn in_vain(d: &'static Driver, t: &mut Check) {
    if part().is_none() {
        return again(t, "out_of_memory_in_vain", "4 GiB", &[("SOFTCUDA_VRAM", "4GiB")]);
    }
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    let before = super::faults::seen_by_others();
    let mut memory = 55;
    for size in [4 * GIB, 8 * GIB + MIB] {
        t.code(format_args!("{size} bytes"), d.cuMemAlloc_v2(&mut memory, size), OUT_OF_MEMORY);
        t.same("no address", memory, 0);
        t.same("on the card, as others see it", super::faults::seen_by_others(), before);
    }
    t.code("what there is room for", d.cuMemAlloc_v2(&mut memory, 2 * GIB), 0);
    t.code("can be used", d.cuMemsetD8_v2(memory, 9, MIB), 0);
    t.that("the region ends", r.end(region));
    t.that("bytes are whole", d.read(memory, MIB).iter().all(|byte| *byte == 9));
}

/// Memory that was freed while a recorded kernel may name it is there again for whoever wants it.
pub fn of_freed(d: &'static Driver, t: &mut Check) {
    let Some(which) = part() else {
        let settings = [("ZEROGPU_VRAM", "4GiB"), ("SOFTCUDA_VRAM", "4GiB"), ("ZEROGPU_IDLE", "60s")];
        again(t, "out_of_memory_of_freed", "a card", &settings);
        let no_card = [("ZEROGPU_VRAM", "4GiB"), ("SOFTCUDA_FAULT", "cuDevicePrimaryCtxRetain=2")];
        return again(t, "out_of_memory_of_freed", "no card", &no_card);
    };
    let want = if which == "a card" { 0 } else { OUT_OF_MEMORY };
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let of_pool = |at: &mut u64| d.cuMemAllocAsync(at, 2 * GIB, CUstream::NULL);
    let plain = |at: &mut u64| d.cuMemAlloc_v2(at, 2 * GIB);
    let free_of_pool = |at| d.cuMemFreeAsync(at, CUstream::NULL);
    for way in ["cuMemAlloc", "cuMemAllocAsync", "cuMemCreate"] {
        let before = d.memory_info().0;
        let mut first = 0;
        if way == "cuMemAllocAsync" {
            must(way, of_pool(&mut first));
        } else {
            must(way, plain(&mut first));
        }
        t.code(format_args!("a launch outside any region, {way}"), kernel.launch(d, CUstream::NULL), 0);
        t.same(format_args!("it waits, {way}"), r.level().as_deref(), Some("parked"));
        if way == "cuMemAllocAsync" {
            must(way, free_of_pool(first));
        } else {
            d.free(first);
        }
        t.same(format_args!("what is free, {way}"), d.memory_info().0, before);
        let mut second = 55;
        let code = match way {
            "cuMemAlloc" => plain(&mut second),
            "cuMemAllocAsync" => of_pool(&mut second),
            _ => d.cuMemCreate(&mut second, 2 * GIB, &on_device(), 0),
        };
        t.code(format_args!("as much as was freed, {way}"), code, want);
        if !code.ok() {
            t.that(format_args!("nothing comes of it, {way}: {second}"), [0, 55].contains(&second));
            return;
        }
        match way {
            "cuMemCreate" => must(way, d.cuMemRelease(second)),
            _ => {
                must("cuMemsetD8", d.cuMemsetD8_v2(second, 9, MIB));
                t.that(format_args!("it can be used, {way}"), d.read(second, MIB).iter().all(|byte| *byte == 9));
                d.free(second);
            }
        }
        // parks what was borrowed
        let region = r.begin();
        t.that(format_args!("a region ends, {way}"), r.end(region));
        t.same(format_args!("and parks, {way}"), r.level().as_deref(), Some("parked"));
        t.same(format_args!("all is free again, {way}"), d.memory_info().0, before);
    }
}
