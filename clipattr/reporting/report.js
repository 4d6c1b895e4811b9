// Sorts and filters the table of findings, and opens evidence before printing. The page is whole without it.
(() => {
  const table = document.querySelector(".summary table");
  const tools = document.querySelector(".tools");
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));
  if (!table || !tools) return;
  tools.hidden = false;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const valueOf = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);
  for (const head of table.tHead.rows[0].cells) {
    if (!head.hasAttribute("data-sort")) continue;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = head.dataset.sort;
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.ariaSort === first ? other : first;
      for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const column = head.cellIndex;
      rows.sort((a, b) => sign * compare(valueOf(a, column), valueOf(b, column)));
      body.append(...rows);
    });
  }
  const [text, kind, name] = tools.querySelectorAll("input, select");
  const count = tools.querySelector("output");
  const filter = () => {
    let left = 0;
    for (const row of rows) {
      const said = valueOf(row, 1).toLowerCase() + " " + valueOf(row, 2).toLowerCase();
      const fits = said.includes(text.value.trim().toLowerCase()) && ["", row.dataset.kind].includes(kind.value);
      row.hidden = !(fits && ["", row.dataset.name].includes(name.value));
      const section = document.getElementById(row.dataset.section);
      if (section) section.hidden = row.hidden;
      left += !row.hidden;
    }
    count.textContent = left < rows.length ? `${left} of ${rows.length} findings` : "";
  };
  for (const field of [text, kind, name]) field.addEventListener("input", filter);
})();
