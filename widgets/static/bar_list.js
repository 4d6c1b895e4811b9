// Ranked signed bars. Python owns the rows; this view draws them and sends select / scale / undo.

const BAR_ROLES = { latent: "clipattr-bar-latent", part: "clipattr-bar-part", total: "clipattr-bar-total" };

function render({ model, el }) {
  const root = make("div", "clipattr-bars", { parent: el, role: "grid" });
  ownKeys(root);
  const head = make("div", "clipattr-bars-head", { parent: root, role: "row" });
  const body = make("div", "clipattr-bars-body", { parent: root, role: "rowgroup" });
  const empty = make("div", "clipattr-empty", { parent: root });
  let lines = [];
  let active = 0;

  function newLine(i) {
    const line = { row: make("div", "clipattr-bar-row", { parent: body, role: "row", "data-i": i }) };
    line.switch = make("button", "clipattr-switch", { parent: line.row, type: "button", tabindex: "-1" });
    line.label = make("bdi", "clipattr-bar-label", { parent: line.row, dir: "auto", role: "gridcell" });
    line.badge = make("span", "clipattr-badge", { parent: line.row, role: "gridcell" });
    line.track = make("div", "clipattr-track", { parent: line.row, "aria-hidden": "true" });
    line.zero = make("div", "clipattr-zero", { parent: line.track });
    line.bar = make("div", "clipattr-fill", { parent: line.track });
    line.other = make("div", "clipattr-fill clipattr-fill-other", { parent: line.track });
    line.value = make("span", "clipattr-number", { parent: line.row, role: "gridcell" });
    line.otherValue = make("span", "clipattr-number clipattr-number-other", { parent: line.row, role: "gridcell" });
    line.activation = make("span", "clipattr-number clipattr-dim", { parent: line.row, role: "gridcell" });
    line.alignment = make("span", "clipattr-number clipattr-dim", { parent: line.row, role: "gridcell" });
    line.row.addEventListener("click", () => {
      move(i, false);
      choose(i);
    });
    line.row.addEventListener("focus", () => move(i, false));
    line.switch.addEventListener("click", (event) => {
      event.stopPropagation();
      move(i, false);
      toggle(i);
    });
    return line;
  }

  const rows = () => model.get("rows");
  const isLatent = (row) => row && row.part === "latent";

  function move(i, focus = true) {
    active = Math.max(0, Math.min(lines.length - 1, i));
    roving(lines.map((line) => line.row), active, focus);
  }

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
    ArrowDown: () => move(active + 1),
    ArrowUp: () => move(active - 1),
    Home: () => move(0),
    End: () => move(lines.length - 1),
    Enter: () => choose(active),
    " ": () => choose(active),
    a: () => toggle(active),
    "+": () => step(active, 0.25),
    "=": () => step(active, 0.25),
    "-": () => step(active, -0.25),
    u: () => model.send({ kind: "undo" }),
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

  /** The stretch of value axis that is drawn: zero and all latents. Bias and error may run off its ends (faded there),
   *  since one large constant would flatten everything else. A waterfall shows all of its steps. */
  function axis(list) {
    const all = model.get("cut") || !list.some(isLatent);
    const edges = [];
    for (const row of list) {
      if (!all && !isLatent(row)) continue;
      const start = row.start ?? 0;
      edges.push(start + row.value);
      if (row.part !== "total" && !(all && row.id < 0 && start === 0)) edges.push(start, row.other ?? start);
    }
    let low = Math.min(...edges);
    let high = Math.max(...edges);
    if (!model.get("cut")) [low, high] = [Math.min(0, low), Math.max(0, high)];
    const span = high - low || Math.abs(high) || 1;
    return { low: low - 0.03 * span, span: 1.06 * span };
  }

  /** Draws one bar and says whether it runs off the axis. */
  function place(fill, from, by, { low, span }) {
    const left = (100 * (Math.min(from, from + by) - low)) / span;
    const right = left + (100 * Math.abs(by)) / span;
    const [shownLeft, shownRight] = [Math.max(0, left), Math.min(100, right)];
    fill.style.left = `${shownLeft}%`;
    fill.style.width = `${Math.max(shownRight - shownLeft, 0.4)}%`;
    fill.classList.toggle("clipattr-negative", by < 0);
    return left < 0 || right > 100;
  }

  function drawHead() {
    const names = model.get("columns");
    head.replaceChildren();
    make("span", "clipattr-head-switch", { parent: head, role: "columnheader", text: model.get("switches") ? "on" : "" });
    make("span", "clipattr-head-label", { parent: head, role: "columnheader", text: names.label ?? "latent" });
    make("span", "", { parent: head, role: "columnheader", "aria-label": "kind" });
    make("span", "", { parent: head, "aria-hidden": "true" });
    for (const key of ["value", "other", "activation", "alignment"]) {
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
    drawHead();
    empty.textContent = list.length ? "" : model.get("empty_text");
    head.hidden = !list.length;
    while (lines.length > list.length) lines.pop().row.remove();
    while (lines.length < list.length) lines.push(newLine(lines.length));
    const span = axis(list);
    const zero = (100 * (0 - span.low)) / span.span;
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
      line.zero.hidden = zero < 0 || zero > 100;
      const off = place(line.bar, row.start ?? 0, row.value, span);
      line.row.classList.toggle("clipattr-cut-off", off && !model.get("cut"));
      line.other.hidden = row.other === undefined || row.other === null;
      if (!line.other.hidden) place(line.other, 0, row.other, span);
      line.value.textContent = row.text;
      line.otherValue.textContent = row.other_text ?? "";
      line.activation.textContent = row.activation ?? "";
      line.alignment.textContent = row.alignment ?? "";
    });
    move(Math.min(active, Math.max(lines.length - 1, 0)), false);
    mark();
    root.dataset.gen = model.get("gen");
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
