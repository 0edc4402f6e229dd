// Connections of the worker: Redis, MySQL, SMTP and the two queues, as the origin documents' `infra/` makes them.
//
// Their options: ioredis without a limit of retries (BullMQ needs that), a connection of its own for the queues, a pool of
// ten to MySQL, attempts and back-off of the queue `emails`, what is kept of the queue `messages`.
// More than they have: connections to the mail server are kept open, as its documentation says for many mails.

import { Queue } from "bullmq";
import { Redis } from "ioredis";
import mysql from "mysql2/promise";
import nodemailer from "nodemailer";

const redisUrl = process.env.REDIS_URL ?? "redis://localhost:6379";

export const redisConnection = new Redis(redisUrl, { maxRetriesPerRequest: null, enableReadyCheck: false });

export const redis = new Redis(redisUrl, {
  keyPrefix: process.env.REDIS_KEY_PREFIX ?? "vibe:",
  maxRetriesPerRequest: null,
  enableReadyCheck: false,
  retryStrategy: (times) => Math.min(times * 50, 2000),
});

export const pool = mysql.createPool({
  host: process.env.MYSQL_HOST,
  port: Number(process.env.MYSQL_PORT ?? 3306),
  user: process.env.MYSQL_USER,
  password: process.env.MYSQL_PASSWORD,
  database: process.env.MYSQL_DATABASE,
  waitForConnections: true,
  connectionLimit: Number(process.env.MYSQL_POOL_MAX_CONNECTIONS ?? 10),
  queueLimit: 0,
  enableKeepAlive: true,
  timezone: "Z",
});

export const transporter = nodemailer.createTransport(
  {
    host: process.env.SMTP_HOST,
    port: Number(process.env.SMTP_PORT ?? 25),
    secure: false,
    pool: true,
    maxConnections: 10,
    maxMessages: Infinity,
  },
  { from: process.env.MAIL_FROM ?? "Sandpost <noreply@sandpost.example>" },
);

const defaultJobOptions = {
  attempts: 3,
  backoff: { type: "exponential", delay: 1000 },
  removeOnComplete: { count: 100, age: 24 * 3600 },
  removeOnFail: { count: 500 },
};

export const createdQueue = new Queue("notification-created", { connection: redisConnection, defaultJobOptions });

export const sentQueue = new Queue("notification-sent", { connection: redisConnection, defaultJobOptions });
