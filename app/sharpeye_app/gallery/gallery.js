import { commandOf, commandsOf, keyTitle } from "./commands.mjs";
import { openKeys, openPicker, openViewer } from "./dialogs.mjs";
import { evidenceParts, nameOf, opinionOf } from "./evidence.mjs";
import { keepSetting, makeButton, makeElement, makePicture, setting } from "./elements.mjs";
import { DecisionQueue } from "./queue.mjs";

// One gallery lives on a page; what must outlast a redraw is kept here.
const galleries = new WeakMap();
const TURN_TAKES = 8000;
const MOVES = ["next", "previous", "below", "above"];
const HEADERS = { "content-type": "application/json", "x-sharpeye": "1" };

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
  const skip = skipLink(gallery);
  return gallery.leave = () => {
    window.removeEventListener("keydown", onKey, true);
    window.removeEventListener("beforeunload", onLeave);
    window.removeEventListener("pointerup", releaseFilter, true);
    skip.remove();
  };
}

// The first thing that Tab reaches on the page, and seen only then.
function skipLink(gallery) {
  const link = makeElement("a", "", "Skip to the images"), hidden = "position:fixed;left:8px;top:-60px;z-index:1000001;padding:8px 14px;border-radius:6px;background:#0b6f66;color:#fff";
  (gallery.root.host ?? gallery.root).id = "images";
  link.href = "#images";
  link.style.cssText = hidden;
  link.onfocus = () => { link.style.top = "8px"; };
  link.onblur = () => { link.style.top = "-60px"; };
  link.onclick = (event) => { event.preventDefault(); moveFocus(gallery, gallery.focus); };
  document.body.prepend(link);
  return link;
}

function create(root) {
  const part = (name) => root.querySelector("." + name);
  const gallery = {
    root, bar: part("bar"), said: part("said"), trouble: part("trouble"), grid: part("grid"), panel: part("panel"),
    pages: part("pages"), previous: part("previous"), next: part("next"), keys: part("keys"), selectedText: part("selected"),
    focus: 0, anchor: 0, selected: new Set(), rows: "", cards: [], decisionTimes: [], evidence: new Map(), notes: new Map(),
    message: "", turning: null, waitingForStep: false, waitingForLabels: false, waitingKeys: [], classPictures: null,
    viewer: null, ownKeys: setting("keys", {}),
  };
  gallery.queue = new DecisionQueue({
    tab: crypto.getRandomValues(new Uint32Array(2)).join("-"),
    storage: sessionStorage,
    post: (run, entries) => postEntries(gallery, run, entries),
    onAnswer: (answer, settled) => takeAnswer(gallery, answer, settled),
    onTrouble: (error, waiting) => showTrouble(gallery, `${waiting} decision${waiting > 1 ? "s" : ""} not saved yet: ${error.message}. They are kept here and sent again; leave this tab open.`),
    onRefused: (error) => showTrouble(gallery, `A decision was not taken and is dropped: ${error.message}`),
  });
  gallery.previous.onclick = () => turnPage(gallery, -1);
  gallery.next.onclick = () => turnPage(gallery, 1);
  part("help-button").onclick = () => act(gallery, "help");
  const size = part("card-size"), pixels = part("pixels");
  const dress = () => {
    gallery.grid.style.setProperty("--card", `${size.value}px`);
    root.querySelector(".gallery").classList.toggle("sharp", pixels.checked);
  };
  size.value = setting("card-size", 140);
  pixels.checked = setting("pixels", false);
  size.oninput = () => { dress(); keepSetting("card-size", Number(size.value)); };
  pixels.onchange = () => { dress(); keepSetting("pixels", pixels.checked); };
  dress();
  selectByDragging(gallery);
  return gallery;
}

