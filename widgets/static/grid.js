// A grid of very many cells: only those in sight exist. Python owns the order and sends pages of cells when asked.

// A page of pictures comes as one JPEG, is decoded into one bitmap, and drawn on the canvases of the cells in sight. An
// image element for each picture costs 10 KB of the browser's memory that it does not free when the element is gone:
// 300 MB after 30,000 pictures.
const GRID_KEPT = 22; // pages whose bitmaps are kept, some 53 MB: those in sight, 16 ahead, and a few behind
const GRID_AHEAD = 2; // seconds of scrolling at the present speed that are fetched ahead
const GRID_ROWS_AHEAD = 4; // rows beyond the edge that exist already, in the direction of scrolling: a slow frame skips two
const GRID_ROWS_BEHIND = 1;
const GRID_BRISK = 1500; // px a second from which previews are fetched ahead
const GRID_FAST = 4000; // px a second from which nothing else is: no page would come before it is out of sight
const GRID_SHEETS = 512; // sheets of previews that are kept, 32 KB each

function render({ model, el }) {
  const root = make("div", "clipattr-grid", { parent: el });
  ownKeys(root);
  const heading = make("div", "clipattr-gallery-title", { parent: root });
  const view = make("div", "clipattr-grid-view", { parent: root, role: "listbox", tabindex: "0", "aria-multiselectable": "true" });
  const sheet = make("div", "clipattr-grid-sheet", { parent: view, role: "presentation" });
  const empty = make("div", "clipattr-empty", { parent: root });
  const name = `clipattr-grid-${Math.random().toString(36).slice(2)}`;
  let cells = [];
  let pages = new Map();
  let perRow = 1;
  let active = 0;
  let anchor = 0;
  let marked = new Set();
  let asked = new Set(); // pages that Python was asked for last and has not sent
  let sheets = new Map(); // previews by chunk
  let askedSheets = new Set();
  let calmer = 0;
  let resting = 0;
  let waitingFrame = 0;
  let heading_to = 1;
  let speed = 0; // px a second
  let ended = false;

  const count = () => model.get("count");
  const size = () => model.get("page");
  const width = () => model.get("cell");
  const tall = () => model.get("cell") + 34;

  function newCell() {
    const cell = { i: -1, button: make("div", "clipattr-cell", { parent: sheet, role: "option" }) };
    cell.pictures = make("span", "clipattr-cell-pictures", { parent: cell.button, "aria-hidden": "true" });
    cell.canvases = [];
    cell.caption = make("bdi", "clipattr-cell-caption", { parent: cell.button, dir: "auto" });
    cell.number = make("span", "clipattr-cell-number", { parent: cell.button });
    cell.button.addEventListener("click", (event) => {
      if (event.shiftKey) return markTo(cell.i);
      if (event.ctrlKey || event.metaKey) return toggle(cell.i);
      activate(cell.i);
      open(cell.i);
    });
    return cell;
  }

  function open(i) {
    model.set("selected", i);
    model.save_changes();
    model.send({ kind: "pick", i, gen: model.get("gen") });
  }

  function toggle(i) {
    activate(i);
    anchor = i;
    model.send({ kind: "mark", i, gen: model.get("gen") });
  }

  function markTo(i) {
    model.send({ kind: "mark", i: anchor, to: i, gen: model.get("gen") });
    activate(i);
  }

  function activate(i) {
    active = Math.max(0, Math.min(count() - 1, i));
    const top = Math.floor(active / perRow) * tall();
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + tall() > view.scrollTop + view.clientHeight) view.scrollTop = top + tall() - view.clientHeight;
    draw();
  }

  const inSight = () => Math.max(1, Math.floor(view.clientHeight / tall()));
  view.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow, ArrowUp: -perRow, Home: -active, End: count(),
      PageDown: perRow * inSight(), PageUp: -perRow * inSight(),
    }[event.key];
    if (by !== undefined) {
      event.preventDefault();
      const to = Math.max(0, Math.min(count() - 1, active + by));
      if (event.shiftKey) markTo(to);
      else {
        anchor = to;
        activate(to);
      }
    } else if (event.key === "Enter") {
      event.preventDefault();
      if (count()) open(active);
    } else if (event.key === " " || event.key.toLowerCase() === "x") {
      event.preventDefault();
      if (count()) toggle(active);
    }
  });

  /** Only what is in sight, with some rows above and below, has elements; each is used again for another place. */
  function draw() {
    waitingFrame = 0;
    if (!root.isConnected) return later();
    const total = count();
    heading.textContent = total ? model.get("title") : "";
    empty.textContent = total ? "" : model.get("empty_text");
    view.hidden = !total;
    view.setAttribute("aria-label", model.get("title"));
    view.style.height = `${model.get("height")}px`;
    perRow = Math.max(1, Math.floor((view.clientWidth || 1) / (width() + 8)));
    sheet.style.height = `${Math.ceil(total / perRow) * tall()}px`;
    const [above, below] = heading_to > 0 ? [GRID_ROWS_BEHIND, GRID_ROWS_AHEAD] : [GRID_ROWS_AHEAD, GRID_ROWS_BEHIND];
    const first = Math.max(0, Math.floor(view.scrollTop / tall()) - above) * perRow;
    const last = Math.min(total, (Math.ceil((view.scrollTop + view.clientHeight) / tall()) + below) * perRow);
    const room = (Math.ceil(view.clientHeight / tall()) + 1 + above + below) * perRow;
    while (cells.length > room) cells.pop().button.remove();
    while (cells.length < room) cells.push(newCell());
    let [waiting, blank] = [0, 0];
    for (const cell of cells) cell.used = false;
    for (let i = first; i < last; i++) {
      const cell = cells[i % room];
      cell.used = true;
      if (!fill(cell, i) && seen(i)) {
        waiting++;
        if (!sheets.has(chunkOf(i))) blank++;
      }
    }
    for (const cell of cells) {
      cell.button.hidden = !cell.used;
      if (!cell.used) cell.i = -1;
    }
    const there = active >= first && active < last;
    if (there && total) view.setAttribute("aria-activedescendant", `${name}-${active}`);
    else view.removeAttribute("aria-activedescendant");
    root.dataset.waiting = waiting;
    root.dataset.blank = blank;
    root.dataset.gen = model.get("gen");
    if (total) request(first, last);
  }

  const seen = (i) => {
    const top = Math.floor(i / perRow) * tall();
    return top + tall() > view.scrollTop && top < view.scrollTop + view.clientHeight;
  };

  /** Shows a place in a cell; says whether its pictures are there. */
  function fill(cell, i) {
    const page = pages.get(Math.floor(i / size()));
    const item = page?.items[i % size()];
    const sheet = item ? undefined : sheets.get(chunkOf(i));
    const key = `${model.get("gen")}-${i}-${item ? 2 : sheet ? 1 : 0}`;
    cell.button.classList.toggle("clipattr-active", i === active);
    cell.button.classList.toggle("clipattr-marked", marked.has(i));
    cell.button.classList.toggle("clipattr-selected", i === model.get("selected"));
    cell.button.setAttribute("aria-selected", String(marked.has(i)));
    const at = `${i}-${perRow}-${width()}`;
    if (cell.at !== at) {
      cell.at = at;
      cell.button.style.width = `${width() + 4}px`;
      cell.button.style.transform = `translate(${(i % perRow) * (width() + 8)}px, ${Math.floor(i / perRow) * tall()}px)`;
    }
    if (cell.key === key) return Boolean(item);
    cell.key = key;
    cell.i = i;
    cell.button.id = `${name}-${i}`;
    cell.button.setAttribute("aria-setsize", count());
    cell.button.setAttribute("aria-posinset", i + 1);
    cell.button.setAttribute("aria-label", item?.alt ?? `item ${i + 1}, loading`);
    cell.button.title = item?.alt ?? "";
    cell.caption.textContent = item?.caption ?? "";
    cell.number.textContent = item?.number ?? "";
    cell.pictures.style.width = cell.pictures.style.height = `${width()}px`;
    if (sheet) drawPreview(cell, sheet, i % model.get("chunk"));
    else drawPictures(cell, page, item);
    cell.button.toggleAttribute("data-preview", Boolean(sheet));
    if (item) cell.button.dataset.filled = item.sizes.length;
    else delete cell.button.dataset.filled;
    return Boolean(item);
  }

  const chunkOf = (i) => Math.floor(i / model.get("chunk"));

  /** The few pixels of a preview, enlarged. */
  function drawPreview(cell, sheet, place) {
    cell.pictures.classList.remove("clipattr-cell-four");
    while (cell.canvases.length > 1) cell.canvases.pop().remove();
    if (!cell.canvases.length) cell.canvases.push(make("canvas", "", { parent: cell.pictures }));
    const [canvas] = cell.canvases;
    const [tile, across] = [model.get("tile"), model.get("across")];
    canvas.width = canvas.height = width();
    const [x, y] = [(place % across) * tile, Math.floor(place / across) * tile];
    canvas.getContext("2d").drawImage(sheet, x, y, tile, tile, 0, 0, width(), width());
  }

  /** Each picture of the page's bitmap in the middle of a square of its own. */
  function drawPictures(cell, page, item) {
    const sizes = item?.sizes ?? [];
    const side = Math.round((window.devicePixelRatio || 1) * (sizes.length > 1 ? width() / 2 : width()));
    cell.pictures.classList.toggle("clipattr-cell-four", sizes.length > 1);
    while (cell.canvases.length > sizes.length) cell.canvases.pop().remove();
    while (cell.canvases.length < sizes.length) cell.canvases.push(make("canvas", "", { parent: cell.pictures }));
    sizes.forEach(([w, h], i) => {
      const canvas = cell.canvases[i];
      canvas.width = canvas.height = side; // this clears it, too
      if (!w || !page.bitmap) return;
      const [place, scale] = [item.first + i, side / page.px];
      const x = (place % page.columns) * page.px + Math.floor((page.px - w) / 2);
      const y = Math.floor(place / page.columns) * page.px + Math.floor((page.px - h) / 2);
      const pen = canvas.getContext("2d");
      pen.drawImage(page.bitmap, x, y, w, h, (side - w * scale) / 2, (side - h * scale) / 2, w * scale, h * scale);
    });
  }

  /** Asks for the pages in sight, then for those ahead and behind; what was asked for already is not asked again. */
  function request(first, last) {
    if (speed > GRID_BRISK) requestPreviews(first, last);
    if (speed > GRID_FAST) {
      clearTimeout(calmer);
      calmer = setTimeout(() => { speed = 0; later(); }, 120);
      return;
    }
    const [from, to] = [Math.floor(first / size()), Math.floor(Math.max(first, last - 1) / size())];
    const wanted = [];
    for (let page = from; page <= to; page++) wanted.push(page);
    const perSecond = (speed / tall()) * perRow / size();
    const ahead = Math.max(4, Math.min(16, Math.ceil(perSecond * GRID_AHEAD)));
    for (let step = 1; step <= ahead; step++) wanted.push(heading_to > 0 ? to + step : from - step);
    wanted.push(heading_to > 0 ? from - 1 : to + 1);
    const end = Math.ceil(count() / size());
    const lacking = wanted.filter((page) => page >= 0 && page < end && !pages.has(page));
    if (lacking.every((page) => asked.has(page))) return;
    asked = new Set(lacking);
    model.send({ kind: "need", pages: lacking, gen: model.get("gen") });
  }

  function requestPreviews(first, last) {
    const ahead = Math.ceil((speed * GRID_AHEAD * perRow) / tall());
    const [low, high] = heading_to > 0 ? [first, last + ahead] : [first - ahead, last];
    const wanted = [];
    for (let chunk = chunkOf(Math.max(0, low)); chunk <= chunkOf(Math.min(count(), high) - 1); chunk++) {
      if (!sheets.has(chunk)) wanted.push(chunk);
    }
    if (wanted.every((chunk) => askedSheets.has(chunk))) return;
    if (heading_to < 0) wanted.reverse();
    askedSheets = new Set(wanted);
    model.send({ kind: "previews", chunks: wanted, gen: model.get("gen") });
  }

  /** After the first scroll, while nobody scrolls and no picture is awaited: previews of the cells nearest to those in
   *  sight, a few at a time, until all are here. */
  function rest(soon) {
    clearTimeout(resting);
    if (!ended && model.get("preload")) resting = setTimeout(prefetch, soon ? 30 : 400);
  }

  function prefetch() {
    if (!root.isConnected || document.hidden || sheets.size >= GRID_SHEETS) return;
    if (root.dataset.waiting !== "0") return rest();
    const [here, end] = [chunkOf(Math.floor(view.scrollTop / tall()) * perRow), chunkOf(count() - 1)];
    const wanted = [];
    for (let away = 0; away <= end && wanted.length < 4; away++) {
      for (const chunk of away ? [here + away, here - away] : [here]) {
        if (chunk >= 0 && chunk <= end && !sheets.has(chunk)) wanted.push(chunk);
      }
    }
    if (!wanted.length) return;
    askedSheets = new Set(wanted);
    model.send({ kind: "previews", chunks: wanted, gen: model.get("gen") });
  }

  async function keepSheet(message, bytes) {
    const sheet = await createImageBitmap(new Blob([bytes], { type: "image/jpeg" }));
    if (message.gen !== model.get("gen") || ended) return sheet.close();
    askedSheets.delete(message.chunk);
    sheets.get(message.chunk)?.close();
    sheets.set(message.chunk, sheet);
    root.dataset.previews = sheets.size;
    if (sheets.size > GRID_SHEETS) {
      const [oldest] = sheets.keys();
      sheets.get(oldest).close();
      sheets.delete(oldest);
    }
    if (performance.now() - at > 300 && !askedSheets.size) rest(true);
    if (root.dataset.waiting !== "0") later();
  }

  async function heard(message, buffers) {
    if (message?.kind === "previews" && message.gen === model.get("gen")) return keepSheet(message, asBytes(buffers[0]));
    if (message?.kind !== "page" || message.gen !== model.get("gen")) return;
    const bytes = asBytes(buffers[0]);
    const bitmap = bytes.length ? await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })) : null;
    if (message.gen !== model.get("gen") || ended) return bitmap?.close();
    asked.delete(message.page);
    drop(message.page);
    pages.set(message.page, { bitmap, items: message.items, px: message.px, columns: message.columns });
    const here = Math.floor((Math.floor(view.scrollTop / tall()) * perRow) / size());
    const farthest = [...pages.keys()].sort((a, b) => Math.abs(b - here) - Math.abs(a - here));
    farthest.slice(0, Math.max(0, pages.size - GRID_KEPT)).forEach(drop);
    later();
  }

  function drop(page) {
    pages.get(page)?.bitmap?.close();
    pages.delete(page);
  }

  function later() {
    waitingFrame ||= requestAnimationFrame(draw);
  }

  function renew() {
    for (const page of [...pages.keys()]) drop(page);
    for (const sheet of sheets.values()) sheet.close();
    [sheets, askedSheets] = [new Map(), new Set()];
    for (const cell of cells) cell.key = "";
    [active, anchor, asked] = [0, 0, new Set()];
    view.scrollTop = 0;
    remark();
  }

  function remark() {
    const bytes = asBytes(model.get("marked"));
    marked = new Set(new Int32Array(bytes.slice().buffer));
    root.dataset.marked = marked.size;
    later();
  }

  let before = 0;
  let at = 0;
  view.addEventListener("scroll", () => {
    const [moved, now] = [view.scrollTop - before, performance.now()];
    heading_to = Math.sign(moved) || heading_to;
    // A jump of several screens is no speed.
    speed = Math.abs(moved) > 3 * view.clientHeight ? 0 : Math.abs(moved) / Math.max((now - at) / 1000, 0.008);
    [before, at] = [view.scrollTop, now];
    rest();
    draw();
  });
  const watcher = new ResizeObserver(later);
  watcher.observe(view);
  model.on("msg:custom", heard);
  renew();
  const stop = listen(model, { "change:gen": renew, "change:marked": remark, "change:selected": later });
  return () => {
    ended = true;
    stop();
    model.off("msg:custom", heard);
    watcher.disconnect();
    cancelAnimationFrame(waitingFrame);
    clearTimeout(calmer);
    clearTimeout(resting);
    for (const sheet of sheets.values()) sheet.close();
    for (const page of [...pages.keys()]) drop(page);
  };
}

export default { render };
