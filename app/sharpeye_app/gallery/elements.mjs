// Small builders of elements.
export function makeElement(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function makePicture(source, alt, className) {
  const image = makeElement("img", className);
  image.src = source;
  image.alt = alt;
  image.decoding = "async";
  return image;
}

export function makeButton(text, action, className) {
  const button = makeElement("button", className, text);
  button.type = "button";
  button.onclick = action;
  return button;
}

// What a person set in this browser, whatever the run; `fallback` where it cannot be kept.
export function setting(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`sharpeye-${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keepSetting(name, value) {
  try {
    localStorage.setItem(`sharpeye-${name}`, JSON.stringify(value));
  } catch { /* a browser without storage forgets */ }
}
