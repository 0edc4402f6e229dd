-- The tables that worker.mjs expects, as the teams' schema files have them. Times are in milliseconds.
DROP TABLE IF EXISTS users, notifications, deliveries;

CREATE TABLE users (
  id     VARCHAR(64) PRIMARY KEY,
  email  VARCHAR(255) NOT NULL,
  name   VARCHAR(255),
  locale VARCHAR(16)
);

CREATE TABLE notifications (
  id         VARCHAR(64) PRIMARY KEY,
  user_id    VARCHAR(64) NOT NULL,
  type       VARCHAR(32) NOT NULL,
  title      VARCHAR(255),
  message    TEXT,
  `read`     BOOLEAN NOT NULL DEFAULT FALSE,
  status     VARCHAR(16) NOT NULL DEFAULT 'pending',
  updated_at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
);

CREATE TABLE deliveries (
  notification_id VARCHAR(64) PRIMARY KEY,
  status          VARCHAR(16) NOT NULL,
  sent_at         DATETIME(3) NOT NULL,
  job_id          VARCHAR(64) NOT NULL,
  recorded_at     TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)
);
