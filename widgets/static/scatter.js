// Tens of thousands of points on one canvas: click, box, lasso, zoom, and a walk by arrow keys.
// All points go into one ImageData; what is chosen is drawn by elements on top, so that a click repaints nothing.

const [LIT, MARKED, OTHERS, CHOSEN] = [1, 2, 4, 8]; // bits of a point's group, as in map_state.py
const SCATTER_MARGIN = { left: 46, right: 10, top: 8, bottom: 34 };
const BEND = 0.1; // a bent axis is linear up to about this value and logarithmic beyond
const SCATTER_CELL = 12; // px of the grid in which the nearest point is looked up
const SCATTER_REACH = 12; // px a click may miss
const SCATTER_REST = 120; // ms that the mouse rests on a point before its pictures are asked for
const SCATTER_TIPS = 80; // points whose pictures are kept

function render({ model, el }) {
  const root = make("div", "clipattr-scatter", { parent: el });
  ownKeys(root);
  const tools = make("div", "clipattr-scatter-tools", { parent: root, role: "toolbar", "aria-label": "tools of the map" });
  const stage = make("div", "clipattr-scatter-stage", { parent: root });
  const canvas = make("canvas", "", { parent: stage, tabindex: "0", role: "application" });
  const ink = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  ink.setAttribute("aria-hidden", "true");
  stage.append(ink);
  const ring = make("div", "clipattr-scatter-ring", { parent: stage, "aria-hidden": "true" });
  const tip = make("div", "clipattr-scatter-tip", { parent: stage });
  const tipName = make("bdi", "", { parent: tip, dir: "auto", role: "status" });
  const tipPictures = make("img", "", { parent: tip, alt: "" });
  const tips = new Map(); // addresses of pictures by point; "" while they are asked for
  let resting = 0;
  const legend = make("div", "clipattr-scatter-legend", { parent: root });
  let size = { width: 0, height: 0 };
  let points = { n: 0, x: null, y: null, px: null, py: null, grid: new Map() };
  let full = null;
  let view = null;
  let mode = model.get("tool");
  let drag = null;
  let hover = -1;
  let known = -1;
  let loop = null; // the box or loop that chose what is chosen, in the map's own units, so that it moves with the map

  // --- tools

  const modes = {};
  for (const [name, about] of [
    ["box", "drag to choose what lies in a box; with Shift it adds"],
    ["lasso", "drag to choose what lies in a loop; with Shift it adds"],
    ["move", "drag to move the map"],
  ]) {
    modes[name] = make("button", "", { parent: tools, type: "button", text: name, title: about });
    modes[name].addEventListener("click", () => setMode(name));
  }
  const buttons = [
    ["+", "closer (+)", () => zoom(0.6)],
    ["−", "further (−)", () => zoom(1 / 0.6)],
    ["fit", "the whole map (0)", () => look(full)],
    ["clear", "choose nothing (Escape)", () => choose([])],
  ];
  for (const [text, about, act] of buttons) {
    make("button", "", { parent: tools, type: "button", text, title: about, "aria-label": about }).addEventListener("click", act);
  }

  const tally = make("span", "clipattr-scatter-tally", { parent: tools, role: "status" });

  function setMode(name) {
    mode = name;
    for (const [key, button] of Object.entries(modes)) button.setAttribute("aria-pressed", String(key === name));
    canvas.style.cursor = name === "move" ? "grab" : "crosshair";
    if (model.get("tool") === name) return;
    model.set("tool", name);
    model.save_changes();
  }

  // --- positions of the points

  function read() {
    known = model.get("xy_gen");
    const bent = model.get("meta").bent_y;
    const bytes = asBytes(model.get("xy"));
    const copy = bytes.slice(0, 8 * Math.floor(bytes.length / 8));
    const xy = new Float32Array(copy.buffer);
    const n = xy.length / 2;
    points = { n, x: new Float32Array(n), y: new Float32Array(n), px: new Float32Array(n), py: new Float32Array(n), grid: new Map() };
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      const [x, y] = [xy[2 * i], bent ? Math.asinh(xy[2 * i + 1] / BEND) : xy[2 * i + 1]];
      points.x[i] = x;
      points.y[i] = y;
      if (!Number.isFinite(x) || !Number.isFinite(y)) continue;
      x0 = Math.min(x0, x);
      x1 = Math.max(x1, x);
      y0 = Math.min(y0, y);
      y1 = Math.max(y1, y);
    }
    if (x0 > x1) [x0, x1, y0, y1] = [0, 1, 0, 1];
    const [dx, dy] = [x1 - x0 || 1, y1 - y0 || 1];
    full = { x0: x0 - 0.03 * dx, x1: x1 + 0.03 * dx, y0: y0 - 0.04 * dy, y1: y1 + 0.04 * dy };
    view = full;
    const [left, right, low, high, of] = model.get("window");
    if (of === known) view = { x0: left, x1: right, y0: low, y1: high };
  }

  const inner = () => ({
    width: size.width - SCATTER_MARGIN.left - SCATTER_MARGIN.right,
    height: size.height - SCATTER_MARGIN.top - SCATTER_MARGIN.bottom,
  });
  const toX = (x) => SCATTER_MARGIN.left + ((x - view.x0) / (view.x1 - view.x0)) * inner().width;
  const toY = (y) => SCATTER_MARGIN.top + ((view.y1 - y) / (view.y1 - view.y0)) * inner().height;
  const fromX = (px) => view.x0 + ((px - SCATTER_MARGIN.left) / inner().width) * (view.x1 - view.x0);
  const fromY = (py) => view.y1 - ((py - SCATTER_MARGIN.top) / inner().height) * (view.y1 - view.y0);

  function project() {
    const { width, height } = inner();
    const [sx, sy] = [width / (view.x1 - view.x0), height / (view.y1 - view.y0)];
    points.grid = new Map();
    for (let i = 0; i < points.n; i++) {
      const px = SCATTER_MARGIN.left + (points.x[i] - view.x0) * sx;
      const py = SCATTER_MARGIN.top + (view.y1 - points.y[i]) * sy;
      points.px[i] = px;
      points.py[i] = py;
      if (!inside(px, py)) continue;
      const key = ((px / SCATTER_CELL) | 0) * 4096 + ((py / SCATTER_CELL) | 0);
      const cell = points.grid.get(key);
      if (cell) cell.push(i);
      else points.grid.set(key, [i]);
    }
  }

  function inside(px, py) {
    return (
      px >= SCATTER_MARGIN.left - 1 && px <= size.width - SCATTER_MARGIN.right + 1 &&
      py >= SCATTER_MARGIN.top - 1 && py <= size.height - SCATTER_MARGIN.bottom + 1
    );
  }

  function nearest(px, py) {
    const [cx, cy] = [(px / SCATTER_CELL) | 0, (py / SCATTER_CELL) | 0];
    let [best, least] = [-1, SCATTER_REACH ** 2];
    for (let a = -1; a <= 1; a++) {
      for (let b = -1; b <= 1; b++) {
        for (const i of points.grid.get((cx + a) * 4096 + cy + b) ?? []) {
          const far = (points.px[i] - px) ** 2 + (points.py[i] - py) ** 2;
          if (far < least) [best, least] = [i, far];
        }
      }
    }
    return best;
  }

  // --- drawing

  /** A theme colour as numbers, in whatever notation the browser gives it. */
  function rgb(name) {
    const probe = make("span", "", { parent: root });
    probe.style.color = `var(${name})`;
    const sample = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    sample.fillStyle = getComputedStyle(probe).color;
    sample.fillRect(0, 0, 1, 1);
    probe.remove();
    return [...sample.getImageData(0, 0, 1, 1).data.slice(0, 3)];
  }

  function paint() {
    if (!root.isConnected || !stage.clientWidth) return requestAnimationFrame(paint);
    const start = performance.now();
    const scale = window.devicePixelRatio || 1;
    size = { width: stage.clientWidth, height: model.get("height") };
    stage.style.height = `${size.height}px`;
    canvas.width = Math.round(size.width * scale);
    canvas.height = Math.round(size.height * scale);
    ink.setAttribute("viewBox", `0 0 ${size.width} ${size.height}`);
    project();
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    const pixels = image.data;
    const groups = asBytes(model.get("groups"));
    const plain = rgb("--ca-dim");
    const colours = [plain, rgb("--ca-plus"), rgb("--ca-minus")];
    const dot = points.n > 8000 ? 1 : 1.6;
    const square = () => true;
    const disc = (dx, dy, r) => dx * dx + dy * dy <= r * r;
    const diamond = (dx, dy, r) => Math.abs(dx) + Math.abs(dy) <= r;
    const stamp = (i, radius, colour, alpha, shape = square) => {
      const [cx, cy, r] = [points.px[i] * scale, points.py[i] * scale, radius * scale];
      for (let y = Math.max(0, Math.ceil(cy - r)); y <= Math.min(canvas.height - 1, cy + r); y++) {
        for (let x = Math.max(0, Math.ceil(cx - r)); x <= Math.min(canvas.width - 1, cx + r); x++) {
          if (!shape(x - cx, y - cy, r)) continue;
          const at = 4 * (y * canvas.width + x);
          const under = pixels[at + 3] / 255;
          const total = alpha + under * (1 - alpha);
          for (let c = 0; c < 3; c++) pixels[at + c] = (colour[c] * alpha + pixels[at + c] * under * (1 - alpha)) / total;
          pixels[at + 3] = 255 * total;
        }
      }
    };
    const marked = [];
    const some = groups.some((group) => group & CHOSEN);
    const chosen = rgb("--ca-text");
    let [count, seen] = [0, 0];
    for (let i = 0; i < points.n; i++) {
      if (groups[i] & CHOSEN) count++;
      if (!inside(points.px[i], points.py[i])) continue;
      if (groups[i] & CHOSEN) seen++;
      if (groups[i]) marked.push(i);
      else stamp(i, dot, plain, some ? 0.16 : points.n > 8000 ? 0.4 : 0.6);
    }
    // What is chosen, lit or marked is larger and has a shape of its own, so that it shows without colour.
    for (const i of marked) {
      const weight = some && !(groups[i] & CHOSEN) ? 0.3 : 0.95;
      if (groups[i] & CHOSEN) stamp(i, 2.2 + (groups[i] & LIT ? 2.6 : 0), chosen, 0.9, disc);
      if (groups[i] & LIT) stamp(i, 3.6, colours[1], weight, disc);
      if (groups[i] & OTHERS) stamp(i, 4.4, colours[2], 0.4 * weight, diamond);
    }
    for (const i of marked) if (groups[i] & MARKED) stamp(i, groups[i] & LIT ? 4.2 : 5.2, colours[2], 0.95, diamond);
    tally.textContent = count ? `${count.toLocaleString("en")} chosen${seen < count ? `, ${seen.toLocaleString("en")} in view` : ""}` : "";
    root.dataset.chosen = count;
    context.putImageData(image, 0, 0);
    axes();
    mark();
    root.dataset.ms = (performance.now() - start).toFixed(1);
    root.dataset.gen = model.get("gen");
  }

  function line(x1, y1, x2, y2) {
    const made = document.createElementNS(ink.namespaceURI, "line");
    for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) made.setAttribute(name, value);
    ink.append(made);
  }

  function write(text, x, y, anchor, turn) {
    const made = document.createElementNS(ink.namespaceURI, "text");
    made.textContent = text;
    made.setAttribute("x", x);
    made.setAttribute("y", y);
    made.setAttribute("text-anchor", anchor);
    if (turn) made.setAttribute("transform", `rotate(-90 ${x} ${y})`);
    ink.append(made);
  }

  function steps(low, high, count) {
    const raw = (high - low) / count;
    const base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((m) => m * base).find((s) => s >= raw);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(k * step);
    return { found, digits: Math.max(0, -Math.floor(Math.log10(step))) };
  }

  function axes() {
    const about = model.get("meta");
    ink.replaceChildren();
    const { width, height } = inner();
    const [left, top] = [SCATTER_MARGIN.left, SCATTER_MARGIN.top];
    line(left, top, left, top + height);
    line(left, top + height, left + width, top + height);
    const shape = (value, digits) => value.toFixed(digits).replace("-", "−");
    if (!about.plain) {
      const words = (y, digits) => (about.log_y ? `${Number((10 ** y).toPrecision(1))} %` : shape(y, digits));
      const [across, up] = [steps(view.x0, view.x1, inner().width / 80), steps(view.y0, view.y1, inner().height / 60)];
      if (about.log_y && up.digits) up.found = up.found.filter((y) => Math.abs(y - Math.round(y)) < 1e-9);
      if (about.bent_y) {
        const marks = [0, 0.1, 0.3, 1, 3, 10, 30, 100].flatMap((v) => (v ? [v, -v] : [v]));
        for (const v of marks) {
          const y = Math.asinh(v / BEND);
          if (y >= view.y0 && y <= view.y1) write(String(v).replace("-", "−"), left - 4, toY(y) + 4, "end");
        }
        up.found = [];
      }
      for (const x of across.found) write(shape(x, across.digits), toX(x), top + height + 13, "middle");
      for (const y of up.found) write(words(y, up.digits), left - 4, toY(y) + 4, "end");
    }
    write(about.x ?? "", left + width / 2, top + height + 29, "middle");
    write(about.y ?? "", 11, top + height / 2, "middle", true);
    canvas.setAttribute("aria-label", about.alt ?? "");
    legend.replaceChildren();
    (about.legend ?? []).forEach((text, i) => {
      if (!text) return;
      const item = make("span", "", { parent: legend });
      make("i", `clipattr-dot-${i}`, { parent: item });
      make("bdi", "", { parent: item, text });
    });
    make("span", "", { parent: legend, text: "arrow keys walk · Enter chooses · + − 0 or Ctrl with the wheel zoom" });
    labels();
    if (drag) outline();
    if (loop && root.dataset.chosen !== "0") keepLoop();
  }

  /** Names beside points, in the order given, as far as they fit without covering each other. */
  function labels() {
    const taken = [];
    for (const [i, text] of model.get("meta").labels ?? []) {
      if (!(i < points.n) || !inside(points.px[i], points.py[i])) continue;
      const width = 6 * text.length + 4;
      for (const [side, rise] of [[1, 0], [-1, 0], [1, -13], [1, 13], [-1, -13], [-1, 13]]) {
        const x = points.px[i] + 8 * side - (side < 0 ? width : 0);
        const y = points.py[i] + rise - 7;
        if (x < SCATTER_MARGIN.left || x + width > size.width || y < 0 || y + 14 > size.height - SCATTER_MARGIN.bottom) continue;
        if (taken.some((b) => x < b.x + b.width && b.x < x + width && y < b.y + 14 && b.y < y + 14)) continue;
        taken.push({ x, y, width });
        write(text, side > 0 ? x + 2 : x + width - 2, y + 11, side > 0 ? "start" : "end");
        ink.lastChild.setAttribute("class", "clipattr-scatter-label");
        break;
      }
    }
    root.dataset.labels = taken.length;
  }

  function keepLoop() {
    const made = document.createElementNS(ink.namespaceURI, "polygon");
    made.setAttribute("class", "clipattr-scatter-loop");
    made.setAttribute("points", loop.map(([x, y]) => `${toX(x)},${toY(y)}`).join(" "));
    ink.append(made);
  }

  function mark() {
    const chosen = model.get("selected");
    const there = chosen >= 0 && chosen < points.n && inside(points.px[chosen], points.py[chosen]);
    ring.hidden = !there;
    if (there) ring.style.transform = `translate(${points.px[chosen]}px, ${points.py[chosen]}px)`;
    root.dataset.selected = chosen;
  }

  function name(i) {
    const texts = model.get("texts");
    const bytes = asBytes(model.get("text_of"));
    const at = bytes.length >= 4 * (i + 1) ? bytes[4 * i] | (bytes[4 * i + 1] << 8) | (bytes[4 * i + 2] << 16) : -1;
    return `${texts[at] ?? ""} (latent ${i})`.trim();
  }

  function point(i) {
    hover = i;
    clearTimeout(resting);
    tip.hidden = i < 0;
    if (i < 0) return;
    tipName.textContent = name(i);
    tipPictures.hidden = true;
    if (tips.get(i)) showPictures(i);
    else if (!tips.has(i)) resting = setTimeout(() => (tips.set(i, ""), model.send({ kind: "hover", i })), SCATTER_REST);
    const right = points.px[i] > size.width / 2;
    tip.style.transform = `translate(${points.px[i] + (right ? -10 : 10)}px, ${points.py[i] - 10}px) translate(${right ? -100 : 0}%, -50%)`;
  }

  function showPictures(i) {
    tipPictures.src = tips.get(i);
    tipPictures.hidden = false;
  }

  async function heard(message, buffers) {
    if (message?.kind !== "pictures") return;
    const url = await blobUrl(asBytes(buffers[0]), "image/jpeg");
    if (!url) return;
    tips.set(message.i, url);
    while (tips.size > SCATTER_TIPS) {
      const [first] = tips.keys();
      URL.revokeObjectURL(tips.get(first));
      tips.delete(first);
    }
    if (hover === message.i) showPictures(message.i);
  }
  model.on("msg:custom", heard);

  // --- choosing

  function pick(i) {
    if (i < 0) return;
    model.set("selected", i);
    model.save_changes();
    mark();
  }

  function choose(list) {
    const chosen = Int32Array.from(list);
    model.set("chosen", new DataView(chosen.buffer));
    model.set("chosen_gen", model.get("chosen_gen") + 1);
    model.save_changes();
  }

  function within(path) {
    const found = [];
    for (let i = 0; i < points.n; i++) {
      const [x, y] = [points.px[i], points.py[i]];
      if (!inside(x, y)) continue;
      let odd = false;
      for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
        const [[ax, ay], [bx, by]] = [path[a], path[b]];
        if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
      }
      if (odd) found.push(i);
    }
    return found;
  }

  function pathOf(d) {
    if (d.mode === "lasso") return d.path;
    const [[ax, ay], [bx, by]] = [d.path[0], d.path[d.path.length - 1]];
    return [[ax, ay], [bx, ay], [bx, by], [ax, by]];
  }

  function outline() {
    ink.querySelector("polygon:not(.clipattr-scatter-loop)")?.remove();
    if (!drag || drag.mode === "move") return;
    const made = document.createElementNS(ink.namespaceURI, "polygon");
    made.setAttribute("points", pathOf(drag).map((p) => p.join(",")).join(" "));
    ink.append(made);
  }

  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    drag = { mode, path: [at(event)], view, far: false };
    canvas.setPointerCapture(event.pointerId);
    canvas.focus({ preventScroll: true });
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event);
    if (!drag) return point(nearest(x, y));
    const [x0, y0] = drag.path[0];
    drag.far ||= Math.hypot(x - x0, y - y0) > 4;
    drag.path.push([x, y]);
    if (!drag.far) return;
    if (drag.mode !== "move") return outline();
    const { width, height } = inner();
    const [dx, dy] = [((x0 - x) / width) * (drag.view.x1 - drag.view.x0), ((y - y0) / height) * (drag.view.y1 - drag.view.y0)];
    look({ x0: drag.view.x0 + dx, x1: drag.view.x1 + dx, y0: drag.view.y0 + dy, y1: drag.view.y1 + dy });
  });
  const letGo = (event) => {
    const ended = drag;
    drag = null;
    outline();
    if (!ended) return;
    if (!ended.far) pick(nearest(...at(event)));
    else if (ended.mode !== "move") {
      const path = pathOf(ended);
      const found = within(path);
      loop = path.map(([x, y]) => [fromX(x), fromY(y)]);
      const held = asBytes(model.get("groups"));
      const before = event.shiftKey ? [...held.keys()].filter((i) => held[i] & CHOSEN) : [];
      choose([...new Set([...before, ...found])]);
    }
  };
  canvas.addEventListener("pointerup", letGo);
  canvas.addEventListener("pointercancel", () => {
    drag = null;
    outline();
  });
  canvas.addEventListener("pointerleave", () => !drag && point(-1));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (!event.ctrlKey) return; // without Ctrl the page scrolls
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, ...at(event));
    },
    { passive: false },
  );

  let asked = 0;
  let keeping = 0;
  function look(to) {
    view = to;
    clearTimeout(keeping);
    keeping = setTimeout(() => {
      model.set("window", view === full ? [] : [view.x0, view.x1, view.y0, view.y1, known]);
      model.save_changes();
    }, 300);
    if (!asked) asked = requestAnimationFrame(() => ((asked = 0), paint()));
  }

  function zoom(by, px = size.width / 2, py = size.height / 2) {
    const [x, y] = [fromX(px), fromY(py)];
    const to = {
      x0: x + (view.x0 - x) * by, x1: x + (view.x1 - x) * by, y0: y + (view.y0 - y) * by, y1: y + (view.y1 - y) * by,
    };
    look(by > 1 && to.x1 - to.x0 >= full.x1 - full.x0 ? full : to);
  }

  /** The nearest point in a direction, judged so that straight ahead counts for more than sideways. */
  function step(dx, dy) {
    let from = hover >= 0 ? hover : model.get("selected");
    if (from < 0 || from >= points.n || !inside(points.px[from], points.py[from])) from = -1;
    const [x, y] = from < 0 ? [size.width / 2, size.height / 2] : [points.px[from], points.py[from]];
    let [best, least] = [-1, Infinity];
    for (let i = 0; i < points.n; i++) {
      if (i === from || !inside(points.px[i], points.py[i])) continue;
      const [ax, ay] = [points.px[i] - x, points.py[i] - y];
      const ahead = ax * dx + ay * dy;
      const aside = Math.abs(ax * dy) + Math.abs(ay * dx);
      if (ahead < 1 || aside > 2 * ahead) continue;
      const far = ahead + 2 * aside;
      if (far < least) [best, least] = [i, far];
    }
    if (best >= 0) point(best);
  }

  const keys = {
    ArrowRight: () => step(1, 0),
    ArrowLeft: () => step(-1, 0),
    ArrowUp: () => step(0, -1),
    ArrowDown: () => step(0, 1),
    Enter: () => pick(hover),
    " ": () => pick(hover),
    "+": () => zoom(0.6),
    "=": () => zoom(0.6),
    "-": () => zoom(1 / 0.6),
    0: () => look(full),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return choose([]);
    if (!keys[event.key]) return;
    event.preventDefault();
    event.stopPropagation();
    keys[event.key]();
  });

  const draw = () => {
    const heard = performance.now();
    if (known !== model.get("xy_gen")) {
      read();
      point(-1);
    }
    paint();
    const turn = model.get("gen");
    const seen = () => turn === model.get("gen") && (root.dataset.painted = `${turn} ${(performance.now() - heard).toFixed(1)}`);
    requestAnimationFrame(() => requestAnimationFrame(seen));
  };
  const resized = new ResizeObserver(() => size.width && stage.clientWidth !== size.width && look(view));
  resized.observe(stage);
  const theme = new MutationObserver(() => look(view));
  theme.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  setMode(mode);
  draw();
  const acknowledged = () => (root.dataset.answered = model.get("answered"));
  const stop = listen(model, {
    "change:gen": draw, "change:selected": mark, "change:answered": acknowledged,
  });
  return () => {
    stop();
    model.off("msg:custom", heard);
    clearTimeout(resting);
    clearTimeout(keeping);
    for (const url of tips.values()) URL.revokeObjectURL(url);
    resized.disconnect();
    theme.disconnect();
    cancelAnimationFrame(asked);
  };
}

export default { render };
