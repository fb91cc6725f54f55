//! The connection to the broker: made when it is needed, read by a thread of ours, given up when it is of no use.
use super::super::engine;
use super::{code, Lender, Link, Trouble, AGAIN, ANSWER, ENDED};
use crate::report;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;
use zerogpu_abi::CUresult;
use zerogpu_device::exec::now;
use zerogpu_device::memory::backing;
use zerogpu_device::runtime;
use zerogpu_protocol::*;

impl Lender {
    /// The connection, made now if there is none.
    pub(super) fn connect(&self) -> Result<Arc<Connection>, Trouble> {
        let mut state = self.locked();
        if let Some(link) = &state.link {
            return Ok(link.connection.clone());
        }
        let gone = |e: Error| match e {
            Error::Refused(refused) => Trouble::Denied(code(refused.reason), refused.text),
            Error::Mismatch(_, text) => Trouble::Denied(CUresult::NOT_SUPPORTED, text),
            e => Trouble::Gone(format!(
                "no broker answers on {} ({e}); start one with zerogpu broker, or unset ZEROGPU_SOCKET",
                self.path.display()
            )),
        };
        let config = runtime::config().map_err(|code| {
            Trouble::Denied(code, "the virtual device has not started; start the program again".into())
        })?;
        let holds = state.lease.map(|lease| Holding {
            card: lease.card,
            broker: lease.broker,
            lease: lease.number,
            seconds_left: clamp_seconds(lease.until.saturating_sub(now()) as f64 / 1e9),
            bytes: lease.bytes,
        });
        let cc = (config.profile.cc.0 as u32, config.profile.cc.1 as u32);
        let orphan = holds.is_some();
        let bound = state.bound.clone().filter(|_| !orphan);
        let hello = Hello { name: self.name.clone(), vram: config.vram, cc, role: Role::Space, holds };
        let file = backing::file().ok_or_else(|| {
            Trouble::Denied(
                CUresult::OUT_OF_MEMORY,
                "the process has no memory for a device; run zerogpu doctor".into(),
            )
        })?;
        let until = Some(Instant::now() + ANSWER);
        let connection = Connection::connect(&self.path, until).map_err(gone)?;
        let welcome = connection.hello(&hello, Some(file), until).map_err(gone)?;
        // before anybody else can use the connection: a claim that came first would end the lease, and who then names it breaks
        // the protocol. Another broker has nothing of it
        let owed = state.owed.filter(|(broker, _)| *broker == welcome.broker);
        let owed = owed.map(|(_, lease)| ToBroker::Released { lease });
        // an earlier broker may have had the driver checkpoint this process
        let bound = bound.map(|(card, by)| ToBroker::Bound { card, by });
        for message in owed.iter().chain(&bound) {
            connection.send(message, until).map_err(gone)?;
        }
        (state.owed, state.in_doubt, state.taken_over) = (None, false, false);
        let connection = Arc::new(connection);
        self.socket.store(connection.as_fd().as_raw_fd(), Ordering::Relaxed);
        state.link = Some(Link {
            connection: connection.clone(),
            broker: welcome.broker,
            version: welcome.version,
            inbox: Vec::new(),
        });
        if let Some(lease) = &mut state.lease {
            // until the broker says otherwise; it knows the number that it was told
            (lease.adopted, lease.broker) = (true, welcome.broker);
        }
        self.reserved.store(0, Ordering::Relaxed);
        drop(state);
        let ours = connection.clone();
        let listen = move || {
            if let Some(lender) = engine().and_then(|e| e.lender.as_ref()) {
                lender.listen(&ours);
            }
        };
        if zerogpu_device::thread::spawn("zerogpu-lease", listen).is_err() {
            return Err(self.hang_up(&connection, "no thread could be made; raise the process limit"));
        }
        report::explain(&format!(
            "connected to the broker on {}{}",
            self.path.display(),
            if orphan { ", with a lease of an earlier one" } else { "" }
        ));
        Ok(connection)
    }

