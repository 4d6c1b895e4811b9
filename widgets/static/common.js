// Shared by every view; put in front of each view's own module by `parts.py`. Text goes in by textContent only.

const CLIPATTR_KEYS = new Set(["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "Enter", " "]);

/** One element with classes, attributes and text; no markup is ever parsed. */
function make(tag, className, { text, parent, ...attributes } = {}) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (parent) parent.append(node);
  return node;
}

/** The notebook around us must not read our keys as its own commands (A adds a cell, D D deletes one, arrows move
 *  between cells). Tab and Escape still leave, and combinations with Ctrl, Alt or Meta stay the notebook's. */
function ownKeys(root) {
  root.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.key === "Tab" || event.key === "Escape") return;
    event.stopPropagation();
  });
}

/** Roving tabindex: one tab stop for a list, the arrow keys move inside it. */
function roving(items, index, focus) {
  items.forEach((item, i) => {
    item.tabIndex = i === index ? 0 : -1;
    item.setAttribute("data-lm-suppress-shortcuts", "true"); // for notebooks that listen before we do
  });
  if (focus && items[index]) items[index].focus();
}

/** A list of lines with one tab stop: `lines`, which of them is `active`, `move(i, focus)`, and what its `keys` do.
 *  `choose(i)` is what a click, Enter and the space bar do; `node` gives the element of a line. */
function lineList(choose, node = (line) => line) {
  const list = { lines: [], active: 0 };
  list.move = (i, focus = true) => {
    list.active = Math.max(0, Math.min(list.lines.length - 1, i));
    roving(list.lines.map(node), list.active, focus);
  };
  list.keys = {
    ArrowDown: () => list.move(list.active + 1),
    ArrowUp: () => list.move(list.active - 1),
    Home: () => list.move(0),
    End: () => list.move(list.lines.length - 1),
    Enter: () => choose(list.active),
    " ": () => choose(list.active),
  };
  /** Makes line number `i` answer clicks and the focus. */
  list.listen = (line, i) => {
    line.addEventListener("click", () => {
      list.move(i, false);
      choose(i);
    });
    line.addEventListener("focus", () => list.move(i, false));
  };
  return list;
}

/** Subscribes to several traits and returns the function that ends it. */
function listen(model, handlers) {
  for (const [event, handler] of Object.entries(handlers)) model.on(event, handler);
  hearAgain(model);
  return () => {
    for (const [event, handler] of Object.entries(handlers)) model.off(event, handler);
  };
}

/** anywidget allows two seconds from a model's birth to its first drawing. Where a page takes longer (a slow machine,
 *  a large notebook being opened), the part is drawn all the same but every later message to it is lost. Where that
 *  has happened, this puts the ordinary receiver of messages in place and asks Python for what was missed. */
async function hearAgain(model) {
  const inner = model.set({}); // a model's `set` gives back the model itself
  if (typeof inner?._handle_comm_msg !== "function" || !inner.comm) return;
  window.clipattrUnsure = (window.clipattrUnsure ?? 0) + 1; // parts of which it is not known yet whether they hear
  try {
    await inner._handle_comm_msg({ content: { data: { method: "nothing" } }, buffers: [] });
  } catch {
    const owners = [];
    for (let owner = inner; owner; owner = Object.getPrototypeOf(owner)) {
      if (Object.hasOwn(owner, "_handle_comm_msg")) owners.push(owner);
    }
    const receive = owners[1]?._handle_comm_msg;
    if (!receive) return;
    inner.comm.on_msg((message) => receive.call(inner, message));
    inner.comm.send({ method: "request_state" }, {});
  } finally {
    window.clipattrUnsure -= 1;
  }
}

/** Round numbers on an axis from `first` to `last`, zero among them, far enough apart to be read. The axis is drawn from
 *  `low` over a length of `span`. */
