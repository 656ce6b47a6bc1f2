CREATE TABLE orders (id text PRIMARY KEY, item text NOT NULL);

CREATE TABLE jobs (id text PRIMARY KEY, receipt text NOT NULL);