    /// Reads what comes, until the connection ends.
    fn listen(&self, connection: &Arc<Connection>) {
        let mut packet = Packet::new();
        while let Ok((message, fds)) = connection.recv(&mut packet, None) {
            match message {
                ToClient::Revoked { lease, text, .. } => {
                    if let Some(engine) = engine().filter(|_| self.locked().granted == Some(lease)) {
                        engine.revoked(&text);
                    }
                }
                ToClient::Extended { lease, seconds } => {
                    if let Some(held) = self.locked().lease.as_mut().filter(|held| held.number == lease) {
                        held.until = now().saturating_add((seconds * 1e9) as u64);
                    }
                }
                // a broker that can't take a lease over gives the card to others: it has to be left
                ToClient::Denied { id: 0, text, .. } => {
                    if let Some(engine) = engine().filter(|_| self.locked().lease.is_some()) {
                        engine.revoked(&text);
                    }
                }
                // a lease that was taken over has another number
                ToClient::Granted { id: 0, lease, seconds, .. } => {
                    let mut state = self.locked();
                    if let Some(held) = &mut state.lease {
                        (held.number, held.until) = (lease, now().saturating_add((seconds * 1e9) as u64));
                        (state.granted, state.taken_over) = (Some(lease), true);
                    }
                }
                ToClient::Closing { text, .. } => report::explain(&format!("the broker closes the connection: {text}")),
                answer => {
                    let state = &mut *self.locked();
                    let ours = |link: &&mut Link| Arc::ptr_eq(&link.connection, connection);
                    let Some(link) = state.link.as_mut().filter(ours) else { return };
                    match answer {
                        ToClient::Granted { lease, .. } => (state.granted, state.asked) = (Some(lease), false),
                        ToClient::Denied { id, .. } if id == state.claims => state.asked = false,
                        _ => {}
                    }
                    link.inbox.push((answer, fds));
                    self.news.notify_all();
                }
            }
        }
        self.forget_link(connection);
        if let Some(engine) = engine().filter(|_| self.is_orphan()) {
            if self.locked().lease.is_some() {
                report::explain(
                    "the broker is gone while a GPU is claimed: the lease goes on, and its bytes come home without it",
                );
            }
            engine.watch.look_again();
            // a new broker leases nothing for a while, so that it hears of what is held. The watcher may be in a long park
            while self.is_orphan() {
                match self.connect() {
                    Err(Trouble::Denied(_, why)) => return engine.revoked(&why),
                    _ => std::thread::sleep(AGAIN),
                }
            }
        }
    }

    fn forget_link(&self, connection: &Arc<Connection>) {
        if self.locked().unlink(connection).is_some() {
            self.socket.store(-1, Ordering::Relaxed);
        }
        self.news.notify_all();
    }

    /// Ends a connection that is of no use. One that was made since stays.
    pub(super) fn hang_up(&self, connection: &Connection, why: &str) -> Trouble {
        report::explain(why);
        let mut state = self.locked();
        if let Some(link) = state.unlink(connection) {
            self.socket.store(-1, Ordering::Relaxed);
            // SAFETY: wakes the thread that reads; the descriptor is open as long as the connection.
            unsafe { libc::shutdown(link.connection.as_fd().as_raw_fd(), libc::SHUT_RDWR) };
        }
        drop(state);
        self.news.notify_all();
        Trouble::Gone(why.into())
    }

    pub(super) fn send(&self, connection: &Connection, message: &ToBroker) -> Result<(), Trouble> {
        connection
            .send(message, Some(Instant::now() + ANSWER))
            .map_err(|e| self.hang_up(connection, &format!("the broker can't be told ({e}); call again")))
    }

    /// Waits for an answer.
    pub(super) fn receive(
        &self,
        connection: &Arc<Connection>,
        wanted: impl Fn(&ToClient) -> bool,
        deadline: Instant,
    ) -> Result<(ToClient, Vec<OwnedFd>), Trouble> {
        match self.receive_until(connection, wanted, deadline)? {
            Some(answer) => Ok(answer),
            None => Err(self.hang_up(connection, "the broker does not answer; restart it")),
        }
    }