function update(gallery, data) {
  const { queue } = gallery;
  const otherRun = gallery.data && gallery.data.run !== data.run;
  gallery.data = data;
  if (queue.run !== data.run) Object.assign(gallery, { waitingForStep: false, waitingForLabels: false, waitingKeys: [] });
  if (otherRun) gallery.classPictures = null;
  // What an earlier page left unsent goes out at once, and needs to say what this page knows.
  gallery.head = data.head;
  queue.open(data.run);
  gallery.commands = commandsOf(data.verdicts, gallery.ownKeys);
  const rows = [data.run, data.blind, data.who, ...data.cards.map((card) => [card.row, card.same.length])].join();
  const truths = data.cards.map((card) => card.truth).join();
  const otherCards = rows !== gallery.rows;
  if (otherCards) {
    // Where to go on: the first image that nobody decided yet.
    const firstOpen = data.cards.findIndex((card) => card.verdict === "open");
    gallery.focus = gallery.anchor = Math.max(0, gallery.enterAtEnd ? data.cards.length - 1 : firstOpen);
    gallery.enterAtEnd = false;
    gallery.selected.clear();
  }
  if (otherCards || truths !== gallery.truths) {
    Object.assign(gallery, { rows, truths, cards: data.cards });
    drawCards(gallery);
  } else {
    data.cards.forEach((card, index) => { if (!queue.holds(card.row)) setVerdict(gallery, index, card.verdict, card.label); });
  }
  for (const { kind, rows: decided, verdict, label } of queue.entries) {
    if (kind !== "decide") continue;
    gallery.cards.forEach((card, index) => {
      if (decided.includes(card.row)) setVerdict(gallery, index, verdict, labelAfter(gallery, card, verdict, label));
    });
  }
  gallery.pages.textContent = `Page ${data.page} of ${data.pages.toLocaleString()}`;
  gallery.previous.disabled = data.page <= 1;
  gallery.next.disabled = data.page >= data.pages;
  drawKeys(gallery);
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

const className = (gallery, label) => nameOf(gallery.data.classes, label);

function drawKeys(gallery) {
  const shown = ["accept", "keep", "pick", "skip", "look", "undo"].map((name) => {
    const part = makeElement("span"), { key, title } = gallery.commands[name];
    part.append(makeElement("kbd", "", keyTitle(key)), ` ${title.split(" (")[0].toLowerCase()}`);
    return part;
  });
  gallery.keys.replaceChildren(...shown);
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
  element.id = `sharpeye-card-${index}`;
  element.setAttribute("role", "option");
  element.dataset.row = card.row;
  element.dataset.id = card.id;
  const labels = makeElement("div", "labels"), facts = makeElement("div", "facts"), text = makeElement("div", "text");
  labels.append(makeElement("span", "given", className(gallery, card.given)), makeElement("span", "suggested", opinionOf(card, gallery.data.classes)));
  facts.append(
    makeElement("span", "", `rank ${card.rank.toLocaleString()}`),
    makeElement("span", "", `${Math.round(100 * card.confidence)} % sure`),
  );
  text.append(labels, facts);
  if (card.findings.length) text.append(makeElement("div", "findings", card.findings.join(" · ")));
  if (card.truth >= 0) text.append(makeElement("div", "truth", `true: ${className(gallery, card.truth)}`));
  element.append(makePicture(card.picture, ""), text);
  if (card.same.length) element.append(makeElement("span", "same", `${card.same.length + 1} alike`));
  element.onclick = (event) => {
    if (event.shiftKey) selectTo(gallery, index);
    else moveFocus(gallery, index);
  };
  element.ondblclick = () => { moveFocus(gallery, index); act(gallery, "look"); };
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
  const { gives, badge } = gallery.data.verdicts[verdict] ?? {};
  const kind = verdict === "open" ? "" : gives === "none" ? "unlabelled" : label === card.given ? "kept" : "changed";
  element.className = ["card", kind, index === gallery.focus ? "focus" : "", gallery.selected.has(card.row) ? "chosen" : ""].join(" ");
  element.dataset.verdict = verdict;
  element.querySelector(".badge")?.remove();
  // The label as it was decided: what was accepted may be what another run of these images suggested.
  const changes = gives === "suggested" || gives === "chosen" ? className(gallery, label) : "";
  if (badge) element.append(makeElement("span", "badge", `${badge} ${changes}`.trim()));
  const state = verdict === "open" ? "open" : `${badge} ${changes}`.trim();
  element.setAttribute("aria-label", `${card.id}: labelled ${className(gallery, card.given)}, ${opinionOf(card, gallery.data.classes)}, ${state}`);
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
  gallery.focus = gallery.anchor = index;
  select(gallery, []);
  showFocus(gallery, takeKeyboard);
}

function showFocus(gallery, takeKeyboard) {
  const element = gallery.grid.children[gallery.focus];
  // The keyboard stays in an open box.
  if (takeKeyboard && !gallery.root.querySelector(".cover")) {
    element.focus({ preventScroll: true });
    element.scrollIntoView({ block: "nearest" });
  }
  drawPanel(gallery);
  clearTimeout(gallery.evidenceTimer);
  gallery.evidenceTimer = setTimeout(() => fetchEvidence(gallery, gallery.cards[gallery.focus], true), 80);
}

// The cards that the next verdict is for: those selected, or the one in focus.
const chosenCards = (gallery) => (gallery.selected.size ? gallery.cards.filter((card) => gallery.selected.has(card.row)) : gallery.cards.slice(gallery.focus, gallery.focus + 1));

function select(gallery, rows) {
  if (!rows.length && !gallery.selected.size) return;
  gallery.selected = new Set(rows);
  gallery.cards.forEach((card, index) => {
    gallery.grid.children[index].classList.toggle("chosen", gallery.selected.has(card.row));
    gallery.grid.children[index].setAttribute("aria-selected", gallery.selected.has(card.row));
  });
  gallery.selectedText.textContent = rows.length ? `${rows.length} selected: a verdict is for all of them` : "";
}

function selectTo(gallery, index) {
  const to = Math.min(Math.max(index, 0), gallery.cards.length - 1), anchor = gallery.anchor;
  const [first, last] = [Math.min(anchor, to), Math.max(anchor, to)];
  moveFocus(gallery, to);
  gallery.anchor = anchor;
  select(gallery, gallery.cards.slice(first, last + 1).map((card) => card.row));
}

// A frame drawn with the mouse over the grid selects the cards that it touches.
function selectByDragging(gallery) {
  const { grid } = gallery;
  let from = null, frame = null;
  grid.addEventListener("pointerdown", (event) => { if (event.button === 0 && event.pointerType === "mouse") from = [event.clientX, event.clientY]; });
  grid.addEventListener("dragstart", (event) => event.preventDefault());
  window.addEventListener("pointermove", (event) => {
    if (!from || Math.hypot(event.clientX - from[0], event.clientY - from[1]) < 12) return;
    frame ??= grid.parentElement.appendChild(makeElement("div", "frame"));
    const [left, right] = [from[0], event.clientX].sort((a, b) => a - b), [top, bottom] = [from[1], event.clientY].sort((a, b) => a - b);
    Object.assign(frame.style, { left: `${left}px`, top: `${top}px`, width: `${right - left}px`, height: `${bottom - top}px` });
    const touched = gallery.cards.filter((_, index) => {
      const box = grid.children[index].getBoundingClientRect();
      return box.left < right && box.right > left && box.top < bottom && box.bottom > top;
    });
    select(gallery, touched.map((card) => card.row));
  });
  window.addEventListener("pointerup", () => {
    // Else the click at its end would put the focus there, and clear the selection.
    if (frame) window.addEventListener("click", (event) => event.stopPropagation(), { capture: true, once: true });
    frame?.remove();
    from = frame = null;
  });
}

async function fetchEvidence(gallery, card, alsoNext) {
  if (!card) return;
  const place = `${gallery.data.run}/${card.row}`;
  if (!gallery.evidence.has(place)) {
    try {
      const answer = await fetch(`/evidence/${place}`);
      if (answer.ok) gallery.evidence.set(place, await answer.json());
    } catch { return; }
  }
  if (gallery.cards[gallery.focus] !== card) return;
  drawEvidence(gallery);
  // So that digits and the panel are ready when the focus comes there.
  if (alsoNext) fetchEvidence(gallery, gallery.cards[gallery.focus + 1], false);
}

const evidenceOf = (gallery, card) => gallery.evidence.get(`${gallery.data.run}/${card.row}`);

function drawPanel(gallery) {
  const card = gallery.cards[gallery.focus];
  const actions = makeElement("div", "actions"), { verdicts } = gallery.data;
  const addButton = (text, verdict, main) => {
    const button = makeButton(text, () => decide(gallery, verdict), main ? "main" : "");
    const key = gallery.commands[verdict]?.key;
    if (key) button.append(" ", makeElement("kbd", "", keyTitle(key)));
    actions.append(button);
  };
  const same = card.suggested === card.given;
  if (!same) addButton(`Accept “${className(gallery, card.suggested)}”`, "accept", true);
  addButton(`Keep “${className(gallery, card.given)}”`, "keep", same);
  const another = makeButton("Another class…", () => act(gallery, "pick"));
  another.append(" ", makeElement("kbd", "", keyTitle(gallery.commands.pick.key)));
  actions.append(another);
  addButton(verdicts.skip.title, "skip");
  const others = makeElement("details", "others");
  others.open = setting("others", false);
  others.ontoggle = () => keepSetting("others", others.open);
  others.append(makeElement("summary", "", "Other verdicts and a note"));
  const more = makeElement("div", "actions");
  for (const [name, verdict] of Object.entries(verdicts)) {
    if (verdict.gives !== "none" || name === "skip") continue;
    const button = makeButton(verdict.badge, () => decide(gallery, name));
    button.title = verdict.title + (verdict.excludes ? ": left out of the cleaned copy" : "");
    if (gallery.commands[name].key) button.append(" ", makeElement("kbd", "", keyTitle(gallery.commands[name].key)));
    more.append(button);
  }
  const note = makeElement("input", "note");
  note.placeholder = `A note (${keyTitle(gallery.commands.note.key)}); Enter keeps it`;
  note.setAttribute("aria-label", "A note");
  note.maxLength = 2000;
  note.value = gallery.notes.get(card.row) ?? "";
  note.onkeydown = (event) => {
    if (event.key === "Escape") showFocus(gallery, true);
    if (event.key !== "Enter") return;
    event.preventDefault();
    keepNote(gallery, card, note.value.trim());
  };
  note.onchange = () => gallery.notes.set(card.row, note.value.trim());
  others.append(more, note);
  gallery.panel.replaceChildren(
    makePicture(card.picture, `Image ${card.id}`, "large"),
    makeElement("div", "name", `${card.id} · rank ${card.rank.toLocaleString()} of ${gallery.data.images.toLocaleString()}`),
    actions, others, makeElement("div", "evidence"),
  );
  const large = gallery.panel.querySelector(".large");
  large.title = "Look closely (Space)";
  large.onclick = () => act(gallery, "look");
  drawEvidence(gallery);
}

// A note goes with the next verdict; on a decided image, with the one that holds.
function keepNote(gallery, card, text) {
  gallery.notes.set(card.row, text);
  if (card.verdict !== "open") {
    gallery.queue.add({ kind: "decide", rows: [card.row], verdict: card.verdict, label: card.label < 0 ? null : card.label, note: text });
    say(gallery, `Note kept on ${card.id}.`);
  } else {
    say(gallery, "The note goes with your decision.");
  }
  showFocus(gallery, true);
}

// Apart from what stands above it, which may have the keyboard's focus when it comes.
function drawEvidence(gallery) {
  const card = gallery.cards[gallery.focus], evidence = evidenceOf(gallery, card);
  const parts = evidence ? evidenceParts(card, evidence, gallery.data.classes, (label) => decide(gallery, "relabel", label)) : [];
  gallery.panel.querySelector(".evidence").replaceChildren(...parts);
  if (gallery.viewer) showInViewer(gallery);
  if (evidence && gallery.waitingForLabels) {
    gallery.waitingForLabels = false;
    takeWaitingKeys(gallery);
  }
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
      : item("≈ " + whole(summary.expected_open), `(${summary.interval_open.map(whole).join("–")}) wrong labels left if you stop now`),
    item("≈ " + whole(summary.expected_next), `of them among the next ${summary.next} suspects`),
  ];
  if (summary.recent >= 10) parts.push(item(`${summary.hits} of ${summary.recent}`, `last ones were wrong, ${whole(summary.predicted)} expected`));
  parts.push(item(whole(summary.today), `by ${gallery.data.who} today`));
  if (minutes) parts.push(item(whole(times.length / minutes), "a minute"));
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
  const cover = gallery.root.querySelector(".cover");
  if ((cover && !gallery.viewer) || document.querySelector('[data-testid="stDialog"]') || !gallery.grid.isConnected) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  // Buttons and summaries are pressed by Space, and lists are walked by arrows.
  if (key === " " && (/^(BUTTON|SUMMARY|A)$/.test(inside.tagName) || switched)) return;
  if (switched && key.startsWith("Arrow")) return;
  const command = commandOf(gallery.commands, key);
  if (!command || (command === "clear" && (gallery.viewer || !gallery.selected.size))) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  // A key held down moves on, but decides only once: what comes next was not looked at.
  if (!event.repeat || MOVES.includes(command)) takeKey(gallery, event.shiftKey && MOVES.includes(command) ? `select ${command}` : command);
}

