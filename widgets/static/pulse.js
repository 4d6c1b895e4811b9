// Says when nobody answers any more: the kernel was restarted, or has gone, under an open panel.
// A question goes out only when somebody does something in the panel; the answer is due within `patience` seconds.

const PULSE_RESTARTED = "The kernel was restarted, so this panel no longer answers. Run its cell again.";
const PULSE_SILENT =
  "The kernel does not answer. If it is busy, the panel goes on when it is free; if it was restarted or has ended, " +
  "run the cell again (or load the page again).";

const PULSE_CONTROLS = "select, input, textarea, .noUi-handle";

/** Names for whom does not see the page: controls without a label of their own get their placeholder or tooltip, a
 *  slider's handle its label; toggle buttons say whether they are pressed. */
function nameControls(panel) {
  for (const control of panel.querySelectorAll(PULSE_CONTROLS)) {
    if (control.hasAttribute("aria-label") && control.dataset.named === undefined) continue;
    const box = control.closest(".jupyter-widgets");
    const label = box?.querySelector(".widget-label");
    const said = label && label.style.display !== "none" ? label.textContent.trim() : "";
    if (said && !control.classList.contains("noUi-handle")) continue; // the label names it
    const title = [control.title, box?.title].find((text) => text && text !== "null");
    const name = said || control.placeholder || title || control.options?.[0]?.text;
    if (!name || control.getAttribute("aria-label") === name) continue;
    control.dataset.named = "";
    control.setAttribute("aria-label", name);
  }
  for (const group of panel.querySelectorAll(".widget-toggle-buttons")) {
    group.setAttribute("role", "group");
    if (group.classList.contains("clipattr-tabs")) group.setAttribute("aria-label", "panels");
  }
  for (const button of panel.querySelectorAll(".widget-toggle-buttons button, button.widget-toggle-button")) {
    button.setAttribute("aria-pressed", String(button.classList.contains("mod-active")));
  }
  for (const odd of panel.querySelectorAll('[title="null"]')) odd.removeAttribute("title");
}

function render({ model, el }) {
  const root = make("div", "clipattr-pulse", { parent: el, role: "alert" });
  let panel = null;
  let timer = null;
  let asked = 0;
  let again = false; // something was done while an answer was awaited

  function say(text) {
    root.textContent = text;
    root.classList.toggle("clipattr-error", Boolean(text));
    panel?.classList.toggle("clipattr-gone", Boolean(text));
  }

  function ask() {
    if (panel.classList.contains("jupyter-widgets-disconnected")) return;
    again = Boolean(timer);
    if (timer) return;
    asked += 1;
    root.dataset.asked = asked;
    timer = setTimeout(() => say(PULSE_SILENT), 1000 * model.get("patience"));
    model.send({ kind: "ping", number: asked });
  }

  function heard(message) {
    if (message.kind !== "pong") return;
    clearTimeout(timer);
    timer = null;
    root.dataset.heard = message.number;
    say("");
    if (again) ask();
  }

  function cut() {
    const gone = panel.classList.contains("jupyter-widgets-disconnected");
    // Controls that nobody hears any more take no click and no key.
    for (const child of panel.children) if (!child.contains(root)) child.inert = gone;
    if (gone) say(PULSE_RESTARTED);
    else if (root.textContent === PULSE_RESTARTED) say("");
  }

  const watcher = new MutationObserver(cut);
  let naming = 0;
  const nameSoon = () => {
    naming ||= requestAnimationFrame(() => {
      naming = 0;
      if (panel) nameControls(panel);
    });
  };
  const namer = new MutationObserver(nameSoon);
  const acts = ["pointerdown", "keydown", "change"];

  function attach() {
    if (!el.isConnected) return requestAnimationFrame(attach);
    panel = el.closest(".clipattr-panel") ?? el;
    for (let outer = panel; outer; outer = outer.parentElement?.closest(".clipattr-panel")) panel = outer;
    if (panel.dataset.pulse) return; // a panel inside a panel: the outer one asks
    panel.dataset.pulse = "on";
    model.send({ kind: "drawn" }); // what Python said while the page was being made may not have arrived
    watcher.observe(panel, { attributes: true, attributeFilter: ["class"] });
    namer.observe(panel, { childList: true, subtree: true, attributes: true, attributeFilter: ["placeholder"] });
    for (const act of acts) panel.addEventListener(act, ask, true);
    panel.addEventListener("click", nameSoon);
    nameSoon();
    cut();
  }

  /** A rule hides this notebook's still view of the panel, however often it is written again. */
  const rule = make("style", "");
  let book = null;
  function hideStill() {
    const name = model.get("still");
    if (!el.isConnected) return requestAnimationFrame(hideStill);
    if (!/^[\w-]+$/.test(name)) return;
    book = el.closest(".jp-Notebook") ?? document.body;
    book.classList.add(`${name}-live`);
    const inside = `.${name}-live`;
    rule.textContent = `${inside} .${name}, ${inside} .jp-OutputArea-child:has(.${name}) { display: none !important; }`;
    if (!rule.isConnected) document.head.append(rule);
  }
  hideStill();

  /** The page's address leads to what is on the screen; whatever else it says (a token, a theme) stays. */
  const follows = ["study", "picture", "latent", "compare", "finding", "prompt", "against", "method", "changes", "panel"];
  function follow() {
    if (!model.get("address")) return;
    const place = new URL(location.href);
    for (const name of follows) place.searchParams.delete(name);
    for (const [name, value] of new URLSearchParams(model.get("address"))) place.searchParams.set(name, value);
    history.replaceState(history.state, "", place);
  }
  follow();

  const stop = listen(model, { "msg:custom": heard, "change:still": hideStill, "change:address": follow });
  attach();
  return () => {
    clearTimeout(timer);
    watcher.disconnect();
    namer.disconnect();
    cancelAnimationFrame(naming);
    rule.remove();
    book?.classList.remove(`${model.get("still")}-live`);
    stop();
    if (panel) {
      for (const act of acts) panel.removeEventListener(act, ask, true);
      panel.removeEventListener("click", nameSoon);
      delete panel.dataset.pulse;
    }
  };
}

export default { render };
