use super::*;

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(not(loom))]
use std::sync::Arc;

/// The memory of a ring, on the heap.
struct Memory(Control, Vec<Slot>);

impl Memory {
    fn new(slots: usize) -> Arc<Self> {
        let zero = || AtomicU64::new(0);
        let control = Control { head: Lonely(zero()), tail: Lonely(zero()) };
        Arc::new(Memory(control, (0..slots).map(|_| Slot(std::array::from_fn(|_| zero()))).collect()))
    }

    fn ring(&self) -> Ring<'_> {
        Ring::new(&self.0, &self.1)
    }
}

fn tag(thread: u32) -> Tag {
    Tag { kind: 1, depth: 0, thread }
}

/// All interleavings and all orders of memory that are allowed. Slots have four words here. Nothing spins: a reader looks
/// a few times while the producers are at work, and then reads the rest.
/// Run: `RUSTFLAGS="--cfg loom" cargo test --release -p zerogpu-trace --lib ring::tests::model`
#[cfg(loom)]
mod model {
    use super::*;
    use loom::thread;

    /// Reads and frees the records that are there, looking `looks` times.
    fn read(ring: Ring, tail: &mut u64, looks: usize, mut each: impl FnMut(&Record)) {
        let mut record = Record::default();
        for _ in 0..looks {
            if let Some(slots) = ring.read(*tail, &mut record) {
                each(&record);
                *tail += slots;
                ring.free(*tail);
            }
        }
    }

    /// Each record of two producers comes out once, whole, and in its producer's order; one has two slots.
    #[test]
    fn two_producers_and_a_reader() {
        const RECORDS: [&[&[u64]]; 2] = [&[&[1], &[2, 3, 4]], &[&[5, 6]]];
        loom::model(|| {
            let memory = Memory::new(4);
            let producers = [0, 1].map(|thread| {
                let memory = memory.clone();
                thread::spawn(move || {
                    for words in RECORDS[thread] {
                        memory.ring().emit(tag(thread as u32), words, &[], &[], |_| false).unwrap();
                    }
                })
            });
            let (mut tail, mut next) = (0, [0; 2]);
            let mut check = |record: &Record| {
                let of = record.tag.thread as usize;
                assert_eq!(record.words, RECORDS[of][next[of]]);
                next[of] += 1;
            };
            read(memory.ring(), &mut tail, 2, &mut check);
            producers.into_iter().for_each(|p| p.join().unwrap());
            read(memory.ring(), &mut tail, 3, &mut check);
            assert_eq!((next, tail, memory.ring().head()), ([2, 1], 4, (4, false)));
        });
    }

    /// A slot is written again only after the reader has freed it: what is read is never a mixture of two laps.
    #[test]
    fn slots_used_again() {
        loom::model(|| {
            let memory = Memory::new(2);
            let producer = {
                let memory = memory.clone();
                thread::spawn(move || {
                    let mut written = 0;
                    for i in 0..4 {
                        let emitted = memory.ring().emit(tag(1), &[i, i], &[], &[], |has_room| has_room());
                        written += u64::from(emitted.is_some());
                        // the position that was not written stops the reader
                        if emitted.is_none() {
                            break;
                        }
                    }
                    written
                })
            };
            let (mut tail, mut next) = (0, 0);
            let mut check = |record: &Record| {
                assert_eq!(record.words, [next, next]);
                next += 1;
            };
            read(memory.ring(), &mut tail, 3, &mut check);
            let written = producer.join().unwrap();
            read(memory.ring(), &mut tail, 4, &mut check);
            assert!(written >= 2);
            assert_eq!(next, written);
        });
    }

    /// Every interleaving of a producer with closing: what was let in comes before the head that closing saw last, what was
    /// refused leaves no hole behind it.
    #[test]
    fn closing() {
        loom::model(|| {
            let memory = Memory::new(2);
            let producer = {
                let memory = memory.clone();
                thread::spawn(move || memory.ring().emit(tag(1), &[7], &[], &[], |_| false).is_some())
            };
            memory.ring().close();
            let written = producer.join().unwrap();
            assert_eq!(memory.ring().head(), (u64::from(written), true));
            assert_eq!(memory.ring().read(0, &mut Record::default()).is_some(), written);
        });
    }
}

