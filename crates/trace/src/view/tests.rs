use super::*;
use crate::format::tests::rendered;
use crate::read::tests::{file, program};
use crate::settings::Format;
use picture::{Calls, Claim, Kind};

/// What a page must survive.
const HOSTILE: &str = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u{2028}&\"'{{data}}";

fn timeline(text: &str) -> Timeline {
    Timeline::read(&file(text).1, None).unwrap()
}

fn picture(text: &str) -> Picture {
    let (_dir, path) = file(text);
    Timeline::read(&path, None).unwrap().0
}

fn of(format: Format) -> Picture {
    picture(&rendered(format, &program(HOSTILE)))
}

#[test]
fn the_three_forms_give_the_same_picture() {
    let json = of(Format::Json);
    let same = |mut other: Picture| {
        other.notes = json.notes.clone();
        for (mine, theirs) in other.threads.iter_mut().zip(&json.threads) {
            mine.name = theirs.name.clone();
        }
        assert_eq!(other, json);
    };
    same(of(Format::Chrome));
    same(of(Format::Text));
}

#[test]
fn calls_lie_in_lanes_by_depth() {
    let picture = of(Format::Json);
    let threads: Vec<_> = picture.threads.iter().map(|t| (t.number, &*t.name, t.lanes.len())).collect();
    assert_eq!(threads, [(4242, "python", 2), (4243, "pt_autograd_0", 1)]);
    let named =
        |calls: &Calls| calls.function.iter().map(|f| picture.functions[*f as usize].name.clone()).collect::<Vec<_>>();
    let [outer, inner] = &picture.threads[0].lanes[..] else { panic!("two lanes") };
    assert_eq!(named(outer), ["cuMemAlloc_v2", "cuMemcpyHtoD_v2", "cuLaunchKernel", "cuMemcpyDtoH_v2"]);
    assert_eq!((outer.at[2], outer.duration[2]), (200_000, 500_000));
    assert_eq!((named(inner), &inner.result), (vec!["cuMemFree_v2".to_string()], &vec![1]));
    let marks = &picture.threads[0].marks;
    let texts: Vec<_> = marks.text.iter().map(|t| &*picture.strings[*t as usize]).collect();
    assert_eq!((texts, &marks.depth), (vec![HOSTILE, "asked: for what"], &vec![1, 2]));
    let copy = &picture.functions[outer.function[1] as usize];
    assert_eq!((copy.kind, &*copy.parameters), (Kind::In, "dstDevice, srcHost, ByteCount"));
    let given = &picture.strings[outer.arguments[1] as usize];
    assert_eq!(given, "0x700000000000, 0x55550000, 4194304");
}

#[test]
fn sums_and_results() {
    let picture = of(Format::Chrome);
    let sums = |name: &str| {
        let f = picture.functions.iter().find(|f| f.name == name).unwrap();
        (f.count, f.errors, f.time, f.bytes)
    };
    assert_eq!(sums("cuMemcpyHtoD_v2"), (1, 0, 100_000, 4 << 20));
    assert_eq!(sums("cuMemFree_v2"), (1, 1, 15_000, 0));
    assert_eq!(sums("cuStreamQuery").1, 0, "not ready is an answer");
    let names: Vec<_> = picture.results.iter().map(|(result, name)| (*result, &**name)).collect();
    assert_eq!(names, [(1, "CUDA_ERROR_INVALID_VALUE"), (600, "CUDA_ERROR_NOT_READY")]);
    assert_eq!((picture.end, picture.events), (1_950_000, 15));
}

