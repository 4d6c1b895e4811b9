// Thumbnails from one sprite, each with an optional heat map. One message brings a whole gallery.

function render({ model, el }) {
  const root = make("div", "clipattr-gallery", { parent: el });
  ownKeys(root);
  const heading = make("div", "clipattr-note clipattr-gallery-title", { parent: root, "aria-hidden": "true" });
  const grid = make("div", "clipattr-gallery-grid", { parent: root, role: "listbox" });
  const empty = make("div", "clipattr-empty", { parent: root });
  const tools = heatSlider(model);
  root.append(tools.row);
  let thumbs = [];
  let active = 0;
  const shown = pictureOf(model, "sprite", root);

  function newThumb(i) {
    const thumb = { button: make("button", "clipattr-thumb", { parent: grid, type: "button", role: "option", "data-i": i }) };
    thumb.picture = make("span", "clipattr-thumb-picture", { parent: thumb.button });
    thumb.image = make("span", "clipattr-thumb-image", { parent: thumb.picture });
    thumb.canvas = make("canvas", "clipattr-heat", { parent: thumb.picture, "aria-hidden": "true" });
    thumb.crop = make("span", "clipattr-crop", { parent: thumb.picture, "aria-hidden": "true" });
    thumb.caption = make("bdi", "clipattr-thumb-caption", { parent: thumb.button, dir: "auto" });
    thumb.button.addEventListener("click", () => {
      move(i, false);
      model.set("selected", i);
      model.save_changes();
      model.send({ kind: "pick", i });
    });
    return thumb;
  }

  function move(i, focus = true) {
    active = Math.max(0, Math.min(thumbs.length - 1, i));
    roving(thumbs.map((thumb) => thumb.button), active, focus);
  }

  function perRow() {
    const top = thumbs[0]?.button.offsetTop;
    const next = thumbs.findIndex((thumb) => thumb.button.offsetTop !== top);
    return next < 1 ? thumbs.length : next;
  }

  root.addEventListener("keydown", (event) => {
    if (event.target.tagName === "INPUT") {
      event.stopPropagation();
      return;
    }
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: perRow(), ArrowUp: -perRow(), Home: -active, End: thumbs.length };
    if (CLIPATTR_KEYS.has(event.key)) event.stopPropagation();
    if (by[event.key] === undefined) return;
    event.preventDefault();
    const to = active + by[event.key];
    if (to >= 0 || event.key === "Home") move(to);
  });

  async function draw() {
    const meta = model.get("meta");
    const heat = asBytes(model.get("heat"));
    const url = await shown.next();
    if (url === undefined) return;
    grid.setAttribute("aria-label", model.get("title"));
    heading.textContent = meta.n ? model.get("title") : "";
    empty.textContent = meta.n ? "" : model.get("empty_text");
    while (thumbs.length > meta.n) thumbs.pop().button.remove();
    while (thumbs.length < meta.n) thumbs.push(newThumb(thumbs.length));
    const rows = Math.ceil(meta.n / meta.cols);
    root.style.setProperty("--clipattr-cell", `${meta.shown}px`);
    thumbs.forEach((thumb, i) => {
      const x = i % meta.cols;
      const y = Math.floor(i / meta.cols);
      thumb.image.style.backgroundImage = url ? `url("${url}")` : "none";
      thumb.image.style.backgroundSize = `${meta.cols * meta.shown}px ${rows * meta.shown}px`;
      thumb.image.style.backgroundPosition = `${-x * meta.shown}px ${-y * meta.shown}px`;
      thumb.button.setAttribute("aria-label", meta.alt[i]);
      thumb.button.title = meta.alt[i];
      thumb.caption.textContent = meta.captions[i] ?? "";
      thumb.caption.hidden = !meta.captions[i];
      const side = meta.heat;
      const mine = heat.subarray(i * side * side, (i + 1) * side * side);
      thumb.canvas.hidden = !side || mine.length < side * side;
      thumb.picture.classList.toggle("clipattr-heated", !thumb.canvas.hidden);
      placeFrame(thumb.canvas, thumb.crop, meta.frames?.[i] ?? [0, 0, 1, 1]);
      thumb.crop.hidden ||= thumb.canvas.hidden;
      if (!thumb.canvas.hidden) drawHeat(thumb.canvas, mine, side, side);
    });
    tools.row.hidden = !meta.heat || !meta.n;
    move(Math.min(active, Math.max(meta.n - 1, 0)), false);
    mark();
    shown.keep(url);
    root.dataset.gen = meta.gen;
    delete root.dataset.drawing;
  }

  function mark() {
    thumbs.forEach((thumb, i) => {
      const on = i === model.get("selected");
      thumb.button.classList.toggle("clipattr-selected", on);
      thumb.button.setAttribute("aria-selected", String(on));
    });
  }

  draw();
  const stop = listen(model, { "change:meta": draw, "change:selected": mark, "change:heat_alpha": tools.show, "change:heat_scale": tools.show });
  tools.attach(root);
  return () => {
    stop();
    shown.end();
  };
}

export default { render };
