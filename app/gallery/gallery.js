// One gallery lives on a page; what must outlast a redraw is kept here.
const kept = new WeakMap();
const SEND_AFTER = 60;
const RETRY_AFTER = 1500;
const TURN_TAKES = 8000;
const KEYS = /^([jkarsuynp1-9]|Arrow(Left|Right|Up|Down))$/;
const MOVES = /^([jk]|Arrow)/;
const VERDICTS = { a: "accept", r: "reject", s: "skip" };

export default function (component) {
  const root = component.parentElement;
  let g = kept.get(root);
  if (!g) kept.set(root, (g = create(root)));
  g.askPage = (by) => component.setTriggerValue("turn", by);
  if (component.data) update(g, component.data);
  // Called at every change of the data, but what it returns only when the page goes.
  g.leave?.();
  const onKey = (event) => key(g, event);
  const onLeave = (event) => { if (g.queue.length) event.preventDefault(); };
  // Before Streamlit's own shortcuts (R and C), which would otherwise take the key.
  window.addEventListener("keydown", onKey, true);
  window.addEventListener("beforeunload", onLeave);
  window.addEventListener("pointerup", release, true);
  return g.leave = () => {
    window.removeEventListener("keydown", onKey, true);
    window.removeEventListener("beforeunload", onLeave);
    window.removeEventListener("pointerup", release, true);
  };
}

function create(root) {
  const part = (name) => root.querySelector("." + name);
  const g = {
    bar: part("bar"), trouble: part("trouble"), grid: part("grid"), panel: part("panel"), pages: part("pages"),
    previous: part("previous"), next: part("next"), focus: 0, rows: "", cards: [], queue: [], n: 0, times: [],
    evidence: new Map(), sending: false, said: "", turning: null, stepping: false, pressed: [],
    // Not kept over a reload: a duplicated tab would share it.
    tab: crypto.getRandomValues(new Uint32Array(2)).join("-"),
  };
  g.previous.onclick = () => turn(g, -1);
  g.next.onclick = () => turn(g, 1);
  return g;
}

function update(g, data) {
  g.data = data;
  const store = "sharpeye-queue-" + data.run;
  if (g.store !== store) {
    // What a reload or a restart of the app left unsaved is sent again.
    g.store = store;
    g.stepping = false;
    g.pressed = [];
    g.queue = JSON.parse(sessionStorage.getItem(store) || "[]");
    if (g.queue.length) send(g);
  }
  g.seen = data.seen;
  const rows = data.run + ":" + data.cards.map((card) => card.row).join(), truths = data.cards.map((card) => card.truth).join();
  const others = rows !== g.rows;
  if (others) {
    // Where to go on: the first image that nobody decided yet.
    g.focus = Math.max(0, g.enterAtEnd ? data.cards.length - 1 : data.cards.findIndex((card) => card.verdict === "open"));
    g.enterAtEnd = false;
  }
  if (others || truths !== g.truths) {
    Object.assign(g, { rows, truths, cards: data.cards });
    draw(g);
  } else {
    data.cards.forEach((card, index) => { if (!waiting(g, card.row)) set(g, index, card.verdict, card.label); });
  }
  for (const { kind, row, verdict, label } of g.queue) {
    const index = g.cards.findIndex((card) => card.row === row);
    if (kind === "decide" && index >= 0) set(g, index, verdict, after(g.cards[index], verdict, label));
  }
  g.pages.textContent = `Page ${data.page} of ${data.pages.toLocaleString()}`;
  g.previous.disabled = data.page <= 1;
  g.next.disabled = data.page >= data.pages;
  drawBar(g, data.summary);
  if (g.turning && data.page !== g.turning.from) {
    clearTimeout(g.turning.timer);
    g.turning = null;
    takeWaiting(g);
  }
}

// Else the keys would go into the box in which a filter was just chosen with the mouse.
function release(event) {
  if (!event.target.closest?.('[role="option"]')) return;
  setTimeout(() => { if (document.activeElement?.matches('[role="combobox"]')) document.activeElement.blur(); }, 300);
}

function turn(g, by) {
  if (g.turning) return;
  g.turning = { from: g.data.page, timer: setTimeout(() => {
    g.turning = null;
    const lost = g.pressed.splice(0).length;
    trouble(g, `The page does not come: the app does not answer.${lost ? ` ${lost} keys pressed meanwhile were not taken.` : ""} Decisions made before are kept here.`);
  }, TURN_TAKES) };
  g.askPage(by);
}

