import { DecisionQueue } from "./queue.mjs";

// One gallery lives on a page; what must outlast a redraw is kept here.
const galleries = new WeakMap();
const TURN_TAKES = 8000;
const KEYS = /^([jkarsuynp1-9]|Arrow(Left|Right|Up|Down))$/;
const MOVES = /^([jk]|Arrow)/;
const VERDICT_OF_KEY = { a: "accept", r: "keep", s: "skip" };

export default function (component) {
  const root = component.parentElement;
  let gallery = galleries.get(root);
  if (!gallery) galleries.set(root, (gallery = create(root)));
  gallery.askPage = (by) => component.setTriggerValue("turn", by);
  if (component.data) update(gallery, component.data);
  // Called at every change of the data, but what it returns only when the page goes.
  gallery.leave?.();
  const onKey = (event) => handleKey(gallery, event);
  const onLeave = (event) => { if (gallery.queue.entries.length) event.preventDefault(); };
  // Before Streamlit's own shortcuts (R and C), which would otherwise take the key.
  window.addEventListener("keydown", onKey, true);
  window.addEventListener("beforeunload", onLeave);
  window.addEventListener("pointerup", releaseFilter, true);
  return gallery.leave = () => {
    window.removeEventListener("keydown", onKey, true);
    window.removeEventListener("beforeunload", onLeave);
    window.removeEventListener("pointerup", releaseFilter, true);
  };
}

function create(root) {
  const part = (name) => root.querySelector("." + name);
  const gallery = {
    bar: part("bar"), trouble: part("trouble"), grid: part("grid"), panel: part("panel"), pages: part("pages"),
    previous: part("previous"), next: part("next"), focus: 0, rows: "", cards: [], decisionTimes: [],
    evidence: new Map(), message: "", turning: null, waitingForStep: false, waitingKeys: [],
  };
  gallery.queue = new DecisionQueue({
    tab: crypto.getRandomValues(new Uint32Array(2)).join("-"),
    storage: sessionStorage,
    post: (run, entries) => postEntries(gallery, run, entries),
    onAnswer: (answer, settled) => takeAnswer(gallery, answer, settled),
    onTrouble: (error, waiting) => showTrouble(gallery, `${waiting} decision${waiting > 1 ? "s" : ""} not saved yet: the app does not answer (${error.message}). They are kept here and sent again; leave this tab open.`),
  });
  gallery.previous.onclick = () => turnPage(gallery, -1);
  gallery.next.onclick = () => turnPage(gallery, 1);
  return gallery;
}

function update(gallery, data) {
  const { queue } = gallery;
  gallery.data = data;
  if (queue.run !== data.run) Object.assign(gallery, { waitingForStep: false, waitingKeys: [] });
  queue.open(data.run);
  gallery.head = data.head;
  const rows = data.run + ":" + data.cards.map((card) => card.row).join();
  const truths = data.cards.map((card) => card.truth).join();
  const otherCards = rows !== gallery.rows;
  if (otherCards) {
    // Where to go on: the first image that nobody decided yet.
    const firstOpen = data.cards.findIndex((card) => card.verdict === "open");
    gallery.focus = Math.max(0, gallery.enterAtEnd ? data.cards.length - 1 : firstOpen);
    gallery.enterAtEnd = false;
  }
  if (otherCards || truths !== gallery.truths) {
    Object.assign(gallery, { rows, truths, cards: data.cards });
    drawCards(gallery);
  } else {
    data.cards.forEach((card, index) => { if (!queue.holds(card.row)) setVerdict(gallery, index, card.verdict, card.label); });
  }
  for (const { kind, row, verdict, label } of queue.entries) {
    const index = gallery.cards.findIndex((card) => card.row === row);
    if (kind === "decide" && index >= 0) setVerdict(gallery, index, verdict, labelAfter(gallery, gallery.cards[index], verdict, label));
  }
  gallery.pages.textContent = `Page ${data.page} of ${data.pages.toLocaleString()}`;
  gallery.previous.disabled = data.page <= 1;
  gallery.next.disabled = data.page >= data.pages;
  drawBar(gallery, data.summary);
  if (gallery.turning && data.page !== gallery.turning.from) {
    clearTimeout(gallery.turning.timer);
    gallery.turning = null;
    takeWaitingKeys(gallery);
  }
}

