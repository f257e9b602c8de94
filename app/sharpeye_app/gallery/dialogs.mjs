import { keyTitle, matches, mayBeChosen } from "./commands.mjs";
import { makeButton, makeElement, makePicture } from "./elements.mjs";

const LISTED = 60;
const MOST_ZOOM = 40;

// A box over the page; Escape and a click beside it close it. Returns the box and what closes it.
export function openBox(root, title, className, onClose = () => {}) {
  const before = root.activeElement ?? document.activeElement;
  const cover = makeElement("div", "cover"), box = makeElement("div", `box ${className}`);
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-modal", "true");
  box.setAttribute("aria-label", title);
  box.tabIndex = -1;
  cover.append(box);
  root.querySelector(".gallery").append(cover);
  const close = () => {
    cover.remove();
    onClose();
    before?.focus?.({ preventScroll: true });
  };
  cover.onclick = (event) => { if (event.target === cover) close(); };
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.stopPropagation(); close(); }
    if (event.key !== "Tab") return;
    // The keyboard stays inside while the box is open.
    const inside = [...box.querySelectorAll("button, input")].filter((one) => !one.disabled);
    const last = inside.at(event.shiftKey ? 0 : -1), now = root.activeElement ?? document.activeElement;
    if (inside.length && (now === last || now === box)) {
      event.preventDefault();
      inside.at(event.shiftKey ? -1 : 0).focus();
    }
  });
  box.focus({ preventScroll: true });
  return { box, close };
}

// Choose among all classes by a few letters. `add`, where there is one, makes a class of what was typed.
export function openPicker(root, { names, pictures, taken, choose, add }) {
  const { box, close } = openBox(root, "Find a class", "picker");
  const input = makeElement("input"), list = makeElement("div", "choices");
  input.type = "search";
  input.placeholder = "A few letters of the class";
  input.setAttribute("aria-label", "A few letters of the class");
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-expanded", "true");
  input.setAttribute("aria-controls", "sharpeye-choices");
  list.id = "sharpeye-choices";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Classes");
  let found = [], at = 0;
  const take = (label) => { close(); choose(label); };
  const mark = () => {
    [...list.querySelectorAll('[role="option"]')].forEach((one, number) => one.setAttribute("aria-selected", number === at));
    const chosen = list.querySelector('[aria-selected="true"]');
    chosen?.scrollIntoView({ block: "nearest" });
    if (chosen) input.setAttribute("aria-activedescendant", chosen.id);
    else input.removeAttribute("aria-activedescendant");
  };
  const draw = () => {
    found = matches(input.value, names());
    list.replaceChildren(...found.slice(0, LISTED).map((label, number) => {
      const choice = makeElement("div", "choice");
      choice.id = `sharpeye-choice-${number}`;
      choice.setAttribute("role", "option");
      const picture = pictures()?.[label];
      choice.append(picture ? makePicture(picture, "") : makeElement("span", "blank"), makeElement("span", "", names()[label]));
      if (taken(label)) choice.append(makeElement("span", "mark", taken(label)));
      choice.onclick = () => take(label);
      return choice;
    }));
    if (found.length > LISTED) list.append(makeElement("div", "more", `${(found.length - LISTED).toLocaleString()} more: type on`));
    if (!found.length) list.append(makeElement("div", "more", "No class has these letters."));
    const name = input.value.trim();
    if (add && name && !names().includes(name)) {
      list.append(makeButton(`Add the class “${name}”`, async () => {
        const label = await add(name);
        if (label !== null) take(label);
      }, "add"));
    }
    mark();
  };
  // Only other letters put the mark back: pictures that come later must not.
  input.oninput = () => { at = 0; draw(); };
  input.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      at = Math.min(Math.max(at + step, 0), Math.min(found.length, LISTED) - 1);
      mark();
    } else if (event.key === "Enter" && found.length) {
      event.preventDefault();
      take(found[at]);
    }
  };
  box.append(input, list);
  draw();
  input.focus();
  return { redraw: draw };
}

