// The decisions of one tab on their way to the app: kept in the browser until they are stored, sent in order, each once.
export class DecisionQueue {
  // tab: random name of the tab; not kept over a reload, since a duplicated tab would share it.
  // storage: keeps the entries of a run over a reload or a restart of the app.
  // post(run, entries): sends entries; resolves to the app's answer, and rejects where it does not take them now.
  // onAnswer(answer, settled): the app took what was sent; settled where nothing waits any more.
  // onTrouble(error, waiting): it did not; everything is kept and sent again.
  // onRefused(error, entry): it never will (error.refused); that entry alone is dropped.
  constructor({ tab, storage, post, onAnswer, onTrouble, onRefused, sendAfter = 60, retryAfter = 1500, timers = globalThis }) {
    Object.assign(this, { tab, storage, post, onAnswer, onTrouble, onRefused, sendAfter, retryAfter });
    // Bound, since a browser's timers must not be called as methods of another object.
    this.setTimer = timers.setTimeout.bind(timers);
    this.clearTimer = timers.clearTimeout.bind(timers);
    this.entries = [];
    this.run = null;
    this.nextNumber = 0;
    this.sending = false;
    // After a refusal one by one, to find out which entry it was.
    this.together = Infinity;
    this.timer = null;
  }

  // Work for a run from now on; what an earlier page left unsent of it is sent again.
  open(run) {
    if (this.run === run) return;
    this.run = run;
    this.entries = this.stored(run);
    if (this.entries.length) this.send();
  }

  // Whether a decision on a row still waits.
  holds(row) {
    return this.entries.some((entry) => entry.rows?.includes(row));
  }

  add(entry) {
    this.entries.push({ tab: this.tab, n: this.nextNumber++, ...entry });
    this.store(this.run, this.entries);
    if (!this.sending) this.sendIn(this.sendAfter);
  }

  async send() {
    if (this.sending || !this.entries.length) return;
    this.sending = true;
    const run = this.run, sent = this.entries.slice(0, this.together);
    let answer = null, problem = null;
    try {
      answer = await this.post(run, sent);
    } catch (error) {
      problem = error;
    }
    this.sending = false;
    if (this.run !== run) {
      // Another run was chosen meanwhile; what could not be sent of this one waits until it is opened again.
      if (!problem || (problem.refused && sent.length === 1)) this.store(run, this.stored(run).slice(sent.length));
      this.send();
      return;
    }
    if (problem?.refused && sent.length > 1) {
      this.together = 1;
      this.send();
      return;
    }
    if (problem && !problem.refused) {
      this.onTrouble(problem, this.entries.length);
      this.sendIn(this.retryAfter);
      return;
    }
    this.entries = this.entries.slice(sent.length);
    this.store(run, this.entries);
    if (!this.entries.length) this.together = Infinity;
    if (problem) this.onRefused(problem, sent[0]);
    else this.onAnswer(answer, !this.entries.length);
    if (this.entries.length) this.sendIn(this.sendAfter);
  }

  sendIn(milliseconds) {
    this.clearTimer(this.timer);
    this.timer = this.setTimer(() => this.send(), milliseconds);
  }

  stored(run) {
    return JSON.parse(this.storage.getItem(`sharpeye-queue-${run}`) || "[]");
  }

  store(run, entries) {
    this.storage.setItem(`sharpeye-queue-${run}`, JSON.stringify(entries));
  }
}
