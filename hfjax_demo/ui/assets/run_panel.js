// Draws one run's state (ui/run_view.py) into the panel. Prompt and model text is untrusted: it only ever goes through
// textContent and title, never through innerHTML or a template.
const find = (selector) => element.querySelector(selector);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
// Changes the words of a text node that is there already: a new node makes the browser match its styles anew.
const write = (node, text) => {
  if (node.textContent === text) return;
  if (node.firstChild && text) node.firstChild.data = text;
  else node.textContent = text;
};
const setText = (selector, text) => write(find(selector), text);
const show = (selector, text) => {
  setText(selector, text);
  find(selector).hidden = !text;
};

const MAX_ROWS = 512;
const SPOKEN_EVERY_MS = 4000;
let state = null;
let drawn = {};
let changedAt = performance.now();
let followedAt = 0;
let spokenAt = -SPOKEN_EVERY_MS;

function drawNumbers(numbers) {
  const list = find(".run-numbers");
  if (list.children.length !== numbers.length) {
    list.replaceChildren(...numbers.map(() => {
      const box = make("div");
      box.append(make("dt"), make("dd"));
      return box;
    }));
  }
  numbers.forEach((number, index) => {
    const box = list.children[index];
    if (box.title !== number.hint) box.title = number.hint;
    write(box.firstChild, number.label);
    write(box.lastChild, number.value);
  });
}

function place(selector, from, to, columns) {
  const box = find(selector).style;
  box.left = `${(100 * Math.min(from, columns)) / columns}%`;
  box.width = `${(100 * Math.max(0, Math.min(to, columns) - from)) / columns}%`;
}

function drawCache(kv) {
  const figure = find(".kv");
  figure.dataset.kind = kv.kind;
  if (kv.kind === "none") {
    setText(".kv-shape", "no cache: every step reads the whole text again");
    find(".kv-shape").title = "";
  } else {
    setText(".kv-shape", kv.shape || "not allocated yet");
    find(".kv-shape").title = `layers × keys and values × (batch, KV heads, positions, head size). ${kv.layer_shape}`;
  }
  setText(".kv-bytes", kv.bytes);
  const filled = kv.filled_len;
  const places = kv.capacity ? `${filled} of ${kv.capacity} positions filled` : `${filled} positions, grows by one a step`;
  setText(".kv-filled", kv.shape ? places : "");
  setText(".kv-iteration", kv.iteration);
  setText(".kv-last", kv.columns ? String(kv.columns - 1) : "");
  const grid = find(".kv-grid");
  const count = kv.kind === "none" ? 0 : Math.min(kv.num_layers, MAX_ROWS);
  const rows = grid.querySelector(".kv-rows");
  if (rows.children.length !== count) {
    rows.replaceChildren(...Array.from({ length: count }, () => make("div", "kv-row")));
    grid.hidden = count === 0;
  }
  kv.layer_kinds.slice(0, count).forEach((kind, layer) => { rows.children[layer].dataset.kind = kind; });
  // Three boxes across all layers: every layer's cache is as full as the others'. Only their widths change from step to step.
  const columns = Math.max(1, kv.columns);
  const prompt = Math.min(filled, kv.prompt_len);
  const before = filled > kv.prompt_len ? filled - 1 : prompt;
  place(".kv-kept", 0, prompt, columns);
  place(".kv-new", prompt, before, columns);
  place(".kv-now", before, filled, columns);
  grid.style.setProperty("--cell", `${100 / columns}%`);
  rows.classList.toggle("has-cells", columns <= 128);
  grid.setAttribute("aria-label", kv.shape
    ? `KV cache: ${kv.shape}, ${kv.bytes}, ${places}; ${Math.min(filled, kv.prompt_len)} from the prompt`
    : "KV cache: empty");
}

function drawBars({ first, shown }) {
  const row = find(".bars-row");
  const durations = shown.map((step) => step[0]).sort((a, b) => a - b);
  const top = Math.max(1e-6, 1.5 * (durations[Math.floor(durations.length * 0.9)] || 0));
  row.replaceChildren(...shown.map(([duration, trace, compile], index) => {
    const bar = make("i", duration > top ? "bar is-clipped" : "bar");
    const made = trace + compile;
    bar.style.setProperty("--height", `${Math.min(100, (100 * duration) / top)}%`);
    bar.style.setProperty("--compile", `${duration > 0 ? Math.min(100, (100 * made) / duration) : 0}%`);
    bar.title = `step ${first + index}: ${duration.toFixed(1)} ms, of it ${made.toFixed(1)} ms tracing and compiling`;
    return bar;
  }));
}

