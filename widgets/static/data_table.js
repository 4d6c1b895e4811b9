// A table that can be sorted by its headers and walked with the arrow keys. Python sorts; this view asks for it.

function render({ model, el }) {
  const root = make("div", "clipattr-table", { parent: el });
  ownKeys(root);
  const table = make("table", "", { parent: root });
  const caption = make("caption", "", { parent: table });
  const head = make("tr", "", { parent: make("thead", "", { parent: table }) });
  const body = make("tbody", "", { parent: table });
  const empty = make("div", "clipattr-empty", { parent: root });
  let lines = [];
  let active = 0;

  function move(i, focus = true) {
    active = Math.max(0, Math.min(lines.length - 1, i));
    roving(lines, active, focus);
  }

  function choose(i) {
    model.set("selected", model.get("rows")[i].id);
    model.save_changes();
  }

  function newLine(i) {
    const line = make("tr", "", { parent: body, "data-i": i });
    line.addEventListener("click", () => {
      move(i, false);
      choose(i);
    });
    line.addEventListener("focus", () => move(i, false));
    return line;
  }

  const keys = {
    ArrowDown: () => move(active + 1),
    ArrowUp: () => move(active - 1),
    Home: () => move(0),
    End: () => move(lines.length - 1),
    Enter: () => choose(active),
    " ": () => choose(active),
  };
  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
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
      }
      const on = column.key === key;
      cell.className = column.numeric ? "clipattr-number" : "";
      cell.setAttribute("aria-sort", on ? (falling ? "descending" : "ascending") : "none");
      cell.firstChild.textContent = column.label + (on ? (falling ? " ▼" : " ▲") : "");
      cell.firstChild.title = column.tip ?? "";
    });
  }

  function draw() {
    const [columns, rows] = [model.get("columns"), model.get("rows")];
    caption.textContent = model.get("title");
    empty.textContent = rows.length ? "" : model.get("empty_text");
    drawHead(columns);
    while (lines.length > rows.length) lines.pop().remove();
    while (lines.length < rows.length) lines.push(newLine(lines.length));
    rows.forEach((row, i) => {
      lines[i].replaceChildren();
      lines[i].dataset.id = row.id;
      columns.forEach((column, c) => {
        const cell = make("td", column.numeric ? "clipattr-number" : "", { parent: lines[i] });
        make("bdi", "", { parent: cell, dir: "auto", text: row.cells[c] });
      });
    });
    move(Math.min(active, Math.max(rows.length - 1, 0)), false);
    mark();
    root.dataset.gen = model.get("gen");
  }

  function mark() {
    lines.forEach((line) => {
      const on = Number(line.dataset.id) === model.get("selected");
      line.classList.toggle("clipattr-selected", on);
      line.setAttribute("aria-selected", String(on));
    });
  }

  draw();
  return listen(model, { "change:gen": draw, "change:selected": mark });
}

export default { render };