#[test]
fn claims_and_the_rows_of_the_process() {
    let picture = of(Format::Json);
    let (bytes, why) = (4 << 20, picture.claims[0].why);
    let claim = Claim {
        at: 201_000,
        wait: 99_000,
        claim: 299_000,
        claimed: 500_000,
        park: Some(800_000),
        why,
        bytes_in: bytes,
        bytes_out: bytes,
    };
    assert_eq!(picture.claims, [claim]);
    assert_eq!(picture.strings[why as usize], "kernel k");
    let rows: Vec<_> = picture.process.iter().map(|r| (r.name, r.lanes.len(), r.lanes[0].at.clone())).collect();
    let expected = [
        ("marked calls", 1, vec![150_000]),
        ("GPU", 1, vec![201_000, 500_000, 1_000_000]),
        ("broker's queue", 1, vec![205_000]),
    ];
    assert_eq!(rows, expected);
    let [card] = &picture.counters[..] else { panic!("one counter") };
    assert_eq!((&card.at, &card.value), (&vec![500_000, 1_800_000], &vec![4 << 20, 0]));
}

#[test]
fn a_claim_whose_park_is_missing_lasts_until_the_end() {
    let whole = rendered(Format::Json, &program("k"));
    let killed =
        whole.lines().take_while(|line| !line.contains("\"park\"")).fold(String::new(), |all, l| all + l + "\n");
    let picture = picture(&killed);
    assert_eq!(picture.claims[0].park, None);
    let Claim { at, claim, claimed, .. } = picture.claims[0];
    assert_eq!(at + claim + claimed, picture.end);
    assert!(picture.notes[0].contains("has no end"));
}

#[test]
fn a_trace_of_nothing() {
    let empty = picture("{\"type\":\"trace\"}\n{\"type\":\"end\"}\n");
    assert_eq!((empty.title.as_str(), empty.events, empty.end), ("Timeline", 0, 0));
    assert!(empty.process.is_empty() && empty.threads.is_empty() && empty.notes.is_empty());
    let (_dir, path) = file("nothing of ours\n");
    assert!(Timeline::read(&path, None).unwrap_err().to_string().contains("no trace of zerogpu"));
}

fn written(timeline: &Timeline) -> String {
    let mut page = vec![];
    timeline.write(&mut page).unwrap();
    String::from_utf8(page).unwrap()
}

/// The contents of the page's element that begins with `tag`.
fn within<'a>(page: &'a str, tag: &str, end: &str) -> &'a str {
    page.split_once(tag).unwrap().1.split_once(end).unwrap().0
}

#[test]
fn a_hostile_name_stays_text() {
    let (_dir, path) = file(&rendered(Format::Json, &program(HOSTILE)));
    let page = written(&Timeline::read(&path, Some(HOSTILE)).unwrap());
    assert_eq!(page.matches("</script>").count(), 2, "the data's and the program's");
    assert!(!page.contains("<img") && !page.contains("<!--"));
    let data = within(&page, "<script id=\"data\"", "</script>").split_once('>').unwrap().1;
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert!(data["strings"].as_array().unwrap().iter().any(|s| s == HOSTILE));
    assert_eq!(data["title"], HOSTILE);
    assert_eq!(data["threads"][0]["lanes"][0]["at"], serde_json::json!([2000, 8000, 190_000, 600_000]), "differences");
}

#[test]
fn a_page_needs_nothing_and_runs_nothing_else() {
    let page = written(&timeline(&rendered(Format::Json, &program("k"))));
    let policy = within(&page, "Content-Security-Policy\" content=\"", "\"");
    let nonce = within(policy, "script-src 'nonce-", "'");
    assert_eq!(nonce.len(), 32);
    assert!(policy.starts_with("default-src 'none'; "), "{policy}");
    assert_eq!(page.matches(&format!("nonce=\"{nonce}\"")).count(), 3, "style, data, program");
    assert_ne!(nonce, within(&written(&timeline(&rendered(Format::Json, &program("k")))), "script-src 'nonce-", "'"));
    for outside in ["http:", "https:", "src=\"", "href=", "@import", "url(", "{{", "onclick", "innerHTML"] {
        assert!(!page.contains(outside), "{outside}");
    }
}