    /// The same; None: there was none in time.
    pub(super) fn receive_until(
        &self,
        connection: &Arc<Connection>,
        wanted: impl Fn(&ToClient) -> bool,
        deadline: Instant,
    ) -> Result<Option<(ToClient, Vec<OwnedFd>)>, Trouble> {
        let mut state = self.locked();
        loop {
            let Some(link) = state.link.as_mut().filter(|link| Arc::ptr_eq(&link.connection, connection)) else {
                return Err(Trouble::Gone(ENDED.into()));
            };
            if let Some(at) = link.inbox.iter().position(|(message, _)| wanted(message)) {
                return Ok(Some(link.inbox.remove(at)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            state = self.news.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ask, Lease};
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    /// A connection, and the broker's end of it.
    fn pair() -> (Arc<Connection>, Endpoint) {
        let mut ends = [-1; 2];
        // SAFETY: writes two new descriptors.
        let made =
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC, 0, ends.as_mut_ptr()) };
        assert_eq!(made, 0);
        // SAFETY: new, and nobody else's.
        let [ours, theirs] = ends.map(|fd| unsafe { std::os::fd::FromRawFd::from_raw_fd(fd) });
        (Arc::new(Connection::from_socket(ours, Path::new("/nowhere"))), Endpoint::new(theirs, 9))
    }

    fn lender(connection: &Arc<Connection>) -> Lender {
        let lender = Lender::new("/nowhere".into(), Duration::from_secs(9), Some("test"));
        let link = Link { connection: connection.clone(), broker: 1, version: 2, inbox: Vec::new() };
        lender.locked().link = Some(link);
        lender
    }

    #[test]
    fn the_end_of_a_connection_is_not_that_of_the_next() {
        let ((first, _first_broker), (second, mut broker)) = (pair(), pair());
        let lender = lender(&second);
        lender.hang_up(&first, "the first has failed late");
        let link = lender.locked().link.as_ref().map(|link| link.connection.clone());
        assert!(link.is_some_and(|link| Arc::ptr_eq(&link, &second)));
        second.send(&ToBroker::Status, None).unwrap();
        assert_eq!(broker.recv(&mut Packet::new()).unwrap(), Some(ToBroker::Status));
        lender.hang_up(&second, "and the second");
        assert!(lender.locked().link.is_none());
    }

    /// Its broker keeps the card for this process, which may claim no more.
    #[test]
    fn a_lease_that_no_claim_took_is_let_go_of() {
        let (connection, _broker) = pair();
        let lender = lender(&connection);
        lender.locked().granted = Some(5);
        lender.hang_up(&connection, "before the claim took it");
        let state = lender.locked();
        assert_eq!((state.owed, state.granted), (Some((1, 5)), None));
        drop(state);
        assert!(lender.is_orphan());
    }

    /// Its broker may have granted it meanwhile, and would end this process at the end of that time.
    #[test]
    fn a_claim_that_has_no_answer_is_told_of() {
        for answered in [true, false] {
            let (connection, mut broker) = pair();
            let lender = lender(&connection);
            std::thread::scope(|scope| {
                scope.spawn(|| lender.listen(&connection));
                let claim = scope.spawn(|| {
                    let until = Instant::now() + ANSWER;
                    lender.claim_once(&Ask { seconds: 9.0, bytes: 0, borrowed: false, until, wanted: &|| true })
                });
                let mut packet = Packet::new();
                let id = loop {
                    match broker.recv(&mut packet).unwrap() {
                        Some(ToBroker::Claim { id, .. }) => break id,
                        _ => std::thread::yield_now(),
                    }
                };
                if answered {
                    let denied = ToClient::Denied { id, reason: Reason::Busy, text: "no".into() };
                    broker.send(&denied, &[] as &[OwnedFd]).unwrap();
                    assert!(matches!(claim.join().unwrap(), Err(Trouble::ForUser(_))));
                    lender.hang_up(&connection, "the end");
                } else {
                    lender.hang_up(&connection, "before the answer");
                    assert!(matches!(claim.join().unwrap(), Err(Trouble::Gone(_))));
                }
                assert_eq!(lender.is_orphan(), !answered);
            });
        }
    }

    /// A lease that another broker has taken over lasts longer as any other does.
    #[test]
    fn every_lease_is_extended() {
        for adopted in [false, true] {
            let (connection, mut broker) = pair();
            let lender = lender(&connection);
            let until = now() + 1_000_000_000;
            lender.locked().lease = Some(Lease { number: 5, card: [0; 16], until, adopted, broker: 1, bytes: 0 });
            lender.extend(until - 1);
            lender.extend(until + 60_000_000_000);
            let said = broker.recv(&mut Packet::new()).unwrap();
            let Some(ToBroker::Extend { lease: 5, seconds }) = said else { panic!("{said:?}") };
            assert!((60.0..61.1).contains(&seconds), "{seconds}");
        }
    }

    /// Claims for work outside every region are no business of a region that ends.
    #[test]
    fn only_claims_for_regions_are_called_off() {
        for borrowed in [false, true] {
            let (connection, mut broker) = pair();
            let lender = lender(&connection);
            lender.lasting.store(borrowed, Ordering::Relaxed);
            lender.asks.store(1, Ordering::Relaxed);
            lender.call_off();
            connection.send(&ToBroker::Status, None).unwrap();
            let first = broker.recv(&mut Packet::new()).unwrap();
            assert_eq!(first == Some(ToBroker::Status), borrowed, "{first:?}");
        }
    }

    /// A broker that is hung up on while it copies home would write over what comes later.
    #[test]
    fn a_slow_broker_is_waited_for() {
        let (connection, mut broker) = pair();
        let mut lender = lender(&connection);
        lender.tells = Duration::from_millis(1);
        let lease = Lease { number: 5, card: [0; 16], until: u64::MAX, adopted: false, broker: 1, bytes: 0 };
        lender.locked().lease = Some(lease);
        std::thread::scope(|scope| {
            scope.spawn(|| lender.listen(&connection));
            let home = scope.spawn(|| lender.home());
            let mut packet = Packet::new();
            while broker.recv(&mut packet).unwrap() != Some(ToBroker::Drained { lease: 5 }) {
                std::thread::yield_now();
            }
            // many times as long as it takes to be told of
            std::thread::sleep(Duration::from_millis(50));
            let answer = ToClient::Home { lease: 5, bytes: 7, unchanged: 0, micros: 0 };
            broker.send(&answer, &[] as &[OwnedFd]).unwrap();
            assert!(matches!(home.join().unwrap(), Ok(7)));
            lender.hang_up(&connection, "the end");
        });
    }

    /// The broker takes the last word on host memory: what several threads say of it must come in its order.
    #[test]
    fn host_memory_is_never_told_out_of_order() {
        const TAKEN: u64 = 256 << 20;
        let (connection, mut broker) = pair();
        let lender = lender(&connection);
        let said = std::thread::scope(|scope| {
            scope.spawn(|| lender.listen(&connection));
            let broker = scope.spawn(move || {
                let (mut said, mut packet) = (Vec::new(), Packet::new());
                loop {
                    match broker.recv(&mut packet) {
                        Ok(Some(ToBroker::Reserve { bytes })) => {
                            said.push(bytes);
                            broker.send(&ToClient::Reserved { bytes }, &[] as &[OwnedFd]).unwrap();
                        }
                        Ok(_) => std::thread::yield_now(),
                        Err(_) => return said,
                    }
                }
            });
            let takers: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..500).for_each(|_| lender.reserve(TAKEN).ok().unwrap()))).collect();
            takers.into_iter().for_each(|taker| taker.join().unwrap());
            lender.hang_up(&connection, "the end");
            broker.join().unwrap()
        });
        assert!(said.is_sorted(), "{said:?}");
        assert!(said.last().is_some_and(|last| *last >= 2000 * TAKEN), "{said:?}");
    }
}
