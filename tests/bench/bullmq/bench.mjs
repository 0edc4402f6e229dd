// A trivial BullMQ worker: adds jobs in bulk, then works them off, and prints the rates as one line of JSON.
//
// Usage: node bench.mjs PORT JOBS. The Redis on that port is the benchmark's own; nothing else may use it.
// Adding and working overlap, as they do in the benchmark that this stands beside.

import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const CONCURRENCY = 50;
const BULK = 500;

const [port, jobs] = process.argv.slice(2).map(Number);
const connect = () => new Redis({ host: "127.0.0.1", port, maxRetriesPerRequest: null });

const queue = new Queue("bench", { connection: connect() });
let done = 0;
const all = new Promise((resolve) => {
  const worker = new Worker(
    "bench",
    async () => {
      done += 1;
      if (done === jobs) resolve(worker);
    },
    { connection: connect(), concurrency: CONCURRENCY },
  );
});

const body = { notificationId: "notif_123", userId: "user_123", type: "welcome", text: "x".repeat(120) };
const since = process.hrtime.bigint();
for (let added = 0; added < jobs; added += BULK) {
  const bulk = Array.from({ length: Math.min(BULK, jobs - added) }, () => ({
    name: "job",
    data: body,
    opts: { removeOnComplete: true, removeOnFail: true },
  }));
  await queue.addBulk(bulk);
}
await all;
const seconds = Number(process.hrtime.bigint() - since) / 1e9;
console.log(JSON.stringify({ jobs, seconds, jobs_per_second: jobs / seconds }));
process.exit(0);
