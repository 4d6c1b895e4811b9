// Ranked signed bars. Python owns the rows; this view draws them and sends select / scale / undo.

const BROKEN = 4; // a row more than this many times as long as the longest latent is broken off
const BAR_ROLES = { latent: "clipattr-bar-latent", part: "clipattr-bar-part", total: "clipattr-bar-total" };

function render({ model, el }) {
  const root = make("div", "clipattr-bars", { parent: el, role: "grid" });
  ownKeys(root);
  const head = make("div", "clipattr-bars-head", { parent: root, role: "row" });
  const body = make("div", "clipattr-bars-body", { parent: root, role: "rowgroup" });
  const foot = make("div", "clipattr-bar-row clipattr-axis", { parent: root, "aria-hidden": "true" });
  for (const place of [1, 2, 3]) make("span", "", { parent: foot, "data-place": place });
  const rule = make("div", "clipattr-track", { parent: foot });
  const scale = make("div", "clipattr-scale", { parent: rule });
  const unitLine = make("div", "clipattr-unit", { parent: rule });
  const empty = make("div", "clipattr-empty", { parent: root });
  const walk = lineList(choose, (line) => line.row);
  const { lines, move } = walk;

  function newLine(i) {
    const line = { row: make("div", "clipattr-bar-row", { parent: body, role: "row", "data-i": i }) };
    const first = make("span", "", { parent: line.row, role: "gridcell" });
    line.switch = make("button", "clipattr-switch", { parent: first, type: "button", tabindex: "-1" });
    line.label = make("bdi", "clipattr-bar-label", { parent: line.row, dir: "auto", role: "gridcell" });
    line.badge = make("span", "clipattr-badge", { parent: line.row, role: "gridcell" });
    line.track = make("div", "clipattr-track", { parent: line.row, "aria-hidden": "true" });
    line.zero = make("div", "clipattr-zero", { parent: line.track });
    line.bar = make("div", "clipattr-fill", { parent: line.track });
    line.other = make("div", "clipattr-fill clipattr-fill-other", { parent: line.track });
    line.gap = make("div", "clipattr-break", { parent: line.track });
    line.value = make("span", "clipattr-number", { parent: line.row, role: "gridcell" });
    line.otherValue = make("span", "clipattr-number clipattr-number-other", { parent: line.row, role: "gridcell" });
    line.activation = make("span", "clipattr-number clipattr-dim", { parent: line.row, role: "gridcell" });
    line.fits = make("span", "clipattr-number clipattr-dim", { parent: line.row, role: "gridcell" });
    line.alignment = make("span", "clipattr-number clipattr-dim", { parent: line.row, role: "gridcell" });
    walk.listen(line.row, i);
    line.switch.addEventListener("click", (event) => {
      event.stopPropagation();
      move(i, false);
      toggle(i);
    });
    return line;
  }

  const rows = () => model.get("rows");
  const isLatent = (row) => row && row.part === "latent";

  function choose(i) {
    const row = rows()[i];
    if (!isLatent(row)) return;
    model.set("selected", row.id);
    model.save_changes();
  }

  function toggle(i) {
    const row = rows()[i];
    if (!isLatent(row) || !model.get("switches")) return;
    model.send({ kind: "scale", id: row.id, factor: row.scale === 0 ? 1 : 0 });
  }

  function step(i, by) {
    const row = rows()[i];
    if (!isLatent(row) || !model.get("switches")) return;
    const factor = Math.max(0, Math.min(3, Math.round((row.scale + by) * 4) / 4));
    model.send({ kind: "scale", id: row.id, factor });
  }

  const actions = {
    ...walk.keys,
    // What a key changes is chosen as well, so that the slider and the keys act on one latent.
    a: () => (choose(walk.active), toggle(walk.active)),
    "+": () => (choose(walk.active), step(walk.active, 0.25)),
    "=": () => (choose(walk.active), step(walk.active, 0.25)),
    "-": () => (choose(walk.active), step(walk.active, -0.25)),
    u: () => model.send({ kind: "undo" }),
    y: () => model.send({ kind: "redo" }),
  };
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest(".clipattr-switch") && (event.key === "Enter" || event.key === " ")) {
      event.stopPropagation();
      return;
    }
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  });

  /** One axis for all rows, with zero on it. Where one row would flatten all latents it is broken off: the axis then
   *  ends a little beyond the longest latent, and the broken bar gets a mark. A waterfall is never broken. */
  function axis(list) {
    const ends = (row) => [0, row.start ?? 0, (row.start ?? 0) + row.value, row.other ?? 0];
    const all = list.flatMap(ends);
    const plain = list.filter((row) => isLatent(row)).flatMap(ends);
    const reach = (values) => Math.max(0, ...values.map(Math.abs));
    const stacked = list.some((row) => row.start !== undefined);
    let edges = all;
    if (!stacked && reach(plain) > 0 && reach(all) > BROKEN * reach(plain)) {
      const most = 1.35 * reach(plain);
      edges = all.map((value) => Math.max(-most, Math.min(most, value)));
    }
    const [low, high] = [Math.min(0, ...edges), Math.max(0, ...edges)];
    const span = high - low || 1;
    return { low: low - 0.02 * span, span: 1.04 * span, first: low, last: high };
  }

  /** Draws one bar and says whether it is broken off. */
  function place(fill, from, by, { low, span, first, last }) {
    const left = (100 * (Math.min(from, from + by) - low)) / span;
    const right = left + (100 * Math.abs(by)) / span;
    const [shownLeft, shownRight] = [Math.max(0, left), Math.min(100, right)];
    fill.style.left = `${shownLeft}%`;
    fill.style.width = `${Math.max(shownRight - shownLeft, 0.3)}%`;
    fill.classList.toggle("clipattr-negative", by < 0);
    const slack = 1e-6 * span;
    return Math.min(from, from + by) < first - slack || Math.max(from, from + by) > last + slack;
  }

  function drawTicks(axis, unit, broken) {
    drawScale(scale, axis);
    unitLine.textContent = broken ? `${unit}; bars with a \u2afd mark are longer than drawn` : unit;
  }

  function drawHead() {
    const names = model.get("columns");
    head.replaceChildren();
    make("span", "clipattr-head-switch", { parent: head, role: "columnheader", text: model.get("switches") ? "on" : "" });
    make("span", "clipattr-head-label", { parent: head, role: "columnheader", text: names.label ?? "latent" });
    make("span", "", { parent: head, role: "columnheader", "aria-label": "kind" });
    make("span", "", { parent: head, "aria-hidden": "true" });
    for (const key of ["value", "other", "activation", "fits", "alignment"]) {
      const cell = make("span", "clipattr-number", { parent: head, role: "columnheader", text: names[key] ?? "" });
      cell.title = names[`${key}_tip`] ?? "";
    }
  }

  function draw() {
    const list = rows();
    const grid = model.get("columns");
    root.setAttribute("aria-label", model.get("title"));
    root.classList.toggle("clipattr-with-other", Boolean(grid.other));
    root.classList.toggle("clipattr-with-kind", list.some((row) => row.kind));
    root.classList.toggle("clipattr-no-switch", !model.get("switches"));
    root.classList.toggle("clipattr-scaled", list.some((row) => isLatent(row) && row.scale !== 0 && row.scale !== 1));
    drawHead();
    empty.textContent = list.length ? "" : model.get("empty_text");
    head.hidden = !list.length;
    root.setAttribute("role", list.length ? "grid" : "group"); // a grid without rows is none
    while (lines.length > list.length) lines.pop().row.remove();
    while (lines.length < list.length) lines.push(newLine(lines.length));
    const span = axis(list);
    const zero = (100 * (0 - span.low)) / span.span;
    let broken = false;
    list.forEach((row, i) => {
      const line = lines[i];
      const latent = isLatent(row);
      line.row.className = `clipattr-bar-row ${BAR_ROLES[row.part] ?? ""}`;
      line.row.classList.toggle("clipattr-off", latent && row.scale === 0);
      line.row.dataset.id = row.id;
      line.row.title = row.tip ?? "";
      line.row.setAttribute("aria-label", row.spoken ?? `${row.label} ${row.text}`);
      line.switch.style.visibility = latent ? "visible" : "hidden";
      line.switch.setAttribute("aria-pressed", String(latent && row.scale !== 0));
      line.switch.setAttribute("aria-label", `${row.scale === 0 ? "switch on" : "switch off"} ${row.label}`);
      line.switch.textContent = latent && row.scale !== 0 && row.scale !== 1 ? `×${row.scale}` : "";
      line.label.textContent = row.label;
      line.badge.textContent = row.kind ?? "";
      line.badge.hidden = !row.kind;
      line.zero.style.left = `${zero}%`;
      const off = place(line.bar, row.start ?? 0, row.value, span);
      // Hatched: the part of the activation that is taken out.
      const less = latent && row.scale > 0 && row.scale < 1;
      line.bar.classList.toggle("clipattr-less", less);
      line.bar.style.setProperty("--ca-left", less ? `${100 * row.scale}%` : "");
      line.gap.hidden = !off;
      line.gap.style[row.value < 0 ? "left" : "right"] = "10px";
      line.gap.style[row.value < 0 ? "right" : "left"] = "auto";
      broken ||= off;
      line.other.hidden = row.other === undefined || row.other === null;
      if (!line.other.hidden) broken = place(line.other, 0, row.other, span) || broken;
      line.value.textContent = row.mark ? `${row.mark} ${row.text}` : row.text;
      line.otherValue.textContent = row.other_text ?? "";
      line.activation.textContent = row.activation ?? "";
      line.fits.textContent = row.fits ?? "";
      line.alignment.textContent = row.alignment ?? "";
    });
    foot.hidden = !list.length;
    if (list.length) drawTicks(span, grid.value ?? "", broken);
    fitHead();
    move(Math.min(walk.active, Math.max(lines.length - 1, 0)), false);
    mark();
    root.dataset.gen = model.get("gen");
  }

  /** A long list scrolls by itself; head and axis leave room for its scroll bar. */
  function fitHead() {
    if (!root.isConnected) return requestAnimationFrame(fitHead);
    const bar = body.offsetWidth - body.clientWidth;
    for (const part of [head, foot]) part.style.paddingRight = bar ? `${bar + 6}px` : "";
  }

  function mark() {
    const chosen = model.get("selected");
    lines.forEach((line, i) => {
      const on = isLatent(rows()[i]) && rows()[i].id === chosen;
      line.row.classList.toggle("clipattr-selected", on);
      line.row.setAttribute("aria-selected", String(on));
    });
    root.dataset.selected = chosen;
  }

  draw();
  return listen(model, { "change:gen": draw, "change:selected": mark });
}

export default { render };
