// The state of the page, and what moves it.

const model = buildModel(JSON.parse(byId("data").textContent));
const canvas = byId("canvas");
const scroller = byId("scroll");
const painter = new Painter(canvas, model);
const SHORTEST = 20; // nanoseconds in view at most zoom
const whole = { from: -model.end * 0.01, to: model.end * 1.01 };
const state = {
  view: { ...whole, top: 0 }, hovered: null, selected: null, hits: null, markHits: null, text: "", found: 0, current: null,
};
painter.view = state.view;

let drawing = false;
function redraw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    painter.draw(state);
  });
}

function resize() {
  const height = Math.max(scroller.clientHeight, 80);
  painter.resize(scroller.clientWidth, height);
  byId("spacer").style.height = `${Math.max(0, painter.heights.fixed + painter.heights.scrolled - height)}px`;
  redraw();
}

// Shows `from` to `to`, as far as the trace reaches.
function setView(from, to) {
  const span = Math.min(Math.max(to - from, SHORTEST), whole.to - whole.from);
  const middle = (from + to) / 2;
  const start = Math.min(Math.max(middle - span / 2, whole.from), whole.to - span);
  Object.assign(state.view, { from: start, to: start + span });
  redraw();
  announce(`Shows ${moment(Math.max(0, start))} to ${moment(start + span)}`);
}

function zoom(factor, around = (state.view.from + state.view.to) / 2) {
  const { from, to } = state.view;
  const span = Math.min(Math.max((to - from) * factor, SHORTEST), whole.to - whole.from);
  const start = around - ((around - from) * span) / (to - from);
  setView(start, start + span);
}

function pan(part) {
  const { from, to } = state.view;
  setView(from + (to - from) * part, to + (to - from) * part);
}

// Brings a stretch of time into view, with something of what is around it.
function show(at, end) {
  const margin = Math.max((end - at) * 0.2, SHORTEST);
  setView(at - margin, end + margin);
}

// The block at a place on the canvas. Those too narrow to be hit count if they are within three pixels.
function blockAt(x, y) {
  if (x < GUTTER) return null;
  const row = model.rows.find((r) => {
    const top = painter.top(r);
    return y >= top && y < top + r.height && (r.fixed || top + r.height > painter.heights.fixed) && (r.fixed || y >= painter.heights.fixed);
  });
  if (!row?.lane?.count) return null;
  const { lane } = row;
  const [at, near] = [painter.at(x), (painter.at(x + 3) - painter.at(x))];
  const after = Math.min(lower(lane.end, at), lane.count - 1);
  const away = (i) => Math.max(lane.at[i] - at, at - lane.end[i], 0);
  const best = [after, after - 1].filter((i) => i >= 0).reduce((a, b) => (away(b) < away(a) ? b : a));
  return away(best) <= near ? { row, index: best } : null;
}

function hover(found) {
  if (state.hovered?.row === found?.row && state.hovered?.index === found?.index) return;
  state.hovered = found;
  const shown = found ?? state.selected;
  showDetail(shown && describe(shown.row, shown.index), Boolean(shown) && shown === state.selected);
  redraw();
}

function select(found, reveal = false) {
  state.selected = found;
  showDetail(found && describe(found.row, found.index), Boolean(found));
  if (found) {
    const { row, index } = found;
    const [at, end] = [row.lane.at[index], row.lane.end[index]];
    const { from, to } = state.view;
    if (reveal && (end < from || at > to)) setView(at - (to - from) / 2, at + (to - from) / 2);
    if (reveal) scrollTo(row);
    const result = row.lane.failed[index] ? ", failed" : "";
    announce(`${row.lane.label(index)}${result}, at ${moment(at)}, ${duration(end - at)}`);
  }
  redraw();
}

function scrollTo(row) {
  if (row.fixed) return;
  const room = painter.height - painter.heights.fixed;
  if (row.top < scroller.scrollTop) scroller.scrollTop = row.top;
  else if (row.top + row.height > scroller.scrollTop + room) scroller.scrollTop = row.top + row.height - room;
}

