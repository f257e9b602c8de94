// The gallery's queue, by node's own test runner: node --test tests/app/queue.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import { DecisionQueue } from "../../app/sharpeye_app/gallery/queue.mjs";

// A queue whose clock, storage and app are the test's own. `answers` are taken in order: a value, or an Error.
function makeQueue({ answers = [], storage = new Map(), tab = "tab" } = {}) {
  const log = { sent: [], answers: [], troubles: [], refused: [] };
  const timers = { next: 1, waiting: new Map() };
  timers.setTimeout = (action, milliseconds) => { timers.waiting.set(timers.next, { action, milliseconds }); return timers.next++; };
  timers.clearTimeout = (id) => timers.waiting.delete(id);
  const queue = new DecisionQueue({
    tab,
    storage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
    post: async (run, entries) => {
      log.sent.push({ run, rows: entries.flatMap((entry) => entry.rows ?? [undefined]), numbers: entries.map((entry) => entry.n) });
      const answer = answers.shift() ?? {};
      if (answer instanceof Error) throw answer;
      return answer.promise ?? answer;
    },
    onAnswer: (answer, settled) => log.answers.push({ answer, settled }),
    onTrouble: (error, waiting) => log.troubles.push({ message: error.message, waiting }),
    onRefused: (error, entry) => log.refused.push({ message: error.message, n: entry.n }),
    timers,
  });
  const elapse = async () => {
    const due = [...timers.waiting.values()];
    timers.waiting.clear();
    for (const { action } of due) await action();
  };
  return { queue, log, storage, timers, elapse };
}

const decide = (row) => ({ kind: "decide", rows: [row], verdict: "accept" });

test("entries are numbered, kept in storage, and sent together after a pause", async () => {
  const { queue, log, storage, elapse } = makeQueue();
  queue.open("run");
  queue.add(decide(1));
  queue.add(decide(2));
  assert.deepEqual(JSON.parse(storage.get("sharpeye-queue-run")).map((entry) => entry.n), [0, 1]);
  assert.deepEqual(log.sent, []);
  await elapse();
  assert.deepEqual(log.sent, [{ run: "run", rows: [1, 2], numbers: [0, 1] }]);
  assert.deepEqual(log.answers, [{ answer: {}, settled: true }]);
  assert.equal(storage.get("sharpeye-queue-run"), "[]");
});

test("what the app does not take is kept, told and sent again", async () => {
  const { queue, log, storage, timers, elapse } = makeQueue({ answers: [new Error("gone"), new Error("gone"), {}] });
  queue.open("run");
  queue.add(decide(1));
  await elapse();
  assert.deepEqual(log.troubles, [{ message: "gone", waiting: 1 }]);
  assert.deepEqual([...timers.waiting.values()].map((timer) => timer.milliseconds), [1500]);
  queue.add(decide(2));
  await elapse();
  assert.deepEqual(log.troubles.at(-1), { message: "gone", waiting: 2 });
  await elapse();
  assert.deepEqual(log.sent.map((one) => one.numbers), [[0], [0, 1], [0, 1]]);
  assert.equal(storage.get("sharpeye-queue-run"), "[]");
});

test("what is added while others are on their way follows them, and only then it is settled", async () => {
  let answerFirst;
  const first = { promise: new Promise((resolve) => { answerFirst = resolve; }) };
  const { queue, log, elapse } = makeQueue({ answers: [first, {}] });
  queue.open("run");
  queue.add(decide(1));
  const sending = elapse();
  queue.add({ kind: "undo" });
  assert.equal(queue.holds(1), true);
  answerFirst({ head: 1 });
  await sending;
  assert.equal(queue.holds(1), false);
  assert.deepEqual(log.answers, [{ answer: { head: 1 }, settled: false }]);
  await elapse();
  assert.deepEqual(log.sent.map((one) => one.numbers), [[0], [1]]);
  assert.equal(log.answers.at(-1).settled, true);
});

test("what a reload left unsent is sent again with its old tab and number", async () => {
  const storage = new Map();
  const before = makeQueue({ storage, tab: "before", answers: [new Error("gone")] });
  before.queue.open("run");
  before.queue.add(decide(7));
  await before.elapse();
  const after = makeQueue({ storage, tab: "after" });
  after.queue.open("run");
  assert.equal(after.queue.entries[0].tab, "before");
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(after.log.sent, [{ run: "run", rows: [7], numbers: [0] }]);
});

test("entries of a run wait while another one is open, and go when it is opened again", async () => {
  let answerFirst;
  const slow = { promise: new Promise((_, reject) => { answerFirst = reject; }) };
  const { queue, log, storage, elapse } = makeQueue({ answers: [slow, {}, {}] });
  queue.open("one");
  queue.add(decide(1));
  const sending = elapse();
  queue.open("two");
  queue.add(decide(2));
  answerFirst(new Error("gone"));
  await sending;
  await elapse();
  assert.equal(JSON.parse(storage.get("sharpeye-queue-one")).length, 1);
  assert.deepEqual(log.troubles, []);
  queue.open("one");
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(log.sent.map((one) => [one.run, ...one.rows]), [["one", 1], ["two", 2], ["one", 1]]);
});

test("what the app will never take is dropped alone, and told", async () => {
  const refusal = Object.assign(new Error("no such row"), { refused: true });
  const { queue, log, storage, elapse } = makeQueue({ answers: [refusal, {}, refusal, {}] });
  queue.open("run");
  for (const row of [1, 2, 3]) queue.add(decide(row));
  for (let turn = 0; turn < 6; turn += 1) await elapse();
  assert.deepEqual(log.sent.map((one) => one.numbers), [[0, 1, 2], [0], [1], [2]]);
  assert.deepEqual(log.refused, [{ message: "no such row", n: 1 }]);
  assert.equal(storage.get("sharpeye-queue-run"), "[]");
  queue.add(decide(4));
  queue.add(decide(5));
  await elapse();
  assert.deepEqual(log.sent.at(-1).numbers, [3, 4]);
});
