// The notification worker as a team of the origin documents writes it, step for step what plugins/notification-email and
// plugins/delivery-log do.
//
// Queue `notification-created` {notificationId, userId, type}: the user from Redis, else from MySQL and then cached; the
// notification inserted or updated; the welcome mail rendered and sent; the status kept; `notification-sent` enqueued.
// Queue `notification-sent` {notificationId, status, timestamp}: one record for each notification, its last status.
//
// Not here, and in Sandpost: a mail that goes out once although its job runs again. A job that fails between the mail and
// its end sends a second one, as theirs does.
//
// Usage: node worker.mjs, with the variables that infra.mjs reads, and WORKER_CONCURRENCY (5, as theirs).

import { UnrecoverableError, Worker } from "bullmq";
import { getEmailTemplate } from "./emails.mjs";
import { pool, redis, redisConnection, sentQueue, transporter } from "./infra.mjs";

const concurrency = Number(process.env.WORKER_CONCURRENCY ?? 5);
const userTtlSeconds = Number(process.env.REDIS_TTL_SECONDS ?? 3600);

async function getUserWithCache(userId) {
  const cacheKey = `user:${userId}`;
  const cached = await redis.get(cacheKey);
  if (cached) return JSON.parse(cached);

  const [rows] = await pool.execute("SELECT email, name, locale FROM users WHERE id = ?", [userId]);
  if (rows.length === 0) return null;
  await redis.setex(cacheKey, userTtlSeconds, JSON.stringify(rows[0]));
  return rows[0];
}

// Title and message stay as they are, unless the job says them.
async function keepNotification({ notificationId, userId, type, title = null, message = null }) {
  await pool.execute(
    `INSERT INTO notifications (id, user_id, type, title, message) VALUES (?, ?, ?, ?, ?)
     ON DUPLICATE KEY UPDATE user_id = VALUES(user_id), type = VALUES(type),
       title = COALESCE(VALUES(title), title), message = COALESCE(VALUES(message), message)`,
    [notificationId, userId, type, title, message],
  );
  const [rows] = await pool.execute("SELECT title, message FROM notifications WHERE id = ?", [notificationId]);
  return rows[0];
}

async function setStatus(notificationId, status) {
  await pool.execute("UPDATE notifications SET status = ? WHERE id = ?", [status, notificationId]);
}

const createdWorker = new Worker(
  "notification-created",
  async (job) => {
    const { notificationId, userId, type } = job.data;
    const user = await getUserWithCache(userId);
    if (!user) throw new UnrecoverableError(`there is no user ${userId}`);

    const notification = await keepNotification(job.data);
    const mail = getEmailTemplate(type, user.locale, {
      name: user.name,
      title: notification.title,
      message: notification.message,
    });
    const sent = await transporter.sendMail({ to: { name: user.name ?? "", address: user.email }, ...mail });

    await setStatus(notificationId, "sent");
    await sentQueue.add("notification-sent", {
      notificationId,
      status: "sent",
      timestamp: new Date().toISOString(),
    });
    return { success: true, messageId: sent.messageId };
  },
  { connection: redisConnection, concurrency },
);

const sentWorker = new Worker(
  "notification-sent",
  async (job) => {
    const { notificationId, status, timestamp } = job.data;
    const sentAt = new Date(timestamp);
    const [rows] = await pool.execute("SELECT sent_at FROM deliveries WHERE notification_id = ?", [notificationId]);
    if (rows.length > 0 && rows[0].sent_at > sentAt) return;
    await pool.execute(
      `INSERT INTO deliveries (notification_id, status, sent_at, job_id) VALUES (?, ?, ?, ?)
       ON DUPLICATE KEY UPDATE status = VALUES(status), sent_at = VALUES(sent_at), job_id = VALUES(job_id),
         recorded_at = CURRENT_TIMESTAMP(3)`,
      [notificationId, status, sentAt, job.id],
    );
  },
  { connection: redisConnection, concurrency },
);

createdWorker.on("completed", (job, result) => {
  console.log(JSON.stringify({ level: "info", module: "notifications", message: "Notification handled.", job: job.id, ...result }));
});
createdWorker.on("failed", async (job, error) => {
  console.error(JSON.stringify({ level: "error", module: "notifications", message: error.message, job: job?.id }));
  if (job) await setStatus(job.data.notificationId, "failed").catch((error) => console.error(error));
});
sentWorker.on("failed", (job, error) => {
  console.error(JSON.stringify({ level: "error", module: "deliveries", message: error.message, job: job?.id }));
});

async function shutdown() {
  await Promise.all([createdWorker.close(), sentWorker.close()]);
  transporter.close();
  await pool.end();
  process.exit(0);
}
process.on("SIGTERM", shutdown);
process.on("SIGINT", shutdown);