// The next (1) or previous (-1) block in the row of the selected one; the first of the view if none is.
function stepBlock(direction) {
  if (!state.selected) return firstBlock();
  const { row, index } = state.selected;
  const to = index + direction;
  if (to >= 0 && to < row.lane.count) select({ row, index: to }, true);
}

function firstBlock() {
  const row = model.rows.find((r) => r.lane?.count && lower(r.lane.end, state.view.from) < r.lane.count);
  if (row) select({ row, index: lower(row.lane.end, state.view.from) }, true);
}

// The block of the next row above (-1) or below (1) that is nearest in time.
function stepRow(direction) {
  if (!state.selected) return firstBlock();
  const { row, index } = state.selected;
  for (let r = model.rows.indexOf(row) + direction; r >= 0 && r < model.rows.length; r += direction) {
    const { lane } = model.rows[r];
    if (lane?.count) return select({ row: model.rows[r], index: Math.min(lower(lane.end, row.lane.at[index]), lane.count - 1) }, true);
  }
}

// Marks what has `text` in its name: functions, spans and their reasons, kernels, messages.
function search(text) {
  const wanted = text.trim().toLowerCase();
  Object.assign(state, { text: wanted, hits: null, markHits: null, found: 0, current: null });
  if (wanted) {
    const matches = (names) => names.some((name) => name.toLowerCase().includes(wanted));
    state.hits = new Map();
    state.markHits = new Map();
    const texts = Uint8Array.from(model.strings, (string) => matches([string]));
    for (const row of model.rows) {
      if (!row.lane) continue;
      const hits = Uint8Array.from(row.lane.names, matches);
      state.hits.set(row, hits);
      state.found += row.lane.group.reduce((sum, group) => sum + hits[group], 0);
      if (!row.marks || state.markHits.has(row.marks)) continue;
      const marked = Uint8Array.from(row.marks.group, (group) => texts[group]);
      state.markHits.set(row.marks, marked);
      state.found += marked.reduce((sum, hit) => sum + hit, 0);
    }
  }
  const told = wanted ? plural(state.found, "match") : "";
  byId("matches").textContent = told;
  if (wanted) announce(`${told} for ${wanted}`);
  byId("next").disabled = byId("previous").disabled = !state.found;
  redraw();
}

// The call around mark `m` of a row's thread, or else the next block of its lane.
function carrier(row, m) {
  const depth = Math.max(row.marks.depth[m] - 1, 0);
  const there = model.rows.find((r) => r.marks === row.marks && r.depth === depth);
  if (!there?.lane.count) return null;
  return { row: there, index: Math.min(lower(there.lane.end, row.marks.at[m]), there.lane.count - 1) };
}

// Goes to the match that follows (1) or precedes (-1) the last one in time.
function goToMatch(direction) {
  if (!state.found) return;
  const order = (at, r) => [at, r];
  const later = (a, b) => a[0] - b[0] || a[1] - b[1];
  let [best, bestKey, edge, edgeKey] = [null, null, null, null];
  const consider = (at, r, block) => {
    const key = order(at, r);
    const ahead = !state.current || direction * later(key, state.current) > 0;
    if (ahead && (!best || direction * later(key, bestKey) < 0)) [best, bestKey] = [block, key];
    if (!edge || direction * later(key, edgeKey) < 0) [edge, edgeKey] = [block, key];
  };
  model.rows.forEach((row, r) => {
    const hits = state.hits.get(row);
    for (let i = 0; hits && i < row.lane.count; i++) {
      if (hits[row.lane.group[i]]) consider(row.lane.at[i], r, { row, index: i });
    }
    const marked = row.depth === 0 && state.markHits.get(row.marks);
    for (let m = 0; marked && m < row.marks.count; m++) {
      if (marked[m]) consider(row.marks.at[m], r, { row, mark: m });
    }
  });
  // behind the last one comes the first
  state.current = best ? bestKey : edgeKey;
  const match = best ?? edge;
  const block = match.mark === undefined ? match : carrier(match.row, match.mark);
  if (block) select(block, true);
}

