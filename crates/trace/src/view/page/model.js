// What is drawn: rows of lanes, and what a block of a lane says. A lane has sorted columns `at` and `end`, `kind` (a position
// in KINDS), `failed`, and `group`, by which blocks are found.

const KINDS = [
  ["region", "marked call"], ["claim", "claim: bytes go to the card"], ["claimed", "claimed: the program has the GPU"],
  ["park", "park: bytes come home"], ["wait", "waits for the broker"], ["replay", "deferred work"], ["borrow", "borrowed"],
  ["in", "copy to the device"], ["out", "copy to the host"], ["copy", "other copy, set"], ["launch", "launch"],
  ["memory", "memory"], ["code", "modules, kernels"], ["sync", "waits for the device"], ["other", "other call"],
  ["error", "failed"],
].map(([name, label]) => ({ name, label }));
const KIND = Object.fromEntries(KINDS.map((kind, i) => [kind.name, i]));
const NOT_READY = 600;

function duration(ns) {
  for (const [unit, factor] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) {
    if (ns >= factor * 0.9995) return `${(ns / factor).toFixed(ns < factor * 10 ? 2 : 1)} ${unit}`;
  }
  return `${Math.round(ns)} ns`;
}

function size(bytes) {
  for (const [unit, factor] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (bytes >= factor * 0.9995) return `${+(bytes / factor).toFixed(1)} ${unit}`;
  }
  return `${bytes} B`;
}

function moment(ns) {
  return `${(ns / 1e9).toFixed(6)} s`;
}

function plural(count, thing) {
  return `${count.toLocaleString("en")} ${thing}${count === 1 ? "" : thing.endsWith("tch") ? "es" : "s"}`;
}

// The first position whose value is not below `wanted`.
function lower(sorted, wanted) {
  let [low, high] = [0, sorted.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (sorted[middle] < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

function sums(differences) {
  const all = new Float64Array(differences.length);
  let last = 0;
  for (let i = 0; i < all.length; i++) all[i] = last += differences[i];
  return all;
}

function columns(at, durations) {
  const starts = sums(at);
  return { count: starts.length, at: starts, end: starts.map((start, i) => start + durations[i]) };
}

function callLane(data, calls) {
  const { functions, strings, results } = data;
  const kinds = functions.map((f) => KIND[f.kind]);
  const lane = columns(calls.at, calls.duration);
  const kind = Uint8Array.from(calls.function, (f) => kinds[f]);
  const failed = Uint8Array.from(calls.result, (result) => result !== 0 && result !== NOT_READY);
  const label = (i) => functions[calls.function[i]].name;
  const fields = (i) => {
    const result = calls.result[i];
    const status = result === 0 ? "0 CUDA_SUCCESS" : `${result} ${results[result]}`;
    const bytes = calls.bytes[i] ? [["bytes", `${size(calls.bytes[i])} (${calls.bytes[i].toLocaleString("en")})`]] : [];
    const names = functions[calls.function[i]].parameters.split(", ");
    const values = strings[calls.arguments[i]].split(", ");
    const given = names[0] === "" ? [] : names.map((name, n) => [name, values[n]]);
    return [["result", status, failed[i] ? "error" : ""], ...bytes, ...given];
  };
  return { ...lane, kind, failed, label, fields, group: Uint32Array.from(calls.function), names: functions.map((f) => [f.name]) };
}

function spanLane(data, spans) {
  const { strings } = data;
  const lane = columns(spans.at, spans.duration);
  const kind = Uint8Array.from(spans.kind, (k) => KIND[strings[k]] ?? KIND.other);
  const name = (i) => strings[spans.name[i]];
  const label = (i) => strings[spans.kind[i]];
  const fields = (i) => [
    ...(name(i) === label(i) || !name(i) ? [] : [["why", name(i)]]),
    ...(spans.bytes[i] ? [["bytes", size(spans.bytes[i])]] : []),
    ...(spans.thread[i] ? [["thread", String(spans.thread[i])]] : []),
  ];
  // a group for each block: there are few
  const names = Array.from(spans.kind, (_, i) => [label(i), name(i)]);
  return { ...lane, kind, failed: new Uint8Array(lane.count), label, fields, group: Uint32Array.from(names.keys()), names };
}

function markColumns(data, marks) {
  const { strings } = data;
  return {
    count: marks.at.length,
    at: sums(marks.at),
    depth: Uint8Array.from(marks.depth),
    group: Uint32Array.from(marks.text),
    kind: (i) => strings[marks.kind[i]],
    text: (i) => strings[marks.text[i]],
    detail: (i) => strings[marks.detail[i]],
  };
}

// Rows from top to bottom. `fixed` ones stay while threads are scrolled.
function buildModel(data) {
  const rows = [];
  for (const counter of data.counters) {
    const isBytes = counter.name.startsWith("bytes");
    rows.push({
      label: counter.name, fixed: true, height: 104, gap: 8, isBytes,
      counter: { at: sums(counter.at), value: Float64Array.from(counter.value), most: counter.value.reduce((a, b) => Math.max(a, b), 1) },
    });
  }
  for (const row of data.process) {
    row.lanes.forEach((spans, i) => {
      const last = i + 1 === row.lanes.length;
      rows.push({ label: i ? "" : row.name, fixed: true, height: 24, gap: last ? 4 : 1, lane: spanLane(data, spans) });
    });
  }
  for (const thread of data.threads) {
    const marks = markColumns(data, thread.marks);
    const name = `${thread.name || "thread"} ${thread.number}`;
    thread.lanes.forEach((calls, depth) => {
      const gap = depth + 1 === thread.lanes.length ? 7 : 0;
      rows.push({ label: depth ? "" : name, thread: name, fixed: false, height: 20, gap, depth, marks, lane: callLane(data, calls) });
    });
  }
  const held = data.claims.map((c) => ({ from: c.at + c.wait, to: c.at + c.claim + c.claimed + (c.park ?? 0) }));
  return { ...data, rows, held, end: Math.max(data.end, 1000) };
}

// The marks that are directly within block `i` of a thread's lane: [first, behind the last], and whether one is.
function marksWithin(row, i) {
  const { marks, lane } = row;
  const found = [];
  for (let m = lower(marks.at, lane.at[i]); m < marks.count && marks.at[m] <= lane.end[i]; m++) {
    if (marks.depth[m] === row.depth + 1) found.push(m);
  }
  return found;
}

// What the panel says of block `i` of a row: a title and pairs of name, value and class.
function describe(row, i) {
  const { lane } = row;
  const times = [["begins", moment(lane.at[i])], ["takes", duration(lane.end[i] - lane.at[i])]];
  const where = row.thread ? [["thread", row.thread]] : [];
  const marks = row.marks ? marksWithin(row, i) : [];
  const told = marks.slice(0, 12).flatMap((m) => markFields(row.marks, m));
  const more = marks.length > 12 ? [["and", plural(marks.length - 12, "more mark")]] : [];
  return { title: lane.label(i), fields: [...times, ...lane.fields(i), ...where, ...told, ...more] };
}

function markFields(marks, m) {
  const detail = marks.detail(m) ? [["", marks.detail(m)]] : [];
  return [[marks.kind(m), marks.text(m), marks.kind(m) === "warning" ? "error" : ""], ...detail];
}
