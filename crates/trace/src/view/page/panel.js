// What stands around the picture: the headline, details of a block, tables, legend. Everything is made of text nodes.

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function byId(id) {
  return document.getElementById(id);
}

function tableRow(cells) {
  const row = element("tr");
  for (const cell of cells) {
    const made = element("td");
    made.append(cell);
    row.append(made);
  }
  return row;
}

function heldTime(model) {
  return model.held.reduce((sum, { from, to }) => sum + to - from, 0);
}

function headline(model) {
  const { claims, end } = model;
  if (!claims.length) return `No GPU was held: there is no claim in these ${duration(end)}.`;
  const held = heldTime(model);
  const share = Math.round((100 * held) / end);
  const open = claims.at(-1).park === null ? " At the end of the trace it was still held." : "";
  return `A GPU was held for ${duration(held)} of ${duration(end)} (${share} %), in ${plural(claims.length, "claim")}.${open}`;
}

function fillHead(model) {
  const { facts } = model;
  document.querySelector("h1").textContent = model.title;
  byId("headline").textContent = headline(model);
  const known = [
    model.title === facts.program ? "" : facts.program,
    facts.pid ? `process ${facts.pid}` : "",
    facts.started ? `started ${facts.started}` : "",
    facts.settings ? `trace: ${facts.settings}` : "",
    plural(model.events, "event"),
    facts.zerogpu ? `zerogpu ${facts.zerogpu}` : "",
  ];
  byId("facts").textContent = known.filter(Boolean).join(" · ");
  byId("notes").replaceChildren(...model.notes.map((note) => element("li", note)));
}

function fillTotals(model) {
  const of = (kind, what) => model.functions.filter((f) => f.kind === kind).reduce((sum, f) => sum + f[what], 0);
  const add = (field) => model.claims.reduce((sum, claim) => sum + (claim[field] ?? 0), 0);
  const count = model.functions.reduce((sum, f) => sum + f.count, 0);
  const errors = model.functions.reduce((sum, f) => sum + f.errors, 0);
  const rows = [
    ["GPU held", `${duration(heldTime(model))} of ${duration(model.end)}`],
    ["waited for the broker", add("wait") ? duration(add("wait")) : ""],
    ["claims", `${model.claims.length}, in ${duration(add("claim") - add("wait"))}`],
    ["parks", `${model.claims.filter((c) => c.park !== null).length}, in ${duration(add("park"))}`],
    ["bytes to the card, home", `${size(add("bytes_in"))}, ${size(add("bytes_out"))}`],
    ["program's copies in, out", `${size(of("in", "bytes"))}, ${size(of("out", "bytes"))}`],
    ["calls, failed", `${count.toLocaleString("en")}, ${errors.toLocaleString("en")}`],
  ];
  byId("totals").tBodies[0].replaceChildren(...rows.filter(([, value]) => value).map(tableRow));
}

// The list of claims, each with a button that shows it.
function fillClaims(model, show) {
  const shown = model.claims.slice(0, 300).map((claim, i) => {
    const button = element("button", moment(claim.at).replace(/(\.\d{3})\d*/, "$1"));
    button.type = "button";
    button.title = `Shows claim ${i + 1}: ${model.strings[claim.why]}`;
    button.addEventListener("click", () => show(claim));
    const home = claim.park === null ? "not parked" : size(claim.bytes_out);
    const { from, to } = model.held[i];
    return tableRow([button, duration(to - from), claim.wait ? duration(claim.wait) : "-", size(claim.bytes_in), home]);
  });
  const rest = model.claims.length - shown.length;
  if (rest > 0) shown.push(tableRow([`and ${plural(rest, "more claim")}`]));
  byId("claims").tBodies[0].replaceChildren(...shown);
  if (!model.claims.length) byId("claims").parentElement.hidden = true;
}

// The functions, each with a button that searches for it.
function fillCalls(model, search) {
  const sorted = [...model.functions].sort((a, b) => b.time - a.time || (a.name < b.name ? -1 : 1));
  const rows = sorted.slice(0, 100).map((f) => {
    const button = element("button", f.name);
    button.type = "button";
    button.title = `Searches for ${f.name}`;
    button.addEventListener("click", () => search(f.name));
    const count = element("span", f.count.toLocaleString("en"));
    if (f.errors) {
      count.textContent += ` (${f.errors} failed)`;
      count.className = "error";
    }
    return tableRow([button, count, duration(f.time), f.bytes ? size(f.bytes) : "-"]);
  });
  if (sorted.length > 100) rows.push(tableRow([`and ${sorted.length - 100} more`]));
  byId("calls").tBodies[0].replaceChildren(...rows);
}

// The colours that occur.
function fillLegend(model) {
  const used = new Set();
  for (const { lane } of model.rows) {
    if (!lane) continue;
    for (let i = 0; i < lane.count; i++) used.add(lane.failed[i] ? KIND.error : lane.kind[i]);
  }
  const entry = (label, name) => {
    const [made, swatch] = [element("span"), element("i", undefined, name)];
    swatch.style.background = `var(--${name})`;
    made.append(swatch, label);
    return made;
  };
  const entries = KINDS.filter((_, i) => used.has(i)).map((kind) => entry(kind.label, kind.name));
  if (model.held.length) entries.unshift(entry("a GPU is held", "held"));
  byId("legend").replaceChildren(...entries);
}

function showDetail(what, kept) {
  const panel = byId("detail");
  if (!what) {
    panel.replaceChildren(element("h2", "Details"), element("p", "Point at a block, or click it to keep it here."));
    return;
  }
  const list = element("dl");
  for (const [name, value, className] of what.fields) list.append(element("dt", name), element("dd", value, className));
  panel.replaceChildren(element("h2", what.title), list);
  if (kept) panel.append(element("p", "Kept: Esc lets it go."));
}

let announcement;
// Tells users of screen readers, once things have settled.
function announce(text) {
  clearTimeout(announcement);
  announcement = setTimeout(() => {
    byId("live").textContent = text;
  }, 150);
}