const KEYS = {
  ArrowLeft: () => pan(-0.15), ArrowRight: () => pan(0.15),
  ArrowUp: () => (scroller.scrollTop -= 40), ArrowDown: () => (scroller.scrollTop += 40),
  "+": () => zoom(0.7), "=": () => zoom(0.7), "-": () => zoom(1 / 0.7), _: () => zoom(1 / 0.7),
  0: () => setView(whole.from, whole.to), Escape: () => select(null),
  Enter: () => state.selected && show(state.selected.row.lane.at[state.selected.index], state.selected.row.lane.end[state.selected.index]),
};
const SHIFTED = {
  ArrowLeft: () => stepBlock(-1), ArrowRight: () => stepBlock(1), ArrowUp: () => stepRow(-1), ArrowDown: () => stepRow(1),
};

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const act = (event.shiftKey && SHIFTED[event.key]) || KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 18 : 1;
  const sideways = event.shiftKey ? event.deltaY : event.deltaX;
  if (Math.abs(sideways) > (event.shiftKey ? 0 : Math.abs(event.deltaY))) pan((sideways * pixels) / (painter.width - GUTTER));
  else zoom(Math.exp(event.deltaY * pixels * 0.0018), painter.at(Math.max(event.offsetX, GUTTER)));
}, { passive: false });

let drag = null;
canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  drag = { x: event.offsetX, y: event.offsetY, view: { ...state.view }, top: scroller.scrollTop, moved: false };
});
canvas.addEventListener("pointermove", (event) => {
  if (!drag) return hover(blockAt(event.offsetX, event.offsetY));
  const [x, y] = [event.offsetX - drag.x, event.offsetY - drag.y];
  drag.moved ||= Math.hypot(x, y) > 4;
  if (!drag.moved) return;
  canvas.classList.add("dragged");
  const shift = (x * (drag.view.to - drag.view.from)) / (painter.width - GUTTER);
  setView(drag.view.from - shift, drag.view.to - shift);
  scroller.scrollTop = drag.top - y;
});
canvas.addEventListener("pointerup", (event) => {
  if (drag && !drag.moved) select(blockAt(event.offsetX, event.offsetY));
  endDrag();
});
canvas.addEventListener("pointercancel", endDrag);
canvas.addEventListener("pointerleave", () => hover(null));
canvas.addEventListener("dblclick", (event) => {
  const found = blockAt(event.offsetX, event.offsetY);
  if (found) show(found.row.lane.at[found.index], found.row.lane.end[found.index]);
});

function endDrag() {
  drag = null;
  canvas.classList.remove("dragged");
}

scroller.addEventListener("scroll", () => {
  state.view.top = scroller.scrollTop;
  redraw();
});
byId("search").addEventListener("input", (event) => search(event.target.value));
byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") goToMatch(event.shiftKey ? -1 : 1);
});
byId("next").addEventListener("click", () => goToMatch(1));
byId("previous").addEventListener("click", () => goToMatch(-1));
byId("in").addEventListener("click", () => zoom(0.5));
byId("out").addEventListener("click", () => zoom(2));
byId("all").addEventListener("click", () => setView(whole.from, whole.to));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  painter.recolor();
  redraw();
});
new ResizeObserver(resize).observe(scroller);

fillHead(model);
fillTotals(model);
fillClaims(model, (claim) => show(claim.at, claim.at + claim.claim + claim.claimed + (claim.park ?? 0)));
fillCalls(model, (name) => {
  byId("search").value = name;
  search(name);
});
fillLegend(model);
showDetail(null);
search("");

// What the page shows, to look at from outside.
const titleOf = (found) => (found ? found.row.lane.label(found.index) : null);
Object.defineProperty(window, "timeline", {
  value: Object.freeze({
    get view() { return { from: state.view.from, to: state.view.to }; },
    get end() { return model.end; },
    get events() { return model.events; },
    get hovered() { return titleOf(state.hovered); },
    get selected() { return titleOf(state.selected); },
    get matches() { return state.found; },
    get rows() {
      return model.rows.map((row) => ({
        label: row.label, top: painter.top(row), height: row.height, blocks: row.lane?.count ?? 0, values: row.counter?.at.length ?? 0,
      }));
    },
    // Where a moment is on the canvas, in pixels from its left.
    x: (at) => painter.x(at),
  }),
});
