// A table that can be sorted by its headers and walked with the arrow keys. Python sorts; this view asks for it.

function render({ model, el }) {
  const root = make("div", "clipattr-table", { parent: el });
  ownKeys(root);
  const table = make("table", "", { parent: root });
  const caption = make("caption", "", { parent: table });
  const head = make("tr", "", { parent: make("thead", "", { parent: table }) });
  const body = make("tbody", "", { parent: table });
  const empty = make("div", "clipattr-empty", { parent: root });
  const walk = lineList(choose);
  const { lines, keys } = walk;
  const move = walk.move;
  walk.move = (i, focus = true) => {
    move(i, focus);
    if (focus) askMore(walk.active > lines.length - 5);
  };

  let askedMore = -1; // the number of rows at which more were asked for

  /** Near the end of the rows the next come, where there are any. */
  function askMore(near) {
    const count = lines.length;
    if (!near || !model.get("more") || askedMore === count) return;
    askedMore = count;
    model.send({ kind: "more" });
  }
  root.addEventListener("scroll", () => askMore(root.scrollTop + root.clientHeight > root.scrollHeight - 200));

  function choose(i) {
    if (!model.get("opens")) return;
    model.set("selected", model.get("rows")[i].id);
    model.save_changes();
  }

  const rowAt = (i) => model.get("rows")[i]?.id ?? -1;

  /** An interval on an axis that all rows share: a bar from zero to the value, and a line from low to high. */
  function interval(cell, { value, low, high }, range) {
    const at = (number) => (100 * (Math.max(range[0], Math.min(range[1], number)) - range[0])) / (range[1] - range[0] || 1);
    const track = make("span", "clipattr-interval", { parent: cell, "aria-hidden": "true" });
    const piece = (name, from, to) => {
      const part = make("span", name, { parent: track });
      part.style.left = `${Math.min(at(from), at(to))}%`;
      part.style.width = `${Math.abs(at(to) - at(from))}%`;
    };
    piece(value < 0 ? "clipattr-fill clipattr-negative" : "clipattr-fill", 0, value);
    if (Number.isFinite(low) && Number.isFinite(high)) piece("clipattr-whisker", low, high);
    piece("clipattr-zero", 0, 0);
  }

  function newLine(i) {
    const line = make("tr", "", { parent: body, "data-i": i });
    walk.listen(line, i);
    return line;
  }

  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (model.get("letters").includes(event.key.toLowerCase())) {
      event.preventDefault();
      event.stopPropagation();
      model.send({ kind: "key", key: event.key.toLowerCase(), id: rowAt(walk.active) });
      return;
    }
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });
  head.addEventListener("keydown", (event) => {
    if (CLIPATTR_KEYS.has(event.key)) event.stopPropagation();
  });

  function drawHead(columns) {
    const [key, falling] = [model.get("sorted_by"), model.get("falling")];
    while (head.children.length > columns.length) head.lastChild.remove();
    columns.forEach((column, i) => {
      let cell = head.children[i];
      if (!cell) {
        cell = make("th", "", { parent: head, scope: "col" });
        make("button", "", { parent: cell, type: "button" }).addEventListener("click", () => {
          model.send({ kind: "sort", key: model.get("columns")[i].key });
        });
        make("span", "", { parent: cell });
      }
      const on = column.key === key;
      cell.className = column.numeric ? "clipattr-number" : "";
      cell.setAttribute("aria-sort", on ? (falling ? "descending" : "ascending") : "none");
      // A button only where a click does something.
      const said = column.label + (on ? (falling ? " ▼" : " ▲") : "");
      const button = cell.firstChild;
      button.hidden = !model.get("sortable");
      button.textContent = button.hidden ? "" : said;
      button.title = column.tip ?? "";
      cell.lastChild.hidden = !button.hidden;
      cell.lastChild.textContent = button.hidden ? said : "";
      cell.lastChild.title = column.tip ?? "";
    });
  }

  function draw() {
    const [columns, rows] = [model.get("columns"), model.get("rows")];
    caption.textContent = model.get("title");
    empty.textContent = rows.length ? "" : model.get("empty_text");
    drawHead(columns);
    root.classList.toggle("clipattr-opens", model.get("opens"));
    if (rows.length < lines.length) askedMore = -1;
    while (lines.length > rows.length) lines.pop().remove();
    while (lines.length < rows.length) lines.push(newLine(lines.length));
    const ends = rows.flatMap((row) => row.cells.filter((cell) => cell?.text !== undefined))
      .flatMap((cell) => [cell.value, cell.low, cell.high].filter(Number.isFinite));
    const range = [Math.min(0, ...ends), Math.max(0, ...ends)];
    rows.forEach((row, i) => {
      lines[i].replaceChildren();
      lines[i].dataset.id = row.id;
      columns.forEach((column, c) => {
        const cell = make("td", column.numeric ? "clipattr-number" : "", { parent: lines[i] });
        const held = row.cells[c];
        make("bdi", "", { parent: cell, dir: "auto", text: held?.text ?? held });
        if (held?.text !== undefined) interval(cell, held, range);
        if (column.wraps) cell.classList.add("clipattr-wraps");
      });
    });
    const chosen = rows.findIndex((row) => row.id === model.get("selected"));
    const inside = body.contains(document.activeElement);
    walk.move(chosen >= 0 ? chosen : Math.min(walk.active, Math.max(rows.length - 1, 0)), inside);
    mark();
    root.dataset.gen = model.get("gen");
  }

  function mark() {
    lines.forEach((line) => {
      const on = Number(line.dataset.id) === model.get("selected");
      line.classList.toggle("clipattr-selected", on);
      line.setAttribute("aria-selected", String(on));
      if (on && body.contains(document.activeElement)) line.focus(); // the view follows the focus
    });
  }

  draw();
  return listen(model, { "change:gen": draw, "change:selected": mark });
}

export default { render };
