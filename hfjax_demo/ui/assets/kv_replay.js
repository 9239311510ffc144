// Replays one or two runs (ui/kv_replay_view.py) step by step. Tokens and names are untrusted: textContent and title only.
const find = (selector) => element.querySelector(selector);
const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};
const PLAY_EVERY_MS = 350;
const MAX_ROWS = 512;
let state = null;
let step = 0;
let timer = null;

function buildRun(run, columns) {
  const box = make("article", "replay-run");
  box.append(make("h3", "replay-title", run.title));
  if (run.note) box.append(make("p", "replay-note", run.note));
  box.append(make("p", "replay-heads", run.heads));
  box.append(make("code", "replay-iteration"), make("p", "replay-shape"), make("p", "replay-facts"));
  const grid = make("div", "replay-grid");
  grid.setAttribute("role", "img");
  const tip = make("p", "replay-tip");
  grid.addEventListener("pointermove", (event) => { tip.textContent = cellWords(run, grid, event); });
  grid.addEventListener("pointerleave", () => { tip.textContent = ""; });
  box.append(grid, make("p", "replay-axis", `positions 0 to ${columns - 1}, one row a layer`), tip);
  const bars = make("div", "replay-bars");
  bars.setAttribute("role", "img");
  bars.setAttribute("aria-label", "Milliseconds of each step; striped: tracing and compiling");
  const longest = Math.max(1e-6, run.longest_ms);
  run.steps.forEach((each, index) => {
    const bar = make("i", "replay-bar");
    bar.style.setProperty("--height", `${Math.max(3, (100 * each.ms[0]) / longest)}%`);
    bar.style.setProperty("--compile", `${each.ms[0] ? (100 * each.ms[1]) / each.ms[0] : 0}%`);
    bar.title = `step ${each.index}: ${each.took}`;
    bar.addEventListener("click", () => go(index));
    bars.append(bar);
  });
  const programs = make("ul", "replay-programs");
  programs.tabIndex = 0;  // it scrolls, and the keyboard must reach what scrolls
  programs.setAttribute("aria-label", "What was compiled at this step");
  box.append(bars, make("p", "replay-compiled"), programs);
  const details = make("details", "replay-layers");
  details.append(make("summary", "", "Every layer at this step"));
  const scroll = make("div", "table-scroll");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", "Every layer at this step");
  const table = make("table");
  const head = make("tr");
  for (const name of ["layer", "kind", "K shape", "V shape", "filled", "free", "bytes"]) {
    const cell = make("th", "", name);
    cell.scope = "col";
    head.append(cell);
  }
  table.append(make("thead"), make("tbody"));
  table.tHead.append(head);
  scroll.append(table);
  details.append(scroll);
  details.addEventListener("toggle", show);
  box.append(details);
  return box;
}

// What is under the pointer: layer, position, the token whose keys and values lie there, or that the place is free.
function cellWords(run, grid, event) {
  const box = grid.getBoundingClientRect();
  const within = (value, most) => Math.max(0, Math.min(most - 1, Math.floor(value * most)));
  const position = within((event.clientX - box.left - grid.clientLeft) / grid.clientWidth, state.columns);
  const layer = within((event.clientY - box.top - grid.clientTop) / grid.clientHeight, grid.children.length);
  const now = run.steps[Math.min(step, run.steps.length - 1)];
  const held = now.layers.find(([first, last]) => first <= layer && layer <= last);
  const where = held ? `layer ${layer}, position ${position}` : `position ${position}`;
  if (held && !held[3]) return `${where}: ${held[2]}`;
  // A window that grows holds its last positions only: its first column is not the sequence's first.
  const first = held && run.kind === "dynamic" ? now.filled - held[5] : 0;
  const token = run.tokens[position + first];
  if (position + first < now.filled) {
    const moved = first ? ` of the window, ${position + first} of the sequence` : "";
    return `${where}${moved}: ${token || "a token"}, ${position + first < run.prompt_len ? "prompt" : "new"}`;
  }
  return `${where}: ${held && position < held[6] ? "free, allocated already" : "not allocated"}`;
}

function row(from, to, filled, promptLen, isShared) {
  const line = make("div", isShared ? "replay-row is-shared" : "replay-row");
  const part = (className, start, end) => {
    const piece = make("i", className);
    piece.style.left = `${(100 * start) / state.columns}%`;
    piece.style.width = `${(100 * Math.max(0, end - start)) / state.columns}%`;
    line.append(piece);
  };
  if (isShared) return line;
  part("is-free", 0, to);
  part("is-prompt", 0, Math.min(filled, promptLen));
  part("is-new", Math.min(filled, promptLen), Math.max(from, Math.min(filled, promptLen)));
  part("is-now", Math.min(from, filled), filled);
  return line;
}

