//! Encoding: any message comes back as it was, any bytes are a message or an error.
mod common;

use proptest::prelude::*;
use proptest::{collection, option};
use zerogpu_protocol::*;

fn seconds() -> impl Strategy<Value = f64> {
    prop_oneof![Just(0.0), Just(SECONDS), 0.0..1e4]
}

fn range(chunks: u64) -> impl Strategy<Value = Range> {
    (0..1u64 << 40, 1..=chunks).prop_map(|(off, len)| Range::new(off * CHUNK_BYTES, len * CHUNK_BYTES))
}

fn slab() -> impl Strategy<Value = Range> {
    range(SLAB_BYTES / CHUNK_BYTES)
}

fn text() -> impl Strategy<Value = String> {
    any::<String>().prop_map(|text| clip(&text, TEXT_BYTES).to_owned())
}

fn reason() -> impl Strategy<Value = Reason> {
    proptest::sample::select(Reason::ALL)
}

fn hello() -> impl Strategy<Value = Hello> {
    let holding = (any::<Uuid>(), any::<u64>(), any::<u64>(), seconds(), any::<u64>())
        .prop_map(|(card, broker, lease, seconds_left, bytes)| Holding { card, broker, lease, seconds_left, bytes });
    let role = proptest::sample::select(Role::ALL);
    (any::<String>(), any::<u64>(), any::<(u32, u32)>(), role, option::of(holding))
        .prop_map(|(name, vram, cc, role, holds)| Hello { name: clean_name(&name), vram, cc, role, holds })
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<(u64, u16)>().prop_map(|(broker, version)| Answer::Welcome(Welcome { broker, version })),
        (reason(), text()).prop_map(|(reason, text)| Answer::Refused(Refused { reason, text })),
    ]
}

fn to_broker() -> impl Strategy<Value = ToBroker> {
    use ToBroker::*;
    let lease = any::<u64>;
    let lists = (lease(), collection::vec(slab(), 0..40), collection::vec(range(1 << 20), 0..40), any::<bool>());
    prop_oneof![
        lists.prop_map(|(lease, slabs, dirty, more)| Slabs { lease, slabs, dirty, more }),
        (any::<u32>(), seconds(), seconds(), any::<bool>(), any::<u64>()).prop_map(
            |(id, seconds, wait_seconds, borrowed, bytes)| Claim { id, seconds, wait_seconds, borrowed, bytes }
        ),
        any::<u32>().prop_map(|id| Cancel { id }),
        (lease(), seconds()).prop_map(|(lease, seconds)| Extend { lease, seconds }),
        (lease(), slab()).prop_map(|(lease, slab)| Grow { lease, slab }),
        (lease(), collection::vec(slab(), 0..40)).prop_map(|(lease, slabs)| Shrink { lease, slabs }),
        lease().prop_map(|lease| Drained { lease }),
        lease().prop_map(|lease| Released { lease }),
        range(1 << 20).prop_map(|range| Forget { range }),
        any::<u64>().prop_map(|bytes| Reserve { bytes }),
        Just(Status),
        (any::<Uuid>(), text()).prop_map(|(card, by)| Bound { card, by: clean(&by, TEXT_BYTES) }),
        (seconds(), collection::vec(slab(), 0..40), collection::vec(range(1 << 20), 0..40), any::<bool>())
            .prop_map(|(seconds, slabs, dirty, more)| Prefetch { seconds, slabs, dirty, more }),
        any::<u32>().prop_map(|pid| TakeBack { pid }),
    ]
}