const waiting = (g, row) => g.queue.some((entry) => entry.row === row);
const name = (g, label) => g.data.classes[label] ?? "a class that this run lacks";
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const picture = (source, alt, className) => {
  const image = make("img", className);
  image.src = source;
  image.alt = alt;
  image.decoding = "async";
  return image;
};

function draw(g) {
  g.grid.replaceChildren(...g.cards.map((card, index) => {
    const element = make("div", "card");
    element.tabIndex = -1;
    element.setAttribute("role", "listitem");
    element.dataset.row = card.row;
    element.dataset.id = card.id;
    const text = make("div", "text");
    const labels = make("div", "labels");
    labels.append(make("span", "given", name(g, card.given)));
    labels.append(make("span", "suggested", card.suggested === card.given ? "looks right" : "→ " + name(g, card.suggested)));
    const facts = make("div", "facts");
    facts.append(make("span", "", `top ${card.top < 10 ? card.top.toPrecision(2) : Math.round(card.top)} %`));
    facts.append(make("span", "", `${Math.round(100 * card.confidence)} % sure`));
    text.append(labels, facts);
    if (card.truth >= 0) text.append(make("div", "truth", `true: ${name(g, card.truth)}`));
    element.append(picture(card.picture, `Image ${card.id}, labelled ${name(g, card.given)}`), text);
    element.onclick = () => move(g, index);
    element.onfocus = () => { if (g.focus !== index) move(g, index); };
    return element;
  }));
  g.cards.forEach((card, index) => set(g, index, card.verdict, card.label));
  if (g.cards.length) move(g, g.focus, false);
  else g.panel.replaceChildren(make("div", "name", "No image to show."));
}

function set(g, index, verdict, label) {
  const card = g.cards[index], element = g.grid.children[index];
  card.verdict = verdict;
  card.label = label;
  element.className = `card ${verdict === "open" ? "" : verdict}${index === g.focus ? " focus" : ""}`;
  element.querySelector(".badge")?.remove();
  // What was accepted may be what another run of these images suggested.
  const got = verdict === "accept" || verdict === "relabel" ? name(g, label) : "";
  const said = got ? "✓ " + got : { reject: "kept", skip: "skipped" }[verdict];
  if (said) element.append(make("span", "badge", said));
  element.setAttribute("aria-label", `${card.id}: labelled ${name(g, card.given)}, suggested ${name(g, card.suggested)}, ${verdict} ${got}`.trim());
}

// The label that a verdict gives.
const after = (card, verdict, label) => ({ relabel: label, accept: card.suggested, reject: card.given })[verdict] ?? -1;

function show(g, row, verdict, label) {
  const index = g.cards.findIndex((card) => card.row === row);
  if (index >= 0) set(g, index, verdict, label);
}

function move(g, to, take = true) {
  if (!g.cards.length) return;
  const index = Math.min(Math.max(to, 0), g.cards.length - 1);
  for (const [at, element] of [...g.grid.children].entries()) {
    element.classList.toggle("focus", at === index);
    element.tabIndex = at === index ? 0 : -1;
  }
  g.focus = index;
  if (take) {
    g.grid.children[index].focus({ preventScroll: true });
    g.grid.children[index].scrollIntoView({ block: "nearest" });
  }
  drawPanel(g);
  clearTimeout(g.asking);
  g.asking = setTimeout(() => ask(g), 80);
}

async function ask(g) {
  const card = g.cards[g.focus], at = `${g.data.run}/${card.row}`;
  if (!g.evidence.has(at)) {
    try {
      const answer = await fetch(`/evidence/${at}`);
      if (answer.ok) g.evidence.set(at, await answer.json());
    } catch { return; }
  }
  if (g.cards[g.focus] === card) drawEvidence(g);
}

function drawPanel(g) {
  const card = g.cards[g.focus];
  const parts = [picture(card.picture, `Image ${card.id}`, "large"), make("div", "name", card.id)];
  const actions = make("div", "actions");
  const button = (text, verdict, main) => {
    const made = make("button", main ? "main" : "", text);
    made.type = "button";
    made.onclick = () => decide(g, verdict);
    return made;
  };
  const same = card.suggested === card.given;
  actions.append(
    button(same ? "Label is right" : `Accept “${name(g, card.suggested)}”`, "accept", true),
    button(`Keep “${name(g, card.given)}”`, "reject"), button("Skip", "skip"),
  );
  const choose = make("select");
  choose.setAttribute("aria-label", "Choose another class");
  choose.append(new Option("Another class…", ""), ...g.data.classes.map((text, at) => new Option(at < 9 ? `${at + 1}  ${text}` : text, at)));
  choose.title = "With the arrow keys: Enter takes the class chosen";
  // Arrow keys change a closed list at every step, so only the pointer decides at once.
  let byKey = false;
  const chosen = () => { if (choose.value) decide(g, "relabel", Number(choose.value)); };
  choose.onpointerdown = () => { byKey = false; };
  choose.onkeydown = (event) => {
    byKey = true;
    if (event.key === "Enter" && choose.value) { event.preventDefault(); chosen(); }
  };
  choose.onchange = () => { if (!byKey) chosen(); };
  actions.append(choose);
  parts.push(actions);
  parts.push(make("h4", "", `P(label is wrong) ${Math.round(100 * card.wrong)} %`), make("div", "evidence"));
  g.panel.replaceChildren(...parts);
  drawEvidence(g);
}