// Keys that come while the page, an undo or the labels of an image are on their way are for what these bring.
function takeKey(gallery, command) {
  if (gallery.turning || gallery.waitingForStep || gallery.waitingForLabels) gallery.waitingKeys.push(command);
  else act(gallery, command);
}

function takeWaitingKeys(gallery) {
  for (const command of gallery.waitingKeys.splice(0)) takeKey(gallery, command);
}

function act(gallery, command) {
  gallery.message = "";
  const columns = getComputedStyle(gallery.grid).gridTemplateColumns.split(" ").length;
  const moves = { next: 1, previous: -1, below: columns, above: -columns };
  if (command in moves) moveBy(gallery, moves[command]);
  else if (command.startsWith("select ")) selectTo(gallery, gallery.focus + moves[command.slice(7)]);
  else if (command.startsWith("label ")) takeLabel(gallery, Number(command.slice(6)) - 1);
  else if (command in gallery.data.verdicts) decide(gallery, command);
  else if (command === "undo" || command === "redo") step(gallery, command);
  else if (command === "next page" && !gallery.next.disabled) turnPage(gallery, 1);
  else if (command === "previous page" && !gallery.previous.disabled) turnPage(gallery, -1);
  else if (command === "pick") pickClass(gallery);
  else if (command === "look") lookClosely(gallery);
  else if (command === "note") writeNote(gallery);
  else if (command === "clear") select(gallery, []);
  else if (command === "help") showKeys(gallery);
}

