//! Leases of a broker that is played by the topic: what a real one does only now and then comes at a chosen moment.
use super::faults::{again, part, read, seen_by_others};
use super::regions::Regions;
use crate::check::Check;
use crate::driver::{must, Driver};
use crate::image::CUBIN;
use std::collections::BTreeSet;
use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::mpsc;
use std::time::{Duration, Instant};
use zerogpu_abi::*;
use zerogpu_below::Driver as Below;
use zerogpu_protocol::{Answer, Endpoint, Holding, Listener, Packet, ToBroker, ToClient, Uuid, Welcome, VERSIONS};

const NOT_READY: u32 = 600;
/// For how long the shim may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const IDENTITY: u64 = 77;

/// The broker of this process.
struct Broker {
    listener: Listener,
    card: Uuid,
    /// The second one, if there are more.
    other: Uuid,
}

/// One connection to it.
struct Client {
    endpoint: Endpoint,
    packet: Packet,
    card: Uuid,
    holds: Option<Holding>,
}

/// Asks until there is an answer: the broker's sockets do not block.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Broker {
    /// Listens where the shim, which has not started yet, is going to look.
    fn listen() -> Broker {
        let cards = PathBuf::from(std::env::var_os("SOFTCUDA_CARDS").expect("the harness names the cards"));
        let socket = cards.with_file_name("node").join("broker.sock");
        std::env::set_var("ZEROGPU_SOCKET", &socket);
        let driver = std::env::var_os("ZEROGPU_DRIVER").expect("the harness names the driver below");
        let below = Below::open(&PathBuf::from(driver)).expect("the driver below opens");
        let [mut uuid, mut other] = [CUuuid { bytes: [0; 16] }; 2];
        // SAFETY: starts the driver, and writes the uuid of its first card.
        let answers = unsafe { [(below.cuInit)(0), (below.cuDeviceGetUuid_v2)(&mut uuid, 0)] };
        assert!(answers.iter().all(|answer| answer.ok()), "{answers:?}");
        // SAFETY: writes the uuid of its second card, where there is one.
        let _one_card_will_do = unsafe { (below.cuDeviceGetUuid_v2)(&mut other, 1) };
        let listener = Listener::bind(&socket, 0o600).expect("the folder is ours");
        Broker { listener, card: uuid.bytes, other: other.bytes }
    }

    /// The next one that connects.
    fn client(&self) -> Client {
        let socket = until("a client", || self.listener.accept().expect("listens"));
        let (mut endpoint, mut packet) = (Endpoint::new(socket, Endpoint::QUEUE), Packet::new());
        let (_, hello, _) = until("a hello", || endpoint.recv_hello(&mut packet).expect("a hello"));
        let welcome = Welcome { broker: IDENTITY, version: VERSIONS.highest };
        endpoint.answer(&Answer::Welcome(welcome)).expect("it waits for that");
        Client { endpoint, packet, card: self.card, holds: hello.holds }
    }
}

impl Client {
    /// The next message that asks for something.
    fn hear(&mut self) -> ToBroker {
        until("a message", || {
            let message = self.endpoint.recv(&mut self.packet).expect("the shim keeps to the protocol")?;
            if let ToBroker::Reserve { bytes } = message {
                self.say(&ToClient::Reserved { bytes });
                return None;
            }
            (!matches!(message, ToBroker::Extend { .. } | ToBroker::Prefetch { .. })).then_some(message)
        })
    }

    fn say(&mut self, message: &ToClient) {
        self.endpoint.send(message, &[] as &[std::os::fd::OwnedFd]).expect("the shim is there");
    }

    /// The number of the claim that comes now.
    fn claim(&mut self) -> u32 {
        match self.hear() {
            ToBroker::Claim { id, .. } => id,
            other => panic!("{other:?} is no claim"),
        }
    }

    /// Grants a claim, and hears what is to be on the card: nothing.
    fn grant(&mut self, id: u32, lease: u64) {
        self.grant_for(id, lease, 60.0);
    }

    fn grant_for(&mut self, id: u32, lease: u64, seconds: f64) {
        self.say(&ToClient::Granted { id, lease, card: self.card, seconds });
        let list = self.hear();
        assert!(matches!(&list, ToBroker::Slabs { slabs, more: false, .. } if slabs.is_empty()), "{list:?}");
    }

    /// Lends the card to the next claim.
    fn lend(&mut self, lease: u64) {
        let id = self.claim();
        self.grant(id, lease);
        self.ready(lease);
    }

    fn ready(&mut self, lease: u64) {
        self.say(&ToClient::Ready { lease, bytes: 0, warm: 0, micros: 1 });
    }