function drawRun(box, run) {
  const index = Math.min(step, run.steps.length - 1);
  const now = run.steps[index];
  box.querySelector(".replay-iteration").textContent = now.iteration;
  const own = now.layers.filter((layer) => layer[3]);
  const shapes = [...new Set(own.map((layer) => layer[3] === layer[4] ? layer[3] : `K ${layer[3]}, V ${layer[4]}`))];
  const count = own.reduce((sum, layer) => sum + layer[1] - layer[0] + 1, 0);
  const shape = box.querySelector(".replay-shape");
  shape.textContent = run.kind === "none" ? "no cache: keys and values are computed anew at every step"
    : shapes.length === 1 ? `${count} layers × 2 × ${shapes[0]}` : shapes.map((each) => `${each}`).join(" · ");
  shape.title = "layers × keys and values × (batch, KV heads, positions, head size)";
  const capacity = Math.max(0, ...own.map((layer) => layer[6]));
  const over = step > index ? ["this run had ended by then; its last step"] : [];
  const facts = [...over, `step ${now.index} (${now.phase}) gave ${now.token}`, `input ${now.input}, output ${now.output}`];
  if (run.kind !== "none") {
    facts.push(`${now.filled} positions filled, ${Math.max(0, capacity - now.filled)} free`, now.bytes);
  }
  box.querySelector(".replay-facts").textContent = facts.join(" · ");
  const grid = box.querySelector(".replay-grid");
  const rows = [];
  for (const [first, last, , key, , filled, size] of now.layers) {
    for (let layer = first; layer <= last && rows.length < MAX_ROWS; layer += 1) {
      rows.push(row(Math.max(0, filled - (now.filled - now.seen)), size, filled, run.prompt_len, !key));
    }
  }
  if (!rows.length) rows.push(row(now.filled - 1, now.filled, now.filled, run.prompt_len, false));
  grid.replaceChildren(...rows);
  grid.setAttribute("aria-label", `${shape.textContent}; ${facts.join("; ")}`);
  [...box.querySelector(".replay-bars").children].forEach((bar, at) => bar.classList.toggle("is-at", at === index));
  const words = now.num_compiles ? `compiled here: ${now.num_compiles}` : "compiled here: nothing";
  const compiled = box.querySelector(".replay-compiled");
  compiled.textContent = `${words}; the step took ${now.took}`;
  compiled.classList.toggle("is-compiling", now.num_compiles > 0);
  const lines = now.compiled.map((each) => make("li", "", `${each.name}${each.count === "1" ? "" : ` ×${each.count}`}, ${each.seconds}: ${each.reason}`));
  if (now.more_compiled) lines.push(make("li", "", `and ${now.more_compiled} more`));
  box.querySelector(".replay-programs").replaceChildren(...lines);
  drawLayers(box, now);
}

function drawLayers(box, now) {
  const details = box.querySelector(".replay-layers");
  details.hidden = !now.layers.length;
  if (!details.open) return;
  const lines = [];
  for (const [first, last, kind, key, value, filled, size, bytes] of now.layers) {
    for (let layer = first; layer <= last && lines.length < MAX_ROWS; layer += 1) {
      const line = make("tr");
      for (const text of [layer, kind, key || "none", value || "none", filled, size - filled, bytes.toLocaleString("en")]) {
        line.append(make("td", "", String(text)));
      }
      lines.push(line);
    }
  }
  details.querySelector("tbody").replaceChildren(...lines);
}

function show() {
  if (!state || !state.num_steps) return;
  find(".replay-slider").value = String(step);
  find(".replay-step").textContent = `step ${step} of ${state.num_steps - 1}`;
  [...find(".replay-runs").children].forEach((box, index) => drawRun(box, state.runs[index]));
}

function go(to) {
  step = Math.max(0, Math.min(state.num_steps - 1, to));
  show();
}

function play(isOn) {
  clearInterval(timer);
  timer = null;
  if (isOn) {
    if (step >= state.num_steps - 1) go(0);
    timer = setInterval(() => (step < state.num_steps - 1 && element.isConnected ? go(step + 1) : play(false)), PLAY_EVERY_MS);
  }
  const button = find(".replay-play");
  button.textContent = isOn ? "Pause" : "Play";
  button.setAttribute("aria-pressed", String(isOn));
}

function load() {
  const next = props.value ? JSON.parse(props.value) : null;
  play(false);
  state = next;
  const isEmpty = !state || !state.num_steps;
  find(".replay-empty").hidden = !isEmpty;
  find(".replay-controls").hidden = isEmpty;
  find(".replay-verdict").textContent = isEmpty ? "" : state.verdict;
  if (isEmpty) {
    find(".replay-runs").replaceChildren();
    return;
  }
  find(".replay-slider").max = String(state.num_steps - 1);
  find(".replay-runs").replaceChildren(...state.runs.map((run) => buildRun(run, state.columns)));
  go(Math.min(...state.runs.map((run) => run.steps.length)) - 1);  // the last step that all of them have
}

find(".replay-play").addEventListener("click", () => play(timer === null));
find(".replay-back").addEventListener("click", () => { play(false); go(step - 1); });
find(".replay-on").addEventListener("click", () => { play(false); go(step + 1); });
find(".replay-slider").addEventListener("input", (event) => { play(false); go(Number(event.target.value)); });
watch("value", load);
load();