function moveBy(gallery, by) {
  const to = gallery.focus + by;
  if (to >= gallery.cards.length && by === 1 && !gallery.next.disabled) return turnPage(gallery, 1);
  if (to < 0 && by === -1 && !gallery.previous.disabled) { gallery.enterAtEnd = true; return turnPage(gallery, -1); }
  if (to >= 0 && to < gallery.cards.length) moveFocus(gallery, to);
}

// The label that the panel lists at a place; waits for the list where it is on its way.
function takeLabel(gallery, place) {
  const card = gallery.cards[gallery.focus];
  if (!card) return;
  const evidence = evidenceOf(gallery, card);
  if (!evidence) {
    gallery.waitingForLabels = true;
    gallery.waitingKeys.unshift(`label ${place + 1}`);
    clearTimeout(gallery.evidenceTimer);
    fetchEvidence(gallery, card, true).then(() => {
      if (!evidenceOf(gallery, card)) Object.assign(gallery, { waitingForLabels: false, waitingKeys: [] });
    });
    return;
  }
  const label = gallery.data.classes.indexOf(evidence.labels[place]);
  if (label >= 0) decide(gallery, "relabel", label);
}

function pickClass(gallery) {
  const card = gallery.cards[gallery.focus];
  if (!card) return;
  const picker = openPicker(gallery.root, {
    names: () => gallery.data.classes,
    pictures: () => gallery.classPictures,
    taken: (label) => (label === card.given ? "given" : label === card.suggested ? "suggested" : ""),
    choose: (label) => decide(gallery, "relabel", label),
    add: gallery.data.lead ? (name) => addClass(gallery, name) : null,
  });
  if (!gallery.classPictures) {
    fetch(`/classes/${gallery.data.run}`).then((answer) => answer.json()).then((pictures) => {
      gallery.classPictures = pictures;
      picker.redraw();
    }).catch(() => {});
  }
}