    /// Sees the lease end. `drained` is called between its work and its release.
    fn end(&mut self, lease: u64, drained: impl FnOnce()) {
        assert_eq!(self.hear(), ToBroker::Drained { lease });
        drained();
        self.say(&ToClient::Home { lease, bytes: 0, unchanged: 0, micros: 1 });
        assert_eq!(self.hear(), ToBroker::Released { lease });
    }

    fn revoke(&mut self, lease: u64) {
        self.say(&ToClient::Revoked { lease, text: "the topic wants it".into(), grace: 60.0 });
    }
}

/// A kernel without memory, so that the broker has none to lend.
#[derive(Clone, Copy)]
struct Kernel(CUfunction);

impl Kernel {
    fn load(d: &Driver) -> Kernel {
        let (mut module, mut function) = (CUmodule::NULL, CUfunction::NULL);
        must("cuModuleLoadData", d.cuModuleLoadData(&mut module, CUBIN.as_ptr().cast()));
        must("cuModuleGetFunction", d.cuModuleGetFunction(&mut function, module, c"probe".as_ptr()));
        Kernel(function)
    }

    fn launch(self, d: &Driver, stream: CUstream) -> CUresult {
        let (mut pointer, mut number) = (0u64, 1i32);
        let mut values: [*mut c_void; 2] = [(&raw mut pointer).cast(), (&raw mut number).cast()];
        d.cuLaunchKernel(self.0, 1, 1, 1, 32, 1, 1, 0, stream, values.as_mut_ptr(), null_mut())
    }
}

/// A broker takes a card back that is on its way back already: the next call, which has another lease, goes on.
pub fn revoked_late(d: &'static Driver, t: &mut Check) {
    let broker = Broker::listen();
    let script = std::thread::spawn(move || {
        let mut client = broker.client();
        client.lend(1);
        client.end(1, || {});
        let id = client.claim();
        client.revoke(1);
        client.grant(id, 2);
        client.ready(2);
        client.end(2, || {});
    });
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    for what in ["a call", "the next call"] {
        let region = r.begin();
        for _ in 0..3 {
            t.code(format_args!("a launch in {what}"), kernel.launch(d, CUstream::NULL), 0);
        }
        t.same(format_args!("the card in {what}"), r.level().as_deref(), Some("claimed"));
        t.that(format_args!("the region ends, {what}"), r.end(region));
    }
    t.that("the broker heard what it waited for", script.join().is_ok());
}

/// A lease whose time is over while its last call parks: the human is told nothing, since that call has ended.
pub fn revoked_as_it_ends(d: &'static Driver, t: &mut Check) {
    let broker = Broker::listen();
    let script = std::thread::spawn(move || {
        let mut client = broker.client();
        for (lease, seconds) in [(1, 0.5), (2, 600.0)] {
            let id = client.claim();
            client.grant_for(id, lease, seconds);
            client.ready(lease);
            assert_eq!(client.hear(), ToBroker::Drained { lease });
            client.revoke(lease);
            client.say(&ToClient::Home { lease, bytes: 0, unchanged: 0, micros: 1 });
            assert_eq!(client.hear(), ToBroker::Released { lease });
        }
    });
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    for (what, told) in [("at its end", false), ("long before", true)] {
        let region = r.begin();
        t.code(format_args!("a launch of the lease that is revoked {what}"), kernel.launch(d, CUstream::NULL), 0);
        t.that(format_args!("the region ends, {what}"), r.end(region));
        let state = r.state();
        t.same(format_args!("whether it is told, {what}"), state.contains("the broker takes the GPU back"), told);
    }
    t.that("the broker heard what it waited for", script.join().is_ok());
}

/// A broker that lives loses the connection of one that has a lease: that comes back, and says that it has let go, or the
/// broker would keep the card for it. Who computes comes back as the holder. A claim that is under way fails meanwhile: it comes
/// back as the holder, or has let go by then, perhaps before it knew that it had a lease. Either way it says so before it claims
/// again.
pub fn released_by_another_connection(d: &'static Driver, t: &mut Check) {
    let broker = Broker::listen();
    let (it_computes, when) = mpsc::channel();
    let (it_is_back, back) = mpsc::channel();
    let script = std::thread::spawn(move || {
        let card = broker.card;
        let held = |client: &Client| client.holds.as_ref().map(|holds| (holds.broker, holds.lease, holds.card == card));
        let mut client = broker.client();
        client.lend(1);
        when.recv().expect("the topic goes on");
        drop(client);
        let mut client = broker.client();
        assert_eq!(held(&client), Some((IDENTITY, 1, true)), "what it says that it holds");
        it_is_back.send(()).expect("the topic waits");
        assert_eq!(client.hear(), ToBroker::Released { lease: 1 });
        for (lease, heard) in [(2, true), (3, false)] {
            let id = client.claim();
            match heard {
                true => client.grant(id, lease),
                false => client.say(&ToClient::Granted { id, lease, card, seconds: 60.0 }),
            }
            drop(client);
            client = broker.client();
            let held = held(&client);
            assert!(held.is_none_or(|held| held == (IDENTITY, lease, true)), "it says that it holds {held:?}");
            assert_eq!(client.hear(), ToBroker::Released { lease });
        }
        client.lend(4);
        client.end(4, || {});
    });
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    it_computes.send(()).expect("the broker waits");
    t.that("it is back", back.recv().is_ok());
    t.that("the region ends", r.end(region));
    let region = r.begin();
    t.code("a launch whose claim loses its broker", kernel.launch(d, CUstream::NULL), 0);
    t.that("its region ends", r.end(region));
    t.that("the broker heard what it waited for", script.join().is_ok());
}