#[cfg(not(loom))]
mod plain {
    use super::*;

    fn no_wait(_: &dyn Fn() -> bool) -> bool {
        panic!("the ring is not full")
    }

    #[test]
    fn records_of_any_length_come_back_as_written() {
        let memory = Memory::new(64);
        let ring = memory.ring();
        let (mut at, mut record) = (0, Record::default());
        for length in [0, 1, 7, 8, 9, 63, 64, 65, 111, 112, 113, 500, MAX_SLOTS * PAYLOAD * 8 - 24] {
            let text: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
            let tag = Tag { kind: 5 | HAS_TEXT, depth: 255, thread: u32::MAX };
            let written = ring.emit(tag, &[length as u64, u64::MAX], &[3], &text, no_wait).unwrap();
            assert_eq!(written.position, at);
            assert_eq!(ring.read(at, &mut record), Some(written.slots));
            assert_eq!(record, Record { tag, words: vec![length as u64, u64::MAX, 3], text });
            at += written.slots;
            ring.free(at);
        }
        assert!(at > ring.len(), "the test must wrap");
    }

    #[test]
    fn text_beyond_the_longest_record_is_cut() {
        let memory = Memory::new(128);
        let tag = Tag { kind: 5 | HAS_TEXT, ..tag(1) };
        let written = memory.ring().emit(tag, &[1], &[], &[b'x'; 10_000], no_wait).unwrap();
        assert_eq!(written.slots, MAX_SLOTS as u64);
        let mut record = Record::default();
        memory.ring().read(0, &mut record).unwrap();
        assert_eq!(record.text, vec![b'x'; (MAX_SLOTS * PAYLOAD - 1) * 8]);
    }

    #[test]
    fn older_contents_of_a_slot_never_show() {
        let memory = Memory::new(128);
        let ring = memory.ring();
        for i in 0..ring.len() {
            ring.emit(Tag { kind: 2 | HAS_TEXT, ..tag(1) }, &[i], &[], &[b'o'; 104], no_wait).unwrap();
        }
        ring.free(ring.len());
        ring.emit(Tag { kind: 2 | HAS_TEXT, ..tag(1) }, &[9], &[], b"new", no_wait).unwrap();
        let mut record = Record::default();
        ring.read(ring.len(), &mut record).unwrap();
        assert_eq!(record.text, b"new");
        assert_eq!(ring.read(ring.len() + 1, &mut record), None, "a slot of the lap before is no record");
    }

    #[test]
    fn a_full_ring_lets_nothing_in_until_the_reader_frees() {
        let memory = Memory::new(128);
        let ring = memory.ring();
        for i in 0..128 {
            ring.emit(tag(1), &[i], &[], &[], no_wait).unwrap();
        }
        let mut asked = 0;
        let written = ring.emit(tag(1), &[128], &[], &[], |has_room| {
            assert!(!has_room());
            ring.free(1);
            asked += 1;
            has_room()
        });
        assert_eq!((written, asked), (Some(Written { position: 128, slots: 1 }), 1));
        assert_eq!(ring.emit(tag(1), &[129], &[], &[], |_| false), None);
    }

    #[test]
    fn a_closed_ring_stays_as_it_is() {
        let memory = Memory::new(128);
        let ring = memory.ring();
        ring.emit(tag(1), &[1], &[], &[], no_wait).unwrap();
        ring.close();
        assert_eq!(ring.emit(tag(1), &[2], &[], &[], no_wait), None);
        assert_eq!(ring.head(), (1, true));
    }

    #[test]
    fn what_no_version_writes_is_no_record() {
        let memory = Memory::new(128);
        // kind 0, no slots, too many slots, more words than fit
        for bad in [0x100, 0x001, 0x4101, 0x0f_0101] {
            memory.1[0].0[1].store(bad, Ordering::Relaxed);
            memory.1[0].0[0].store(1, Ordering::Relaxed);
            assert_eq!(memory.ring().read(0, &mut Record::default()), None, "{bad:#x}");
        }
    }
}