async function addClass(gallery, name) {
  const { who, signature, run } = gallery.data;
  try {
    const answer = await fetch(`/classes/${run}`, { method: "POST", headers: HEADERS, body: JSON.stringify({ who, signature, name }) });
    const known = await answer.json();
    if (!answer.ok) throw new Error(known.error);
    gallery.data.classes = known;
    return known.indexOf(name);
  } catch (error) {
    showTrouble(gallery, `The class was not added: ${error.message}`);
    return null;
  }
}

function lookClosely(gallery) {
  if (gallery.viewer) { gallery.viewer.close(); return; }
  if (!gallery.cards.length) return;
  gallery.viewer = openViewer(gallery.root, () => { gallery.viewer = null; showFocus(gallery, true); });
  showInViewer(gallery);
}

function showInViewer(gallery) {
  const card = gallery.cards[gallery.focus], place = `${gallery.data.run}/${card.row}`;
  const evidence = evidenceOf(gallery, card), parts = evidence ? evidenceParts(card, evidence, gallery.data.classes, (label) => decide(gallery, "relabel", label)) : [];
  const name = makeElement("div", "name", `${card.id}: labelled ${className(gallery, card.given)}, ${opinionOf(card, gallery.data.classes)}`);
  if (gallery.viewer.row !== card.row || evidence) gallery.viewer.show(`/originals/${place}`, card.picture, `Image ${card.id}`, [name, ...parts]);
  gallery.viewer.row = card.row;
}