fn to_client() -> impl Strategy<Value = ToClient> {
    use ToClient::*;
    let lease = any::<u64>;
    let four = any::<(u64, u64, u64, u64)>;
    prop_oneof![
        (any::<(u32, u32, u32)>(), option::of(seconds())).prop_map(|((id, position, of), seconds)| Queued {
            id,
            position,
            of,
            seconds
        }),
        (any::<u32>(), lease(), any::<Uuid>(), seconds()).prop_map(|(id, lease, card, seconds)| Granted {
            id,
            lease,
            card,
            seconds
        }),
        (lease(), 0..SPACE_SLABS as u32).prop_map(|(lease, first)| SlabFds { lease, first }),
        four().prop_map(|(lease, bytes, warm, micros)| Ready { lease, bytes, warm, micros }),
        (any::<u32>(), reason(), text()).prop_map(|(id, reason, text)| Denied { id, reason, text }),
        (lease(), seconds()).prop_map(|(lease, seconds)| Extended { lease, seconds }),
        (lease(), slab()).prop_map(|(lease, slab)| Grown { lease, slab }),
        (lease(), slab(), text()).prop_map(|(lease, slab, text)| NotGrown { lease, slab, text }),
        four().prop_map(|(lease, bytes, unchanged, micros)| Home { lease, bytes, unchanged, micros }),
        (lease(), text(), seconds()).prop_map(|(lease, text, grace)| Revoked { lease, text, grace }),
        range(1 << 20).prop_map(|range| Forgotten { range }),
        any::<u64>().prop_map(|bytes| Reserved { bytes }),
        (any::<u64>(), text()).prop_map(|(bytes, text)| NotReserved { bytes, text }),
        (any::<String>(), any::<bool>()).prop_map(|(json, more)| Report { json, more }),
        (reason(), text()).prop_map(|(reason, text)| Closing { reason, text }),
        (any::<bool>(), text()).prop_map(|(done, text)| TakenBack { done, text }),
    ]
}

/// A message comes back as it was; no shorter piece of its bytes, and nothing longer, is a message.
fn round_trip<M: Message + PartialEq + std::fmt::Debug>(message: &M) {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    assert_eq!(&decode::<M>(&bytes).unwrap(), message);
    for end in 0..bytes.len() {
        decode::<M>(&bytes[..end]).unwrap_err();
    }
    bytes.push(0);
    decode::<M>(&bytes).unwrap_err();
}