// Apart from what stands above it, which may have the keyboard's focus when it comes.
function drawEvidence(g) {
  const card = g.cards[g.focus], found = g.evidence.get(`${g.data.run}/${card.row}`), parts = [];
  if (found?.candidates) {
    parts.push(make("h4", "", "Influence under each label (short: plausible)"));
    const bars = make("div", "bars"), most = Math.max(...found.candidates.map((one) => one.score), 1e-30);
    // The most plausible ones, and always the given one, which among many classes is seldom one of them.
    for (const { label, score } of found.candidates.filter((one, at) => at < 11 || one.label === name(g, card.given))) {
      const kind = label === name(g, card.suggested) ? "suggested" : label === name(g, card.given) ? "given" : "";
      const bar = make("i", kind);
      bar.style.width = `${Math.max(0, (100 * score) / most)}%`;
      bars.append(make("span", kind, label + (label === name(g, card.given) ? " (given)" : "")), bar);
    }
    parts.push(bars);
    for (const [title, label, urls] of [
      ["suggested", card.suggested, found.near_suggested], ["given", card.given, found.near_given],
    ]) {
      if (!urls?.length || (title === "given" && card.suggested === card.given)) continue;
      parts.push(make("h4", "", `Most alike among trusted “${name(g, label)}”`));
      const near = make("div", "near");
      near.append(...urls.map((source) => picture(source, `Trusted ${name(g, label)}`)));
      parts.push(near);
    }
  }
  g.panel.querySelector(".evidence").replaceChildren(...parts);
}

function drawBar(g, summary) {
  const item = (value, text) => {
    const made = make("span");
    made.append(make("b", "", value), " " + text);
    return made;
  };
  const whole = (value) => Math.round(value).toLocaleString();
  const now = Date.now();
  g.times = g.times.filter((time) => now - time < 120000);
  const minutes = g.times.length > 4 ? Math.max((now - g.times[0]) / 60000, 0.05) : 0;
  const parts = [
    item(whole(summary.decided), `of ${whole(summary.images)} decided`), item(whole(summary.changed), "labels changed"),
    item("≈ " + whole(summary.expected_open), `(${summary.interval_open.map(whole).join("–")}) wrong labels left`),
    item("≈ " + whole(summary.expected_next), `of them among the next ${summary.next} suspects`),
  ];
  if (minutes) parts.push(item(whole(g.times.length / minutes), "decisions a minute"));
  if (g.said) parts.push(make("span", "", g.said));
  if (summary.next && !summary.likely_next && summary.expected_next / summary.next < 0.05) parts.push(make("span", "", "A good place to stop: fewer than 1 in 20 is wrong from here."));
  const meter = make("div", "meter"), fill = make("i");
  fill.style.width = `${Math.min(100, (100 * summary.decided) / Math.max(1, summary.expected))}%`;
  meter.title = "Images decided, as a share of the wrong labels expected";
  meter.append(fill);
  g.bar.replaceChildren(...parts, meter);
}

function key(g, event) {
  const inside = event.composedPath()[0];
  // A switch or slider that was used last keeps the focus, but takes no letters.
  const switched = inside.tagName === "INPUT" && /^(checkbox|radio|range)$/.test(inside.type);
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || inside.isContentEditable) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(inside.tagName) && !switched) return;
  if (document.querySelector('[role="dialog"]') || !g.grid.isConnected) return;
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!KEYS.test(pressed) || (switched && pressed.startsWith("Arrow"))) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  // A key held down moves on, but decides only once: what comes next was not looked at.
  if (!event.repeat || MOVES.test(pressed)) take(g, pressed);
}

// Keys that come while the page or an undo is on its way are for what it brings.
function take(g, pressed) {
  if (g.turning || g.stepping) g.pressed.push(pressed);
  else act(g, pressed);
}

function takeWaiting(g) {
  for (const pressed of g.pressed.splice(0)) take(g, pressed);
}

