// One line per latent (or cause), one mark per model on an axis that all lines share; shapes differ as colours do.

const DOT_SHAPES = [
  "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0",
  "M-4.5,-4.5h9v9h-9z",
  "M0,-6L6,5H-6z",
  "M0,-6.5L6,0L0,6.5L-6,0z",
  "M-6,-5H6L0,6z",
];

function dotMark(number) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-8 -8 16 16");
  svg.setAttribute("class", `clipattr-dot clipattr-model-${number % DOT_SHAPES.length}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", DOT_SHAPES[number % DOT_SHAPES.length]);
  svg.append(path);
  return svg;
}

function render({ model, el }) {
  const root = make("div", "clipattr-dots", { parent: el, role: "grid" });
  ownKeys(root);
  const legend = make("div", "clipattr-dots-legend", { parent: root });
  const body = make("div", "", { parent: root, role: "rowgroup" });
  const foot = make("div", "clipattr-dots-foot", { parent: root, "aria-hidden": "true" });
  make("span", "", { parent: foot });
  const rule = make("div", "clipattr-track", { parent: foot });
  const scale = make("div", "clipattr-scale", { parent: rule });
  const unit = make("div", "clipattr-unit", { parent: rule });
  const empty = make("div", "clipattr-empty", { parent: root });
  const walk = lineList(choose);
  const { lines, keys, move } = walk;

  function choose(i) {
    model.set("selected", model.get("rows")[i].id);
    model.save_changes();
  }

  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  function draw() {
    const [rows, names] = [model.get("rows"), model.get("names")];
    root.setAttribute("aria-label", model.get("title"));
    root.style.setProperty("--clipattr-models", names.length);
    legend.replaceChildren();
    legend.hidden = !rows.length;
    make("span", "", { parent: legend });
    make("span", "", { parent: legend });
    names.forEach((name, i) => {
      const head = make("span", "clipattr-number", { parent: legend, title: name });
      head.append(dotMark(i));
      make("bdi", "", { parent: head, dir: "auto", text: name });
    });
    empty.textContent = rows.length ? "" : model.get("empty_text");
    const all = rows.flatMap((row) => row.values.filter((v) => v !== null));
    const [low, high] = [Math.min(0, ...all), Math.max(0, ...all)];
    const span = high - low || 1;
    const at = (value) => `${4 + (92 * (value - low)) / span}%`;
    foot.hidden = !rows.length;
    unit.textContent = model.get("axis");
    if (rows.length) drawScale(scale, { low: low - (4 / 92) * span, span: span / 0.92, first: low, last: high });
    body.replaceChildren();
    const made = rows.map((row, i) => {
      const line = make("div", "clipattr-dots-row", { parent: body, role: "row", "data-id": row.id });
      line.setAttribute("aria-label", row.spoken);
      line.title = row.tip ?? "";
      const label = make("span", "clipattr-dots-label", { parent: line, role: "gridcell" });
      make("bdi", "", { parent: label, dir: "auto", text: row.label });
      if (row.own) {
        // The model's mark and one word: its name may be far too long for a badge.
        const badge = make("span", "clipattr-badge", { parent: label, title: row.own, "aria-label": row.own, role: "note" });
        badge.append(dotMark(row.owner));
        make("span", "", { parent: badge, text: "alone" });
      }
      const track = make("div", "clipattr-track", { parent: line, "aria-hidden": "true" });
      make("div", "clipattr-zero", { parent: track }).style.left = at(0);
      row.values.forEach((value, number) => {
        if (value === null) return;
        const mark = dotMark(number);
        mark.style.left = at(value);
        track.append(mark);
      });
      for (const text of row.texts) make("span", "clipattr-number", { parent: line, role: "gridcell", text });
      walk.listen(line, i);
      return line;
    });
    lines.splice(0, lines.length, ...made);
    move(Math.min(walk.active, Math.max(rows.length - 1, 0)), false);
    mark();
    root.dataset.gen = model.get("gen");
  }

  function mark() {
    for (const line of lines) {
      const on = Number(line.dataset.id) === model.get("selected");
      line.classList.toggle("clipattr-selected", on);
      line.setAttribute("aria-selected", String(on));
    }
    root.dataset.selected = model.get("selected");
  }

  draw();
  return listen(model, { "change:gen": draw, "change:selected": mark });
}

export default { render };
