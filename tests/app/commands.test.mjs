// The gallery's keys and its search for classes, by node's own test runner.
import assert from "node:assert/strict";
import { test } from "node:test";
import { commandOf, commandsOf, matches, mayBeChosen } from "../../app/sharpeye_app/gallery/commands.mjs";

const VERDICTS = { accept: { key: "a", title: "Accept" }, keep: { key: "r", title: "Keep" }, relabel: { key: "/", title: "" } };

test("every command has a key of its own", () => {
  const keys = Object.values(commandsOf(VERDICTS)).map((command) => command.key);
  assert.equal(new Set(keys).size, keys.length);
  assert.equal(commandOf(commandsOf(VERDICTS), "a"), "accept");
  assert.equal(commandOf(commandsOf(VERDICTS), "/"), "pick");
  assert.equal(commandOf(commandsOf(VERDICTS), "3"), "label 3");
  assert.equal(commandOf(commandsOf(VERDICTS), "z"), undefined);
});

test("a person's own key takes the place of who had it", () => {
  const commands = commandsOf(VERDICTS, { keep: "a" });
  assert.equal(commandOf(commands, "a"), "keep");
  assert.equal(commands.accept.key, "");
  assert.equal(commandOf(commands, "r"), undefined);
  // A setting of another version, of a command that is gone.
  assert.equal(commandOf(commandsOf(VERDICTS, { gone: "a" }), "a"), "accept");
});

test("digits and arrows cannot be chosen", () => {
  assert.deepEqual(["a", ";", "1", "ArrowUp"].map(mayBeChosen), [true, true, false, false]);
});

test("classes are found by letters, the closest first", () => {
  const names = ["Boxer dog", "dog", "dogfish", "hot dog", "bulldog", "door gate", "cat"];
  assert.deepEqual(matches("dog", names).map((at) => names[at]), ["dog", "dogfish", "hot dog", "Boxer dog", "bulldog", "door gate"]);
  assert.deepEqual(matches("", names), [0, 1, 2, 3, 4, 5, 6]);
  assert.deepEqual(matches("HOT", names).map((at) => names[at]), ["hot dog"]);
  assert.deepEqual(matches("zebra", names), []);
  assert.deepEqual(matches("übe", ["Überzieher"]), [0]);
});