function writeNote(gallery) {
  const note = gallery.panel.querySelector(".note");
  if (!note) return;
  gallery.panel.querySelector(".others").open = true;
  note.focus();
}

function showKeys(gallery) {
  const changed = (own) => {
    gallery.ownKeys = own;
    keepSetting("keys", own);
    gallery.commands = commandsOf(gallery.data.verdicts, own);
    drawKeys(gallery);
    drawPanel(gallery);
    return gallery.commands;
  };
  openKeys(gallery.root, {
    commands: gallery.commands,
    choose: (name, key) => changed({ ...Object.fromEntries(Object.entries(gallery.ownKeys).filter(([, taken]) => taken !== key)), [name]: key }),
    reset: () => changed({}),
  });
}

function decide(gallery, verdict, label) {
  const cards = chosenCards(gallery);
  if (!cards.length || (verdict === "relabel" && label === undefined)) return;
  const several = cards.length > 1;
  let last = "";
  for (const card of cards) {
    const index = gallery.cards.indexOf(card), after = labelAfter(gallery, card, verdict, label);
    const meant = after >= 0 && after === card.given ? "keep" : verdict;
    setVerdict(gallery, index, meant, after);
    last = after >= 0 ? className(gallery, after) : "";
  }
  const { badge, title } = gallery.data.verdicts[verdict];
  say(gallery, several ? `${cards.length} images: ${title}` : last ? `${last} ${verdict === "accept" ? "accepted" : verdict === "keep" ? "kept" : "chosen"}` : badge);
  gallery.decisionTimes.push(Date.now());
  const rows = cards.flatMap((card) => [card.row, ...card.same]);
  const note = several ? "" : gallery.notes.get(cards[0].row) ?? "";
  gallery.queue.add({ kind: "decide", rows, verdict, label: label ?? null, note });
  if (several) select(gallery, []);
  else moveBy(gallery, 1);
}

function step(gallery, kind) {
  gallery.waitingForStep = true;
  gallery.queue.add({ kind });
}

// For those who hear the page.
function say(gallery, text) {
  gallery.said.textContent = text;
}

async function postEntries(gallery, run, entries) {
  const { who, signature, blind } = gallery.data;
  const body = JSON.stringify({ who, signature, blind, head: gallery.head, entries, shown: gallery.cards.map((card) => card.row) });
  let response;
  try {
    response = await fetch(`/decisions/${run}`, { method: "POST", body, keepalive: body.length < 60000, headers: HEADERS });
  } catch (error) {
    throw new Error(`the app does not answer (${error.message})`);
  }
  const answer = await response.json();
  if (response.ok) return answer;
  const error = new Error(answer.error);
  // What the app will never take; a name that it does not know is taken after the page was loaded again.
  error.refused = [400, 404, 413, 422].includes(response.status);
  throw error;
}

function takeAnswer(gallery, answer, settled) {
  gallery.head = answer.head;
  for (const [row, verdict, label] of answer.changes) if (!gallery.queue.holds(row)) showVerdict(gallery, row, verdict, label);
  drawBar(gallery, answer.summary);
  const conflicts = answer.conflicts.length;
  showTrouble(gallery, conflicts ? `${conflicts} of these were decided elsewhere meanwhile and are left as they are there; decide again to overrule.` : "");
  if (!gallery.waitingForStep || !settled) return;
  gallery.waitingForStep = false;
  if (answer.step) followStep(gallery, answer.step);
  drawBar(gallery, answer.summary);
  takeWaitingKeys(gallery);
}

// To the image that an undo took back, or past the one that a redo brought back.
function followStep(gallery, { kind, rows, count, first }) {
  const what = count > 1 ? `${count.toLocaleString()} decisions` : `the decision on ${first}`;
  const index = count ? gallery.cards.findIndex((card) => card.row === rows[0]) : -1;
  if (!count) gallery.message = `You have nothing to ${kind}.`;
  else if (index < 0 || count > 1) gallery.message = kind === "undo" ? `Took back ${what}.` : `Brought back ${what}.`;
  else {
    moveFocus(gallery, index);
    if (kind === "redo") moveBy(gallery, 1);
  }
  say(gallery, gallery.message || `${kind === "undo" ? "Took back" : "Brought back"} ${what}.`);
}

function showTrouble(gallery, text) {
  gallery.trouble.textContent = text;
  gallery.trouble.hidden = !text;
}