// The keys, and a person's own: a click on one waits for the key to take its place.
export function openKeys(root, { commands, choose, reset }) {
  const { box } = openBox(root, "Keys", "help");
  const draw = (current, waiting = null, said = "") => {
    const table = makeElement("div", "keys-table");
    for (const [name, { key, title }] of Object.entries(current)) {
      const button = makeButton(waiting === name ? "press a key" : keyTitle(key) || "none", () => draw(current, name));
      button.setAttribute("aria-label", `${title}: key ${keyTitle(key) || "none"}; change it`);
      if (waiting === name) {
        button.onkeydown = (event) => {
          if (["Tab", "Escape", "Shift"].includes(event.key)) return;
          event.preventDefault();
          event.stopPropagation();
          const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
          if (mayBeChosen(pressed)) draw(choose(name, pressed));
          else draw(current, name, "Letters and signs can be chosen; digits and arrows have their own use.");
        };
      }
      table.append(makeElement("span", "", title), button);
    }
    table.append(makeElement("span", "", "The labels that the panel lists"), makeElement("span", "fixed", "1 – 9"));
    table.append(makeElement("span", "", "Select several"), makeElement("span", "fixed", "Shift + arrows, or drag"));
    table.append(makeElement("span", "", "Clear the selection"), makeElement("span", "fixed", "Esc"));
    box.replaceChildren(
      makeElement("h2", "", "Keys"), makeElement("p", "", said || "Click a key to choose another. This browser keeps them."),
      table, makeButton("The usual keys", () => draw(reset())),
    );
    (waiting ? [...box.querySelectorAll("button")].find((one) => one.textContent === "press a key") : box).focus();
  };
  draw(commands);
}

// The original picture with zoom and pan, beside images like it.
export function openViewer(root, onClose) {
  const { box, close } = openBox(root, "The image, closely", "viewer", onClose);
  const stage = makeElement("div", "stage"), side = makeElement("div", "side"), said = makeElement("div", "said-here");
  box.append(stage, side);
  let zoom = 1, x = 0, y = 0, image = null, from = null;
  const place = () => {
    if (!image) return;
    image.style.transform = `translate(${x}px, ${y}px) scale(${zoom})`;
    image.style.imageRendering = zoom * image.clientWidth > 3 * image.naturalWidth ? "pixelated" : "auto";
  };
  const zoomBy = (factor, pointX = 0, pointY = 0) => {
    const next = Math.min(Math.max(zoom * factor, 1), MOST_ZOOM);
    x = pointX - (pointX - x) * (next / zoom);
    y = pointY - (pointY - y) * (next / zoom);
    zoom = next;
    if (zoom === 1) x = y = 0;
    place();
  };
  stage.onwheel = (event) => {
    event.preventDefault();
    const box = stage.getBoundingClientRect();
    zoomBy(Math.exp(-event.deltaY / 400), event.clientX - box.left - box.width / 2, event.clientY - box.top - box.height / 2);
  };
  stage.onpointerdown = (event) => { from = [event.clientX - x, event.clientY - y]; stage.setPointerCapture(event.pointerId); };
  stage.onpointermove = (event) => { if (from) { x = event.clientX - from[0]; y = event.clientY - from[1]; place(); } };
  stage.onpointerup = stage.onpointercancel = () => { from = null; };
  const show = (original, preview, name, evidence) => {
    zoom = 1; x = y = 0;
    image = makePicture(original, name);
    image.draggable = false;
    image.onload = place;
    image.onerror = () => {
      image.onerror = null;
      image.src = preview;
      said.textContent = "The original cannot be read any more; this is the preview.";
    };
    said.textContent = "";
    const tools = makeElement("div", "tools");
    tools.append(makeButton("−", () => zoomBy(1 / 1.5)), makeButton("+", () => zoomBy(1.5)), makeButton("Whole", () => zoomBy(0)), makeButton("Close", close));
    tools.children[0].setAttribute("aria-label", "Zoom out");
    tools.children[1].setAttribute("aria-label", "Zoom in");
    stage.replaceChildren(image, tools, said);
    side.replaceChildren(...evidence);
  };
  return { show, close };
}