function drawScale(scale, { low, span, first, last }) {
  scale.replaceChildren();
  const rough = span / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((n) => n * power >= rough) ?? 10);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let k = Math.ceil(first / step - 1e-6); k * step <= last + 1e-6 * step; k++) {
    const value = k * step;
    const tick = make("span", "clipattr-tick", { parent: scale, text: value.toFixed(digits).replace("-", "\u2212") });
    tick.style.left = `${(100 * (value - low)) / span}%`;
  }
}

/** Bytes as they come over the wire (DataView) as a plain byte array. */
function asBytes(value) {
  if (!value || !value.byteLength) return new Uint8Array(0);
  return new Uint8Array(value.buffer ?? value, value.byteOffset ?? 0, value.byteLength);
}

// Heat from transparent over violet and orange to pale yellow: lightness rises all the way, so it reads in grey too.
const HEAT_STOPS = [
  [0.0, 20, 12, 60, 0.0],
  [0.25, 90, 20, 120, 0.55],
  [0.55, 205, 60, 85, 0.8],
  [0.8, 250, 145, 40, 0.92],
  [1.0, 253, 240, 160, 1.0],
];
const HEAT_LUT = new Uint8ClampedArray(256 * 4);
for (let i = 0; i < 256; i++) {
  const x = i / 255;
  let s = 0;
  while (s < HEAT_STOPS.length - 2 && x > HEAT_STOPS[s + 1][0]) s++;
  const [x0, ...low] = HEAT_STOPS[s];
  const [x1, ...high] = HEAT_STOPS[s + 1];
  const t = (x - x0) / (x1 - x0);
  for (let c = 0; c < 3; c++) HEAT_LUT[4 * i + c] = low[c] + t * (high[c] - low[c]);
  HEAT_LUT[4 * i + 3] = 255 * (low[3] + t * (high[3] - low[3]));
}

/** Draws (height, width) uint8 heat values into a canvas of that size; CSS stretches it over the picture. */
function drawHeat(canvas, values, height, width) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  for (let i = 0; i < height * width; i++) pixels.data.set(HEAT_LUT.subarray(4 * values[i], 4 * values[i] + 4), 4 * i);
  context.putImageData(pixels, 0, 0);
}

/** Lays a canvas and an outline over what the model sees: fractions [left, top, right, bottom] of the box around them.
 *  The outline, with all around it dimmed, is drawn where that is not the whole picture. */
function placeFrame(canvas, outline, frame, whole = [0, 0, 1, 1]) {
  const [left, top, right, bottom] = frame;
  for (const node of [canvas, outline]) {
    node.style.left = `${100 * left}%`;
    node.style.top = `${100 * top}%`;
    node.style.width = `${100 * (right - left)}%`;
    node.style.height = `${100 * (bottom - top)}%`;
  }
  outline.hidden = frame.every((edge, i) => Math.abs(edge - whole[i]) < 0.004);
}

/** A decoded picture behind a Blob URL, or null where the bytes are empty or no picture. */
async function blobUrl(bytes, type) {
  if (!bytes.length) return null;
  const url = URL.createObjectURL(new Blob([bytes], { type }));
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    return null;
  }
  return url;
}

/** The picture of a view, from the bytes of a trait: `next()` decodes them and gives their URL, or undefined where newer
 *  bytes came meanwhile; `keep(url)` frees the one before; `end()` frees all. */
function pictureOf(model, trait, root) {
  let url = null;
  let latest = 0;
  const keep = (fresh) => {
    if (url) URL.revokeObjectURL(url);
    url = fresh;
  };
  return {
    async next() {
      root.dataset.drawing = ""; // until the picture is decoded
      const turn = ++latest;
      const fresh = await blobUrl(asBytes(model.get(trait)), "image/jpeg");
      if (turn === latest) return fresh;
      if (fresh) URL.revokeObjectURL(fresh);
      return undefined;
    },
    keep,
    end: () => (latest++, keep(null)),
  };
}
