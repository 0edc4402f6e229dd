// What the benchmark does to the worker from outside: makes the tables, publishes, waits for the delivery records. It is no
// part of the worker and runs in a process of its own, as a team's API does.
//
// Usage: node drive.mjs tables USERS
//        node drive.mjs publish PREFIX COUNT PER_SECOND
//        node drive.mjs recorded
//
// `publish` adds COUNT jobs whose notifications are PREFIX0, PREFIX1, …, in bulk and as fast as it can where PER_SECOND is
// 0, else one by one at that rate without waiting for each other. Once all deliveries are recorded it prints when each job
// was handed to BullMQ: [ms, …]. `recorded` prints when each delivery was recorded: [[notificationId, ms], …]. All are
// milliseconds of this machine's clock, on one line of JSON.

import mysql from "mysql2/promise";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { createdQueue, pool } from "./infra.mjs";

const BULK = 500;
// Between two looks; what is measured is in the records, not in when they are seen.
const LOOK_MS = 100;
const PATIENCE_MS = 120_000;

const clock = () => performance.timeOrigin + performance.now();

async function tables(users) {
  const { host, port, user, password, database } = pool.pool.config.connectionConfig;
  const connection = await mysql.createConnection({ host, port, user, password, database, multipleStatements: true });
  await connection.query(readFileSync(new URL("schema.sql", import.meta.url), "utf8"));
  const rows = Array.from({ length: users }, (_, n) => [`user_${n}`, `user${n}@example.com`, "Ada", "en"]);
  await connection.query("INSERT INTO users (id, email, name, locale) VALUES ?", [rows]);
  await connection.end();
}

const job = (prefix, n) => ({
  name: "notification-created",
  data: { notificationId: `${prefix}${n}`, userId: `user_${n % 100}`, type: "welcome" },
});

async function inBulk(prefix, count) {
  const published = [];
  for (let first = 0; first < count; first += BULK) {
    const jobs = Array.from({ length: Math.min(BULK, count - first) }, (_, n) => job(prefix, first + n));
    published.push(...Array(jobs.length).fill(clock()));
    await createdQueue.addBulk(jobs);
  }
  return published;
}

async function paced(prefix, count, perSecond) {
  const [published, adding] = [[], []];
  const start = clock();
  while (published.length < count) {
    while (published.length < count && start + (published.length * 1000) / perSecond <= clock()) {
      const { name, data } = job(prefix, published.length);
      published.push(clock());
      adding.push(createdQueue.add(name, data));
    }
    await sleep(1);
  }
  await Promise.all(adding);
  return published;
}

async function untilRecorded(prefix, count) {
  let [last, moved] = [0, clock()];
  for (;;) {
    const [[{ recorded }]] = await pool.query(
      "SELECT COUNT(*) AS recorded FROM deliveries WHERE notification_id LIKE ?",
      [`${prefix}%`],
    );
    if (recorded >= count) return;
    if (recorded > last) [last, moved] = [recorded, clock()];
    if (clock() - moved > PATIENCE_MS) throw new Error(`deliveries stay at ${recorded} of ${count}`);
    await sleep(LOOK_MS);
  }
}

// Until it is out: a pipe takes 64 KiB at a time, and the process ends behind it.
function print(value) {
  return new Promise((done) => process.stdout.write(`${JSON.stringify(value)}\n`, done));
}

async function publish(prefix, count, perSecond) {
  await createdQueue.waitUntilReady();
  const published = perSecond > 0 ? await paced(prefix, count, perSecond) : await inBulk(prefix, count);
  await untilRecorded(prefix, count);
  await print(published);
}

async function recorded() {
  const [rows] = await pool.query("SELECT notification_id, UNIX_TIMESTAMP(recorded_at) * 1000 AS ms FROM deliveries");
  await print(rows.map((row) => [row.notification_id, Number(row.ms)]));
}

const [command, ...rest] = process.argv.slice(2);
if (command === "tables") await tables(Number(rest[0]));
else if (command === "publish") await publish(rest[0], Number(rest[1]), Number(rest[2]));
else if (command === "recorded") await recorded();
else throw new Error("usage: drive.mjs tables USERS | publish PREFIX COUNT PER_SECOND | recorded");
process.exit(0);