/// What decodes comes back, in no more bytes, after encoding.
fn any_bytes<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = decode::<M>(bytes) else { return };
    let mut again = Vec::new();
    encode(&message, &mut again).unwrap();
    assert!(again.len() <= bytes.len());
    assert_eq!(decode::<M>(&again).unwrap(), message);
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = common::packets().into_iter().map(|(_, bytes)| bytes).collect();
    (proptest::sample::select(samples), collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)).prop_map(
        |(mut bytes, changes)| {
            for (place, byte) in changes {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            bytes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn hellos_come_back(hello in hello()) {
        let mut bytes = Vec::new();
        encode_hello(&hello, VERSIONS, &mut bytes).unwrap();
        prop_assert_eq!(decode_hello(&bytes, VERSIONS).unwrap(), (VERSIONS, Ok(hello)));
    }

    #[test]
    fn answers_come_back(answer in answer()) {
        let mut bytes = Vec::new();
        encode_answer(&answer, VERSIONS, &mut bytes).unwrap();
        prop_assert_eq!(decode_answer(&bytes, VERSIONS).unwrap(), Ok(answer));
    }

    #[test]
    fn messages_to_the_broker_come_back(message in to_broker()) {
        round_trip(&message);
    }

    #[test]
    fn messages_to_clients_come_back(message in to_client()) {
        round_trip(&message);
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in prop_oneof![collection::vec(any::<u8>(), 0..200), mutated()]) {
        any_bytes::<Hello>(&bytes);
        any_bytes::<Answer>(&bytes);
        any_bytes::<ToBroker>(&bytes);
        any_bytes::<ToClient>(&bytes);
        let _ = decode_hello(&bytes, VERSIONS);
        let _ = decode_answer(&bytes, VERSIONS);
    }

    #[test]
    fn a_request_is_put_together_again(slabs in 0..8000u64, dirty in 0..8000u64) {
        let ranges = |count| (0..count).map(|i| Range::new(i * 2 * CHUNK_BYTES, CHUNK_BYTES)).collect::<Vec<_>>();
        let (slabs, dirty) = (ranges(slabs), ranges(dirty));
        let mut request = Request::default();
        let mut bytes = Vec::new();
        for packet in request_packets(9, &slabs, &dirty) {
            prop_assert_eq!(request.take(), None);
            encode(&packet, &mut bytes).unwrap();
            let ToBroker::Slabs { lease: 9, slabs, dirty, more } = decode(&bytes).unwrap() else { unreachable!() };
            request.push(&slabs, &dirty, more).unwrap();
        }
        let request = request.take().unwrap();
        prop_assert_eq!((request.slabs, request.dirty), (slabs, dirty));
    }

    #[test]
    fn a_report_is_put_together_again(text in "[a-z\u{e4}\u{20ac}\u{1f600}]{0,40}", times in 1..8000usize) {
        let text = text.repeat(times);
        let mut whole = String::new();
        let mut bytes = Vec::new();
        let packets: Vec<_> = report_packets(&text).collect();
        for (i, packet) in packets.iter().enumerate() {
            encode(packet, &mut bytes).unwrap();
            let ToClient::Report { json, more } = decode(&bytes).unwrap() else { unreachable!() };
            prop_assert_eq!(more, i + 1 < packets.len());
            whole.push_str(&json);
        }
        prop_assert_eq!(whole, text);
    }
}

fn refused<M: Message>(message: M, why: &str) {
    let error = encode(&message, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains(why), "{error}, not {why}");
    // The same from someone who does not check.
    let error = decode::<M>(&postcard::to_stdvec(&message).unwrap()).err().unwrap();
    assert!(error.to_string().contains(why), "{error}, not {why}");
}

#[test]
fn what_is_out_of_bounds_is_refused_at_both_ends() {
    let grow = |off, len| ToBroker::Grow { lease: 1, slab: Range::new(off, len) };
    refused(grow(1, CHUNK_BYTES), "aligned");
    refused(grow(0, CHUNK_BYTES + 4096), "aligned");
    refused(grow(0, 0), "empty");
    refused(grow(0, SLAB_BYTES + CHUNK_BYTES), "128 GiB");
    refused(grow(u64::MAX - CHUNK_BYTES + 1, CHUNK_BYTES), "too far");
    refused(grow(i64::MAX as u64 - CHUNK_BYTES + 1, CHUNK_BYTES), "too far");
    refused(ToBroker::Forget { range: Range::new(CHUNK_BYTES, 0u64.wrapping_sub(CHUNK_BYTES)) }, "too far");
    for seconds in [f64::NAN, f64::INFINITY, -1.0, SECONDS * 2.0] {
        refused(ToBroker::Extend { lease: 1, seconds }, "seconds");
        refused(ToBroker::Claim { id: 1, seconds: 1.0, wait_seconds: seconds, borrowed: true, bytes: 0 }, "seconds");
        refused(ToClient::Queued { id: 1, position: 1, of: 1, seconds: Some(seconds) }, "seconds");
        assert!((0.0..=SECONDS).contains(&clamp_seconds(seconds)));
    }
    let ranges = vec![Range::new(0, CHUNK_BYTES); PACKET_RANGES];
    refused(ToBroker::Shrink { lease: 1, slabs: [&ranges[..], &ranges[..1]].concat() }, "too many ranges");
    let dirty = ranges[..1].to_vec();
    refused(ToBroker::Slabs { lease: 1, slabs: ranges, dirty, more: false }, "too many ranges");
    refused(ToClient::Denied { id: 1, reason: Reason::Busy, text: "a".repeat(TEXT_BYTES + 1) }, "text is too long");
    refused(ToClient::Report { json: "a".repeat(REPORT_BYTES + 1), more: false }, "report is too long");
    refused(ToClient::SlabFds { lease: 1, first: SPACE_SLABS as u32 }, "too many slabs");
    let named = |name: &str| Hello { name: name.into(), ..common::hello(Role::Space) };
    refused(named(&"é".repeat(33)), "name is too long");
    refused(named("line\nfeed"), "control characters");
}

#[test]
fn the_largest_lists_fit_in_a_packet() {
    let range = Range::new((i64::MAX as u64 & !(SLAB_BYTES - 1)) - SLAB_BYTES, SLAB_BYTES);
    let mut bytes = Vec::new();
    let slabs = ToBroker::Slabs { lease: u64::MAX, slabs: vec![range; PACKET_RANGES], dirty: vec![], more: true };
    encode(&slabs, &mut bytes).unwrap();
    encode(&ToBroker::Shrink { lease: u64::MAX, slabs: vec![range; PACKET_RANGES] }, &mut bytes).unwrap();
    encode(&ToClient::Report { json: "a".repeat(REPORT_BYTES), more: true }, &mut bytes).unwrap();
    assert!(decode::<ToBroker>(&vec![0; PACKET_BYTES + 1]).unwrap_err().0.contains("64 KiB"));
}

#[test]
fn what_no_encoder_writes() {
    let status = ToBroker::Status;
    let mut bytes = Vec::new();
    encode(&status, &mut bytes).unwrap();
    let why = |bytes: &[u8]| decode::<ToBroker>(bytes).unwrap_err().0;
    let number = |one: &ToBroker| {
        let mut bytes = Vec::new();
        encode(one, &mut bytes).unwrap();
        bytes[0]
    };
    let last = common::to_broker().iter().map(|(_, one)| number(one)).max().unwrap();
    assert_eq!(why(&[last + 1]), "a kind or value is unknown");
    assert_eq!(why(&[]), "it ends too early");
    assert_eq!(why(&[bytes[0], 0]), "bytes follow its end");
    assert_eq!(why(&[0x80; 11]), "a number is too long");

    let denied = ToClient::Denied { id: 1, reason: Reason::Busy, text: "a".into() };
    encode(&denied, &mut bytes).unwrap();
    assert_eq!(bytes, [4, 1, 2, 1, b'a']);
    let why = |bytes: &[u8]| decode::<ToClient>(bytes).unwrap_err().0;
    for reason in [0, 11, 255] {
        assert_eq!(why(&[4, 1, reason, 1, b'a']), "a kind or value is unknown");
    }
    assert_eq!(why(&[4, 1, 2, 1, 0xff]), "a text is not UTF-8");
    assert_eq!(why(&[4, 1, 2, 0xff, 0xff, 0xff, 0xff, 0x0f, b'a']), "it ends too early", "a length is no promise");
}

#[test]
fn numbers_of_reasons_and_roles_stay() {
    use Reason::*;
    let reasons = [Quota, Busy, TooLong, NoCard, Memory, Cancelled, Protocol, Internal, Version, Restart];
    assert_eq!(Reason::ALL, reasons);
    assert!(reasons.into_iter().zip(1..).all(|(reason, number)| u8::from(reason) == number));
    assert_eq!(Role::ALL.iter().map(|role| u8::from(*role)).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_request_has_limits() {
    let ranges = vec![Range::new(0, CHUNK_BYTES); PACKET_RANGES];
    let mut request = Request::default();
    let pushes = (0..100).take_while(|_| request.push(&ranges, &[], true).is_ok()).count();
    assert_eq!(pushes, SPACE_SLABS / PACKET_RANGES);
    let mut request = Request::default();
    assert!(request.push(&[], &[], true).is_err(), "packets that bring nothing");
    let pushes = (0..100).take_while(|_| request.push(&[], &ranges, true).is_ok()).count();
    assert_eq!(pushes, DIRTY_RANGES / PACKET_RANGES);
}

#[test]
fn a_new_list_replaces_one_that_nobody_took() {
    let one = [Range::new(0, CHUNK_BYTES)];
    let mut request = Request::default();
    request.push(&one, &one, false).unwrap();
    request.push(&[], &one, false).unwrap();
    let taken = request.take().unwrap();
    assert_eq!((taken.slabs.len(), taken.dirty.len()), (0, 1));
    assert_eq!(request.take(), None);
}