/// A card that is taken back is waited for once with the gate open, whoever passes it meanwhile, and once more behind it: else a
/// call that begins later would keep the card.
pub fn revoked_under_work(d: &'static Driver, t: &mut Check) {
    const KERNEL: Duration = Duration::from_secs(4);
    let calls = format!("{}-calls", std::env::var("SOFTCUDA_CARDS").expect("the harness names the cards"));
    std::env::set_var("SOFTCUDA_CALL_LOG", calls);
    std::env::set_var("SOFTCUDA_LAUNCH_US", KERNEL.as_micros().to_string());
    let broker = Broker::listen();
    let (take_it_back, when) = mpsc::channel();
    let script = std::thread::spawn(move || {
        let mut client = broker.client();
        client.lend(1);
        when.recv().expect("the topic goes on");
        let waits = || read("SOFTCUDA_CALL_LOG").lines().filter(|line| *line == "cuCtxSynchronize").count();
        let before = waits();
        client.revoke(1);
        let mut of_the_park = 0;
        client.end(1, || of_the_park = waits() - before);
        of_the_park
    });
    d.start();
    let (r, kernel, stream) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d), d.stream(1));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, stream), 0);
    take_it_back.send(()).expect("the broker waits");
    until("the end of the call's time", || r.expired(region).then_some(()));
    let later = r.begin();
    t.code("a launch of a call that begins now", kernel.launch(d, stream), 0);
    let mut answers = BTreeSet::new();
    until("the park", || {
        // passes the gate
        answers.insert(d.cuStreamQuery(stream).0);
        (r.level().as_deref() == Some("parked")).then_some(())
    });
    t.same("what others are answered meanwhile", answers, [0, NOT_READY].into());
    t.same("waits of the park", script.join().expect("the broker heard what it waited for"), 2);
    t.that("the first region ends", r.end(region));
    t.that("the later one ends", r.end(later));
}

/// A context that could not be released at first is on its own card: that one is left before another is claimed.
pub fn of_another_card(d: &'static Driver, t: &mut Check) {
    let Some(part) = part() else {
        // both tries of the park: the watcher's or the claim's next one works
        let refused = "cuDevicePrimaryCtxRelease_v2:1=999,cuDevicePrimaryCtxRelease_v2:2=999";
        again(t, "lease_of_another_card", "in time", &[("SOFTCUDA_COUNT", "2"), ("SOFTCUDA_FAULT", refused)]);
        let never = [("SOFTCUDA_COUNT", "2"), ("SOFTCUDA_FAULT", "cuDevicePrimaryCtxRelease_v2=999")];
        return again(t, "lease_of_another_card", "never", &never);
    };
    let broker = Broker::listen();
    let never = part == "never";
    let script = std::thread::spawn(move || {
        let mut client = broker.client();
        client.lend(1);
        client.end(1, || {});
        client.card = broker.other;
        let id = client.claim();
        if never {
            client.say(&ToClient::Granted { id, lease: 2, card: client.card, seconds: 60.0 });
            assert_eq!(client.hear(), ToBroker::Released { lease: 2 });
            return;
        }
        client.grant(id, 2);
        client.ready(2);
        client.end(2, || {});
    });
    d.start();
    let (r, kernel) = (Regions::find(d).expect("the shim has regions"), Kernel::load(d));
    let region = r.begin();
    t.code("a launch", kernel.launch(d, CUstream::NULL), 0);
    t.that("the region ends", r.end(region));
    let region = r.begin();
    t.code("a launch on another card", kernel.launch(d, CUstream::NULL), if never { 46 } else { 0 });
    t.that("the region ends, too", r.end(region));
    t.that("the broker heard what it waited for", script.join().is_ok());
    if never {
        t.that(format_args!("it is told: {}", r.state()), !r.state().contains("\"left\": []"));
    } else {
        until("the cards to be left", || r.state().contains("\"left\": []").then_some(()));
        t.same("on the cards: bytes and contexts", seen_by_others(), Some((0, 0)));
    }
}