// Else the keys would go into the box in which a filter was just chosen with the mouse.
function releaseFilter(event) {
  if (!event.target.closest?.('[role="option"]')) return;
  setTimeout(() => { if (document.activeElement?.matches('[role="combobox"]')) document.activeElement.blur(); }, 300);
}

function turnPage(gallery, by) {
  if (gallery.turning) return;
  gallery.turning = { from: gallery.data.page, timer: setTimeout(() => {
    gallery.turning = null;
    const lost = gallery.waitingKeys.splice(0).length;
    showTrouble(gallery, `The page does not come: the app does not answer.${lost ? ` ${lost} keys pressed meanwhile were not taken.` : ""} Decisions made before are kept here.`);
  }, TURN_TAKES) };
  gallery.askPage(by);
}

const className = (gallery, label) => gallery.data.classes[label] ?? "a class that this run lacks";

function makeElement(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function makePicture(source, alt, className) {
  const image = makeElement("img", className);
  image.src = source;
  image.alt = alt;
  image.decoding = "async";
  return image;
}

function drawCards(gallery) {
  gallery.grid.replaceChildren(...gallery.cards.map((card, index) => makeCard(gallery, card, index)));
  gallery.cards.forEach((card, index) => setVerdict(gallery, index, card.verdict, card.label));
  if (gallery.cards.length) moveFocus(gallery, gallery.focus, false);
  else gallery.panel.replaceChildren(makeElement("div", "name", "No image to show."));
}

function makeCard(gallery, card, index) {
  const element = makeElement("div", "card");
  element.tabIndex = -1;
  element.setAttribute("role", "listitem");
  element.dataset.row = card.row;
  element.dataset.id = card.id;
  const labels = makeElement("div", "labels"), facts = makeElement("div", "facts"), text = makeElement("div", "text");
  const suggestion = card.suggested === card.given ? "looks right" : "→ " + className(gallery, card.suggested);
  labels.append(makeElement("span", "given", className(gallery, card.given)), makeElement("span", "suggested", suggestion));
  facts.append(
    makeElement("span", "", `top ${card.top < 10 ? card.top.toPrecision(2) : Math.round(card.top)} %`),
    makeElement("span", "", `${Math.round(100 * card.confidence)} % sure`),
  );
  text.append(labels, facts);
  if (card.findings.length) text.append(makeElement("div", "findings", card.findings.join(" · ")));
  if (card.truth >= 0) text.append(makeElement("div", "truth", `true: ${className(gallery, card.truth)}`));
  element.append(makePicture(card.picture, `Image ${card.id}, labelled ${className(gallery, card.given)}`), text);
  element.onclick = () => moveFocus(gallery, index);
  element.onfocus = () => { if (gallery.focus !== index) moveFocus(gallery, index); };
  return element;
}

// The label that a verdict gives, which the app alone defines; −1 for none.
function labelAfter(gallery, card, verdict, chosen) {
  const labels = { suggested: card.suggested, given: card.given, chosen, none: -1 };
  return labels[gallery.data.verdicts[verdict]?.gives ?? "none"] ?? -1;
}

function setVerdict(gallery, index, verdict, label) {
  const card = gallery.cards[index], element = gallery.grid.children[index];
  card.verdict = verdict;
  card.label = label;
  element.className = `card ${verdict === "open" ? "" : verdict}${index === gallery.focus ? " focus" : ""}`;
  element.querySelector(".badge")?.remove();
  const { gives, badge } = gallery.data.verdicts[verdict] ?? {};
  // The label as it was decided: what was accepted may be what another run of these images suggested.
  const changes = gives === "suggested" || gives === "chosen" ? className(gallery, label) : "";
  if (badge) element.append(makeElement("span", "badge", `${badge} ${changes}`.trim()));
  const state = `${verdict} ${changes}`.trim();
  element.setAttribute("aria-label", `${card.id}: labelled ${className(gallery, card.given)}, suggested ${className(gallery, card.suggested)}, ${state}`);
}

function showVerdict(gallery, row, verdict, label) {
  const index = gallery.cards.findIndex((card) => card.row === row);
  if (index >= 0) setVerdict(gallery, index, verdict, label);
}

function moveFocus(gallery, to, takeKeyboard = true) {
  if (!gallery.cards.length) return;
  const index = Math.min(Math.max(to, 0), gallery.cards.length - 1);
  for (const [at, element] of [...gallery.grid.children].entries()) {
    element.classList.toggle("focus", at === index);
    element.tabIndex = at === index ? 0 : -1;
  }
  gallery.focus = index;
  if (takeKeyboard) {
    gallery.grid.children[index].focus({ preventScroll: true });
    gallery.grid.children[index].scrollIntoView({ block: "nearest" });
  }
  drawPanel(gallery);
  clearTimeout(gallery.evidenceTimer);
  gallery.evidenceTimer = setTimeout(() => fetchEvidence(gallery), 80);
}

async function fetchEvidence(gallery) {
  const card = gallery.cards[gallery.focus], place = `${gallery.data.run}/${card.row}`;
  if (!gallery.evidence.has(place)) {
    try {
      const answer = await fetch(`/evidence/${place}`);
      if (answer.ok) gallery.evidence.set(place, await answer.json());
    } catch { return; }
  }
  if (gallery.cards[gallery.focus] === card) drawEvidence(gallery);
}

function drawPanel(gallery) {
  const card = gallery.cards[gallery.focus];
  const actions = makeElement("div", "actions");
  const addButton = (text, verdict, main) => {
    const button = makeElement("button", main ? "main" : "", text);
    button.type = "button";
    button.onclick = () => decide(gallery, verdict);
    actions.append(button);
  };
  const same = card.suggested === card.given;
  addButton(same ? "Label is right" : `Accept “${className(gallery, card.suggested)}”`, "accept", true);
  addButton(`Keep “${className(gallery, card.given)}”`, "keep");
  addButton("Skip", "skip");
  actions.append(makeClassPicker(gallery));
  gallery.panel.replaceChildren(
    makePicture(card.picture, `Image ${card.id}`, "large"), makeElement("div", "name", card.id), actions,
    makeElement("h4", "", `P(label is wrong) ${Math.round(100 * card.wrong)} %`), makeElement("div", "evidence"),
  );
  drawEvidence(gallery);
}

function makeClassPicker(gallery) {
  const picker = makeElement("select");
  picker.setAttribute("aria-label", "Choose another class");
  picker.append(new Option("Another class…", ""), ...gallery.data.classes.map((text, at) => new Option(at < 9 ? `${at + 1}  ${text}` : text, at)));
  picker.title = "With the arrow keys: Enter takes the class chosen";
  // Arrow keys change a closed list at every step, so only the pointer decides at once.
  let byKey = false;
  const relabel = () => { if (picker.value) decide(gallery, "relabel", Number(picker.value)); };
  picker.onpointerdown = () => { byKey = false; };
  picker.onkeydown = (event) => {
    byKey = true;
    if (event.key === "Enter" && picker.value) { event.preventDefault(); relabel(); }
  };
  picker.onchange = () => { if (!byKey) relabel(); };
  return picker;
}

// Apart from what stands above it, which may have the keyboard's focus when it comes.
function drawEvidence(gallery) {
  const card = gallery.cards[gallery.focus], evidence = gallery.evidence.get(`${gallery.data.run}/${card.row}`);
  const given = className(gallery, card.given), suggested = className(gallery, card.suggested), parts = [];
  if (evidence) {
    parts.push(makeElement("h4", "", "Score under each label (short: plausible)"));
    const bars = makeElement("div", "bars"), most = Math.max(...evidence.scores, 1e-30);
    evidence.labels.forEach((label, at) => {
      // The most plausible ones, and always the given one, which among many classes is seldom one of them.
      if (at >= 11 && label !== given) return;
      const kind = label === suggested ? "suggested" : label === given ? "given" : "";
      const bar = makeElement("i", kind);
      bar.style.width = `${Math.max(0, (100 * evidence.scores[at]) / most)}%`;
      bars.append(makeElement("span", kind, label + (label === given ? " (given)" : "")), bar);
    });
    parts.push(bars);
    const neighbours = [[suggested, evidence.near_suggested]];
    if (card.suggested !== card.given) neighbours.push([given, evidence.near_given]);
    for (const [label, addresses] of neighbours) {
      if (!addresses.length) continue;
      parts.push(makeElement("h4", "", evidence.trusted ? `Most alike among trusted “${label}”` : `Most alike among the surest “${label}”`));
      const near = makeElement("div", "near");
      near.append(...addresses.map((source) => makePicture(source, `${evidence.trusted ? "Trusted" : "Sure"} ${label}`)));
      parts.push(near);
    }
  }
  gallery.panel.querySelector(".evidence").replaceChildren(...parts);
}

function drawBar(gallery, summary) {
  const item = (value, text) => {
    const element = makeElement("span");
    element.append(makeElement("b", "", value), " " + text);
    return element;
  };
  const whole = (value) => Math.round(value).toLocaleString();
  const now = Date.now();
  gallery.decisionTimes = gallery.decisionTimes.filter((time) => now - time < 120000);
  const times = gallery.decisionTimes, minutes = times.length > 4 ? Math.max((now - times[0]) / 60000, 0.05) : 0;
  const parts = [
    item(whole(summary.decided), `of ${whole(summary.images)} decided`), item(whole(summary.changed), "labels changed"),
    summary.no_sign
      ? item("No sign", `of wrong labels left, at most ${whole(summary.interval_open[1])}`)
      : item("≈ " + whole(summary.expected_open), `(${summary.interval_open.map(whole).join("–")}) wrong labels left`),
    item("≈ " + whole(summary.expected_next), `of them among the next ${summary.next} suspects`),
  ];
  if (minutes) parts.push(item(whole(times.length / minutes), "decisions a minute"));
  if (gallery.message) parts.push(makeElement("span", "", gallery.message));
  if (summary.next && !summary.likely_next && summary.expected_next / summary.next < 0.05) {
    parts.push(makeElement("span", "", "A good place to stop: fewer than 1 in 20 is wrong from here."));
  }
  const meter = makeElement("div", "meter"), fill = makeElement("i");
  fill.style.width = `${Math.min(100, (100 * summary.decided) / Math.max(1, summary.expected))}%`;
  meter.title = "Images decided, as a share of the wrong labels expected";
  meter.append(fill);
  gallery.bar.replaceChildren(...parts, meter);
}

function handleKey(gallery, event) {
  const inside = event.composedPath()[0];
  // A switch or slider that was used last keeps the focus, but takes no letters.
  const switched = inside.tagName === "INPUT" && /^(checkbox|radio|range)$/.test(inside.type);
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || inside.isContentEditable) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(inside.tagName) && !switched) return;
  if (document.querySelector('[role="dialog"]') || !gallery.grid.isConnected) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (!KEYS.test(key) || (switched && key.startsWith("Arrow"))) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  // A key held down moves on, but decides only once: what comes next was not looked at.
  if (!event.repeat || MOVES.test(key)) takeKey(gallery, key);
}