function act(g, pressed) {
  g.said = "";
  const columns = getComputedStyle(g.grid).gridTemplateColumns.split(" ").length;
  const steps = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  if (pressed in steps) step(g, steps[pressed]);
  else if (pressed in VERDICTS) decide(g, VERDICTS[pressed]);
  else if (/^[1-9]$/.test(pressed)) { if (Number(pressed) <= g.data.classes.length) decide(g, "relabel", Number(pressed) - 1); }
  else if (pressed === "u") add(g, { kind: "undo" });
  else if (pressed === "y") add(g, { kind: "redo" });
  else if (pressed === "n" && !g.next.disabled) turn(g, 1);
  else if (pressed === "p" && !g.previous.disabled) turn(g, -1);
}

function step(g, by) {
  const to = g.focus + by;
  if (to >= g.cards.length && by === 1 && !g.next.disabled) return turn(g, 1);
  if (to < 0 && by === -1 && !g.previous.disabled) { g.enterAtEnd = true; return turn(g, -1); }
  if (to >= 0 && to < g.cards.length) move(g, to);
}

function decide(g, verdict, label) {
  const card = g.cards[g.focus];
  if (!card) return;
  set(g, g.focus, verdict, after(card, verdict, label));
  g.times.push(Date.now());
  add(g, { kind: "decide", row: card.row, verdict, label });
  step(g, 1);
}

function add(g, entry) {
  g.queue.push({ tab: g.tab, n: g.n++, ...entry });
  if (entry.kind !== "decide") g.stepping = true;
  sessionStorage.setItem(g.store, JSON.stringify(g.queue));
  if (!g.sending) { clearTimeout(g.timer); g.timer = setTimeout(() => send(g), SEND_AFTER); }
}

async function send(g) {
  if (g.sending || !g.queue.length) return;
  g.sending = true;
  const entries = g.queue.slice(), run = g.data.run, store = g.store;
  const body = JSON.stringify({ seen: g.seen, entries, shown: g.cards.map((card) => card.row) });
  let answer = null;
  try {
    const response = await fetch(`/decisions/${run}`, { method: "POST", body, keepalive: body.length < 60000, headers: { "content-type": "application/json", "x-sharpeye": "1" } });
    answer = await response.json();
    if (!response.ok && response.status < 500) throw new Error(answer.error);
    if (!response.ok) answer = null;
  } catch (error) { g.problem = error.message; answer = null; }
  g.sending = false;
  if (g.store !== store) {
    // Another run was chosen meanwhile; what could not be saved of this one waits until it is opened again.
    if (answer) sessionStorage.setItem(store, JSON.stringify(JSON.parse(sessionStorage.getItem(store)).slice(entries.length)));
    return send(g);
  }
  if (!answer) {
    trouble(g, `${g.queue.length} decision${g.queue.length > 1 ? "s" : ""} not saved yet: the app does not answer (${g.problem}). They are kept here and sent again; leave this tab open.`);
    g.timer = setTimeout(() => send(g), RETRY_AFTER);
    return;
  }
  g.queue = g.queue.slice(entries.length);
  sessionStorage.setItem(g.store, JSON.stringify(g.queue));
  g.seen = answer.seen;
  for (const [row, verdict, label] of answer.changes) if (!waiting(g, row)) show(g, row, verdict, label);
  drawBar(g, answer.summary);
  trouble(g, answer.conflicts.length ? `${answer.conflicts.length} of these were decided in another tab meanwhile and are left as they are there; decide again to overrule.` : "");
  if (g.stepping && !g.queue.length) {
    g.stepping = false;
    if (answer.stepped) follow(g, answer.stepped);
    drawBar(g, answer.summary);
    takeWaiting(g);
  }
  if (g.queue.length && !g.sending) { clearTimeout(g.timer); g.timer = setTimeout(() => send(g), SEND_AFTER); }
}

// To the image that an undo took back, or past the one that a redo brought back.
function follow(g, { kind, rows, count, first }) {
  const what = count > 1 ? `${count.toLocaleString()} decisions` : `the decision on ${first}`;
  const index = count === 1 ? g.cards.findIndex((card) => card.row === rows[0]) : -1;
  if (!count) g.said = `Nothing to ${kind}.`;
  else if (index < 0) g.said = kind === "undo" ? `Took back ${what}.` : `Brought back ${what}.`;
  else {
    move(g, index);
    if (kind === "redo") step(g, 1);
  }
}

function trouble(g, text) {
  g.trouble.textContent = text;
  g.trouble.hidden = !text;
}
