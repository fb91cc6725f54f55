// Draws the visible stretch of time. Blocks narrower than a pixel are drawn together, one column for each pixel.

const GUTTER = 150;
const RULER = 24;
// Above the curve of a counter: its name, and how long the GPU was held.
const HEAD = 22;

// Where each row lies, from the top of the picture (fixed rows) or of the threads (the others).
function layout(model) {
  const heights = { fixed: RULER + 4, scrolled: 0 };
  for (const row of model.rows) {
    const part = row.fixed ? "fixed" : "scrolled";
    row.top = heights[part];
    heights[part] += row.height + row.gap;
  }
  return heights;
}

function palette() {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  const kinds = KINDS.map((kind) => color(kind.name));
  return { kinds, inks: kinds.map(inkOn), ...Object.fromEntries(["ground", "ink", "faint", "line", "held", "area", "accent"].map((n) => [n, color(n)])) };
}

// Black or white, whichever reads better on a color given as #rrggbb.
function inkOn(color) {
  const [r, g, b] = [1, 3, 5].map((at) => (parseInt(color.slice(at, at + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.3 ? "#101214" : "#ffffff";
}

// Steps of 1, 2 or 5 such that about `count` of them make `span`.
function step(span, count) {
  const rough = span / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((n) => n * power >= rough) ?? 10);
}

// Steps of bytes: powers of two.
function byteStep(most, count) {
  return 2 ** Math.ceil(Math.log2(Math.max(most / count, 1)));
}

function tickLabel(ns, every) {
  const [unit, factor] = every >= 1e8 || ns >= 1e10 ? ["s", 1e9] : every >= 1e5 || ns >= 1e7 ? ["ms", 1e6] : ["µs", 1e3];
  return `${(ns / factor).toFixed(Math.max(0, Math.ceil(-Math.log10(every / factor) - 1e-9)))} ${unit}`;
}

class Painter {
  constructor(canvas, model) {
    Object.assign(this, { canvas, model, pen: canvas.getContext("2d"), heights: layout(model) });
    this.widths = new Map();
    this.recolor();
  }

  recolor() {
    this.colors = palette();
  }

  resize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    [this.width, this.height] = [width, height];
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  x(at) {
    return GUTTER + ((at - this.view.from) * (this.width - GUTTER)) / (this.view.to - this.view.from);
  }

  at(x) {
    return this.view.from + ((x - GUTTER) * (this.view.to - this.view.from)) / (this.width - GUTTER);
  }

  // Where a row is on the canvas.
  top(row) {
    return row.fixed ? row.top : this.heights.fixed + row.top - this.view.top;
  }

  // `state`: hits of the search (of each row's groups, and of marks; null: no search), hovered, selected.
  draw(state) {
    const { pen, colors, width, height, model } = this;
    pen.fillStyle = colors.ground;
    pen.fillRect(0, 0, width, height);
    pen.font = '11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif';
    pen.textBaseline = "middle";
    this.clipped(GUTTER, 0, width - GUTTER, height, () => this.bands());
    this.ruler();
    this.clipped(0, this.heights.fixed, width, height - this.heights.fixed, () => {
      model.rows.filter((row) => !row.fixed).forEach((row) => this.row(row, state));
    });
    this.clipped(0, RULER, width, height - RULER, () => {
      model.rows.filter((row) => row.fixed).forEach((row) => this.row(row, state));
    });
    this.line(0, this.heights.fixed - 1.5, width, this.heights.fixed - 1.5);
    this.line(GUTTER - 0.5, 0, GUTTER - 0.5, height);
  }

  clipped(x, y, width, height, paint) {
    const { pen } = this;
    pen.save();
    pen.beginPath();
    pen.rect(x, y, width, height);
    pen.clip();
    paint();
    pen.restore();
  }

  line(x, y, toX, toY) {
    const { pen } = this;
    pen.strokeStyle = this.colors.line;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, y);
    pen.lineTo(toX, toY);
    pen.stroke();
  }

  text(text, x, y, color, align = "left") {
    const { pen } = this;
    pen.fillStyle = color;
    pen.textAlign = align;
    pen.fillText(text, x, y);
  }

  measure(text) {
    let width = this.widths.get(text);
    if (width === undefined) this.widths.set(text, (width = this.pen.measureText(text).width));
    return width;
  }

  // The text, or as much of it as fits.
  fitting(text, room) {
    if (this.measure(text) <= room) return text;
    const part = Math.floor((text.length * room) / this.measure(text)) - 1;
    return part >= 3 ? `${text.slice(0, part)}…` : "";
  }

  // When the GPU was held, behind all rows.
  bands() {
    const { pen, colors, model } = this;
    let drawn = -Infinity;
    for (const { from, to } of model.held) {
      if (to < this.view.from || from > this.view.to) continue;
      const [left, right] = [Math.max(this.x(from), drawn), Math.max(this.x(to), this.x(from) + 1)];
      if (right <= drawn) continue;
      pen.fillStyle = colors.held;
      pen.fillRect(left, 0, right - left, this.height);
      drawn = right;
      const [begin, end] = [Math.max(left, GUTTER), Math.min(right, this.width)];
      const told = `GPU held ${duration(to - from)}`;
      if (model.rows[0]?.counter && this.measure(told) < end - begin - 8) {
        this.text(told, (begin + end) / 2, model.rows[0].top + HEAD / 2, colors.area, "center");
      }
    }
  }

  ruler() {
    const { view, width, height, colors } = this;
    const every = step(view.to - view.from, Math.max(2, (width - GUTTER) / 110));
    for (let at = Math.ceil(view.from / every) * every; at <= view.to; at += every) {
      const x = Math.round(this.x(at)) + 0.5;
      this.line(x, RULER - 5, x, height);
      const label = tickLabel(at, every);
      const half = this.measure(label) / 2;
      if (x - half > GUTTER && x + half < width) this.text(label, x, 10, colors.faint, "center");
    }
    this.text("time", GUTTER - 8, 10, colors.faint, "right");
  }

  row(row, state) {
    const y = this.top(row);
    if (y > this.height || y + row.height < 0) return;
    if (row.label) this.text(this.fitting(row.label, GUTTER - 16), GUTTER - 8, y + (row.counter ? 6 : row.height / 2), this.colors.ink, "right");
    this.clipped(GUTTER, y - 1, this.width - GUTTER, row.height + 2, () => {
      if (row.counter) this.counter(row, y);
      else this.lane(row, y, state);
      if (row.marks) this.marks(row, y, state);
    });
    if (row.counter) this.scale(row, y);
  }

  counter(row, y) {
    const { pen, colors, view } = this;
    const { at, value, most } = row.counter;
    const [base, full] = [y + row.height, row.height - HEAD];
    let i = Math.max(0, lower(at, view.from) - 1);
    pen.beginPath();
    pen.moveTo(GUTTER - 2, base);
    let [level, column] = [base, -1];
    for (; i < at.length && at[i] <= view.to; i++) {
      const x = Math.max(this.x(at[i]), GUTTER - 2);
      const next = base - (full * value[i]) / most;
      // within a pixel: the highest value and the last one
      if (Math.floor(x) !== column || next < level) {
        pen.lineTo(x, level);
        pen.lineTo(x, next);
        column = Math.floor(x);
      }
      level = next;
    }
    const right = Math.min(this.x(this.model.end), this.width + 2);
    pen.lineTo(right, level);
    pen.lineTo(right, base);
    pen.closePath();
    pen.globalAlpha = 0.3;
    pen.fillStyle = colors.area;
    pen.fill();
    pen.globalAlpha = 1;
    pen.strokeStyle = colors.area;
    pen.lineWidth = 1.5;
    pen.stroke();
  }

  // The scale at the left of a counter: its highest value, none, and round ones between.
  scale(row, y) {
    const { most } = row.counter;
    const every = row.isBytes ? byteStep(most, 3) : step(most, 3);
    const shown = (value) => (row.isBytes ? size(value) : value.toLocaleString("en"));
    const full = row.height - HEAD;
    for (let value = 0; value < most * 1.001; value = value === most ? Infinity : Math.min(value + every, most)) {
      const at = y + row.height - (full * value) / most;
      this.line(GUTTER - 4, at, GUTTER, at);
      const crowded = value !== most && (full * (most - value)) / most < 13;
      if (!crowded) this.text(shown(value), GUTTER - 8, value ? at : at - 5, this.colors.faint, "right");
    }
  }

  lane(row, y, state) {
    const { lane } = row;
    const { view } = this;
    const hits = state.hits?.get(row);
    const pending = { column: -1, covered: 0, weight: new Float64Array(KINDS.length), failed: false, hit: false };
    for (let i = lower(lane.end, view.from); i < lane.count && lane.at[i] < view.to; i++) {
      const [left, right] = [this.x(lane.at[i]), this.x(lane.end[i])];
      const hit = !hits || hits[lane.group[i]] === 1;
      if (right - left >= 1.5) {
        this.flush(pending, row, y);
        this.block(row, i, left, right, y, hit, Boolean(hits));
        continue;
      }
      const column = Math.floor(left);
      if (column !== pending.column) this.flush(pending, row, y);
      pending.column = column;
      pending.covered += right - left;
      pending.weight[lane.kind[i]] += right - left + 1e-3;
      pending.failed ||= lane.failed[i] === 1;
      pending.hit ||= hit;
    }
    this.flush(pending, row, y);
    if (state.selected?.row === row) this.outline(row, state.selected.index, y, this.colors.accent, 2);
    if (state.hovered?.row === row) this.outline(row, state.hovered.index, y, this.colors.ink, 1.5);
  }

  flush(pending, row, y) {
    if (pending.column < 0) return;
    const { pen } = this;
    const kind = pending.failed ? KIND.error : pending.weight.indexOf(Math.max(...pending.weight));
    pen.globalAlpha = (pending.failed ? 1 : Math.max(0.4, Math.min(1, pending.covered))) * (pending.hit ? 1 : 0.2);
    pen.fillStyle = this.colors.kinds[kind];
    pen.fillRect(pending.column, y + 1, 1, row.height - 2);
    pen.globalAlpha = 1;
    Object.assign(pending, { column: -1, covered: 0, failed: false, hit: false });
    pending.weight.fill(0);
  }

  block(row, i, left, right, y, hit, searching) {
    const { pen, colors, width } = this;
    const { lane } = row;
    const kind = lane.failed[i] ? KIND.error : lane.kind[i];
    const [from, to] = [Math.max(left, GUTTER - 4), Math.min(right, width + 4)];
    const gap = to - from > 3 ? 0.5 : 0;
    pen.globalAlpha = hit ? 1 : 0.2;
    pen.fillStyle = colors.kinds[kind];
    pen.fillRect(from, y + 1, to - from - gap, row.height - 2);
    if (hit && searching && to - from > 4) {
      pen.strokeStyle = colors.ink;
      pen.lineWidth = 1;
      pen.strokeRect(from + 0.5, y + 1.5, to - from - gap - 1, row.height - 3);
    }
    const [begin, end] = [Math.max(from, GUTTER), Math.min(to, width)];
    if (end - begin > 26) {
      const took = ` ${duration(lane.end[i] - lane.at[i])}`;
      const full = lane.label(i) + took;
      const label = this.measure(full) < end - begin - 8 ? full : this.fitting(lane.label(i), end - begin - 8);
      if (label) this.text(label, begin + 4, y + row.height / 2 + 0.5, colors.inks[kind]);
    }
    pen.globalAlpha = 1;
  }

  outline(row, i, y, color, thickness) {
    const { pen } = this;
    const left = Math.max(this.x(row.lane.at[i]), GUTTER - 4);
    const right = Math.max(Math.min(this.x(row.lane.end[i]), this.width + 4), left + 3);
    pen.strokeStyle = color;
    pen.lineWidth = thickness;
    pen.strokeRect(left, y + 0.5, right - left, row.height - 1);
  }

  // Launches and messages: small triangles at the foot of the call that they are in. Details are told with their call only.
  marks(row, y, state) {
    const { marks } = row;
    const { pen, view, colors } = this;
    const hits = state.markHits?.get(marks);
    let column = -1;
    for (let m = lower(marks.at, view.from); m < marks.count && marks.at[m] <= view.to; m++) {
      const x = this.x(marks.at[m]);
      if (Math.max(marks.depth[m] - 1, 0) !== row.depth || Math.floor(x / 3) === column) continue;
      const kind = marks.kind(m);
      if (kind === "detail" && !hits?.[m]) continue;
      column = Math.floor(x / 3);
      pen.globalAlpha = hits && !hits[m] ? 0.25 : 1;
      pen.fillStyle = kind === "warning" || kind === "unsupported" ? colors.kinds[KIND.error] : colors.ink;
      pen.beginPath();
      pen.moveTo(x, y + row.height - 7);
      pen.lineTo(x - 3.5, y + row.height);
      pen.lineTo(x + 3.5, y + row.height);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }
}