// Keys that come while the page or an undo is on its way are for what it brings.
function takeKey(gallery, key) {
  if (gallery.turning || gallery.waitingForStep) gallery.waitingKeys.push(key);
  else actOnKey(gallery, key);
}

function takeWaitingKeys(gallery) {
  for (const key of gallery.waitingKeys.splice(0)) takeKey(gallery, key);
}

function actOnKey(gallery, key) {
  gallery.message = "";
  const columns = getComputedStyle(gallery.grid).gridTemplateColumns.split(" ").length;
  const moves = { j: 1, k: -1, ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  if (key in moves) moveBy(gallery, moves[key]);
  else if (key in VERDICT_OF_KEY) decide(gallery, VERDICT_OF_KEY[key]);
  else if (/^[1-9]$/.test(key)) { if (Number(key) <= gallery.data.classes.length) decide(gallery, "relabel", Number(key) - 1); }
  else if (key === "u") step(gallery, "undo");
  else if (key === "y") step(gallery, "redo");
  else if (key === "n" && !gallery.next.disabled) turnPage(gallery, 1);
  else if (key === "p" && !gallery.previous.disabled) turnPage(gallery, -1);
}

function moveBy(gallery, by) {
  const to = gallery.focus + by;
  if (to >= gallery.cards.length && by === 1 && !gallery.next.disabled) return turnPage(gallery, 1);
  if (to < 0 && by === -1 && !gallery.previous.disabled) { gallery.enterAtEnd = true; return turnPage(gallery, -1); }
  if (to >= 0 && to < gallery.cards.length) moveFocus(gallery, to);
}

function decide(gallery, verdict, label) {
  const card = gallery.cards[gallery.focus];
  if (!card) return;
  setVerdict(gallery, gallery.focus, verdict, labelAfter(gallery, card, verdict, label));
  gallery.decisionTimes.push(Date.now());
  gallery.queue.add({ kind: "decide", row: card.row, verdict, label });
  moveBy(gallery, 1);
}

function step(gallery, kind) {
  gallery.waitingForStep = true;
  gallery.queue.add({ kind });
}

async function postEntries(gallery, run, entries) {
  const body = JSON.stringify({ head: gallery.head, entries, shown: gallery.cards.map((card) => card.row) });
  const headers = { "content-type": "application/json", "x-sharpeye": "1" };
  const response = await fetch(`/decisions/${run}`, { method: "POST", body, keepalive: body.length < 60000, headers });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function takeAnswer(gallery, answer, settled) {
  gallery.head = answer.head;
  for (const [row, verdict, label] of answer.changes) if (!gallery.queue.holds(row)) showVerdict(gallery, row, verdict, label);
  drawBar(gallery, answer.summary);
  const conflicts = answer.conflicts.length;
  showTrouble(gallery, conflicts ? `${conflicts} of these were decided in another tab meanwhile and are left as they are there; decide again to overrule.` : "");
  if (!gallery.waitingForStep || !settled) return;
  gallery.waitingForStep = false;
  if (answer.step) followStep(gallery, answer.step);
  drawBar(gallery, answer.summary);
  takeWaitingKeys(gallery);
}

// To the image that an undo took back, or past the one that a redo brought back.
function followStep(gallery, { kind, rows, count, first }) {
  const what = count > 1 ? `${count.toLocaleString()} decisions` : `the decision on ${first}`;
  const index = count === 1 ? gallery.cards.findIndex((card) => card.row === rows[0]) : -1;
  if (!count) gallery.message = `Nothing to ${kind}.`;
  else if (index < 0) gallery.message = kind === "undo" ? `Took back ${what}.` : `Brought back ${what}.`;
  else {
    moveFocus(gallery, index);
    if (kind === "redo") moveBy(gallery, 1);
  }
}

function showTrouble(gallery, text) {
  gallery.trouble.textContent = text;
  gallery.trouble.hidden = !text;
}
