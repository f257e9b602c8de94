// What keys do, and how a class is found by a few letters.

// Beside the verdicts, which the app alone defines.
export const COMMANDS = {
  next: { key: "j", title: "Next image (or →)" },
  previous: { key: "k", title: "Previous image (or ←)" },
  pick: { key: "/", title: "Find a class" },
  look: { key: " ", title: "Look closely" },
  note: { key: "m", title: "Add a note" },
  undo: { key: "u", title: "Undo your last decision" },
  redo: { key: "y", title: "Redo" },
  "next page": { key: "n", title: "Next page" },
  "previous page": { key: "p", title: "Previous page" },
  help: { key: "?", title: "Show the keys" },
};
const FIXED = {
  ArrowRight: "next", ArrowLeft: "previous", ArrowDown: "below", ArrowUp: "above", Escape: "clear",
};

// All commands with their title and key: a person's own keys first, then the usual ones that are left.
export function commandsOf(verdicts, own = {}) {
  const usual = { ...Object.fromEntries(Object.entries(verdicts).filter(([name]) => name !== "relabel")), ...COMMANDS };
  const taken = new Set(Object.entries(own).filter(([name]) => name in usual).map(([, key]) => key));
  return Object.fromEntries(Object.entries(usual).map(([name, { key, title }]) => {
    const chosen = own[name] ?? (taken.has(key) ? "" : key);
    return [name, { key: chosen, title }];
  }));
}

// The command of a key, or undefined. Digits stand for the labels that the panel lists.
export function commandOf(commands, key) {
  if (/^[1-9]$/.test(key)) return `label ${key}`;
  return FIXED[key] ?? Object.keys(commands).find((name) => commands[name].key === key);
}

// Whether a person may choose a key for a command.
export const mayBeChosen = (key) => key.length === 1 && !/^[1-9]$/.test(key);

export const keyTitle = (key) => (key === " " ? "Space" : key.toUpperCase());

// Positions of the names that hold all letters of a text in their order, the closest first: names that are the text,
// begin with it, have a word that does, hold it, hold its letters.
export function matches(text, names) {
  const wanted = text.trim().toLowerCase();
  const rated = [];
  names.forEach((name, at) => {
    const rate = closeness(wanted, name.toLowerCase());
    if (rate !== null) rated.push([rate, name.length, at]);
  });
  rated.sort((one, other) => one[0] - other[0] || (wanted ? one[1] - other[1] : 0) || one[2] - other[2]);
  return rated.map(([, , at]) => at);
}

function closeness(wanted, name) {
  if (!wanted) return 0;
  if (name === wanted) return 0;
  if (name.startsWith(wanted)) return 1;
  if (name.split(/[^\p{L}\p{N}]+/u).some((word) => word.startsWith(wanted))) return 2;
  if (name.includes(wanted)) return 3;
  let at = -1;
  for (const letter of wanted) {
    at = name.indexOf(letter, at + 1);
    if (at < 0) return null;
  }
  return 4;
}
