-- The users that the README's commands speak of.
CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL, name TEXT NOT NULL, locale TEXT NOT NULL DEFAULT 'en');
INSERT INTO users (id, email, name, locale) VALUES
    ('user_123', 'ada@example.com', 'Ada', 'en'),
    ('user_456', 'joao@example.com', 'João', 'pt-BR');