function drawCompiled(rows) {
  const body = find(".compiled tbody");
  body.replaceChildren(...rows.map((row) => {
    const line = make("tr");
    for (const column of ["steps", "name", "count", "seconds", "reason"]) line.append(make("td", column, row[column]));
    return line;
  }));
  setText(".compiled summary", rows.length ? "What was compiled, and why" : "What was compiled: nothing so far");
}

// Keeps the newest words in sight, unless the visitor has scrolled up to read. Reading sizes makes the browser lay out the
// page, so not at every token.
function follow(output) {
  const now = performance.now();
  if (now - followedAt < 200 && state.has_clock) return;
  followedAt = now;
  const missing = output.scrollHeight - output.scrollTop - output.clientHeight;
  if (missing > 0 && missing < 120) output.scrollTop = output.scrollHeight;
}

// While a run streams, its values come from the server directly (ui/live_panels.py): each costs this page a tenth of what it
// costs through Gradio, which brings one now and then, maybe late.
let source = null;

function listen(name) {
  if (source?.name === name) return;
  source?.close();
  source = null;
  if (!name) return;
  source = new EventSource(`${window.gradio_config?.root ?? ""}/gradio_api/live/${name}`);
  source.name = name;
  source.onmessage = (event) => draw(event.data);
  // The run is over, and its last value comes through Gradio; or nothing can be read here, and all of them do.
  for (const ending of ["end", "error"]) source.addEventListener(ending, (event) => event.target.close());
}

function draw(value) {
  if (!value) return;
  const next = JSON.parse(value);
  if (next.live && next.live === state?.live && next.number <= state.number) return;
  state = next;
  listen(state.live);
  changedAt = performance.now();
  find(".run").dataset.phase = state.phase;
  setText(".run-title", state.title);
  show(".run-note", state.note);
  setText(".run-status-text", state.status);
  setText(".run-detail", state.detail);
  show(".run-error", state.error);
  find(".run-bar").style.setProperty("--done", state.fraction === null ? "0%" : `${100 * state.fraction}%`);
  setText(".run-prompt", state.prompt);
  const output = find(".run-output");
  output.classList.toggle("is-chat", state.is_chat);
  setText(".run-text", state.text);
  setText(".run-different", state.different_text);
  follow(output);
  // A part that did not change is not drawn again: the state's parts arrive at their own rates.
  for (const [part, drawPart] of [["numbers", drawNumbers], ["kv", drawCache], ["steps", drawBars], ["compiled", drawCompiled]]) {
    const text = JSON.stringify(state[part]);
    if (drawn[part] !== text) {
      drawn[part] = text;
      drawPart(state[part]);
    }
  }
  speak();
}

// A screen reader hears every change of phase, and in between no more than one sentence every few seconds.
function speak() {
  const now = performance.now();
  const isNewPhase = drawn.phase !== state.phase;
  drawn.phase = state.phase;
  if (!isNewPhase && now - spokenAt < SPOKEN_EVERY_MS) return;
  spokenAt = now;
  setText(".run-live", `${state.status}. ${state.detail}`);
}

// The clock runs here, so that a long compilation or loading never looks frozen while no event can come.
setInterval(() => {
  if (!state) return;
  const waited = (performance.now() - changedAt) / 1000;
  setText(".run-clock", state.has_clock && waited > 0.9 ? `(${waited.toFixed(1)} s)` : "");
}, 250);

find(".kv-grid").addEventListener("pointermove", (event) => {
  const box = find(".kv-rows").getBoundingClientRect();
  const count = find(".kv-rows").children.length;
  if (!count || !state) return;
  const kv = state.kv;
  const within = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value * most)));
  const position = within((event.clientX - box.left) / box.width, kv.columns);
  const layer = within((event.clientY - box.top) / box.height, count);
  const what = position < Math.min(kv.filled_len, kv.prompt_len) ? "a prompt token's keys and values"
    : position < kv.filled_len ? "a new token's keys and values"
    : kv.capacity ? "free, allocated already" : "not allocated";
  setText(".kv-tip", `layer ${layer}, position ${position}: ${what}`);
});
find(".kv-grid").addEventListener("pointerleave", () => setText(".kv-tip", ""));

watch("value", () => draw(props.value));
draw(props.value);
