import { makeButton, makeElement, makePicture } from "./elements.mjs";

// Below this probability of the suggestion, a card says that it is unsure.
const SURE = 0.7;

export const nameOf = (classes, label) => classes[label] ?? "a class that this run lacks";

// What a card says of its label: that it looks right, what it should be, or that this is not sure.
export function opinionOf(card, classes) {
  const sure = card.confidence >= SURE;
  if (card.suggested === card.given) return sure ? "looks right" : "unsure";
  return `→ ${nameOf(classes, card.suggested)}${sure ? "" : "? (unsure)"}`;
}

// What speaks for and against the label of an image; `choose` takes the class number of a label that is clicked.
export function evidenceParts(card, evidence, classes, choose) {
  const given = nameOf(classes, card.given), suggested = nameOf(classes, card.suggested), parts = [];
  parts.push(makeElement("h3", "", `P(label is wrong) ${Math.round(100 * card.wrong)} %`));
  const sentence = reason(card, evidence, classes);
  if (sentence) parts.push(makeElement("p", "reason", sentence));
  const bars = makeElement("div", "bars");
  evidence.labels.forEach((label, at) => {
    const kind = label === suggested ? "suggested" : label === given ? "given" : "", share = evidence.probabilities[at];
    const bar = makeElement("i", kind), name = makeButton("", () => choose(classes.indexOf(label)), `label ${kind}`);
    if (at < 9) name.append(makeElement("kbd", "", String(at + 1)), " ");
    name.append(label + (label === given ? " (given)" : ""));
    bar.style.width = `${Math.max(1, 100 * share)}%`;
    bars.append(name, bar, makeElement("span", "share", share >= 0.995 ? "100 %" : share < 0.005 ? "< 1 %" : `${Math.round(100 * share)} %`));
  });
  parts.push(makeElement("h3", "", "Probability of each label"), bars);
  const neighbours = [[suggested, evidence.near_suggested]];
  if (card.suggested !== card.given) neighbours.push([given, evidence.near_given]);
  for (const [label, addresses] of neighbours) {
    if (!addresses.length) continue;
    parts.push(makeElement("h3", "", evidence.trusted ? `Most alike among trusted “${label}”` : `Most alike among the surest “${label}”`));
    const near = makeElement("div", "near");
    near.append(...addresses.map((source) => makePicture(source, `${evidence.trusted ? "Trusted" : "Sure"} ${label}`)));
    parts.push(near);
  }
  const scores = makeElement("details", "scores"), list = makeElement("div", "bars"), most = Math.max(...evidence.scores, 1e-30);
  scores.append(makeElement("summary", "", "Influence under each label (short: plausible)"));
  evidence.candidates.forEach((label, at) => {
    // The most plausible ones, and always the given one, which among many classes is seldom one of them.
    if (at >= 10 && label !== given) return;
    const bar = makeElement("i", label === suggested ? "suggested" : label === given ? "given" : "");
    bar.style.width = `${Math.max(0, (100 * evidence.scores[at]) / most)}%`;
    list.append(makeElement("span", "", label + (label === given ? " (given)" : "")), bar, makeElement("span", "share", evidence.scores[at].toPrecision(2)));
  });
  scores.append(list);
  parts.push(scores);
  return parts;
}

// Why, in one sentence: "18 of the 20 trusted images most like it are Ankle boot; Sneaker gets 7 %."
function reason(card, evidence, classes) {
  const given = nameOf(classes, card.given), suggested = nameOf(classes, card.suggested);
  const near = evidence.near_labels, of = evidence.trusted ? "trusted images" : "surest images";
  const count = near.filter((label) => label === suggested).length;
  const neighbours = near.length ? `${count} of the ${near.length} ${of} most like it are ${suggested}` : "";
  const at = evidence.labels.indexOf(given), share = at < 0 ? 0 : Math.round(100 * evidence.probabilities[at]);
  const label = card.suggested === card.given ? "" : `the given label ${given} gets ${share} %`;
  const text = [neighbours, label].filter(Boolean).join("; ");
  return text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "";
}
